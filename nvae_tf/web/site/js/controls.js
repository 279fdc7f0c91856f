/** Controls that several views have. */

import { canvasFor, paint } from "./pictures.js";

/** Of the slider of every temperature. */
const DIGITS = 2;

/** Sets text, where it is another. */
export function say(element, text) {
  if (element.textContent !== text) {
    element.textContent = text;
  }
}

/** A copy of a template's content. */
export function copyOf(id) {
  return document.getElementById(id).content.cloneNode(true);
}

/** A button with a canvas on it. */
export function pictureButton(shape, label) {
  const button = document.createElement("button");
  const canvas = canvasFor(shape, "");
  canvas.setAttribute("aria-hidden", "true");
  button.append(canvas);
  button.title = label;
  button.setAttribute("aria-label", label);
  return { button, canvas };
}

/**
 * Fills every `[data-temperatures]`: a slider for all, and one per scale.
 *
 * @param {Store} store
 */
export function addTemperatures(store) {
  for (const place of document.querySelectorAll("[data-temperatures]")) {
    place.append(copyOf("temperatures-template"));
    new Temperatures(place, store);
  }
}

/**
 * Fills the choice of a class, of a model that is told any.
 *
 * @param {Store} store
 */
export function addClasses(store) {
  const field = document.getElementById("class");
  field.hidden = !store.classes;
  if (!store.classes) {
    return;
  }
  const select = document.getElementById("label");
  const all = new Option("all in turn", "");
  select.append(all);
  for (let label = 0; label < store.classes; label++) {
    select.append(new Option(String(label), String(label)));
  }
  select.onchange = () => {
    store.set({ label: select.value === "" ? null : Number(select.value) });
  };
  const show = () => {
    // Elsewhere there is one picture, of one class.
    all.disabled = store.state.view !== "samples";
    const isAll = store.state.label === null && !all.disabled;
    select.value = isAll ? "" : String(store.classOf().label);
  };
  store.addEventListener("change", show);
  show();
}

class Temperatures {
  constructor(place, store) {
    this.store = store;
    this.all = place.querySelector("[data-scale=all]");
    this.output = place.querySelector("output");
    const id = `temperature-${place.closest("section").id}`;
    this.all.id = id;
    place.querySelector("label").htmlFor = id;
    this.all.oninput = () => {
      const value = Number(this.all.value);
      store.set({ temperature: store.scales.map(() => value) });
    };
    const details = place.querySelector("details");
    details.hidden = store.scales.length === 1;
    this.sliders = store.scales.map((scale, i) => {
      const row = document.createElement("label");
      const name = document.createElement("span");
      const slider = this.all.cloneNode();
      slider.removeAttribute("id");
      slider.dataset.scale = i;
      slider.oninput = () => {
        const temperature = [...store.state.temperature];
        temperature[i] = Number(slider.value);
        store.set({ temperature });
      };
      row.append(name, slider);
      details.querySelector("[data-scales]").append(row);
      return { slider, name, scale };
    });
    store.addEventListener("change", () => this.show());
    this.show();
  }

  show() {
    const values = this.store.state.temperature;
    const isOne = values.every((value) => value === values[0]);
    const mean = values.reduce((a, b) => a + b, 0) / values.length;
    this.all.value = mean;
    say(this.output, isOne ? mean.toFixed(DIGITS) : "by scale");
    for (const [i, { slider, name, scale }] of this.sliders.entries()) {
      slider.value = values[i];
      say(name, `${scale.name}: ${values[i].toFixed(DIGITS)}`);
    }
  }
}

/**
 * Fills every `[data-source]`: a seed, or one of one's own pictures.
 *
 * @param {Store} store
 * @param {(file: Blob) => Promise<{image: string}>} open a picture file.
 */
export function addSources(store, open) {
  for (const place of document.querySelectorAll("[data-source]")) {
    place.append(copyOf("source-template"));
    new SourcePicker(place, store, open);
  }
}

class SourcePicker {
  constructor(place, store, open) {
    this.store = store;
    this.name = place.dataset.source;
    /** By the keys of pictures. */
    this.buttons = new Map();
    const { label } = place.dataset;
    place.querySelector(".label").textContent = label;
    this.seed = place.querySelector("input[type=number]");
    this.seed.setAttribute("aria-label", `${label}: the sample with this seed`);
    this.seed.oninput = () => {
      if (this.seed.validity.valid && this.seed.value !== "") {
        this.#choose({ seed: Number(this.seed.value) });
      }
    };
    this.own = place.querySelector(".own");
    this.own.setAttribute("aria-label", `${label}: a picture of yours`);
    const file = place.querySelector("input[type=file]");
    file.onchange = async () => {
      if (file.files.length) {
        const source = await open(file.files[0]);
        file.value = "";
        if (source) {
          this.#choose(source);
        }
      }
    };
    store.addEventListener("change", () => this.show());
    this.show();
  }

  show() {
    const source = this.store.state[this.name];
    if (document.activeElement !== this.seed) {
      this.seed.value = source.seed ?? "";
    }
    const pictures = this.store.listed();
    const keys = pictures.map(([image]) => image);
    if (keys.join() !== [...this.buttons.keys()].join()) {
      this.#list(pictures);
    }
    for (const [image, button] of this.buttons) {
      button.setAttribute("aria-pressed", image === source.image);
    }
  }

  #list(pictures) {
    const focused = document.activeElement;
    const before = this.buttons;
    this.buttons = new Map();
    for (const [image, pixels] of pictures) {
      const button = before.get(image) ?? this.#button(image, pixels);
      button.title = `Your picture ${this.buttons.size + 1}`;
      button.setAttribute("aria-label", button.title);
      this.buttons.set(image, button);
    }
    this.own.replaceChildren(...this.buttons.values());
    if (this.own.contains(focused)) {
      // It was taken out and put back.
      focused.focus();
    }
  }

  #button(image, pixels) {
    const { button, canvas } = pictureButton(this.store.model.image_shape, "");
    button.onclick = () => this.#choose({ image });
    paint(canvas, pixels);
    return button;
  }

  #choose(source) {
    this.store.set({ [this.name]: source });
  }
}

/**
 * Fills every `[data-share]` of a view: PNG and link.
 *
 * @param {HTMLElement} section of the view.
 * @param {{save: () => Promise, link: () => Promise<{url: string, isComplete: boolean}>}} does
 * @returns {HTMLButtonElement} that saves.
 */
export function addShare(section, { save, link }) {
  const place = section.querySelector("[data-share]");
  place.append(copyOf("share-template"));
  const note = place.querySelector("[role=status]");
  const download = place.querySelector("[data-do=download]");
  download.onclick = save;
  place.querySelector("[data-do=link]").onclick = async () => {
    let lacks = "";
    try {
      const { url, isComplete } = await link();
      lacks = isComplete ? "" : " It lacks your picture, which is large.";
      await navigator.clipboard.writeText(url);
      note.textContent = `Copied.${lacks}`;
    } catch {
      note.textContent = `The address of this page is the link.${lacks}`;
    }
  };
  return download;
}

/**
 * Arrow keys go through buttons of which one at a time can be tabbed to.
 *
 * @param {HTMLElement} container
 * @param {(button: HTMLElement) => void} onMove hears where a key led to; not
 *     of focus that comes back with the window.
 */
export function rove(container, onMove = () => {}) {
  container.addEventListener("keydown", (event) => {
    const buttons = [...container.querySelectorAll("button, [role=tab]")];
    const now = buttons.indexOf(document.activeElement);
    const columns = Number(container.dataset.columns) || buttons.length;
    const step = {
      ArrowLeft: -1,
      ArrowRight: 1,
      ArrowUp: -columns,
      ArrowDown: columns,
    }[event.key];
    const next = buttons[now + step];
    if (now >= 0 && next) {
      event.preventDefault();
      next.focus();
      onMove(next);
    }
  });
  container.addEventListener("focusin", ({ target }) => {
    for (const button of container.querySelectorAll("button")) {
      button.tabIndex = button === target ? 0 : -1;
    }
  });
}
