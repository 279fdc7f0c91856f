"""NVAE, the deep hierarchical variational autoencoder, in TensorFlow."""

__version__ = "0.1.0"
