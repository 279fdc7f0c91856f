"""Trains an NVAE: `nvae train`, from a clone.

    python train.py --config=configs/mnist_demo.py --workdir=runs/demo

`--help` explains the flags.
"""

import sys

from nvae_tf.commands.main import main

if __name__ == "__main__":
    main(["train", *sys.argv[1:]])
