"""TFP distributions: latents and pixels."""
