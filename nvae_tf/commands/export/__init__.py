"""`nvae export ...`: what leaves for elsewhere."""
