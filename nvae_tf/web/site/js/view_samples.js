/** A grid of samples: all new, or with coarse or fine parts kept. */

import { pictureButton, rove, say } from "./controls.js";
import { paint } from "./pictures.js";
import { View } from "./view.js";

const LARGEST_SEED = 2 ** 31 - 1;

export class SamplesView extends View {
  constructor(page) {
    super("samples", page);
    this.grid = document.getElementById("grid");
    this.chosen = null;
    this.canvases = [];
    rove(this.grid);
    this.#connect();
  }

  show() {
    const { state, levels, hasParts, isBinary } = this.store;
    const seed = document.getElementById("seed");
    if (document.activeElement !== seed) {
      seed.value = state.seed;
    }
    document.getElementById("count").value = state.count;
    document.getElementById("pixels").hidden = isBinary;
    for (const name of ["pixels", "keep"]) {
      for (const radio of this.#radios(name)) {
        radio.checked = radio.value === state[name];
      }
    }
    document.getElementById("keep").hidden = !hasParts;
    for (const part of ["coarse", "fine"]) {
      document.querySelector(`#chosen [data-do=${part}]`).hidden = !hasParts;
    }
    document.getElementById("keep-more").hidden = state.keep === "none";
    const level = document.getElementById("level");
    level.max = levels.length - 1;
    level.value = state.level;
    level.disabled = levels.length < 3;
    say(
      document.getElementById("level-name"),
      `coarse: ${levels[state.level - 1]?.name}`,
    );
    this.#build();
    this.#showChosen();
  }

  wanted() {
    const { state, levels, isBinary } = this.store;
    const rows = this.#seeds().map((seed, i) =>
      this.row({ seed }, this.store.classOf(i)),
    );
    if (state.keep !== "none") {
      const keep = {
        source: this.store.source(state.from),
        groups: levels[state.level - 1].groups,
        side: state.keep,
      };
      rows.forEach((row) => (row.keep = keep));
    }
    const isOwn = state.keep !== "none" && state.from.image !== undefined;
    const output = isBinary || isOwn ? "mean" : state.pixels;
    return { rows, output };
  }

  async draw({ rows, output }, taken) {
    await this.page.engine.draw("samples", rows, {
      output,
      onPart: (start, pictures) => {
        pictures.forEach((pixels, i) => {
          if (this.canvases[start + i]) {
            paint(this.canvases[start + i], pixels);
          }
        });
        // Another engine may begin anew.
        taken.length = start;
        this.take(taken, pictures, start + pictures.length === rows.length);
      },
    });
  }

  showTaken(isWhole) {
    super.showTaken(isWhole);
    this.#showEncode();
  }

  #seeds() {
    const { seed, count } = this.store.state;
    return Array.from(
      { length: Math.min(count, LARGEST_SEED - seed + 1) },
      (_, i) => seed + i,
    );
  }

  #build() {
    const seeds = this.#seeds();
    this.columns = Math.ceil(Math.sqrt(seeds.length));
    this.grid.style.setProperty("--columns", this.columns);
    this.grid.dataset.columns = this.columns;
    if (this.canvases.length !== seeds.length) {
      const made = seeds.map((_, i) => {
        const { button, canvas } = pictureButton(this.model.image_shape, "");
        button.tabIndex = i ? -1 : 0;
        button.onclick = () => this.#choose(this.#seeds()[i]);
        return { button, canvas };
      });
      this.canvases = made.map(({ canvas }) => canvas);
      this.grid.replaceChildren(...made.map(({ button }) => button));
      this.drawn = "";
    }
    [...this.grid.children].forEach((button, i) => {
      const { label } = this.store.classOf(i);
      const kind = label === undefined ? "" : `, class ${label}`;
      button.title = `Sample with seed ${seeds[i]}${kind}`;
      button.setAttribute("aria-label", button.title);
      button.setAttribute("aria-pressed", seeds[i] === this.chosen);
    });
  }

  #choose(seed) {
    this.chosen = this.chosen === seed ? null : seed;
    this.show();
  }

  #showChosen() {
    if (!this.#seeds().includes(this.chosen)) {
      this.chosen = null;
    }
    const isChosen = this.chosen !== null;
    document.getElementById("chosen").hidden = !isChosen;
    document.getElementById("chosen-hint").hidden = isChosen;
    say(document.getElementById("chosen-name"), `Sample ${this.chosen}`);
    this.#showEncode();
  }

  #showEncode() {
    const place = this.#seeds().indexOf(this.chosen);
    const encode = document.querySelector("#chosen [data-do=encode]");
    encode.disabled = !this.pictures[place];
  }

  #connect() {
    const { store } = this;
    const seed = document.getElementById("seed");
    seed.oninput = () => {
      if (seed.validity.valid && seed.value !== "") {
        store.set({ seed: Number(seed.value) });
      }
    };
    document.getElementById("seed-next").onclick = () => {
      const next = store.state.seed + store.state.count;
      store.set({ seed: next > LARGEST_SEED ? 0 : next });
    };
    document.getElementById("seed-random").onclick = () => {
      store.set({ seed: Math.floor(Math.random() * 1_000_000) });
    };
    const count = document.getElementById("count");
    count.onchange = () => store.set({ count: Number(count.value) });
    const level = document.getElementById("level");
    level.oninput = () => store.set({ level: Number(level.value) });
    for (const name of ["pixels", "keep"]) {
      for (const radio of this.#radios(name)) {
        radio.onchange = () => store.set({ [name]: radio.value });
      }
    }
    for (const button of document.querySelectorAll("#chosen button")) {
      button.onclick = () => this.#goOn(button.dataset.do);
    }
  }

  /** What the buttons below the grid do with the chosen sample. */
  #goOn(what) {
    const source = { seed: this.chosen };
    const place = this.#seeds().indexOf(this.chosen);
    // What is gone on with is of its class, too.
    const ofClass = this.store.classOf(place);
    const changes = {
      coarse: { keep: "coarse", from: source },
      fine: { keep: "fine", from: source },
      a: { view: "between", a: source },
      b: { view: "between", b: source },
      latent: { view: "latent", base: source },
    }[what];
    if (changes) {
      this.store.set({ ...changes, ...ofClass });
      return;
    }
    const own = this.store.addOwn(this.pictures[place]);
    this.store.set({ view: "image", own, ...ofClass });
  }

  #radios(name) {
    return this.section.querySelectorAll(`input[name=${name}]`);
  }
}
