"""Bounds on the likelihood of images, by a model on a TF Serving server.

    nvae client score --target=HOST:8500 --images=photos/ --output=scores.csv

Images are turned upright, cropped and scaled as training does it: the same
image gets the same score here and in `nvae encode`.
"""

import csv
import io

import numpy as np

from nvae_tf.commands import flags as common_flags
from nvae_tf.commands import values
from nvae_tf.commands.client.flags import ClassFlag, PhotoFlags, ServerFlags
from nvae_tf.core.files import write_bytes

_SERVER = ServerFlags()
_PHOTOS = PhotoFlags()
_CLASSES = ClassFlag()
_SEED = common_flags.define_seed("Of the posterior draws.")
_OUTPUT = common_flags.define_output("", "Also write a .csv.")


def main(argv) -> None:
    """Reads, scores, prints and writes."""
    del argv
    if _OUTPUT.value:
        values.require_suffix(_OUTPUT.value, ".csv")
    labels = _CLASSES.read()
    with _SERVER.connect() as client:
        paths, images = _PHOTOS.read(client.image_shape)
        seeds = np.full(len(paths), _SEED.value)
        scores = client.score(images, seeds, labels)
    nelbo, bits = scores["nelbo"], scores["bits_per_dim"]
    rows = list(zip(paths, nelbo, bits, strict=True))
    print(f"{'nats':>12} {'bits/dim':>9}  file")
    for path, n, b in rows:
        print(f"{n:12.2f} {b:9.4f}  {path}")
    print(f"{nelbo.mean():12.2f} {bits.mean():9.4f}  mean of {len(paths)}")
    if _OUTPUT.value:
        table = io.StringIO()
        writer = csv.writer(table, lineterminator="\n")
        writer.writerow(["file", "nelbo", "bits_per_dim"])
        writer.writerows(rows)
        # A file's name may be no text: it is kept as it is.
        content = table.getvalue().encode(errors="surrogateescape")
        write_bytes(_OUTPUT.value, content)
