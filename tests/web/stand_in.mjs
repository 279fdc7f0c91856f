// Stands in for ONNX Runtime Web: pictures as bright as their temperature.
//
// How each engine behaves: `milliseconds` a row takes, `compiling` the first
// of each number of rows, `brighter` by how much its pictures are, `lasts` how
// many runs it works, `diesAt` the temperature that ends that, `dying` how long
// runs then take to fail.
const PIXELS = 4;

export const env = { wasm: {} };

export class Tensor {
  constructor(kind, data, dims) {
    Object.assign(this, { data, dims });
  }

  async getData() {
    return this.data;
  }
}

export const InferenceSession = {
  async create(bytes, { executionProviders: [engine] }) {
    const {
      milliseconds = 0,
      compiling = 0,
      brighter = 0,
      lasts = Infinity,
      diesAt,
      dying = 0,
    } = globalThis.play[engine] ?? {};
    const compiled = new Set();
    let count = 0;
    const run = async (feeds, wanted) => {
      const isScore = Boolean(feeds.images);
      const rows = (feeds.images ?? feeds.temperature).dims[0];
      globalThis.told({ engine, rows, isScore });
      count += 1;
      if (diesAt && Math.abs(feeds.temperature?.data[0] - diesAt) < 1e-6) {
        count = Infinity;
      }
      if (count > lasts || count === Infinity) {
        await new Promise((resolve) => setTimeout(resolve, dying));
        throw new Error("The device is lost.");
      }
      const first = compiled.has(rows) ? 0 : compiling;
      compiled.add(rows);
      await new Promise((resolve) =>
        setTimeout(resolve, first + rows * milliseconds),
      );
      if (isScore) {
        return scores(feeds, rows);
      }
      const groups = feeds.temperature.dims[1];
      const values = Float32Array.from(
        { length: rows * PIXELS },
        (_, i) =>
          feeds.temperature.data[groups * Math.floor(i / PIXELS)] + brighter,
      );
      return { [wanted[0]]: new Tensor("float32", values) };
    };
    return { run };
  },
};

function scores(feeds, rows) {
  const results = {};
  for (const name of ["nelbo", "bits_per_dim", "kl_per_group"]) {
    results[name] = new Tensor("float32", new Float32Array(2));
  }
  for (const [name, tensor] of Object.entries(feeds)) {
    if (name.startsWith("eps_")) {
      results[name.replace("eps", "noise")] = tensor;
    }
  }
  return results;
}
