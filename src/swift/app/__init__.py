"""A page in the browser over a server."""
