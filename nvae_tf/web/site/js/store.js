/**
 * What the page shows, in one place: the state, and own pictures.
 *
 * Views listen for "change" and draw; controls call `set`.
 */

import { fromText, toSource, toText } from "./link.js";

/** What a link to each view holds. */
const IN_LINK = {
  samples: [
    "seed",
    "count",
    "temperature",
    "pixels",
    "keep",
    "level",
    "from",
    "label",
  ],
  between: ["a", "b", "t", "temperature", "label"],
  image: ["own", "label"],
  latent: ["base", "group", "channel", "amount", "temperature", "label"],
  about: [],
};
const LARGEST_SEED = 2 ** 31 - 1;
const MOST_OWN = 6;
const LARGEST_TEMPERATURE = 1.3;

export class Store extends EventTarget {
  /** @param {object} model facts of the manifest. */
  constructor(model) {
    super();
    this.model = model;
    this.isBinary = model.likelihood === "bernoulli";
    this.own = new Map();
    this.scales = scalesOf(model);
    this.levels = levelsOf(this.scales, model.latent_shapes.length);
    this.state = this.#first();
  }

  /** What is shown unless something else is said. */
  #first() {
    const { model } = this;
    return {
      view: "samples",
      seed: 0,
      count: model.image_shape[0] > 128 ? 4 : 16,
      temperature: this.scales.map(() => model.temperature),
      pixels: "images",
      keep: "none",
      level: 1,
      from: { seed: 0 },
      a: { seed: 0 },
      b: { seed: 1 },
      t: 0.5,
      base: { seed: 0 },
      group: 0,
      channel: 0,
      amount: 0,
      own: null,
      // Null: samples of all classes in turn; elsewhere of the first.
      label: null,
    };
  }

  /** Whether there are coarse and fine parts, of which one can be kept. */
  get hasParts() {
    return this.levels.length > 1;
  }

  /** How many classes the model is told; 0 for none. */
  get classes() {
    return this.model.num_classes ?? 0;
  }

  /** The class of a row, and in a grid of the sample at a place; or nothing. */
  classOf(place = 0) {
    if (!this.classes) {
      return {};
    }
    return { label: this.state.label ?? place % this.classes };
  }

  /** Changes the state; everybody hears of it. */
  set(changes) {
    Object.assign(this.state, changes);
    this.dispatchEvent(new Event("change"));
  }

  /**
   * Keeps a picture.
   *
   * @param {Uint8Array} pixels `[height, width, channels]`.
   * @param {{listed: boolean}} options unlisted: one that is being drawn.
   * @returns {{image: string}} the source that names it.
   */
  addOwn(pixels, { listed = true } = {}) {
    const key = fingerprint(pixels);
    const old = this.own.get(key);
    this.own.delete(key);
    this.own.set(key, { pixels, listed: listed || old?.listed });
    this.#forget();
    return { image: key };
  }

  /** Own pictures to choose from: `[key, pixels]`, the newest last. */
  listed() {
    return [...this.own]
      .filter(([, { listed }]) => listed)
      .map(([key, { pixels }]) => [key, pixels]);
  }

  /** A source as rows have it: with its pixels. */
  source(source) {
    return source.image === undefined
      ? source
      : { image: source.image, pixels: this.own.get(source.image).pixels };
  }

  /** The temperature of every group. */
  temperatures() {
    return this.scales.flatMap(({ groups }, i) =>
      Array(groups).fill(this.state.temperature[i]),
    );
  }

  /** The part of the address behind "#", and whether it holds all. */
  link() {
    const { view } = this.state;
    const shown = { view };
    for (const name of IN_LINK[view]) {
      const isUnused =
        (this.state.keep === "none" && (name === "level" || name === "from")) ||
        (name === "pixels" && this.isBinary);
      if (!isUnused && this.state[name] !== null) {
        shown[name] = this.state[name];
      }
    }
    return toText(shown, (key) => this.own.get(key)?.pixels, this.isBinary);
  }

  /**
   * Takes over what a link says, as far as this model has it. What it leaves
   * out of its view is as at first: it shows everybody the same.
   */
  async follow(text) {
    const [height, width, channels] = this.model.image_shape;
    const size = height * width * channels;
    const { values, images } = await fromText(text, size, this.isBinary);
    // Their names here may differ: a link holds what a binary model sees.
    const keys = new Map();
    for (const [name, pixels] of images) {
      keys.set(name, this.addOwn(pixels).image);
    }
    const said = {};
    for (const [name, value] of values) {
      const read = this.#read(name, value, keys);
      if (read !== undefined) {
        said[name] = read;
      }
    }
    const first = this.#first();
    const changes = {};
    for (const name of IN_LINK[said.view ?? this.state.view]) {
      changes[name] = first[name];
    }
    this.set({ ...changes, ...said });
  }

  #read(name, text, keys) {
    const { latent_shapes } = this.model;
    const whole = (first, last) => within(text, first, last, true);
    switch (name) {
      case "view":
        return Object.keys(IN_LINK).find((view) => view === text);
      case "seed":
        return whole(0, LARGEST_SEED);
      case "count":
        return [4, 9, 16, 25, 36, 64].find((count) => String(count) === text);
      case "temperature": {
        const values = text
          .split(",")
          .map((part) => within(part, 0, LARGEST_TEMPERATURE));
        const fits = values.length === this.scales.length;
        return fits && !values.includes(undefined) ? values : undefined;
      }
      case "label":
        return this.classes ? whole(0, this.classes - 1) : undefined;
      case "pixels":
        return ["images", "mean"].find((output) => output === text);
      case "keep":
        return ["none", "coarse", "fine"].find(
          (part) => part === text && (part === "none" || this.hasParts),
        );
      case "level":
        return whole(1, this.levels.length - 1);
      case "group":
        return whole(0, latent_shapes.length - 1);
      case "channel":
        return whole(0, latent_shapes[0].at(-1) - 1);
      case "t":
        return within(text, 0, 1);
      case "amount":
        return within(text, -4, 4);
      case "from":
      case "a":
      case "b":
      case "base":
      case "own": {
        const { seed, image } = toSource(text) ?? {};
        const key = keys.get(image);
        // A link that somebody made may hold more than are kept.
        if (this.own.has(key)) {
          return { image: key };
        }
        return seed <= LARGEST_SEED && name !== "own" ? { seed } : undefined;
      }
      default:
        return undefined;
    }
  }

  /** Forgets pictures that nothing names, the oldest first. */
  #forget() {
    const { from, a, b, base, own } = this.state;
    const named = new Set([from, a, b, base, own].map((s) => s?.image));
    const newest = [...this.own.keys()].at(-1);
    for (const [key, { listed }] of this.own) {
      const isFree = !named.has(key) && key !== newest;
      if (isFree && (!listed || this.listed().length > MOST_OWN)) {
        this.own.delete(key);
      }
    }
  }
}

/** The latent scales, coarsest first: size and number of groups. */
function scalesOf({ latent_shapes }) {
  const scales = [];
  for (const [height, width] of latent_shapes) {
    const name = `${height} × ${width}`;
    if (scales.at(-1)?.name === name) {
      scales.at(-1).groups += 1;
    } else {
      scales.push({ name, groups: 1 });
    }
  }
  return scales;
}

/**
 * How many upper groups there are down to each border, and what those are
 * called: borders are those of scales, or of groups where there is one scale.
 */
function levelsOf(scales, groups) {
  if (scales.length === 1) {
    return Array.from({ length: groups }, (_, i) => ({
      groups: i + 1,
      name: i ? `${i + 1} groups` : "1 group",
    }));
  }
  let sum = 0;
  return scales.map((scale, i) => {
    sum += scale.groups;
    return {
      groups: sum,
      name: i ? `down to ${scale.name}` : `${scale.name} alone`,
    };
  });
}

function within(text, first, last, isWhole = false) {
  const value = text.trim() ? Number(text) : NaN;
  const fits = value >= first && value <= last;
  return fits && (!isWhole || Number.isInteger(value)) ? value : undefined;
}

/** A short name that other pixels do not have (64 bits, FNV-1a twice). */
function fingerprint(pixels) {
  const hashes = [0x811c9dc5, 0x050c5d1f].map((start) => {
    let hash = start;
    for (const value of pixels) {
      hash = Math.imul(hash ^ value, 0x01000193);
    }
    return (hash >>> 0).toString(36);
  });
  return hashes.join("-");
}
