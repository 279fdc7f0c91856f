/**
 * The noise of the exports: a function of a row's seed and of a stream.
 *
 * Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3",
 * 2011): the key is the seed, the counter's upper half the stream, its lower
 * half counts blocks of four words. What `onnx_sampler.py` draws with NumPy is
 * drawn here bit for bit: arithmetic on words is exact, `Math.fround` rounds
 * where float32 does, and logarithm, sine and cosine are rounded once from
 * float64 on both sides.
 */

const ROUNDS = 10;
const STEP_K = 0x9e3779b9;
const STEP_M = 0xbb67ae85;
const FACTOR_A = 0xd2511f53;
const FACTOR_C = 0xcd9e8d57;

/** Upper 32 bits of the product of two unsigned 32-bit numbers. */
function upperProduct(a, b) {
  const aLow = a & 0xffff;
  const aHigh = a >>> 16;
  const bLow = b & 0xffff;
  const bHigh = b >>> 16;
  // No sum reaches 2^32.
  const middle = aHigh * bLow + ((aLow * bLow) >>> 16);
  const carry = aLow * bHigh + (middle & 0xffff);
  return (aHigh * bHigh + (middle >>> 16) + (carry >>> 16)) >>> 0;
}

/** The two 32-bit halves of an integer of any sign, as 64 bits hold it. */
function halves(integer) {
  if (!Number.isSafeInteger(integer)) {
    throw new RangeError(`${integer} is not a whole number below 2^53`);
  }
  return [integer >>> 0, Math.floor(integer / 2 ** 32) >>> 0];
}

/**
 * Random words.
 *
 * @param {number} seed a safe integer of any sign.
 * @param {number} stream which tensor: latent groups count from 0.
 * @param {number} count how many words.
 * @returns {Uint32Array}
 */
export function words(seed, stream, count) {
  const [keyLow, keyHigh] = halves(seed);
  const [streamLow, streamHigh] = halves(stream);
  const blocks = Math.ceil(count / 4);
  const drawn = new Uint32Array(4 * blocks);
  for (let block = 0; block < blocks; block++) {
    let [a, b] = halves(block);
    let c = streamLow;
    let d = streamHigh;
    let k = keyLow;
    let m = keyHigh;
    for (let round = 0; round < ROUNDS; round++) {
      if (round) {
        k = (k + STEP_K) >>> 0;
        m = (m + STEP_M) >>> 0;
      }
      const pHigh = upperProduct(FACTOR_A, a);
      const pLow = Math.imul(FACTOR_A, a) >>> 0;
      const qHigh = upperProduct(FACTOR_C, c);
      const qLow = Math.imul(FACTOR_C, c) >>> 0;
      a = (qHigh ^ b ^ k) >>> 0;
      b = qLow;
      c = (pHigh ^ d ^ m) >>> 0;
      d = pLow;
    }
    drawn.set([a, b, c, d], 4 * block);
  }
  return drawn.subarray(0, count);
}

/** Numbers on [0, 1): 23 random bits each. See `words`. */
export function uniform(seed, stream, count) {
  const drawn = words(seed, stream, count);
  return Float32Array.from(drawn, (word) => (word & 0x7fffff) / 2 ** 23);
}

/** Standard Normal numbers, by Box and Muller. See `words`. */
export function normal(seed, stream, count) {
  const turn = Math.fround(2 * Math.PI);
  const least = Math.fround(1e-7);
  const pairs = uniform(seed, stream, 2 * Math.ceil(count / 2));
  for (let i = 0; i < pairs.length; i += 2) {
    const logarithm = Math.fround(Math.log(Math.max(pairs[i], least)));
    const radius = Math.fround(Math.sqrt(-2 * logarithm));
    const angle = Math.fround(turn * pairs[i + 1]);
    pairs[i] = Math.fround(Math.sin(angle)) * radius;
    pairs[i + 1] = Math.fround(Math.cos(angle)) * radius;
  }
  return pairs.subarray(0, count);
}

/**
 * What a graph takes for one row.
 *
 * @param {number} seed of the row.
 * @param {{kind: string, stream: number, shape: number[]}} spec of the tensor.
 * @returns {Float32Array}
 */
export function noise(seed, spec) {
  const draw = { normal, uniform }[spec.kind];
  return draw(seed, spec.stream, spec.shape.reduce((a, b) => a * b, 1));
}
