"""`nvae data ...`: images before training."""
