"""What a served model does with every row, and the files around it."""
