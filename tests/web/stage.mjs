// The page's engine in Node.js: its own worker, with a stand-in for the runtime.
//
// A play says how an engine behaves: {wasm: {milliseconds, ...}, webgpu: ...},
// see `stand_in.mjs`. What sessions ran is in `runs`, in order.
import { Worker as Thread } from "node:worker_threads";

import { Engine } from "../../nvae_tf/web/site/js/engine.js";

const SIZE = 2;
const LATENTS = [[1, 1, 2]];
const BEHAVIOUR = new URL("worker_shim.mjs", import.meta.url);

function manifestOf({ classes = 0, latents = LATENTS, modelBytes = 4 } = {}) {
  const files = { "e.wasm": { bytes: 4 }, "m.onnx": { bytes: modelBytes } };
  files["infer.onnx"] = { bytes: 4 };
  const engine = {
    script: "../../../tests/web/stand_in.mjs",
    module: "e.mjs",
    binary: "e.wasm",
  };
  const graph = { path: "m.onnx", noise: [] };
  return {
    files,
    graphs: {
      sample: graph,
      infer: { ...graph, path: "infer.onnx" },
      from_noise: graph,
    },
    model: {
      image_shape: [SIZE, SIZE, 1],
      latent_shapes: latents,
      num_classes: classes || undefined,
    },
    runtime: { engines: { wasm: engine, webgpu: engine } },
  };
}

/** What is set up for one scenario: `engine`, `runs`, `end`. */
export async function staged(play, model) {
  const manifest = manifestOf(model);
  const threads = [];
  const ended = new Set();
  const runs = [];
  globalThis.Worker = class {
    constructor(url) {
      // The engines' files are there for the first two.
      const isOffline = Boolean(play.offline) && threads.length > 1;
      const fails = isOffline ? { "e.wasm": Infinity } : play.fails;
      const workerData = { url: url.href, manifest, play: { ...play, fails } };
      this.thread = new Thread(BEHAVIOUR, { workerData, execArgv: [] });
      threads.push(this.thread);
      this.thread.on("message", ({ run, message }) => {
        if (run) {
          runs.push({ ...run, thread: threads.indexOf(this.thread) });
        } else {
          this.onmessage({ data: message });
        }
      });
    }

    postMessage(message) {
      this.thread.postMessage(message);
    }

    terminate() {
      ended.add(this.thread);
      this.thread.terminate();
    }
  };
  const gpu = { requestAdapter: async () => ({}) };
  Object.defineProperty(globalThis, "navigator", {
    value: { gpu, ...play.navigator },
    configurable: true,
  });
  const engine = new Engine(manifest);
  await engine.start();
  return {
    engine,
    runs,
    alive: () => threads.length - ended.size,
    end: () => Promise.all(threads.map((thread) => thread.terminate())),
  };
}

/** A row whose picture has this level, of 0 to 100. */
export function rowOf(level, more = {}) {
  return { source: { seed: 0 }, temperature: [level / 100], ...more };
}

export function pause(milliseconds) {
  return new Promise((resolve) => setTimeout(resolve, milliseconds));
}

/** A picture is wanted while a long drawing goes on; then that is left. */
export async function turns() {
  const { engine, runs, end } = await staged({ wasm: { milliseconds: 60 } });
  const long = engine.draw("samples", Array(60).fill(rowOf(10)));
  const left = long.then(
    () => "done",
    (error) => error.constructor.name,
  );
  await pause(150);
  await engine.draw("latent-big", [rowOf(20)]);
  const rowsBefore = runs.length;
  engine.drop(["samples"]);
  const told = await left;
  await end();
  return { rowsBefore, rowsAfter: runs.length, left: told };
}

/** Somebody draws while WebGPU is tried; what engines ran in the meantime. */
export async function trial(play, model) {
  const { engine, runs, end } = await staged(play, model);
  await engine.draw("samples", [rowOf(10)]);
  runs.length = 0;
  const tried = engine.tryGpu();
  const waits = [];
  const over = tried.then(() => true);
  for (let isOver = false; !isOver; ) {
    const began = performance.now();
    await engine.draw("samples", [rowOf(20)]);
    waits.push(performance.now() - began);
    isOver = await Promise.race([over, pause(20)]);
  }
  await end();
  return { runs, waits, ...engine.description };
}

/** Pictures that keep a part of one's own, each of another class. */
export async function keptOfClasses(classes, model) {
  const { engine, runs, end } = await staged({}, { classes, ...model });
  const source = { image: "own", pixels: new Uint8Array(SIZE * SIZE) };
  const keep = { source, groups: 1, side: "coarse" };
  const rows = Array.from({ length: classes + 5 }, (_, i) =>
    rowOf(10, { label: i % classes, keep }),
  );
  try {
    const pictures = await engine.draw("samples", rows);
    return {
      pictures: pictures.length,
      scores: runs.filter(({ isScore }) => isScore).length,
    };
  } finally {
    await end();
  }
}

/** WebGPU takes over while something is drawn; then something else may be. */
export async function takeover(hasNewer) {
  const { engine, runs, end } = await staged({
    wasm: { milliseconds: 160 },
    webgpu: { milliseconds: 5, compiling: 200 },
  });
  await engine.draw("samples", [rowOf(10)]);
  const tried = engine.tryGpu();
  while (!runs.some((run) => run.engine === "webgpu")) {
    await pause(10);
  }
  const seen = [];
  const onPart = (start, part) =>
    part.forEach(([level], i) => (seen[start + i] = level));
  const asked = (level) =>
    engine.draw("samples", Array(100).fill(rowOf(level)), { onPart }).then(
      (pictures) => pictures.length,
      (error) => error.constructor.name,
    );
  const first = asked(20);
  await tried;
  const answers = [first, hasNewer && asked(40)];
  const told = await Promise.all(answers);
  await pause(300);
  await end();
  return { told, seen: [...new Set(seen)], engine: engine.description.name };
}

/** A GPU takes over and is lost, while two views draw. */
export async function lostGpu() {
  const { engine, end } = await staged({
    wasm: { milliseconds: 160 },
    webgpu: { milliseconds: 1, lasts: 12 },
  });
  await engine.draw("samples", [rowOf(10)]);
  await engine.tryGpu();
  const names = [engine.description.name];
  const draw = (channel, level) =>
    engine.draw(channel, Array(3).fill(rowOf(level)));
  let pictures;
  for (let i = 0; names.at(-1) !== "WebAssembly" && i < 12; i++) {
    pictures = await Promise.all([draw("samples", 20), draw("image", 40)]);
    names.push(engine.description.name);
  }
  await end();
  return {
    names: [...new Set(names)],
    levels: pictures.map((drawn) => drawn.map(([level]) => level)),
    note: engine.description.note,
  };
}

/** A GPU is lost, slowly, while something newer is asked for, or nothing. */
export async function lostGpuWith(change) {
  const { engine, end } = await staged({
    wasm: { milliseconds: 160 },
    webgpu: { milliseconds: 1, diesAt: 0.2, dying: 600 },
  });
  await engine.draw("samples", [rowOf(10)]);
  await engine.tryGpu();
  const asked = (level) =>
    engine.draw("samples", Array(3).fill(rowOf(level))).then(
      (pictures) => pictures[2][0],
      (error) => error.constructor.name,
    );
  const first = asked(20);
  // By then it is on its way to fail.
  await pause(60);
  if (change === "drop") {
    engine.drop(["samples"]);
  }
  const told = await Promise.all([first, change === "newer" && asked(40)]);
  await end();
  return told;
}

/** A GPU is lost where WebAssembly can't be loaded any more; workers left. */
export async function lostGpuOffline() {
  const { engine, end, alive } = await staged({
    wasm: { milliseconds: 160 },
    webgpu: { milliseconds: 1, lasts: 12 },
    offline: true,
  });
  await engine.draw("samples", [rowOf(10)]);
  await engine.tryGpu();
  const told = [];
  while (told.length < 3) {
    await engine.draw("samples", [rowOf(20)]).catch(() => told.push(alive()));
  }
  await end();
  return told;
}

/** A graph that cannot be loaded once is asked for twice. */
export async function lostFile() {
  const { engine, end } = await staged({ fails: { "infer.onnx": 1 } });
  const source = { image: "own", pixels: new Uint8Array(SIZE * SIZE) };
  const told = [];
  for (let i = 0; i < 2; i++) {
    told.push(
      await engine.infer("image", source).then(
        () => "done",
        (error) => error.message,
      ),
    );
  }
  await end();
  return told;
}
