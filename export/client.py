"""`python -m export.client COMMAND` is `nvae client COMMAND`, from a clone."""

import sys

from nvae_tf.commands.main import main

if __name__ == "__main__":
    main(["client", *sys.argv[1:]])
