/**
 * Ways through the space of latents, one row at a time.
 *
 * A row is its noise: one Float32Array per latent group, top-down, laid out
 * `[height, width, channels]`. These are the ways of `nvae interpolate`,
 * `nvae traverse` and `nvae sample --fix_groups`.
 */

/** The upper `count` groups of one row, the others of another. */
export function joined(upper, lower, count) {
  return lower.map((group, i) => (i < count ? upper[i] : group));
}

/** The upper `count` groups; the others zero, the mean of the prior. */
export function upperOnly(row, count) {
  return row.map((group, i) =>
    i < count ? group : new Float32Array(group.length),
  );
}

/** One channel of a group moved, everywhere in space at once. */
export function shifted(row, group, channel, channels, amount) {
  const moved = Float32Array.from(row[group]);
  for (let i = channel; i < moved.length; i += channels) {
    moved[i] += amount;
  }
  return row.map((values, i) => (i === group ? moved : values));
}

/** Every group multiplied by its factor. */
export function scaled(row, factors) {
  return row.map((group, i) => group.map((value) => value * factors[i]));
}

/**
 * A place on the way from one row to another.
 *
 * Each group turns along a great circle while its length changes evenly, so
 * that what lies between is as typical of the prior as the ends.
 *
 * @param {Float32Array[]} start
 * @param {Float32Array[]} end
 * @param {number} t from 0, at the start, to 1.
 * @returns {Float32Array[]}
 */
export function between(start, end, t) {
  if (t === 0 || t === 1) {
    return t ? end : start;
  }
  return start.map((group, i) => onGreatCircle(group, end[i], t));
}

function onGreatCircle(start, end, t) {
  const lengths = [length(start), length(end)];
  const angle = lengths[0] && lengths[1] ? angleBetween(start, end, lengths) : 0;
  const sine = Math.sin(angle);
  if (sine < 1e-6) {
    return start.map((value, i) => (1 - t) * value + t * end[i]);
  }
  const now = (1 - t) * lengths[0] + t * lengths[1];
  const a = (now * Math.sin((1 - t) * angle)) / (sine * lengths[0]);
  const b = (now * Math.sin(t * angle)) / (sine * lengths[1]);
  return start.map((value, i) => a * value + b * end[i]);
}

function angleBetween(start, end, lengths) {
  let product = 0;
  for (let i = 0; i < start.length; i++) {
    product += start[i] * end[i];
  }
  const cosine = product / (lengths[0] * lengths[1]);
  return Math.acos(Math.min(1, Math.max(-1, cosine)));
}

function length(values) {
  let squares = 0;
  for (const value of values) {
    squares += value * value;
  }
  return Math.sqrt(squares);
}
