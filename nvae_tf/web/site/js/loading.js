/** Tells what is being loaded: in words, in numbers, and as a bar. */

import { say } from "./controls.js";

const SENTENCES = {
  engine: "Loading the engine",
  model: "Loading the model",
  preparing: "Preparing the model",
  ready: "Drawing",
};

export class Loading {
  constructor() {
    this.box = document.getElementById("loading");
    this.bar = document.getElementById("progress");
    this.status = document.getElementById("status");
    this.loaded = document.getElementById("loaded");
  }

  /**
   * @param {{what: string, engine: string, loaded?: number, total?: number}}
   *     progress of a worker; bytes.
   */
  tell({ what, engine, loaded, total }) {
    const isFirst = !this.box.classList.contains("done");
    if (what === "ready" && !isFirst) {
      this.end();
      return;
    }
    this.box.hidden = false;
    // Said aloud, so not with numbers that change all the time.
    const where = engine === "webgpu" ? " for the GPU" : "";
    say(this.status, `${SENTENCES[what]}${where}.`);
    say(this.loaded, total ? `${megabytes(loaded)} of ${megabytes(total)} MB` : "");
    if (total) {
      this.bar.value = loaded / total;
    } else {
      this.bar.removeAttribute("value");
    }
  }

  /** Nothing is being loaded. The first time, the first picture is there. */
  end() {
    this.box.classList.add("done");
    this.box.hidden = true;
    say(this.status, "");
  }
}

function megabytes(bytes) {
  return (bytes / 1e6).toFixed(1);
}
