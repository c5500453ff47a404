"""Conversations <-> tokens, without torch."""
