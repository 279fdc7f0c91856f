/**
 * An exported model: rows of noise in, pictures out.
 *
 * A *row* says how one picture comes about:
 *
 *     source       {seed}, or {image, pixels}: whose noise
 *     other, t     optional: so far on the way to this other source
 *     keep         optional: {source, groups, side}; its upper groups (side
 *                  "coarse"), or all but so many upper ones ("fine"), replace
 *                  those of `source`
 *     shift        optional: {group, channel, amount}, in sigmas of the prior
 *     groups       optional: so many upper groups; further ones are the
 *                  prior's mean
 *     temperature  one factor per group, for the noise of seeds; that of
 *                  images is taken as it is
 *     label        the class of the picture, of a model that is told any
 *
 * `image` is a key; `infer` keeps the image's noise, which is another for every
 * class. What is not known of an image is found from its pixels.
 */

import { between, joined, scaled, shifted, upperOnly } from "./latents.js";
import { noise } from "./noise.js";
import { Recent } from "./recent.js";

/** How much noise of seeds and of images is kept. */
const SEED_BYTES = 2 ** 27;
const IMAGE_BYTES = 2 ** 26;

/** Noise of the score's posterior draw: that of this seed, as elsewhere. */
const SCORE_SEED = 0;

export class Model {
  /**
   * @param {object} ort ONNX Runtime Web.
   * @param {object} manifest of the site.
   * @param {(graph: string) => Promise<object>} open gives a graph's session.
   */
  constructor(ort, manifest, open) {
    this.ort = ort;
    this.shapes = manifest.model.latent_shapes;
    this.imageShape = manifest.model.image_shape;
    this.graphs = manifest.graphs;
    this.hasClasses = Boolean(manifest.model.num_classes);
    this.open = open;
    /** Of the noise of a row. */
    this.rowBytes =
      Float32Array.BYTES_PER_ELEMENT *
      this.shapes.reduce((sum, shape) => sum + size(shape), 0);
    this.seeds = new Recent(SEED_BYTES);
    this.images = new Recent(IMAGE_BYTES);
  }

  /**
   * Draws pictures.
   *
   * @param {object[]} rows see above.
   * @param {"images" | "mean"} output drawn pixels, or the mean image.
   * @param {boolean} asFloats give numbers in [0, 1] instead of bytes.
   * @returns {Promise<Uint8Array | Float32Array>} all pictures, one after the
   *     other, `[height, width, channels]` each.
   */
  async draw(rows, output = "images", asFloats = false) {
    const hasImages = rows.some((row) => sourcesOf(row).some(isImage));
    const name = hasImages && this.graphs.from_noise ? "from_noise" : "sample";
    const drawn = [];
    for (const row of rows) {
      drawn.push(await this.#noiseOf(row));
    }
    const feeds = this.#stacked(drawn.map((one) => one.noise));
    feeds.temperature = this.#tensor(
      drawn.map((one) => one.temperature),
      [this.shapes.length],
    );
    this.#tell(feeds, rows.map((row) => row.label));
    for (const spec of this.#pixelNoise(name)) {
      const seeds = rows.map((row) => row.source.seed ?? SCORE_SEED);
      feeds[spec.name] = this.#tensor(
        seeds.map((seed) => noise(seed, spec)),
        spec.shape,
      );
    }
    const wanted = chosenOutput(name, output, asFloats);
    const session = await this.open(name);
    const results = await session.run(feeds, [wanted]);
    const pixels = await results[wanted].getData();
    return wanted === "mean" && !asFloats ? toBytes(pixels) : pixels;
  }

  /**
   * Encodes an image and keeps its noise.
   *
   * @param {string} key to know it by.
   * @param {Uint8Array} image `[height, width, channels]`.
   * @param {number} label its class, of a model that is told any.
   * @returns {Promise<object>} its `noise`; `nelbo` in nats, `bitsPerDim` and
   *     `klPerGroup`, of one posterior draw.
   */
  async infer(key, image, label) {
    // The first row walks along the posterior's mean, the second is a draw.
    const still = this.shapes.map((shape) => new Float32Array(size(shape)));
    const feeds = this.#stacked([still, this.#ofSeed(SCORE_SEED)]);
    const pixels = new Uint8Array(2 * image.length);
    pixels.set(image);
    pixels.set(image, image.length);
    feeds.images = new this.ort.Tensor("uint8", pixels, [2, ...this.imageShape]);
    this.#tell(feeds, [label, label]);
    const session = await this.open("infer");
    const results = await session.run(feeds);
    const groups = [];
    for (const [i, shape] of this.shapes.entries()) {
      const values = await results[`noise_${i}`].getData();
      groups.push(values.slice(0, size(shape)));
    }
    this.images.set(this.#nameOf(key, label), groups, this.rowBytes);
    const kl = await results.kl_per_group.getData();
    return {
      noise: groups,
      nelbo: (await results.nelbo.getData())[1],
      bitsPerDim: (await results.bits_per_dim.getData())[1],
      klPerGroup: kl.slice(this.shapes.length),
    };
  }

  /** The images of rows whose noise is not known, each under its classes. */
  unknown(rows) {
    const found = new Map();
    for (const { label, ...row } of rows) {
      for (const { image, pixels } of sourcesOf(row).filter(isImage)) {
        const name = this.#nameOf(image, label);
        if (!this.images.has(name)) {
          found.set(name, { image, pixels, label });
        }
      }
    }
    return [...found.values()];
  }

  #nameOf(key, label) {
    return this.hasClasses ? `${key} of ${label}` : key;
  }

  /** Adds the classes to what a graph takes, where it takes any. */
  #tell(feeds, labels) {
    if (this.hasClasses) {
      feeds.label = new this.ort.Tensor("int32", Int32Array.from(labels), [
        labels.length,
      ]);
    }
  }

  /** The noise of a row, and the temperature of each group. */
  async #noiseOf(row) {
    const ones = row.temperature.map(() => 1);
    let noise = await this.#ofSource(row.source, row.label);
    let temperature = isImage(row.source) ? ones : row.temperature;
    if (row.other) {
      let end = await this.#ofSource(row.other, row.label);
      if (isImage(row.source) !== isImage(row.other)) {
        // One of them is at the temperature already.
        if (isImage(row.source)) {
          end = scaled(end, row.temperature);
        } else {
          noise = scaled(noise, row.temperature);
        }
        temperature = ones;
      }
      noise = between(noise, end, row.t);
    }
    if (row.keep) {
      const { source, groups, side } = row.keep;
      const kept = await this.#ofSource(source, row.label);
      const keptTemperature = isImage(source) ? ones : row.temperature;
      [noise, temperature] =
        side === "coarse"
          ? [
              joined(kept, noise, groups),
              joined(keptTemperature, temperature, groups),
            ]
          : [
              joined(noise, kept, groups),
              joined(temperature, keptTemperature, groups),
            ];
    }
    if (row.shift) {
      const { group, channel, amount } = row.shift;
      const channels = this.shapes[group].at(-1);
      noise = shifted(noise, group, channel, channels, amount);
    }
    if (row.groups !== undefined) {
      noise = upperOnly(noise, row.groups);
    }
    return { noise, temperature: Float32Array.from(temperature) };
  }

  async #ofSource(source, label) {
    if (!isImage(source)) {
      return this.#ofSeed(source.seed);
    }
    const { image, pixels } = source;
    return (
      this.images.get(this.#nameOf(image, label)) ??
      (await this.infer(image, pixels, label)).noise
    );
  }

  #ofSeed(seed) {
    let groups = this.seeds.get(seed);
    if (!groups) {
      groups = this.shapes.map((shape, stream) =>
        noise(seed, { kind: "normal", stream, shape }),
      );
      this.seeds.set(seed, groups, this.rowBytes);
    }
    return groups;
  }

  #pixelNoise(name) {
    // Streams count the latent groups first.
    const groups = this.shapes.length;
    return this.graphs[name].noise.filter((spec) => spec.stream >= groups);
  }

  /** Rows of groups -> tensors by name. */
  #stacked(rows) {
    const feeds = {};
    for (const [i, shape] of this.shapes.entries()) {
      feeds[`eps_${i}`] = this.#tensor(
        rows.map((row) => row[i]),
        shape,
      );
    }
    return feeds;
  }

  #tensor(rows, shape) {
    const each = size(shape);
    const values = new Float32Array(rows.length * each);
    rows.forEach((row, i) => values.set(row, i * each));
    return new this.ort.Tensor("float32", values, [rows.length, ...shape]);
  }
}

/** Numbers in [0, 1] -> 0 to 255, halves to even as the exports round. */
export function toBytes(values) {
  return Uint8Array.from(values, (value) => {
    const level = Math.fround(255 * value);
    const rounded = Math.round(level);
    return rounded - level === 0.5 && rounded % 2 ? rounded - 1 : rounded;
  });
}

function chosenOutput(graph, output, asFloats) {
  if (output === "mean" || (asFloats && graph !== "sample")) {
    return "mean";
  }
  return asFloats ? "images_float" : "images";
}

/** All sources that a row names. */
function sourcesOf(row) {
  return [row.source, row.other, row.keep?.source].filter(Boolean);
}

function isImage(source) {
  return source.image !== undefined;
}

function size(shape) {
  return shape.reduce((a, b) => a * b, 1);
}
