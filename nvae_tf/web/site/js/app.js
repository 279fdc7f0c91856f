/** The page: loads the model, brings state, views and address together. */

import {
  addClasses,
  addSources,
  addTemperatures,
  rove,
  say,
} from "./controls.js";
import { Engine } from "./engine.js";
import { Loading } from "./loading.js";
import { decode, fit } from "./photo.js";
import { Store } from "./store.js";
import { AboutView } from "./view_about.js";
import { BetweenView } from "./view_between.js";
import { ImageView } from "./view_image.js";
import { LatentView } from "./view_latent.js";
import { SamplesView } from "./view_samples.js";

const VIEWS = [SamplesView, BetweenView, ImageView, LatentView, AboutView];
/** How long the state rests before the address follows. */
const ADDRESS_MILLISECONDS = 300;

class Page {
  constructor(manifest) {
    this.manifest = manifest;
    this.model = manifest.model;
    this.isReady = false;
    this.store = new Store(manifest.model);
    this.engine = new Engine(manifest);
    this.loading = new Loading();
    this.link = async () => {
      await this.#writeAddress();
      return { url: location.href, isComplete: this.isComplete };
    };
  }

  async start() {
    const { store, model } = this;
    document.title = model.name;
    say(document.getElementById("title"), model.name);
    const groups = model.latent_shapes.length;
    say(
      document.getElementById("subtitle"),
      `A hierarchical generative model with ${groups} group` +
        `${groups > 1 ? "s" : ""} of latents at ${store.scales.length} scale` +
        `${store.scales.length > 1 ? "s" : ""}, running in this page. ` +
        "Nothing is sent anywhere.",
    );
    await store.follow(location.hash.slice(1));
    addClasses(store);
    addTemperatures(store);
    addSources(store, (file) => this.openPicture(file));
    this.views = VIEWS.map((Kind) => new Kind(this));
    this.#connect();
    this.update();
    this.engine.addEventListener("progress", ({ detail }) =>
      this.loading.tell(detail),
    );
    await this.engine.start();
    this.isReady = true;
    this.engine.addEventListener("described", () => this.#describe());
    this.update();
    await this.#firstPicture();
    performance.mark("first picture");
    this.loading.end();
    this.#describe();
    await this.engine.tryGpu();
    this.loading.end();
    this.#describe();
  }

  /** Brings everything in line with the state. */
  update() {
    const { view } = this.store.state;
    const from = document.activeElement?.closest("[role=tabpanel]");
    for (const tab of document.querySelectorAll("[role=tab]")) {
      const isOpen = tab.dataset.view === view;
      tab.setAttribute("aria-selected", isOpen);
      tab.tabIndex = isOpen ? 0 : -1;
      document.getElementById(tab.dataset.view).hidden = !isOpen;
      if (isOpen) {
        tab.scrollIntoView({ block: "nearest", inline: "nearest" });
        if (from && from.id !== view) {
          // What had the focus is hidden now.
          tab.focus({ preventScroll: true });
        }
      }
    }
    for (const one of this.views) {
      one.update();
    }
  }

  /** Says what went wrong. */
  fail(error) {
    const problem = document.getElementById("problem");
    problem.textContent = error.message;
    problem.hidden = false;
    this.loading.end();
  }

  /** A picture file as an own picture; undefined if it cannot be read. */
  async openPicture(file) {
    try {
      const pixels = fit(await decode(file), this.model);
      return this.store.addOwn(pixels);
    } catch (error) {
      this.fail(error);
      return undefined;
    }
  }

  /** Opens a picture file and shows what the model makes of it. */
  async openOwn(file) {
    const own = await this.openPicture(file);
    if (own) {
      this.store.set({ view: "image", own });
    }
  }

  #connect() {
    const { store } = this;
    store.addEventListener("change", () => {
      // It was about what was done before.
      document.getElementById("problem").hidden = true;
      this.update();
      clearTimeout(this.timer);
      this.timer = setTimeout(
        () => this.#writeAddress(),
        ADDRESS_MILLISECONDS,
      );
    });
    const tabs = document.getElementById("tabs");
    rove(tabs, (tab) => tab.click());
    for (const tab of tabs.children) {
      tab.onclick = () => store.set({ view: tab.dataset.view });
    }
    addEventListener("hashchange", () => {
      if (location.hash.slice(1) !== this.address) {
        store.follow(location.hash.slice(1));
      }
    });
    this.#listenToDrops();
  }

  #listenToDrops() {
    const isFile = ({ dataTransfer }) =>
      [...(dataTransfer?.types ?? [])].includes("Files");
    addEventListener("dragover", (event) => {
      if (isFile(event)) {
        event.preventDefault();
        document.body.classList.add("dropping");
      }
    });
    addEventListener("dragleave", ({ relatedTarget }) => {
      if (!relatedTarget) {
        document.body.classList.remove("dropping");
      }
    });
    addEventListener("drop", (event) => {
      document.body.classList.remove("dropping");
      if (isFile(event)) {
        event.preventDefault();
        this.openOwn(event.dataTransfer.files[0]);
      }
    });
    addEventListener("paste", ({ clipboardData }) => {
      const [file] = clipboardData?.files ?? [];
      if (file) {
        this.openOwn(file);
      }
    });
  }

  async #writeAddress() {
    const { text, isComplete } = await this.store.link();
    this.isComplete = isComplete;
    this.address = text;
    history.replaceState(null, "", `#${text}`);
  }

  async #firstPicture() {
    const shown = () =>
      this.views.find((one) => one.name === this.store.state.view);
    // Until then something else may be wanted, or another view.
    for (let done; done !== shown().done; ) {
      done = shown().done;
      await done;
    }
  }

  #describe() {
    const { name, threads } = this.engine.description;
    const chip = document.getElementById("engine");
    chip.hidden = false;
    const suffix = threads > 1 ? `, ${threads} threads` : "";
    say(chip, `${name}${suffix}`);
    this.views.find((one) => one.name === "about").update();
  }
}

async function main() {
  try {
    const response = await fetch("manifest.json");
    if (!response.ok) {
      throw new Error(`manifest.json cannot be loaded: ${response.status}.`);
    }
    await new Page(await response.json()).start();
  } catch (error) {
    const problem = document.getElementById("problem");
    problem.hidden = false;
    problem.textContent =
      location.protocol === "file:"
        ? "Browsers do not load such a page from a file. Serve its folder, " +
          "for example with: python -m http.server --bind 127.0.0.1"
        : `The page cannot start. ${error.message}`;
    document.getElementById("loading").hidden = true;
  }
}

main();
