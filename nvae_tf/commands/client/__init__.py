"""`nvae client ...`: a model on a TF Serving server."""
