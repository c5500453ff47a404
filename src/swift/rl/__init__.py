"""Learning from rewards: answers are drawn, judged, and learned from."""
