/**
 * From a picture file to what the model takes, as the commands do it: turned
 * upright, alpha and colours brought to the model's channels, the shorter side
 * scaled to its size, the middle cut out.
 */

// ITU-R 601-2 luma, rounded to float32 as the commands have it.
const LUMA = [0.299, 0.587, 0.114].map(Math.fround);
const OPAQUE = 255;
/** Fixed-point bits of the weights that resample bytes. */
const WEIGHT_BITS = 22;
const MOST_PIXELS = 2 ** 26;

/**
 * Decodes a picture file.
 *
 * @param {Blob} file
 * @returns {Promise<{width: number, height: number, pixels: Uint8ClampedArray}>}
 *     RGBA.
 */
export async function decode(file) {
  let bitmap;
  try {
    bitmap = await createImageBitmap(file, {
      imageOrientation: "from-image",
      premultiplyAlpha: "none",
      colorSpaceConversion: "none",
    });
  } catch {
    throw new Error("This browser cannot read that file as a picture.");
  }
  const { width, height } = bitmap;
  if (width * height > MOST_PIXELS) {
    throw new Error("That picture has more than 67 million pixels.");
  }
  const canvas = new OffscreenCanvas(width, height);
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.drawImage(bitmap, 0, 0);
  bitmap.close();
  return { width, height, pixels: context.getImageData(0, 0, width, height).data };
}

/**
 * Brings a decoded picture to the model's size and channels.
 *
 * @param {{width: number, height: number, pixels: Uint8ClampedArray}} picture
 * @param {{image_shape: number[], alpha: string}} model of the manifest.
 * @returns {Uint8Array} `[height, width, channels]`.
 */
export function fit({ width, height, pixels }, { image_shape, alpha }) {
  const [size, , channels] = image_shape;
  const planes = matchChannels(pixels, channels, alpha);
  const shorter = Math.min(width, height);
  const newWidth = Math.floor((width * size) / shorter);
  const newHeight = Math.floor((height * size) / shorter);
  // Pillow resamples RGB as bytes; other kinds go plane by plane as floats.
  const resampled = resize(
    planes,
    channels,
    [height, width],
    [newHeight, newWidth],
    channels === 3,
  );
  const top = Math.floor((newHeight - size) / 2);
  const left = Math.floor((newWidth - size) / 2);
  const cut = new Uint8Array(size * size * channels);
  for (let row = 0; row < size; row++) {
    const start = ((top + row) * newWidth + left) * channels;
    cut.set(
      resampled.subarray(start, start + size * channels),
      row * size * channels,
    );
  }
  return cut;
}

/** RGBA -> `channels` of uint8, interleaved. */
function matchChannels(rgba, channels, alpha) {
  const count = rgba.length / 4;
  const result = new Uint8Array(count * channels);
  const isGray = channels < 3 && hasEqualChannels(rgba);
  for (let i = 0; i < count; i++) {
    const [r, g, b, a] = rgba.subarray(4 * i, 4 * i + 4);
    const color = [r, g, b].map((value) => onGround(value, a, alpha));
    if (channels < 3) {
      result[i * channels] = isGray ? color[0] : luma(color);
      if (channels === 2) {
        result[i * channels + 1] = a;
      }
    } else {
      result.set(color, i * channels);
      if (channels === 4) {
        result[4 * i + 3] = a;
      }
    }
  }
  return result;
}

function hasEqualChannels(rgba) {
  for (let i = 0; i < rgba.length; i += 4) {
    if (rgba[i] !== rgba[i + 1] || rgba[i] !== rgba[i + 2]) {
      return false;
    }
  }
  return true;
}

function onGround(value, a, alpha) {
  if (a === OPAQUE || !(alpha === "white" || alpha === "black")) {
    return value;
  }
  const weight = a / OPAQUE;
  const ground = alpha === "white" ? OPAQUE : 0;
  return Math.round(weight * value + (1 - weight) * ground);
}

function luma([r, g, b]) {
  return Math.round(Math.fround(LUMA[0] * r + LUMA[1] * g + LUMA[2] * b));
}

/**
 * Bilinear resampling, antialiased where it shrinks: columns first, then rows.
 *
 * @param {Uint8Array} image `[height, width, channels]`.
 * @param {number} channels
 * @param {number[]} from height and width.
 * @param {number[]} to height and width.
 * @param {boolean} asBytes round to bytes in between and use fixed-point
 *     weights, as Pillow does with RGB; else float32.
 * @returns {Uint8Array}
 */
export function resize(image, channels, from, to, asBytes) {
  let values = asBytes ? image : Float32Array.from(image);
  if (from[1] !== to[1]) {
    values = alongColumns(values, channels, from[0], from[1], to[1], asBytes);
  }
  if (from[0] !== to[0]) {
    values = alongRows(values, channels * to[1], from[0], to[0], asBytes);
  }
  return asBytes ? values : Uint8Array.from(values, toByte);
}

function alongColumns(values, channels, rows, width, newWidth, asBytes) {
  const row = { from: width * channels, to: newWidth * channels };
  const result = new values.constructor(rows * row.to);
  const taps = tapsOf(width, newWidth, asBytes);
  for (let y = 0; y < rows; y++) {
    for (const [x, { first, weights }] of taps.entries()) {
      for (let c = 0; c < channels; c++) {
        const start = y * row.from + first * channels + c;
        const sum = weighted(values, start, channels, weights);
        result[y * row.to + x * channels + c] = asBytes ? fromFixed(sum) : sum;
      }
    }
  }
  return result;
}

function alongRows(values, stride, height, newHeight, asBytes) {
  const result = new values.constructor(newHeight * stride);
  for (const [y, { first, weights }] of tapsOf(
    height,
    newHeight,
    asBytes,
  ).entries()) {
    for (let i = 0; i < stride; i++) {
      const sum = weighted(values, first * stride + i, stride, weights);
      result[y * stride + i] = asBytes ? fromFixed(sum) : sum;
    }
  }
  return result;
}

function weighted(values, start, step, weights) {
  let sum = 0;
  for (let i = 0; i < weights.length; i++) {
    sum += weights[i] * values[start + i * step];
  }
  return sum;
}

/** For each new place, the first old one that counts, and all weights. */
function tapsOf(size, newSize, asBytes) {
  const scale = size / newSize;
  const reach = Math.max(scale, 1);
  return Array.from({ length: newSize }, (_, place) => {
    const centre = (place + 0.5) * scale;
    const first = Math.max(0, Math.trunc(centre - reach + 0.5));
    const end = Math.min(size, Math.trunc(centre + reach + 0.5));
    const weights = [];
    for (let i = first; i < end; i++) {
      weights.push(Math.max(0, 1 - Math.abs((i - centre + 0.5) / reach)));
    }
    const sum = weights.reduce((a, b) => a + b, 0);
    return {
      first,
      weights: weights.map((weight) =>
        asBytes ? toFixed(weight / sum) : weight / sum,
      ),
    };
  });
}

function toFixed(weight) {
  return Math.trunc(0.5 + weight * 2 ** WEIGHT_BITS);
}

function fromFixed(sum) {
  const half = 2 ** (WEIGHT_BITS - 1);
  return Math.min(OPAQUE, Math.floor((sum + half) / 2 ** WEIGHT_BITS));
}

/** Rounded, halves to even. */
function toByte(value) {
  const floor = Math.floor(value);
  const rest = value - floor;
  const up = rest > 0.5 || (rest === 0.5 && floor % 2 === 1);
  return Math.min(OPAQUE, Math.max(0, floor + (up ? 1 : 0)));
}
