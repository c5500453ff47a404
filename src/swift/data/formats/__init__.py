"""What the columns of a row mean: one file a form."""
