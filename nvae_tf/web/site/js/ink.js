/** Drawing on the pixels themselves: the same ink in every browser. */

/**
 * Draws a line with round ends.
 *
 * @param {Uint8Array} pixels `[size, size]`, changed in place.
 * @param {number} size
 * @param {{x: number, y: number}} from in pixels, from the upper left corner.
 * @param {{x: number, y: number}} to
 * @param {number} radius of the pen, in pixels.
 * @param {boolean} erases instead of drawing.
 */
export function line(pixels, size, from, to, radius, erases = false) {
  const reach = radius + 1;
  const rows = range(from.y, to.y, reach, size);
  const columns = range(from.x, to.x, reach, size);
  for (let y = rows.first; y <= rows.last; y++) {
    for (let x = columns.first; x <= columns.last; x++) {
      const away = distance({ x: x + 0.5, y: y + 0.5 }, from, to);
      const cover = Math.min(1, Math.max(0, radius + 0.5 - away));
      const ink = Math.round(255 * cover);
      const i = y * size + x;
      pixels[i] = erases
        ? Math.min(pixels[i], 255 - ink)
        : Math.max(pixels[i], ink);
    }
  }
}

/**
 * Moves a drawing so that its centre of mass is in the middle.
 *
 * @param {Uint8Array} pixels `[size, size]`.
 * @param {number} size
 * @returns {Uint8Array}
 */
export function centred(pixels, size) {
  let mass = 0;
  let x = 0;
  let y = 0;
  pixels.forEach((value, i) => {
    mass += value;
    x += value * (i % size);
    y += value * Math.floor(i / size);
  });
  const moved = new Uint8Array(pixels.length);
  if (!mass) {
    return moved;
  }
  const right = Math.round((size - 1) / 2 - x / mass);
  const down = Math.round((size - 1) / 2 - y / mass);
  for (let row = 0; row < size; row++) {
    for (let column = 0; column < size; column++) {
      const fromRow = row - down;
      const fromColumn = column - right;
      const isInside = [fromRow, fromColumn].every((v) => v >= 0 && v < size);
      if (isInside) {
        moved[row * size + column] = pixels[fromRow * size + fromColumn];
      }
    }
  }
  return moved;
}

function range(a, b, reach, size) {
  return {
    first: Math.max(0, Math.floor(Math.min(a, b) - reach)),
    last: Math.min(size - 1, Math.ceil(Math.max(a, b) + reach)),
  };
}

function distance(point, from, to) {
  const dx = to.x - from.x;
  const dy = to.y - from.y;
  const squared = dx * dx + dy * dy;
  const along = (point.x - from.x) * dx + (point.y - from.y) * dy;
  const t = squared ? Math.min(1, Math.max(0, along / squared)) : 0;
  return Math.hypot(from.x + t * dx - point.x, from.y + t * dy - point.y);
}
