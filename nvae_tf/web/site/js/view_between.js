/** The way between two samples, or two pictures. */

import { StripView } from "./strip.js";

const STOPS = [0, 0.125, 0.25, 0.375, 0.5, 0.625, 0.75, 0.875, 1];

export class BetweenView extends StripView {
  constructor(page) {
    super("between", page, "t", STOPS);
    document.getElementById("swap").onclick = () => {
      const { a, b, t } = this.store.state;
      this.store.set({ a: b, b: a, t: 1 - t });
    };
  }

  rowAt(t) {
    const { a, b } = this.store.state;
    return this.row(a, { other: this.store.source(b), t });
  }

  show() {
    super.show();
    const percent = Math.round(100 * this.store.state.t);
    this.slider.setAttribute("aria-valuetext", `${percent} %`);
    this.big.setAttribute("aria-label", `${percent} % of the way`);
  }
}
