"""What a user may say. No I/O, no torch."""
