// What a browser's worker has, in a thread of Node.js.
import { parentPort, workerData } from "node:worker_threads";

const { url, manifest, play } = workerData;
const failures = { ...play.fails };

globalThis.play = play;
globalThis.told = (run) => parentPort.postMessage({ run });
globalThis.self = {
  location: url,
  crossOriginIsolated: false,
  postMessage: (message) => parentPort.postMessage({ message }),
};
globalThis.fetch = async (place) => {
  const path = place.replace("../", "");
  if (path === "manifest.json") {
    return Response.json(manifest);
  }
  if (failures[path]) {
    failures[path] -= 1;
    return new Response("", { status: 503 });
  }
  return new Response(new Uint8Array(manifest.files[path].bytes));
};
// What is heard before the module has loaded waits, as in a browser.
const early = [];
parentPort.on("message", (data) =>
  self.onmessage ? self.onmessage({ data }) : early.push(data),
);
await import(url);
early.forEach((data) => self.onmessage({ data }));
