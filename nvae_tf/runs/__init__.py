"""A run's folder: configuration, checkpoints, results."""
