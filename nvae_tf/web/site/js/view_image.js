/** An own image: encoded, reconstructed scale by scale, scored. */

import { say } from "./controls.js";
import { Pad } from "./pad.js";
import { canvasFor, paint } from "./pictures.js";
import { View } from "./view.js";

/** With more groups, their numbers would not fit below the bars. */
const MOST_LABELS = 12;

export class ImageView extends View {
  constructor(page) {
    super("image", page);
    this.asks = ["image-score", "image"];
    this.pad = new Pad(document.getElementById("pad"), this.model.image_shape);
    this.reconstruction = canvasFor(this.model.image_shape, "Reconstruction");
    document.getElementById("reconstruction").append(this.reconstruction);
    this.#addLevels();
    this.#connect();
  }

  show() {
    const { own } = this.store.state;
    const pixels = own && this.store.own.get(own.image).pixels;
    if (pixels && this.seen !== own.image) {
      this.pad.show(pixels);
    }
    this.seen = own?.image;
    for (const id of ["a", "b", "latent", "keep"]) {
      document.getElementById(`image-${id}`).disabled = !own;
    }
    document.getElementById("image-keep").hidden = !this.store.hasParts;
    if (!own) {
      const way = this.pad.canDraw ? "Draw something, or open" : "Open";
      say(this.score, `${way} a picture.`);
    }
  }

  wanted() {
    return { own: this.store.state.own, ...this.store.classOf() };
  }

  async draw({ own, label }, taken) {
    if (!own) {
      return;
    }
    const { engine } = this.page;
    // Before anything is waited for: a drawing that goes on is another image,
    // and this one forgotten.
    const source = this.store.source(own);
    const rows = this.store.levels.map(({ groups }) =>
      this.row(own, { groups }),
    );
    const scores = await engine.infer("image-score", source, label);
    this.goOn(taken);
    this.#showScores(scores);
    // From the last to the first: the whole reconstruction is there at once.
    const pictures = await engine.draw("image", rows.reverse());
    pictures.reverse();
    pictures.forEach((pixels, i) => paint(this.levels[i], pixels));
    paint(this.reconstruction, pictures.at(-1));
    this.columns = pictures.length + 1;
    this.take(taken, [source.pixels, ...pictures], true);
  }

  #showScores({ nelbo, bitsPerDim, klPerGroup }) {
    const bits = document.createElement("strong");
    bits.textContent = `${bitsPerDim.toFixed(3)} bits/dim`;
    this.score.replaceChildren(
      bits,
      ` (at most ${nelbo.toFixed(1)} nats, by one draw of the posterior)`,
    );
    const bars = document.getElementById("bars");
    const most = Math.max(...klPerGroup, 1e-9);
    let group = 0;
    const parts = this.store.scales.flatMap((scale, s) =>
      Array.from({ length: scale.groups }, () => {
        const value = klPerGroup[group];
        const bar = document.createElement("div");
        const text = `Group ${group}, ${scale.name}: ${value.toFixed(2)} nats`;
        bar.title = text;
        bar.setAttribute("role", "img");
        bar.setAttribute("aria-label", text);
        bar.style.height = `${(100 * Math.max(0, value)) / most}%`;
        const faded = (60 * s) / this.store.scales.length;
        bar.style.setProperty("--strength", `${100 - faded}%`);
        const label = document.createElement("span");
        label.textContent = value.toFixed(1);
        bar.append(label);
        group += 1;
        return bar;
      }),
    );
    bars.replaceChildren(...parts);
    bars.classList.toggle("many", parts.length > MOST_LABELS);
    const kl = klPerGroup.reduce((a, b) => a + b, 0);
    const share = this.store.scales.map(({ name, groups }) => `${name}: ${groups}`);
    say(
      this.legend,
      `KL divergence in nats, coarsest group first; ${kl.toFixed(1)} in all. ` +
        `Groups at ${share.join(", ")}.`,
    );
  }

  #addLevels() {
    const place = document.getElementById("levels");
    this.levels = this.store.levels.map(({ name }, i) => {
      const isLast = i === this.store.levels.length - 1;
      const text = isLast ? "all" : name;
      const figure = document.createElement("figure");
      const caption = document.createElement("figcaption");
      caption.textContent = text;
      const canvas = canvasFor(
        this.model.image_shape,
        `Reconstruction from ${text}`,
      );
      figure.append(canvas, caption);
      place.append(figure);
      return canvas;
    });
    this.score = document.getElementById("score");
    this.legend = document.createElement("p");
    this.legend.className = "legend";
    document.getElementById("bars").after(this.legend);
  }

  /** What is on the pad becomes the image; `listed` once a stroke is done. */
  #take(listed) {
    const own = this.store.addOwn(this.pad.pixels.slice(), { listed });
    this.seen = own.image;
    this.store.set({ own });
  }

  #connect() {
    const { store, pad } = this;
    pad.addEventListener("drawn", ({ detail: isDone }) => {
      cancelAnimationFrame(this.frame);
      if (isDone) {
        this.#take(true);
      } else {
        // A finger moves more often than can be seen.
        this.frame = requestAnimationFrame(() => this.#take(false));
      }
    });
    document.getElementById("drawing").hidden = !pad.canDraw;
    const radius = document.getElementById("radius");
    radius.min = pad.radius / 2;
    radius.max = pad.radius * 3;
    radius.value = pad.radius;
    radius.oninput = () => (pad.radius = Number(radius.value));
    for (const tool of this.section.querySelectorAll("[name=tool]")) {
      tool.onchange = () => (pad.erases = tool.value === "eraser");
    }
    for (const what of ["undo", "clear", "centre", "invert"]) {
      document.getElementById(what).onclick = () => pad[what]();
    }
    const file = document.getElementById("file");
    file.onchange = () => {
      if (file.files.length) {
        this.page.openOwn(file.files[0]);
      }
    };
    const onward = {
      a: (own) => ({ view: "between", a: own }),
      b: (own) => ({ view: "between", b: own }),
      latent: (own) => ({ view: "latent", base: own }),
      keep: (own) => ({ view: "samples", keep: "coarse", from: own }),
    };
    for (const [id, changes] of Object.entries(onward)) {
      document.getElementById(`image-${id}`).onclick = () => {
        const { own } = store.state;
        store.addOwn(store.own.get(own.image).pixels);
        store.set(changes(own));
      };
    }
  }
}
