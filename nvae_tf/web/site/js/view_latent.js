/** One latent channel as a slider, and what its group's channels do. */

import { say } from "./controls.js";
import { StripView } from "./strip.js";
import { keyOf } from "./view.js";

const STOPS = [-3, -2, -1, 0, 1, 2, 3];
/** A channel's effect is what lies between these, in sigmas. */
const ENDS = [-3, 3];

export class LatentView extends StripView {
  constructor(page) {
    super("latent", page, "amount", STOPS);
    this.asks.push("latent-effects");
    this.channels = document.getElementById("channels");
    this.group = document.getElementById("group");
    this.effectsDrawn = "";
    this.model.latent_shapes.forEach(([height, width], i) => {
      this.group.add(new Option(`${i}: ${height} × ${width}`, i));
    });
    this.group.onchange = () => {
      this.store.set({ group: Number(this.group.value), channel: 0 });
    };
    this.#addChannels();
  }

  rowAt(amount) {
    const { base, group, channel } = this.store.state;
    return this.row(base, { shift: { group, channel, amount } });
  }

  show() {
    super.show();
    const { group, channel, amount } = this.store.state;
    this.group.value = group;
    const text = `${amount >= 0 ? "+" : "−"}${Math.abs(amount).toFixed(2)} σ`;
    say(document.getElementById("amount-name"), text);
    this.slider.setAttribute("aria-valuetext", text);
    this.big.setAttribute("aria-label", `Channel ${channel} moved by ${text}`);
    for (const { radio, index } of this.items) {
      radio.checked = index === channel;
    }
  }

  async draw(wanted, pictures) {
    await super.draw(wanted, pictures);
    this.goOn(pictures);
    await this.#drawEffects();
  }

  /** How much each channel of the group changes the picture; then in order. */
  async #drawEffects() {
    const { base, group } = this.store.state;
    const rows = this.items.flatMap(({ index: channel }) =>
      ENDS.map((amount) => this.row(base, { shift: { group, channel, amount } })),
    );
    const key = keyOf(rows);
    if (key === this.effectsDrawn) {
      return;
    }
    const pictures = await this.page.engine.draw("latent-effects", rows);
    const effects = this.items.map((_, i) =>
      distance(pictures[2 * i], pictures[2 * i + 1]),
    );
    const most = Math.max(...effects, 1e-9);
    this.items.forEach((item, i) => {
      item.bar.style.width = `${(100 * effects[i]) / most}%`;
    });
    const order = this.items.map((item, i) => [effects[i], item]);
    order.sort((one, other) => other[0] - one[0]);
    this.channels.append(...order.map(([, item]) => item.label));
    this.effectsDrawn = key;
  }

  #addChannels() {
    const count = this.model.latent_shapes[0].at(-1);
    this.items = Array.from({ length: count }, (_, index) => {
      const label = document.createElement("label");
      const radio = document.createElement("input");
      const bar = document.createElement("i");
      radio.type = "radio";
      radio.name = "channel";
      radio.onchange = () => this.store.set({ channel: index });
      const name = document.createElement("span");
      name.textContent = index;
      label.append(radio, name, bar);
      return { label, radio, bar, index };
    });
    this.channels.append(...this.items.map(({ label }) => label));
  }
}

/** Mean absolute difference of two pictures. */
function distance(one, other) {
  let sum = 0;
  one.forEach((value, i) => (sum += Math.abs(value - other[i])));
  return sum / one.length;
}
