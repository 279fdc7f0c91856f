/**
 * The page's side of the workers that run the model.
 *
 * Pictures come from WebAssembly at first. Where the browser has WebGPU, a
 * second worker tries that, and takes over if it draws the same picture, and
 * sooner. Where the GPU is lost later, WebAssembly goes on.
 */

/** The largest difference that two engines may show, in [0, 1]. */
const AGREEMENT = 1e-3;
/** Where a picture takes longer, nobody is to wait for one of the trial. */
const SLOWEST_MILLISECONDS = 15_000;
/** From here on, a picture drawn alone says how fast an engine is. */
const SLOW_MILLISECONDS = 150;
/** Two engines hold a model's file and what they make of it. */
const COPIES = 4;
/** What devices are taken to have that don't say. */
const USUAL_GIGABYTES = 4;

/** Somebody asked for something newer. */
export class Superseded extends Error {}

export class Engine extends EventTarget {
  /** @param {object} manifest of the site. */
  constructor(manifest) {
    super();
    this.manifest = manifest;
    this.description = { name: "WebAssembly", threads: 1, note: "" };
    this.current = null;
    /** The worker that draws by WebGPU, once it has taken over. */
    this.gpu = null;
    /** The newest task of each channel that is not dropped. */
    this.newest = new Map();
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
    const { millisecondsPerRow } = await this.#ask(
      { kind: "draw", channel, rows, output },
      ({ start, count, pixels }) => {
        const part = split(pixels, count);
        // By place: another engine may begin anew.
        part.forEach((picture, i) => (pictures[start + i] = picture));
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
    return this.#ask({ kind: "infer", channel, source, label });
  }

  /** Leaves unfinished what was asked for in these channels. */
  drop(channels) {
    channels.forEach((channel) => this.newest.delete(channel));
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
    const reason = this.#whyNotTwice();
    if (reason) {
      this.#describe({ note: `WebGPU was not tried: ${reason}.` });
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
        this.gpu = other;
        this.#change(other, { name: "WebGPU", threads: 1 });
        return;
      }
    } catch (error) {
      this.#describe({ note: `WebGPU does not work here: ${error.message}` });
    }
    other.retire();
  }

  /** What speaks against a trial here; nothing if undefined. */
  #whyNotTwice() {
    const { files, graphs } = this.manifest;
    const bytes = files[graphs.sample.path].bytes;
    const memory = (navigator.deviceMemory ?? USUAL_GIGABYTES) * 2 ** 30;
    if (COPIES * bytes > memory / 2) {
      return "the model is too large to be here twice";
    }
    if (this.description.millisecondsPerRow > SLOWEST_MILLISECONDS) {
      return "a picture to compare takes too long";
    }
    return undefined;
  }

  /**
   * Draws a picture with both engines and times them, one after the other:
   * they share this device. What the page's visitor wants comes first.
   */
  async #compare(mine, other) {
    const row = {
      source: { seed: 0 },
      temperature: this.manifest.model.latent_shapes.map(() => 1),
      // A class that every model has, if it is told any.
      label: 0,
    };
    const { pixels: expected, millisecondsPerRow } = await mine.floats(row);
    const { pixels: given } = await other.floats(row);
    const difference = expected.reduce(
      (most, value, i) => Math.max(most, Math.abs(value - given[i])),
      0,
    );
    const told = difference.toExponential(1);
    if (!(difference <= AGREEMENT)) {
      const note = `WebGPU draws another picture (difference ${told}).`;
      return { isBetter: false, note };
    }
    const before =
      millisecondsPerRow > SLOW_MILLISECONDS
        ? millisecondsPerRow
        : await mine.time(row);
    const after = await other.time(row);
    const times = `${before.toFixed(1)} and ${after.toFixed(1)} ms an image`;
    const note =
      `WebGPU draws the same picture (difference ${told}); ` +
      `WebAssembly and WebGPU take ${times}.`;
    return { isBetter: after < before, note };
  }

  async #ask(task, onPart) {
    this.newest.set(task.channel, task);
    const helper = this.current;
    try {
      return await helper.ask(task, onPart);
    } catch (error) {
      const isOther = error instanceof Superseded || error.isOfFiles;
      if (helper !== this.gpu || isOther) {
        throw error;
      }
      await this.#leaveGpu(error);
      if (!this.#isWanted(task)) {
        throw new Superseded();
      }
      return this.current.ask(task, onPart);
    }
  }

  /** Whether nothing newer of its channel was asked for. */
  #isWanted(task) {
    return this.newest.get(task.channel) === task;
  }

  /** Goes back to WebAssembly; who asks meanwhile waits for the same. */
  #leaveGpu(error) {
    this.leaving ??= this.#startAgain(error).catch((problem) => {
      this.leaving = null;
      throw problem;
    });
    return this.leaving;
  }

  async #startAgain({ message }) {
    const helper = this.#newHelper();
    try {
      const { threads } = await helper.ask({ kind: "start", engine: "wasm" });
      const note = `WebGPU failed: ${message}`;
      this.#change(helper, { name: "WebAssembly", threads, note });
    } catch (problem) {
      helper.retire();
      throw problem;
    }
  }

  /** From now on another worker draws, also what is asked for already. */
  #change(helper, description) {
    const before = this.current;
    this.current = helper;
    this.#describe(description);
    before.retire(helper, (task) => this.#isWanted(task));
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
    return new Promise((resolve, reject) => {
      this.#post({ task, resolve, reject, onPart });
    });
  }

  drop(channels) {
    for (const { task } of this.open.values()) {
      if (channels.includes(task.channel)) {
        this.worker.postMessage({ id: this.next++, channel: task.channel });
      }
    }
  }

  /** A mean image as `pixels` in [0, 1], and how long it took. */
  async floats(row) {
    let pixels;
    const { millisecondsPerRow } = await this.ask(
      {
        kind: "draw",
        rows: [row],
        output: "mean",
        asFloats: true,
        canWait: true,
      },
      (part) => (pixels = part.pixels),
    );
    return { pixels, millisecondsPerRow };
  }

  /** Milliseconds that a row takes. */
  async time(row) {
    const task = { kind: "time", row, canWait: true };
    return (await this.ask(task)).milliseconds;
  }

  /** Ends the worker; another one, if any, answers what is open and wanted. */
  retire(other, isWanted) {
    this.worker.terminate();
    const questions = [...this.open.values()];
    this.open.clear();
    for (const question of questions) {
      if (other && isWanted(question.task)) {
        other.#post(question);
      } else {
        question.reject(new Superseded());
      }
    }
  }

  #post(question) {
    const id = this.next++;
    this.open.set(id, question);
    this.worker.postMessage({ ...question.task, id });
  }

  #hear(data, onProgress) {
    if (data.progress) {
      onProgress(data.progress);
      return;
    }
    const question = this.open.get(data.id);
    if (!question) {
      // On its way when the worker was ended.
      return;
    }
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
      const error = new Error(data.problem);
      error.isOfFiles = data.isOfFiles;
      question.reject(error);
    }
  }

  #fail(problem) {
    for (const { reject } of this.open.values()) {
      reject(new Error(problem));
    }
    this.open.clear();
  }
}

function split(pixels, count) {
  const size = pixels.length / count;
  return Array.from({ length: count }, (_, i) =>
    pixels.slice(i * size, (i + 1) * size),
  );
}
