"""Commands that draw from a model, or look into its latents."""
