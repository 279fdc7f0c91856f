// How long ONNX Runtime for Node or for the Web takes for a batch.
//
//   node engines.mjs ENGINE.js GRAPH.onnx '{"eps_0": [32, 4, 4, 20]}' SECONDS
//
// Prints the median of the seconds of a run.
import { readFileSync } from "node:fs";
import { pathToFileURL } from "node:url";

const [engine, path, shapes, seconds] = process.argv.slice(2);
const module = await import(pathToFileURL(engine).href);
const ort = module.InferenceSession ? module : module.default;
// More threads need a page that is isolated from others.
ort.env.wasm.numThreads = 1;
const session = await ort.InferenceSession.create(readFileSync(path));
const feeds = {};
for (const [name, shape] of Object.entries(JSON.parse(shapes))) {
  const count = shape.reduce((a, b) => a * b, 1);
  const values = Float32Array.from({ length: count }, Math.random);
  feeds[name] = new ort.Tensor("float32", values, shape);
}
await session.run(feeds, ["images"]);
const times = [];
let sum = 0;
while (times.length < 3 || sum < 1000 * Number(seconds)) {
  const began = performance.now();
  await session.run(feeds, ["images"]);
  times.push(performance.now() - began);
  sum += times.at(-1);
}
times.sort((a, b) => a - b);
console.log(times[Math.floor(times.length / 2)] / 1000);
