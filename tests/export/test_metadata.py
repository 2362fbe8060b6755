"""Metadata of exported files: a round trip, and one-line errors that name the key."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from functools import partial
from typing import Any

import pytest

from semask_d2.export.checksum import BLANK, FIELD
from semask_d2.export.metadata import ExportMetadata
from semask_d2.utils.errors import UserError
from tests.helpers.exported_files import METADATA
from tests.helpers.refusals import refusal
from tests.helpers.strange_values import damage

TRIES = 500


def test_metadata_round_trip() -> None:
    assert ExportMetadata.from_text(METADATA.as_text(), "x") == METADATA


@pytest.mark.parametrize("text", [None, "", "[" * 10**5, "[]", "1", '{"a": '])
def test_invalid_metadata_is_refused(text: str | None) -> None:
    with pytest.raises(UserError, match=r"x\.onnx: has no metadata of this project"):
        ExportMetadata.from_text(text, "x.onnx")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"class_names": ["a"]}, "class_colors: expected a list of 1 values"),
        ({"class_names": [], "class_colors": []}, "number of class_names: expected a whole number from 1 to"),
        ({"class_names": ["a", "b", 3]}, "class_names: expected a text, got 3"),
        ({"class_colors": [[0, 0, 1], [2, 3, 400], [0, 0, 0]]}, r"class_colors: expected \[r, g, b\] from 0 to 255"),
        ({"ignore_label": "a"}, "ignore_label: expected a whole number"),
        ({"channel_order": "GBR"}, "channel_order: expected 'RGB' or 'BGR', got 'GBR'"),
        ({"normalized": "yes"}, "normalized: expected true or false"),
        ({"pixel_mean": [1, 2, float("nan")]}, "pixel_mean: expected a finite number from"),
        ({"pixel_std": [1, 2, 0]}, "pixel_std: expected a finite number from"),
        ({"pixel_std": [1, 2]}, "pixel_std: expected a list of 3 values"),
        ({"min_size": 200}, "max_size: expected a whole number of at least 200, got 128"),
        ({"min_size": -1}, "min_size: expected a whole number from 0 to"),
        ({"size_divisibility": 10**9}, "size_divisibility: expected a whole number from 0 to"),
        ({"outputs": ["labels", "scores"]}, r"outputs: expected one of \[\['labels'\]"),
        ({"value_range": [5, 5]}, "value_range: expected a larger value for white"),
        ({"value_range": [5]}, "expected a list of 2 values"),
        ({"value_range": [0, "x"]}, "value_range: expected a finite number"),
        ({"input_type": "double"}, "input_type: expected 'uint8' or 'float'"),
        ({"version": None}, "version is missing"),
    ],
)
def test_invalid_values_name_their_key(change: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=rf"^x\.onnx: metadata: {message}"):
        ExportMetadata.from_text(json.dumps(METADATA.as_dict() | change), "x.onnx")


def test_only_files_of_older_versions_lack_the_checksum() -> None:
    older = json.dumps(METADATA.as_dict())
    assert ExportMetadata.from_text(older, "x", has_checksum=False) == METADATA
    for text in (METADATA.as_text(), METADATA.as_text().replace(FIELD, "sha2v6")):
        with pytest.raises(UserError, match=r"^x: damaged metadata \('sha2.6'\)"):
            ExportMetadata.from_text(text, "x", has_checksum=False)
    assert BLANK in METADATA.as_text()


def test_the_value_range_round_trip_and_older_files() -> None:
    stated = replace(METADATA, value_range=[0.0, 4095.0])
    assert ExportMetadata.from_text(stated.as_text(), "x").value_range == [0.0, 4095.0]
    values = METADATA.as_dict()
    del values["value_range"]
    assert ExportMetadata.from_text(json.dumps(values), "x") == METADATA


def test_random_changes_are_valid_or_one_line() -> None:
    generator = random.Random(0)
    outcomes = []
    for _ in range(TRIES):
        values: dict[str, Any] = json.loads(METADATA.as_text())
        for _ in range(generator.randint(1, 2)):
            damage(values, generator)
        message = refusal(partial(ExportMetadata.from_text, json.dumps(values), "x.onnx"))
        assert message is None or (message.startswith("x.onnx: ") and "\n" not in message and len(message) < 400)
        outcomes.append(message is None)
    assert 0.02 < sum(outcomes) / TRIES < 0.5
