"""Datasets: reading, augmentation and loaders. Importing this package registers the datasets."""

from semask_d2.data.datasets import get_dataset_dicts, register_all
from semask_d2.data.datasets.custom import register_custom
from semask_d2.data.image_io import read_image
from semask_d2.data.loader import build_test_loader, build_train_loader, require_data
from semask_d2.data.mapper import SemanticMapper
from semask_d2.data.mappers import build_mapper

__all__ = [
    "SemanticMapper",
    "build_mapper",
    "build_test_loader",
    "build_train_loader",
    "get_dataset_dicts",
    "read_image",
    "register_custom",
    "require_data",
]

register_all()
