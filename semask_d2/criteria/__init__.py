"""Losses: matching predictions to the classes of an image, mask and class losses, and the prior's loss."""
