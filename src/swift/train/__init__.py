"""The loop, its checkpoints, and what is settled before it starts."""
