/**
 * From a picture file to what the model takes, as the commands do it: turned
 * upright, alpha and colours brought to the model's channels, the shorter side
 * scaled to its size, the middle cut out.
 *
 * Loops are plain, without arrays per pixel: the page waits for them.
 */

// ITU-R 601-2 luma, rounded to float32 as the commands have it.
const LUMA = [0.299, 0.587, 0.114].map(Math.fround);
const OPAQUE = 255;
/** Fixed-point bits of the weights that resample bytes. */
const WEIGHT_BITS = 22;
const MOST_PIXELS = 2 ** 26;
/** What a picture may become by scaling, unless it is larger already. */
const MOST_SCALED = 2 ** 23;

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
  // A canvas forgets colours below full transparency: they come out black.
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
 * @throws {RangeError} if it is so long that it would become too large.
 */
export function fit({ width, height, pixels }, { image_shape, alpha }) {
  const [size, , channels] = image_shape;
  const shorter = Math.min(width, height);
  const newWidth = Math.floor((width * size) / shorter);
  const newHeight = Math.floor((height * size) / shorter);
  if (newWidth * newHeight > Math.max(MOST_SCALED, width * height)) {
    throw new RangeError(
      `That picture is ${width} × ${height} pixels, which would be scaled to ` +
        `${newWidth} × ${newHeight}: crop it first.`,
    );
  }
  const planes = matchChannels(pixels, channels, alpha);
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
  const ground = { white: OPAQUE, black: 0 }[alpha];
  for (let i = 0; i < count; i++) {
    const a = rgba[4 * i + 3];
    const r = onGround(rgba[4 * i], a, ground);
    const g = onGround(rgba[4 * i + 1], a, ground);
    const b = onGround(rgba[4 * i + 2], a, ground);
    const start = i * channels;
    if (channels < 3) {
      result[start] = isGray ? r : luma(r, g, b);
    } else {
      result[start] = r;
      result[start + 1] = g;
      result[start + 2] = b;
    }
    if (channels % 2 === 0) {
      result[start + channels - 1] = a;
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

/** A level where what is transparent shows a ground, if there is one. */
function onGround(value, a, ground) {
  if (a === OPAQUE || ground === undefined) {
    return value;
  }
  const weight = a / OPAQUE;
  return Math.round(weight * value + (1 - weight) * ground);
}

function luma(r, g, b) {
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
  let values = image;
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
  const result = emptied(rows * row.to, asBytes);
  const taps = tapsOf(width, newWidth, asBytes);
  for (let y = 0; y < rows; y++) {
    for (let x = 0; x < newWidth; x++) {
      const { first, weights } = taps[x];
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
  const result = emptied(newHeight * stride, asBytes);
  const taps = tapsOf(height, newHeight, asBytes);
  for (let y = 0; y < newHeight; y++) {
    const { first, weights } = taps[y];
    for (let i = 0; i < stride; i++) {
      const sum = weighted(values, first * stride + i, stride, weights);
      result[y * stride + i] = asBytes ? fromFixed(sum) : sum;
    }
  }
  return result;
}

function emptied(count, asBytes) {
  return asBytes ? new Uint8Array(count) : new Float32Array(count);
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
      weights: Float64Array.from(weights, (weight) =>
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
