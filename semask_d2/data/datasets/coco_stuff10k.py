"""COCO-Stuff 10k: everyday scenes in 80 thing and 91 stuff classes (arXiv 1612.03716)."""

from __future__ import annotations

from semask_d2.data.datasets.folder import FolderDataset
from semask_d2.utils.classes import Classes

CLASSES = (
    "person", "bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck", "boat", "traffic light",
    "fire hydrant", "stop sign", "parking meter", "bench", "bird", "cat", "dog", "horse", "sheep", "cow", "elephant",
    "bear", "zebra", "giraffe", "backpack", "umbrella", "handbag", "tie", "suitcase", "frisbee", "skis", "snowboard",
    "sports ball", "kite", "baseball bat", "baseball glove", "skateboard", "surfboard", "tennis racket", "bottle",
    "wine glass", "cup", "fork", "knife", "spoon", "bowl", "banana", "apple", "sandwich", "orange", "broccoli",
    "carrot", "hot dog", "pizza", "donut", "cake", "chair", "couch", "potted plant", "bed", "dining table", "toilet",
    "tv", "laptop", "mouse", "remote", "keyboard", "cell phone", "microwave", "oven", "toaster", "sink",
    "refrigerator", "book", "clock", "vase", "scissors", "teddy bear", "hair drier", "toothbrush", "banner",
    "blanket", "branch", "bridge", "building-other", "bush", "cabinet", "cage", "cardboard", "carpet",
    "ceiling-other", "ceiling-tile", "cloth", "clothes", "clouds", "counter", "cupboard", "curtain", "desk-stuff",
    "dirt", "door-stuff", "fence", "floor-marble", "floor-other", "floor-stone", "floor-tile", "floor-wood", "flower",
    "fog", "food-other", "fruit", "furniture-other", "grass", "gravel", "ground-other", "hill", "house", "leaves",
    "light", "mat", "metal", "mirror-stuff", "moss", "mountain", "mud", "napkin", "net", "paper", "pavement",
    "pillow", "plant-other", "plastic", "platform", "playingfield", "railing", "railroad", "river", "road", "rock",
    "roof", "rug", "salad", "sand", "sea", "shelf", "sky-other", "skyscraper", "snow", "solid-other", "stairs",
    "stone", "straw", "structural-other", "table", "tent", "textile-other", "towel", "tree", "vegetable",
    "wall-brick", "wall-concrete", "wall-other", "wall-panel", "wall-stone", "wall-tile", "wall-wood", "water-other",
    "waterdrops", "window-blind", "window-other", "wood",
)  # fmt: skip
# the release numbers 182 classes from 1; these eleven thing classes were never annotated
UNUSED = (12, 26, 29, 30, 45, 66, 68, 69, 71, 83, 91)
TRAIN_ID_OF_RELEASED = {
    released: train_id for train_id, released in enumerate(i for i in range(1, 183) if i not in UNUSED)
}

COCO_STUFF_10K = FolderDataset(
    prefix="coco_stuff10k_sem_seg",
    folder="coco_stuff10k",
    labels="annotations",
    splits={"train": "train", "test": "test"},
    submission_ids=tuple(TRAIN_ID_OF_RELEASED),
    classes=Classes.of(CLASSES),  # the dataset defines no colors
    how_to_get="get cocostuff-10k-v1.1.zip as datasets/README.md says, then run datasets/prepare_coco_stuff10k.py",
)
