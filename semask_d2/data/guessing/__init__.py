"""What a folder of images and labels seems to hold, as a first description of a data set: `semask init-data`."""

from semask_d2.data.guessing.folders import guess
from semask_d2.data.guessing.text import as_yaml

__all__ = ["as_yaml", "guess"]
