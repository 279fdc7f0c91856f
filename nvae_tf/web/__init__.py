"""A trained model in a web page: static files that run it in the browser."""
