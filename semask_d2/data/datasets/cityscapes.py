"""Cityscapes: urban scenes, 2048 x 1024, in 19 training classes (arXiv 1604.01685)."""

from __future__ import annotations

from semask_d2.data.datasets.folder import FolderDataset
from semask_d2.utils.classes import Classes

CLASSES = (
    "road", "sidewalk", "building", "wall", "fence", "pole", "traffic light", "traffic sign", "vegetation", "terrain",
    "sky", "person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle",
)  # fmt: skip
COLORS = (
    (128, 64, 128), (244, 35, 232), (70, 70, 70), (102, 102, 156), (190, 153, 153), (153, 153, 153), (250, 170, 30),
    (220, 220, 0), (107, 142, 35), (152, 251, 152), (70, 130, 180), (220, 20, 60), (255, 0, 0), (0, 0, 142),
    (0, 0, 70), (0, 60, 100), (0, 80, 100), (0, 0, 230), (119, 11, 32),
)  # fmt: skip

CITYSCAPES = FolderDataset(
    prefix="cityscapes_fine_sem_seg",
    folder="cityscapes",
    images="leftImg8bit",
    labels="gtFine",
    image_ending="_leftImg8bit",
    label_ending="_gtFine_labelTrainIds",
    splits={"train": "train", "val": "val"},
    submission_ids=(7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33),
    submission_ending="_gtFine_labelIds",
    classes=Classes(CLASSES, COLORS),
    how_to_get="get leftImg8bit and gtFine from cityscapes-dataset.com, then make the *_labelTrainIds.png with "
    "cityscapesScripts' csCreateTrainIdLabelImgs",
)
