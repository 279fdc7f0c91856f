"""The model: pure layers, cells, the hierarchy, and its losses."""
