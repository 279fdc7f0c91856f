/**
 * Runs the model beside the page, which so stays responsive.
 *
 * The page sends tasks `{id, channel, kind, ...}`; of those of one channel only
 * the newest is finished, and without a kind none. Answers are `{id, ...}`; a
 * task ends with one that has `done`, `superseded` or `problem`. Without an id,
 * `{progress}` tells what is being loaded, and for which engine.
 *
 * Tasks take steps, and those that wait take turns: a long one keeps no other
 * waiting.
 */

import { Model } from "./model.js";

/** Rows at once; few sizes, because GPUs compile for each of them. */
const BATCHES = [1, 4, 16];
/** How long the page may wait for a part of an answer. */
const PART_MILLISECONDS = 150;
/** The most noise that is handed to the engine at once. */
const PART_BYTES = 2 ** 26;
const MOST_THREADS = 8;
/** What sessions log; that WebGPU leaves shapes to the CPU is no error. */
const LOG_ERRORS = 3;

/** A file that cannot be loaded, for which no engine is to blame. */
class FileError extends Error {}

const manifestLoaded = fetch("../manifest.json").then((r) => r.json());
const sessions = new Map();
const newest = new Map();
/** Tasks that are not finished, each with the steps that are left of it. */
const waiting = [];
let engine;
let engineName;
let isBusy = false;
let millisecondsPerRow = Infinity;

self.onmessage = ({ data: task }) => {
  if (task.channel) {
    newest.set(task.channel, task.id);
  }
  if (task.kind) {
    waiting.push({ task, steps: TASKS[task.kind](task) });
    work();
  }
};

async function work() {
  if (isBusy) {
    return;
  }
  isBusy = true;
  while (waiting.length) {
    // What can wait does.
    const next = waiting.findIndex(({ task }) => !task.canWait);
    const [job] = waiting.splice(Math.max(next, 0), 1);
    const { id } = job.task;
    if (isSuperseded(job.task)) {
      self.postMessage({ id, superseded: true });
      continue;
    }
    try {
      const { done } = await job.steps.next();
      if (!done) {
        waiting.push(job);
      }
    } catch (error) {
      const isOfFiles = error instanceof FileError;
      self.postMessage({ id, problem: sentence(error), isOfFiles });
    }
    await otherMessages();
  }
  isBusy = false;
}

/** Generators: where they yield, other tasks have their turn. */
const TASKS = {
  /** Loads the engine and opens the graph that draws. */
  async *start({ id, engine: name }) {
    const manifest = await manifestLoaded;
    engineName = name;
    engine = await loadEngine(name, manifest);
    await openGraph("sample");
    self.postMessage({ id, done: true, threads: engine.threads });
  },

  /** Draws rows, part by part. */
  async *draw({ id, rows, output, asFloats }) {
    const model = modelOf(engine);
    let start = 0;
    while (start < rows.length) {
      const count = batchSize(rows.length - start, model.rowBytes);
      const part = rows.slice(start, start + count);
      for (const { image, pixels, label } of model.unknown(part)) {
        await model.infer(image, pixels, label);
        yield;
      }
      const began = performance.now();
      const pixels = await model.draw(part, output, asFloats);
      millisecondsPerRow = (performance.now() - began) / part.length;
      self.postMessage({ id, start, count: part.length, pixels }, [
        pixels.buffer,
      ]);
      start += part.length;
      if (start < rows.length) {
        yield;
      }
    }
    // With its last part it is done, even if something newer is wanted: a
    // slider that moves on shows where it was.
    self.postMessage({ id, done: true, millisecondsPerRow });
  },

  async *infer({ id, source, label }) {
    const { image, pixels } = source;
    const { nelbo, bitsPerDim, klPerGroup } = await modelOf(engine).infer(
      image,
      pixels,
      label,
    );
    self.postMessage({ id, done: true, nelbo, bitsPerDim, klPerGroup });
  },

  /** How long a row takes, of the batch that draws it soonest. */
  async *time({ id, row }) {
    const model = modelOf(engine);
    let milliseconds = Infinity;
    for (const size of BATCHES) {
      if (size > 1 && size > mostRows(milliseconds, model.rowBytes)) {
        break;
      }
      const rows = Array(size).fill(row);
      // The first of a size compiles.
      await model.draw(rows, "mean");
      yield;
      const began = performance.now();
      await model.draw(rows, "mean");
      const taken = (performance.now() - began) / size;
      milliseconds = Math.min(milliseconds, taken);
      yield;
    }
    self.postMessage({ id, done: true, milliseconds });
  },
};

async function loadEngine(name, manifest) {
  const files = manifest.runtime.engines[name];
  const { script, module, binary } = files;
  const ort = await import(`../${script}`);
  const isIsolated = self.crossOriginIsolated;
  const threads = isIsolated
    ? Math.min(navigator.hardwareConcurrency || 1, MOST_THREADS)
    : 1;
  ort.env.wasm.numThreads = threads;
  ort.env.wasm.wasmPaths = { mjs: new URL(`../${module}`, self.location).href };
  ort.env.wasm.wasmBinary = await load(binary, "engine", manifest);
  ort.env.logLevel = "error";
  return { name, ort, threads, manifest };
}

function modelOf(loaded) {
  loaded.model ??= new Model(loaded.ort, loaded.manifest, openGraph);
  return loaded.model;
}

/** A graph's session; a second call waits for the first. */
function openGraph(name) {
  if (!sessions.has(name)) {
    const session = createSession(name);
    sessions.set(name, session);
    // The next one tries again.
    session.catch(() => sessions.delete(name));
  }
  return sessions.get(name);
}

async function createSession(name) {
  const { ort, manifest } = engine;
  const bytes = await load(manifest.graphs[name].path, "model", manifest);
  tell({ what: "preparing" });
  const session = await ort.InferenceSession.create(new Uint8Array(bytes), {
    executionProviders: [engine.name],
    graphOptimizationLevel: "all",
    logSeverityLevel: LOG_ERRORS,
  });
  tell({ what: "ready" });
  return session;
}

/** A file's content; tells the page how far it is. */
async function load(path, what, manifest) {
  try {
    return await contentOf(path, what, manifest.files[path].bytes);
  } catch (error) {
    throw new FileError(`${path} cannot be loaded: ${error.message}.`);
  }
}

async function contentOf(path, what, total) {
  const response = await fetch(`../${path}`);
  if (!response.ok) {
    throw new Error(response.status);
  }
  const content = new Uint8Array(total);
  let count = 0;
  for await (const piece of pieces(response)) {
    if (count + piece.length > total) {
      throw new Error("it is longer than the manifest says");
    }
    content.set(piece, count);
    count += piece.length;
    tell({ what, loaded: count, total });
  }
  if (count !== total) {
    throw new Error("it is shorter than the manifest says");
  }
  return content.buffer;
}

/** Of a response's body; Safari cannot iterate over it. */
async function* pieces(response) {
  const reader = response.body.getReader();
  for (;;) {
    const { done, value } = await reader.read();
    if (done) {
      return;
    }
    yield value;
  }
}

function tell(progress) {
  self.postMessage({ progress: { ...progress, engine: engineName } });
}

function batchSize(rows, rowBytes) {
  const most = Math.min(rows, mostRows(millisecondsPerRow, rowBytes));
  return BATCHES.findLast((size) => size <= most) ?? 1;
}

function mostRows(milliseconds, rowBytes) {
  return Math.min(PART_MILLISECONDS / milliseconds, PART_BYTES / rowBytes);
}

function isSuperseded(task) {
  return Boolean(task.channel) && newest.get(task.channel) !== task.id;
}

/** Lets messages that have arrived be heard. */
function otherMessages() {
  return new Promise((resolve) => setTimeout(resolve));
}

function sentence(error) {
  return String(error?.message ?? error).split("\n")[0].slice(0, 300);
}
