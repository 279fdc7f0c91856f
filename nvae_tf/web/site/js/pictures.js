/** Pixels of the model on the page and in PNG files. */

/** Models of at most this size are enlarged with sharp pixels. */
const SHARP_SIZE = 48;
/** A picture in a PNG file is enlarged to about this size. */
const SAVED_SIZE = 448;
const GAP = 2;

/**
 * A canvas of the model's size, black until something is painted.
 *
 * @param {number[]} shape height, width, channels.
 * @param {string} label for those who do not see it.
 */
export function canvasFor([height, width], label) {
  const canvas = document.createElement("canvas");
  canvas.width = width;
  canvas.height = height;
  canvas.className = width <= SHARP_SIZE ? "picture sharp" : "picture";
  canvas.setAttribute("role", "img");
  canvas.setAttribute("aria-label", label);
  return canvas;
}

/** Paints pixels `[height, width, channels]` on a canvas of that size. */
export function paint(canvas, pixels) {
  const context = canvas.getContext("2d");
  context.putImageData(toImageData(pixels, canvas.width, canvas.height), 0, 0);
  canvas.classList.add("painted");
}

/**
 * Saves pictures as one PNG file, enlarged by a whole factor.
 *
 * @param {Uint8Array[]} pictures in reading order.
 * @param {number} columns
 * @param {number[]} shape of each.
 * @param {string} name of the file.
 */
export async function save(pictures, columns, [height, width], name) {
  const rows = Math.ceil(pictures.length / columns);
  const sheet = new OffscreenCanvas(
    columns * (width + GAP) - GAP,
    rows * (height + GAP) - GAP,
  );
  const context = sheet.getContext("2d");
  pictures.forEach((pixels, i) => {
    const x = (i % columns) * (width + GAP);
    const y = Math.floor(i / columns) * (height + GAP);
    context.putImageData(toImageData(pixels, width, height), x, y);
  });
  const factor = Math.max(1, Math.round(SAVED_SIZE / (columns * width)));
  const large = new OffscreenCanvas(
    sheet.width * factor,
    sheet.height * factor,
  );
  const enlarged = large.getContext("2d");
  enlarged.imageSmoothingEnabled = false;
  enlarged.drawImage(sheet, 0, 0, large.width, large.height);
  const link = document.createElement("a");
  link.href = URL.createObjectURL(await large.convertToBlob());
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

function toImageData(pixels, width, height) {
  const channels = pixels.length / (width * height);
  const data = new ImageData(width, height);
  for (let i = 0; i < width * height; i++) {
    const color = pixels.subarray(i * channels, (i + 1) * channels);
    const [r, g, b] = channels < 3 ? [color[0], color[0], color[0]] : color;
    const alpha = channels % 2 ? 255 : color.at(-1);
    data.data.set([r, g, b, alpha], 4 * i);
  }
  return data;
}
