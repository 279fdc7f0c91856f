"""`python -m export.verify` is `nvae verify`, from a clone."""

import sys

from nvae_tf.commands.main import main

if __name__ == "__main__":
    main(["verify", *sys.argv[1:]])
