"""NVAE in PyTorch: what this project's speed and curves are compared with.

The same models as those of `nvae_tf`, in plain eager PyTorch as one would
write it there: modules, autocast, `torch.optim`.  Parameters have the names of
the authors' checkpoints, so that these load.  Nothing here imports TensorFlow.

    python -m benchmarks.torch_peer --cases=small --what=step,sample

PyTorch comes with the extra `peer`; its CPU wheels are enough on a CPU.
"""
