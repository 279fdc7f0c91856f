/**
 * The page's state as the part of its address behind "#".
 *
 * Pictures of one's own are in it as compressed pixels: that part of an address
 * never leaves the browser until somebody passes the link on.
 */

/** Larger pictures do not fit into addresses that programs pass on. */
const MOST_PIXELS = 64 * 64 * 4;
const IMAGE_PREFIX = "image.";

/**
 * @param {object} state flat: strings, numbers, lists of numbers, and sources
 *     `{seed}` or `{image}`.
 * @param {(key: string) => Uint8Array | undefined} pixelsOf own pictures.
 * @param {boolean} isBinary whether a pixel is one bit to the model.
 * @returns {Promise<{text: string, isComplete: boolean}>}
 */
export async function toText(state, pixelsOf, isBinary) {
  const parameters = new URLSearchParams();
  let isComplete = true;
  for (const [name, value] of Object.entries(state)) {
    if (value?.image === undefined) {
      parameters.set(name, value?.seed ?? listed(value));
      continue;
    }
    parameters.set(name, IMAGE_PREFIX + value.image);
    const pixels = pixelsOf(value.image);
    if (!pixels || pixels.length > MOST_PIXELS) {
      isComplete = false;
      continue;
    }
    const packed = isBinary ? toBits(pixels) : pixels;
    parameters.set(IMAGE_PREFIX + value.image, await compressed(packed));
  }
  return { text: parameters.toString(), isComplete };
}

/**
 * @param {string} text what `toText` returned, or what somebody made of it.
 * @param {number} size bytes of a picture.
 * @param {boolean} isBinary
 * @returns {Promise<{values: Map<string, string>, images: Map<string, Uint8Array>}>}
 *     of parts that can be read.
 */
export async function fromText(text, size, isBinary) {
  const values = new Map();
  const images = new Map();
  for (const [name, value] of new URLSearchParams(text)) {
    if (!name.startsWith(IMAGE_PREFIX)) {
      values.set(name, value);
      continue;
    }
    const bytes = isBinary ? Math.ceil(size / 8) : size;
    const packed = await expanded(value, bytes);
    if (packed) {
      const pixels = isBinary ? fromBits(packed, size) : packed;
      images.set(name.slice(IMAGE_PREFIX.length), pixels);
    }
  }
  return { values, images };
}

/** A source from its text; undefined if it is none. */
export function toSource(text) {
  if (text?.startsWith(IMAGE_PREFIX)) {
    return { image: text.slice(IMAGE_PREFIX.length) };
  }
  return /^\d{1,10}$/.test(text ?? "") ? { seed: Number(text) } : undefined;
}

function listed(value) {
  return Array.isArray(value) ? value.join(",") : value;
}

/** A pixel a bit, the first one highest. */
export function toBits(pixels) {
  const bits = new Uint8Array(Math.ceil(pixels.length / 8));
  pixels.forEach((value, i) => {
    bits[i >> 3] |= (value >= 128 ? 1 : 0) << (7 - (i & 7));
  });
  return bits;
}

/** Black and white pixels from bits. */
export function fromBits(bits, count) {
  return Uint8Array.from(
    { length: count },
    (_, i) => 255 * ((bits[i >> 3] >> (7 - (i & 7))) & 1),
  );
}

async function compressed(bytes) {
  const packed = await through(bytes, new CompressionStream("deflate-raw"));
  return btoa(String.fromCharCode(...packed))
    .replaceAll("+", "-")
    .replaceAll("/", "_")
    .replaceAll("=", "");
}

/** The bytes, or undefined if they are not so many. */
async function expanded(text, count) {
  try {
    const plain = atob(text.replaceAll("-", "+").replaceAll("_", "/"));
    const packed = Uint8Array.from(plain, (c) => c.charCodeAt(0));
    const stream = new DecompressionStream("deflate-raw");
    const bytes = await through(packed, stream, count);
    return bytes.length === count ? bytes : undefined;
  } catch {
    return undefined;
  }
}

/** What a stream makes of bytes; an error if that is more than `most`. */
async function through(bytes, stream, most = Infinity) {
  const reader = new Blob([bytes]).stream().pipeThrough(stream).getReader();
  const parts = [];
  let length = 0;
  for (;;) {
    const { done, value } = await reader.read();
    if (done) {
      break;
    }
    parts.push(value);
    length += value.length;
    if (length > most) {
      await reader.cancel();
      throw new RangeError("There is more than expected.");
    }
  }
  return new Uint8Array(await new Blob(parts).arrayBuffer());
}
