"""Pure functions from a batch to a sum."""
