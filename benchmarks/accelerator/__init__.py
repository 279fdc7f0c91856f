"""Training steps and samplers on accelerators, without TensorFlow there.

`prepare` lowers them on any machine with this project, and writes a folder;
`run` measures the folder's programs on a machine with JAX and NumPy; `table`
makes tables of its rows; `predict` compiles for a GPU that is not there.
"""
