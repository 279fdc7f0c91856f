"""Exports of trained models: SavedModel for TF Serving, and ONNX."""
