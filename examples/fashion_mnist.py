r"""Fashion-MNIST, from Debian's package dataset-fashion-mnist.

    python -m examples.fashion_mnist --output=data/fashion_mnist
    nvae train --config=examples/presets/fashion_mnist.py \
        --workdir=runs/fashion_mnist

Writes the four files as they are: 60,000 images of garments to train with and
10,000 to test with, 28x28, gray.  Zalando SE, under the MIT licence.
"""

from absl import flags

from examples import packages
from nvae_tf.commands import command_line
from nvae_tf.core.files import new_folder

_OUTPUT = flags.DEFINE_string(
    "output", "data/fashion_mnist", "Folder to write to; a new one."
)


def main(argv) -> None:
    """Fetches and unpacks."""
    del argv
    with new_folder(_OUTPUT.value) as folder:
        packages.from_debian(
            "dataset-fashion-mnist",
            lambda path: path.endswith("-ubyte.gz"),
            folder,
        )
    print(f"{_OUTPUT.value}: 60,000 and 10,000 images.")


if __name__ == "__main__":
    command_line.run(main)
