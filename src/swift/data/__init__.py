"""Rows -> conversations -> samples -> packs -> batches."""
