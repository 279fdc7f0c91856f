"""`python -m nvae_tf` is `nvae`."""

from nvae_tf.commands.main import main

if __name__ == "__main__":
    main()
