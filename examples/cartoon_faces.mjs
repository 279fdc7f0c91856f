// Faces of DiceBear's style Personas as PNG files:
//   node cartoon_faces.mjs SIZE FIRST LAST FOLDER
// The face of a seed is always the same; FIRST <= seed < LAST.  Prints the kind
// of hair of each.
import fs from "node:fs";
import path from "node:path";

import { createAvatar } from "@dicebear/core";
import * as personas from "@dicebear/personas";
import { Resvg } from "@resvg/resvg-js";

const [size, first, last] = process.argv.slice(2, 5).map(Number);
const folder = process.argv[5];

for (let seed = first; seed < last; seed++) {
  const avatar = createAvatar(personas, { seed: String(seed) });
  const picture = new Resvg(avatar.toString(), {
    fitTo: { mode: "width", value: size },
    background: "white",
  });
  const name = `${String(seed).padStart(6, "0")}.png`;
  fs.writeFileSync(path.join(folder, name), picture.render().asPng());
  console.log(avatar.toJson().extra.hair);
}
