"""One file is one command: read these first."""
