// What the tests call in Node.js besides the page's own functions.
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { pathToFileURL } from "node:url";

import { line } from "../../nvae_tf/web/site/js/ink.js";
import { fromText, toText } from "../../nvae_tf/web/site/js/link.js";
import { fit } from "../../nvae_tf/web/site/js/photo.js";
import { Recent } from "../../nvae_tf/web/site/js/recent.js";
import { Store } from "../../nvae_tf/web/site/js/store.js";

/** A drawing with one more line. */
export function drawn(pixels, size, from, to, radius, erases) {
  const changed = pixels.slice();
  line(changed, size, from, to, radius, erases);
  return changed;
}

/** What comes out of a link that holds a state and a picture under `name`. */
export async function roundTrip(state, name, pixels, isBinary) {
  const { text, isComplete } = await toText(
    { ...state, [name]: { image: "key" } },
    () => pixels,
    isBinary,
  );
  const { values, images } = await fromText(text, pixels.length, isBinary);
  return {
    text,
    isComplete,
    values: Object.fromEntries(values),
    pixels: images.get("key"),
  };
}

/** What is said of a picture of this size that cannot be fitted. */
export function refused(width, height, size) {
  try {
    const picture = { width, height, pixels: new Uint8Array(0) };
    fit(picture, { image_shape: [size, size, 3], alpha: "drop" });
    return null;
  } catch (error) {
    return error.message;
  }
}

/** The names of the pictures that a link holds. */
export async function images(text, size, isBinary) {
  return [...(await fromText(text, size, isBinary)).images.keys()];
}

/**
 * Calls methods of a site's model, one after the other.
 *
 * @param {string} site its folder.
 * @param {[string, any[]][]} calls names of methods and their arguments.
 */
export async function run(site, calls) {
  const url = (name) => pathToFileURL(join(site, name)).href;
  const manifest = JSON.parse(readFileSync(join(site, "manifest.json")));
  const ort = await import(url(manifest.runtime.engines.wasm.script));
  const { Model } = await import(url("js/model.js"));
  ort.env.wasm.numThreads = 1;
  const sessions = new Map();
  const model = new Model(ort, manifest, (name) => {
    if (!sessions.has(name)) {
      const path = join(site, manifest.graphs[name].path);
      sessions.set(name, ort.InferenceSession.create(readFileSync(path)));
    }
    return sessions.get(name);
  });
  const results = [];
  for (const [method, values] of calls) {
    results.push(await model[method](...values));
  }
  return results;
}

/** The state that follows from links, and which sources have pixels. */
export async function followed(model, ...texts) {
  const store = new Store(model);
  for (const text of texts) {
    await store.follow(text);
  }
  const sources = ["from", "a", "b", "base", "own"]
    .map((name) => store.state[name])
    .filter((source) => source?.image !== undefined);
  return { state: store.state, sources: sources.map((s) => store.source(s)) };
}

/** The keys that are left of `[key, bytes]`, one of which is used again. */
export function recent(most, values, again) {
  const kept = new Recent(most);
  for (const [key, bytes] of values) {
    kept.set(key, key, bytes);
    kept.get(again);
  }
  return [...kept.kept.keys()].sort();
}
