"""`python -m export.onnx` is `nvae export onnx`, from a clone."""

import sys

from nvae_tf.commands.main import main

if __name__ == "__main__":
    main(["export", "onnx", *sys.argv[1:]])
