"""Classes come out of catalogs and files as they went in."""

from __future__ import annotations

from typing import Any

import pytest

from semask_d2.d2 import MetadataCatalog
from semask_d2.data.datasets import DATASETS
from semask_d2.utils.classes import Classes
from semask_d2.utils.colors import distinct_colors
from semask_d2.utils.errors import UserError
from semask_d2.utils.foreign import Section

CLASSES = Classes(("sky", "ball"), ((1, 2, 3), (4, 5, 6)), 7, frozenset({1}))


@pytest.fixture
def metadata() -> Any:
    yield MetadataCatalog.get("classes_test")
    MetadataCatalog.remove("classes_test")


def test_plain_values_are_those_that_files_hold_and_come_back() -> None:
    values = CLASSES.as_dict()
    assert values == {"class_names": ["sky", "ball"], "class_colors": [[1, 2, 3], [4, 5, 6]], "ignore_label": 7}
    assert list(values) == ["class_names", "class_colors", "ignore_label"]
    assert Classes.from_dict(Section(values, "x")) == Classes(CLASSES.names, CLASSES.colors, 7)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"class_names": ["sky", 3]}, "x: class_names: expected a text, got 3"),
        ({"class_names": None}, "x: class_names is missing"),
        ({"class_colors": [[1, 2, 3]]}, "x: class_colors: expected a list of 2 values"),
        ({"class_colors": [[1, 2, 3], [4, 5, 256]]}, "x: class_colors: expected .r, g, b. from 0 to 255"),
        ({"ignore_label": True}, "x: ignore_label: expected a whole number"),
    ],
)
def test_damaged_values_are_refused_by_their_key(change: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Classes.from_dict(Section(CLASSES.as_dict() | change, "x"))


@pytest.mark.parametrize("dataset", DATASETS, ids=lambda dataset: next(iter(dataset.names())))
def test_a_catalog_says_the_classes_of_its_data_sets(dataset: Any, metadata: Any) -> None:
    for split in dataset.names().values():
        metadata.set(**dataset.metadata(split))
        assert Classes.from_metadata(metadata) == dataset.classes
        break


def test_stuff_comes_before_things_and_a_kind_is_that_alone(metadata: Any) -> None:
    assert Classes.from_metadata(metadata) is None
    metadata.set(thing_classes=["ball"], thing_colors=[[4, 5, 6]], thing_dataset_id_to_contiguous_id={9: 0})
    assert Classes.from_metadata(metadata) == Classes(("ball",), ((4, 5, 6),), 255, frozenset({0}))
    assert Classes.from_metadata(metadata, "stuff") is None
    metadata.set(stuff_classes=["sky", "sea"], ignore_label=0)
    stuff = Classes.from_metadata(metadata)
    assert stuff is not None
    assert (stuff.names, stuff.colors, stuff.ignore_label) == (("sky", "sea"), tuple(distinct_colors(2)), 0)
    things = Classes.from_metadata(metadata, "thing")
    assert things is not None
    assert things.names == ("ball",)


def test_colors_are_a_table_of_bytes() -> None:
    assert CLASSES.color_table.tolist() == [[1, 2, 3], [4, 5, 6]]
    assert Classes.of(()).color_table.shape == (0, 3)
