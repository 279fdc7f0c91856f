"""NVAE, the deep hierarchical variational autoencoder, in TensorFlow.

Importing this package imports nothing else: TensorFlow and Keras are loaded
by the modules that need them.
"""

__version__ = "0.1.0"
