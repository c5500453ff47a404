"""A name -> a local folder."""
