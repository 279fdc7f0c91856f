"""A client of TF Serving."""
