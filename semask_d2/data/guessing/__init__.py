"""Drafting the YAML file of a dataset from its folder of images and labels, for `semask init-data`."""

from semask_d2.data.guessing.folders import guess
from semask_d2.data.guessing.text import as_yaml

__all__ = ["as_yaml", "guess"]
