"""`nvae eval ...`: how good a model is."""
