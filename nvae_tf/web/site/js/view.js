/**
 * A view: a tab's content, drawn when it is seen and when it changed.
 *
 * Subclasses have `wanted()`, which describes what is to be seen, and
 * `draw(wanted, pictures)`, which asks the engine for it and fills `pictures`.
 */

import { addShare } from "./controls.js";
import { Superseded } from "./engine.js";
import { save } from "./pictures.js";

/** What is wanted, as a text to compare by: images by name, not by pixels. */
export function keyOf(wanted) {
  return JSON.stringify(wanted, (name, value) =>
    name === "pixels" ? undefined : value,
  );
}

export class View {
  /**
   * @param {string} name of the view and of its section.
   * @param {object} page with `store`, `engine`, `model`, `fail`, `link`.
   */
  constructor(name, page) {
    this.name = name;
    this.page = page;
    this.store = page.store;
    this.model = page.store.model;
    this.section = document.getElementById(name);
    this.drawn = "";
    /** The channels of what it asks the engine for. */
    this.asks = [name];
    /** What "Download PNG" saves: what was drawn of what is wanted. */
    this.pictures = [];
    this.columns = 1;
    if (this.section.querySelector("[data-share]")) {
      this.download = addShare(this.section, {
        save: () => this.#save(),
        link: page.link,
      });
    }
  }

  /** Controls follow the state; pictures do where they differ. */
  update() {
    if (this.store.state.view !== this.name) {
      this.#leave();
      return;
    }
    this.show();
    const wanted = this.wanted();
    const key = keyOf(wanted);
    if (!this.page.isReady || key === this.drawn) {
      return;
    }
    this.drawn = key;
    this.pictures = [];
    this.showTaken(false);
    this.section.setAttribute("aria-busy", "true");
    /** Settles when what was last wanted is seen, or something newer is. */
    this.done = this.#drawn(wanted, this.pictures);
  }

  async #drawn(wanted, pictures) {
    const isNewest = () => pictures === this.pictures;
    try {
      await this.draw(wanted, pictures);
    } catch (error) {
      if (!(error instanceof Superseded)) {
        this.page.fail(error);
        if (isNewest()) {
          this.drawn = "";
        }
      }
    }
    if (isNewest()) {
      this.section.setAttribute("aria-busy", "false");
    }
  }

  /**
   * Puts pictures to those drawn so far.
   *
   * @param {Uint8Array[]} pictures what `draw` was given: what is no longer
   *     wanted is saved by nobody.
   * @param {Uint8Array[]} more
   * @param {boolean} isWhole whether these are the last.
   */
  take(pictures, more, isWhole) {
    pictures.push(...more);
    if (pictures === this.pictures) {
      this.showTaken(isWhole);
    }
  }

  /**
   * Ends a drawing of what is no longer wanted, or that nobody sees.
   *
   * @param {Uint8Array[]} pictures what `draw` was given.
   * @throws {Superseded}
   */
  goOn(pictures) {
    if (pictures !== this.pictures) {
      throw new Superseded();
    }
  }

  /** Buttons wait for the pictures that they are about. */
  showTaken(isWhole) {
    if (this.download) {
      this.download.disabled = !isWhole;
    }
  }

  /** What nobody sees is not drawn to its end. */
  #leave() {
    if (this.section.getAttribute("aria-busy") === "true") {
      this.drawn = "";
      this.pictures = [];
      this.showTaken(false);
      this.section.setAttribute("aria-busy", "false");
      this.page.engine.drop(this.asks);
    }
  }

  /** Brings the controls in line with the state. */
  show() {}

  /** @returns {object} what is to be seen. */
  wanted() {
    return {};
  }

  /** @returns {Promise} when it is seen. */
  async draw() {}

  /** A row; see `model.js`. */
  row(source, more = {}) {
    return {
      source: this.store.source(source),
      temperature: this.store.temperatures(),
      ...this.store.classOf(),
      ...more,
    };
  }

  async #save() {
    const { state, model } = this.store;
    const name = `${model.name}-${this.name}-${state.seed}.png`;
    try {
      await save(this.pictures, this.columns, model.image_shape, name);
    } catch (error) {
      this.page.fail(error);
    }
  }
}
