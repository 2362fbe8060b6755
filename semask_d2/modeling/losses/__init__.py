"""Losses: matching predictions to the classes of an image, mask and class losses, and per-pixel cross-entropy."""
