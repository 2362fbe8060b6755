"""CamVid: real road scenes, 480 x 360, in 11 classes (Brostow et al. 2009, split of the SegNet tutorial)."""

from __future__ import annotations

from semask_d2.data.datasets.folder import FolderDataset
from semask_d2.utils.classes import Classes

CLASSES = (
    "sky", "building", "pole", "road", "pavement", "tree",
    "sign symbol", "fence", "car", "pedestrian", "bicyclist",
)  # fmt: skip
COLORS = (
    (128, 128, 128), (128, 0, 0), (192, 192, 128), (128, 64, 128), (60, 40, 222), (128, 128, 0),
    (192, 128, 128), (64, 64, 128), (64, 0, 128), (64, 64, 0), (0, 128, 192),
)  # fmt: skip

CAMVID = FolderDataset(
    prefix="camvid_sem_seg",
    folder="camvid",
    labels="annotations",
    splits={"train": "train", "val": "val"},
    classes=Classes(CLASSES, COLORS),
    how_to_get="get it as datasets/README.md says, then run datasets/prepare_camvid.py",
)
