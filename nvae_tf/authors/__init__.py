"""Checkpoints of the authors' program, in and out."""
