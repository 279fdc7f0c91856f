"""StableHLO, for XLA and other compilers, without TensorFlow."""
