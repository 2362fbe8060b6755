"""The label map of a sample, whatever its data set's files hold: the one way to it for every reader."""

from __future__ import annotations

from typing import Any

import numpy as np

from semask_d2.data.image_io import read_labels


def read_sample_labels(sample: dict[str, Any]) -> np.ndarray:
    """The class ids (H, W) of a data set's dict; uint8, or int64 where they may be larger.

    Raises UnreadableFile and UserError as `read_labels`.
    """
    return read_labels(sample["sem_seg_file_name"])
