"""`DatasetCatalog` and `MetadataCatalog`."""

from __future__ import annotations

import numpy as np
import pytest

from semask_d2.d2 import DatasetCatalog, MetadataCatalog

NAME = "d2_contract_toy"


@pytest.fixture(autouse=True)
def _forget():
    yield
    for catalog in (DatasetCatalog, MetadataCatalog):
        if NAME in catalog.list():
            catalog.remove(NAME)


def test_each_get_calls_the_dataset_function_again():
    DatasetCatalog.register(NAME, lambda: [{"file_name": "a.png"}])
    assert NAME in DatasetCatalog
    assert NAME in DatasetCatalog.list()
    assert DatasetCatalog.get(NAME) == [{"file_name": "a.png"}]
    assert DatasetCatalog.get(NAME) is not DatasetCatalog.get(NAME)


def test_a_dataset_is_registered_once_and_as_a_function():
    DatasetCatalog.register(NAME, list)
    with pytest.raises(AssertionError, match="already registered"):
        DatasetCatalog.register(NAME, list)
    with pytest.raises(AssertionError):
        DatasetCatalog.register(NAME + "_2", [])


def test_an_unknown_dataset_is_an_error_that_names_the_known_ones():
    DatasetCatalog.register(NAME, list)
    with pytest.raises(KeyError, match=f"'no_such_set' is not registered.*{NAME}"):
        DatasetCatalog.get("no_such_set")


def test_metadata_are_the_same_object_at_each_get():
    assert NAME not in MetadataCatalog.list()
    meta = MetadataCatalog.get(NAME)
    assert meta is MetadataCatalog.get(NAME)
    assert meta.name == NAME
    assert NAME in MetadataCatalog.list()


def test_metadata_are_set_together_and_read_with_a_default():
    meta = MetadataCatalog.get(NAME).set(stuff_classes=["wall"], ignore_label=255)
    assert meta is MetadataCatalog.get(NAME)
    assert meta.get("stuff_classes") == ["wall"]
    assert meta.get("stuff_colors") is None
    assert meta.get("stuff_colors", []) == []
    assert not hasattr(meta, "stuff_colors")
    assert meta.as_dict() == {"name": NAME, "stuff_classes": ["wall"], "ignore_label": 255}
    meta.as_dict()["ignore_label"] = 0
    assert meta.ignore_label == 255


def test_metadata_cannot_change_once_set():
    meta = MetadataCatalog.get(NAME)
    meta.ignore_label = 255
    meta.ignore_label = 255
    with pytest.raises(AssertionError, match=f"'ignore_label' in the metadata of '{NAME}'"):
        meta.ignore_label = 0
    with pytest.raises(AssertionError, match="ignore_label"):
        meta.set(ignore_label=0)
    assert meta.ignore_label == 255


def test_metadata_may_be_arrays():
    colors = np.zeros((2, 3), np.uint8)
    metadata = MetadataCatalog.get("d2_arrays").set(stuff_colors=colors, scale=float("nan"))
    try:
        assert metadata.stuff_colors is colors
    finally:
        MetadataCatalog.remove("d2_arrays")


def test_missing_metadata_are_an_error_that_names_dataset_and_key():
    with pytest.raises(AttributeError, match=f"'stuff_classes' does not exist in the metadata of dataset '{NAME}'"):
        _ = MetadataCatalog.get(NAME).stuff_classes


def test_removed_metadata_start_empty():
    MetadataCatalog.get(NAME).ignore_label = 255
    MetadataCatalog.remove(NAME)
    MetadataCatalog.get(NAME).ignore_label = 0
    assert MetadataCatalog.get(NAME).ignore_label == 0
