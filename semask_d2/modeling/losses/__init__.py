"""Losses: matching of predictions to targets, mask and class losses, and per-pixel cross-entropy."""
