"""How good a model is: likelihoods and sample quality."""
