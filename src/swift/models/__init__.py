"""transformers' models: loaded, taken apart by asking them, saved."""
