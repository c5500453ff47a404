"""The service: protocols over HTTP in, answers of an engine out."""
