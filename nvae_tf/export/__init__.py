"""Generators that ship: SavedModel and ONNX."""
