"""Training where there is an accelerator and JAX, but no TensorFlow.

The project's own training step is lowered to StableHLO here (`prepare`), runs
there (`train`, which needs JAX and NumPy alone), and what comes back becomes
the workdir of a run (`collect`).
"""
