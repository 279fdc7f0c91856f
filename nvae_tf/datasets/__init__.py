"""Images: where they come from, their geometry, and batches of them."""
