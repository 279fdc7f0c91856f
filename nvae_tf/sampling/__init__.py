"""Drawing from a model, and showing what it draws."""
