"""Draws images with an exported `nvae.onnx`, from a clone.

    python -m export.onnx_sampler nvae.onnx --num=64 --output=grid.png

The same program lies beside every export, where it needs no clone.
"""

import sys

from nvae_tf.export.onnx_sampler import main

if __name__ == "__main__":
    sys.exit(main())
