/** A large picture that a slider changes, above a strip of what it passes. */

import { pictureButton, rove } from "./controls.js";
import { canvasFor, paint } from "./pictures.js";
import { keyOf, View } from "./view.js";

export class StripView extends View {
  /**
   * @param {string} name of the view.
   * @param {object} page see `View`.
   * @param {string} slider name of the state that the slider sets.
   * @param {number[]} stops of the strip.
   */
  constructor(name, page, slider, stops) {
    super(name, page);
    this.asks = [`${name}-big`, `${name}-strip`];
    this.key = slider;
    this.stops = stops;
    this.slider = document.getElementById(slider);
    this.slider.oninput = () => {
      this.store.set({ [slider]: Number(this.slider.value) });
    };
    this.big = canvasFor(this.model.image_shape, "");
    document.getElementById(`${name}-big`).append(this.big);
    const strip = document.getElementById(`${name}-strip`);
    this.buttons = stops.map((stop, i) => {
      const made = pictureButton(this.model.image_shape, `At ${stop}`);
      made.button.tabIndex = i ? -1 : 0;
      made.button.onclick = () => this.store.set({ [slider]: stop });
      strip.append(made.button);
      return made;
    });
    rove(strip);
    this.stripDrawn = "";
  }

  /** The row at a place of the slider. */
  rowAt() {
    throw new Error("A subclass says.");
  }

  show() {
    const value = this.store.state[this.key];
    this.slider.value = value;
    this.stops.forEach((stop, i) => {
      const isHere = Math.abs(stop - value) < 1e-9;
      this.buttons[i].button.setAttribute("aria-pressed", isHere);
    });
  }

  wanted() {
    return {
      row: this.rowAt(this.store.state[this.key]),
      strip: this.stops.map((stop) => this.rowAt(stop)),
    };
  }

  async draw({ row, strip }, taken) {
    const { engine } = this.page;
    // The strip comes later, and only where it changed: a slider is dragged.
    const [pixels] = await engine.draw(`${this.name}-big`, [row]);
    paint(this.big, pixels);
    this.take(taken, [pixels], true);
    this.goOn(taken);
    const key = keyOf(strip);
    if (key === this.stripDrawn) {
      return;
    }
    this.stripDrawn = "";
    await engine.draw(`${this.name}-strip`, strip, {
      onPart: (start, pictures) => {
        pictures.forEach((one, i) => {
          paint(this.buttons[start + i].canvas, one);
        });
      },
    });
    this.stripDrawn = key;
  }
}
