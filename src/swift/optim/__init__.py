"""Optimizers and the course of the learning rate."""
