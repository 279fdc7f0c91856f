"""Frozen graphs that take images as that of published FIDs does."""

from __future__ import annotations

import pathlib

import tensorflow as tf

# Of layers that only the graph of published FIDs has.
_LAYERS = ("mixed_10/join", "softmax")


def write_inception_graph(path: pathlib.Path, layers=_LAYERS) -> pathlib.Path:
    """Writes a graph whose features are three means of the scaled image.

    Args:
      path: of the file.
      layers: names of nodes that it has besides.

    Returns:
      The path.
    """
    graph = tf.Graph()
    with graph.as_default():
        decoded = tf.compat.v1.placeholder(tf.uint8, [None, None, 3], "Decode")
        x = tf.expand_dims(tf.cast(decoded, tf.float32), 0, name="ExpandDims")
        assert x.name == "ExpandDims:0"
        x = tf.compat.v1.image.resize_bilinear(x, [6, 6])
        x = (x - 128.0) / 128.0
        for name in layers:
            x = tf.identity(x, name=name)
        tf.reduce_mean(x, axis=[1, 2], keepdims=True, name="pool_3")
    path.write_bytes(graph.as_graph_def().SerializeToString())
    return path
