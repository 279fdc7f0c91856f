"""LiteRT, once TensorFlow Lite, for phones and small devices."""
