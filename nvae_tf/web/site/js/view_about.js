/** What the model is, and how to draw the same elsewhere. */

import { say } from "./controls.js";
import { View } from "./view.js";

export class AboutView extends View {
  constructor(page) {
    super("about", page);
    const { model, manifest } = page;
    const table = document.getElementById("facts");
    for (const [name, value] of factsOf(model)) {
      const row = table.insertRow();
      const head = document.createElement("th");
      head.scope = "row";
      head.textContent = name;
      row.append(head);
      row.insertCell().textContent = value;
    }
    const { name, version } = manifest.runtime;
    say(document.getElementById("runtime"), `${name} ${version}`);
  }

  show() {
    const { seed, temperature } = this.store.state;
    const isOne = temperature.every((value) => value === temperature[0]);
    say(this.section.querySelector("[data-seed]"), seed);
    const scales = temperature.join(",");
    const flag = isOne
      ? `--temperature=${temperature[0]}`
      : `--scale_temperature=${scales}`;
    const { label } = this.store.classOf();
    const ofClass = label === undefined ? "" : ` --labels=${label}`;
    const commands = [
      `nvae sample --workdir=DIR --seed=${seed} --num=1 ${flag}${ofClass}`,
    ];
    if (isOne) {
      commands.push(
        `python model/onnx_sampler.py model/nvae.onnx --seed=${seed} --num=1 ` +
          `--temperature=${temperature[0]}${ofClass}`,
      );
    }
    say(document.getElementById("commands"), commands.join("\n"));
    const { name, threads, note, millisecondsPerRow } =
      this.page.engine.description;
    const time = millisecondsPerRow
      ? `, ${millisecondsPerRow.toFixed(0)} ms for the last picture`
      : "";
    const [first] = performance.getEntriesByName("first picture");
    const start = first
      ? ` The first picture came after ${(first.startTime / 1000).toFixed(1)} s.`
      : "";
    const why =
      threads > 1 || name !== "WebAssembly" || self.crossOriginIsolated
        ? ""
        : " It has one thread, because the host does not isolate the page " +
          "(headers Cross-Origin-Opener-Policy and " +
          "Cross-Origin-Embedder-Policy).";
    say(
      document.getElementById("engine-note"),
      `The engine is ${name}, ${threads} thread${threads > 1 ? "s" : ""}` +
        `${time}.${start}${why} ${note}`,
    );
  }
}

function factsOf(model) {
  const [height, width, channels] = model.image_shape;
  const facts = [
    ["Name", model.name],
    ["Trained on", model.data],
    [
      "Pictures",
      `${height} × ${width}, ${channels === 1 ? "gray" : `${channels} channels`}, ` +
        `${model.num_bits} bit${model.num_bits > 1 ? "s" : ""} a channel`,
    ],
    ["Likelihood", model.likelihood],
    [
      "Latent groups",
      model.latent_shapes.map((shape) => shape.join("×")).join(", "),
    ],
    ["Training step", model.step ?? "unknown"],
  ];
  if (model.num_classes) {
    facts.push(["Classes", `${model.num_classes}, of which it is told one`]);
  }
  if (model.nelbo !== null) {
    facts.push([
      "Held out",
      `${model.nelbo.toFixed(2)} nats, ${model.bits_per_dim.toFixed(4)} bits/dim`,
    ]);
  }
  return facts;
}
