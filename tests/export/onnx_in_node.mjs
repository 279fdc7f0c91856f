// Runs an ONNX file in Node.js, with ONNX Runtime for Node or for the Web.
import { readFileSync } from "node:fs";
import { pathToFileURL } from "node:url";

/**
 * @param {string} engine the script of the engine.
 * @param {string} path the ONNX file.
 * @param {[string, Float32Array|Uint8Array, number[]][]} inputs names, values
 *   and shapes.
 * @returns {Promise<[string, Float32Array|Uint8Array, number[]][]>} the same of
 *   the outputs.
 */
export async function run(engine, path, inputs) {
  const module = await import(pathToFileURL(engine).href);
  const ort = module.InferenceSession ? module : module.default;
  ort.env.wasm.numThreads = 1;
  const session = await ort.InferenceSession.create(readFileSync(path));
  const feeds = {};
  for (const [name, values, shape] of inputs) {
    const kind = values instanceof Uint8Array ? "uint8" : "float32";
    feeds[name] = new ort.Tensor(kind, values, shape);
  }
  const outputs = await session.run(feeds);
  return Object.entries(outputs).map(([name, tensor]) => [
    name,
    // That of Node.js gives memory of its own: only this is the tensor's.
    tensor.data.slice(),
    [...tensor.dims],
  ]);
}
