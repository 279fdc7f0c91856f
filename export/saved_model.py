"""`python -m export.saved_model` is `nvae export savedmodel`, from a clone."""

import sys

from nvae_tf.commands.main import main

if __name__ == "__main__":
    main(["export", "savedmodel", *sys.argv[1:]])
