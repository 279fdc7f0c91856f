"""What exports have in common that are folders of graphs."""
