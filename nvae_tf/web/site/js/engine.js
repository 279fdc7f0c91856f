/**
 * The page's side of the workers that run the model.
 *
 * Pictures come from WebAssembly at first. Where the browser has WebGPU, a
 * second worker tries that, and takes over if it draws the same picture, and
 * sooner.
 */

/** The largest difference that two engines may show, in [0, 1]. */
const AGREEMENT = 1e-3;
const TRIAL_ROWS = 16;

/** Somebody asked for something newer. */
export class Superseded extends Error {}

export class Engine extends EventTarget {
  /** @param {object} manifest of the site. */
  constructor(manifest) {
    super();
    this.manifest = manifest;
    this.description = { name: "WebAssembly", threads: 1, note: "" };
    this.current = null;
  }

  /** Loads what draws the first picture. */
  async start() {
    this.current = this.#newHelper();
    const { threads } = await this.current.ask({
      kind: "start",
      engine: "wasm",
    });
    this.#describe({ threads });
  }

  /**
   * Draws rows; see `model.js`.
   *
   * @param {string} channel an earlier request of the same channel is dropped.
   * @param {object[]} rows
   * @param {{output?: string, onPart?: Function}} options `onPart(start,
   *     pictures)` is called as pictures come.
   * @returns {Promise<Uint8Array[]>} a picture per row.
   */
  async draw(channel, rows, { output = "mean", onPart = () => {} } = {}) {
    const pictures = [];
    const { millisecondsPerRow } = await this.current.ask(
      { kind: "draw", channel, rows, output },
      ({ start, count, pixels }) => {
        const part = split(pixels, count);
        pictures.push(...part);
        onPart(start, part);
      },
    );
    this.#describe({ millisecondsPerRow });
    return pictures;
  }

  /**
   * Encodes an image.
   *
   * @param {string} channel see `draw`.
   * @param {{image: string, pixels: Uint8Array}} source as in a row.
   * @param {number} label as in a row.
   * @returns {Promise<object>} `nelbo` in nats, `bitsPerDim`, `klPerGroup`.
   */
  infer(channel, source, label) {
    return this.current.ask({ kind: "infer", channel, source, label });
  }

  /** Leaves unfinished what was asked for in these channels. */
  drop(channels) {
    this.current.drop(channels);
  }

  /** Lets WebGPU take over if it can. Says in `description.note` what came. */
  async tryGpu() {
    if (!this.manifest.runtime.engines.webgpu) {
      return;
    }
    if (navigator.connection?.saveData) {
      this.#describe({ note: "WebGPU was not tried, to save data." });
      return;
    }
    const adapter = await navigator.gpu?.requestAdapter().catch(() => null);
    if (!adapter) {
      this.#describe({ note: "This browser offers no WebGPU." });
      return;
    }
    const other = this.#newHelper();
    try {
      await other.ask({ kind: "start", engine: "webgpu" });
      const verdict = await this.#compare(this.current, other);
      this.#describe({ note: verdict.note });
      if (verdict.isBetter) {
        const before = this.current;
        this.current = other;
        this.#describe({ name: "WebGPU", threads: 1 });
        before.retire();
        return;
      }
    } catch (error) {
      this.#describe({ note: `WebGPU does not work here: ${error.message}` });
    }
    other.retire();
  }

  async #compare(mine, other) {
    const temperature = this.manifest.model.latent_shapes.map(() => 1);
    const rows = Array.from({ length: TRIAL_ROWS }, (_, seed) => ({
      source: { seed },
      temperature,
      // A class that every model has, if it is told any.
      label: 0,
    }));
    const [expected, given] = await Promise.all(
      [mine, other].map((helper) => helper.floats(rows.slice(0, 1))),
    );
    const difference = expected.reduce(
      (most, value, i) => Math.max(most, Math.abs(value - given[i])),
      0,
    );
    const told = difference.toExponential(1);
    if (!(difference <= AGREEMENT)) {
      const note = `WebGPU draws another picture (difference ${told}).`;
      return { isBetter: false, note };
    }
    // One after the other: they share this device.
    const { milliseconds: before } = await mine.ask({ kind: "time", rows });
    const { milliseconds: after } = await other.ask({ kind: "time", rows });
    const times = `${before.toFixed(1)} and ${after.toFixed(1)} ms an image`;
    const note =
      `WebGPU draws the same picture (difference ${told}); ` +
      `WebAssembly and WebGPU take ${times}.`;
    return { isBetter: after < before, note };
  }

  #newHelper() {
    return new Helper((progress) => {
      this.dispatchEvent(new CustomEvent("progress", { detail: progress }));
    });
  }

  #describe(changes) {
    Object.assign(this.description, changes);
    this.dispatchEvent(new CustomEvent("described"));
  }
}

/** A worker, and the questions that it has not answered. */
class Helper {
  constructor(onProgress) {
    this.open = new Map();
    this.next = 1;
    this.worker = new Worker(new URL("worker.js", import.meta.url), {
      type: "module",
    });
    this.worker.onmessage = ({ data }) => this.#hear(data, onProgress);
    this.worker.onerror = (event) => {
      event.preventDefault();
      this.#fail(event.message || "The worker cannot be loaded.");
    };
  }

  ask(task, onPart = () => {}) {
    const id = this.next++;
    const { promise, resolve, reject } = deferred();
    this.open.set(id, { task, promise, resolve, reject, onPart });
    this.worker.postMessage({ ...task, id });
    return promise;
  }

  drop(channels) {
    for (const { task } of this.open.values()) {
      if (channels.includes(task.channel)) {
        this.worker.postMessage({ id: this.next++, channel: task.channel });
      }
    }
  }

  /** Mean images as numbers in [0, 1]. */
  async floats(rows) {
    let numbers;
    await this.ask(
      { kind: "draw", rows, output: "mean", asFloats: true },
      ({ pixels }) => (numbers = pixels),
    );
    return numbers;
  }

  /** Ends the worker once it has answered. */
  async retire() {
    await Promise.allSettled([...this.open.values()].map((q) => q.promise));
    this.worker.terminate();
  }

  #hear(data, onProgress) {
    if (data.progress) {
      onProgress(data.progress);
      return;
    }
    const question = this.open.get(data.id);
    if (!(data.done || data.superseded || data.problem)) {
      question.onPart(data);
      return;
    }
    this.open.delete(data.id);
    if (data.done) {
      question.resolve(data);
    } else if (data.superseded) {
      question.reject(new Superseded());
    } else {
      question.reject(new Error(data.problem));
    }
  }

  #fail(problem) {
    for (const { reject } of this.open.values()) {
      reject(new Error(problem));
    }
    this.open.clear();
  }
}

function deferred() {
  let settle;
  const promise = new Promise((resolve, reject) => {
    settle = { resolve, reject };
  });
  return { promise, ...settle };
}

function split(pixels, count) {
  const size = pixels.length / count;
  return Array.from({ length: count }, (_, i) =>
    pixels.slice(i * size, (i + 1) * size),
  );
}
