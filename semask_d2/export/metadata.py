"""What an exported file says of itself, so that pictures can be segmented and drawn with nothing else."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field, fields
from typing import Any

from semask_d2.export.checksum import BLANK, FIELD
from semask_d2.export.graph import LABELS, MASK_LOGITS, PIXEL_LOGITS, SCORES
from semask_d2.utils.classes import Classes
from semask_d2.utils.errors import UserError
from semask_d2.utils.foreign import Section, entries, integer, number, shown

KEY = "semask_d2"  # the name that the metadata has in a file
MAX_CLASSES = 100_000
MAX_SIDE = 2**16  # pixels that a picture's shorter side can be resized to
MAX_PIXEL_VALUE = 1e6
LEAST_STD = 1e-6


@dataclass(frozen=True)
class ExportMetadata:
    """The classes, how pictures are prepared, and what comes out.

    Pictures are resized so that the shorter side is `min_size` (0: not at all) and the longer at most `max_size`, with
    channels in `channel_order`. Where `normalized` is False the caller subtracts `pixel_mean` and divides by
    `pixel_std`. The graph itself pads to a multiple of `size_divisibility`.
    """

    version: str
    architecture: str
    classes: Classes
    min_size: int
    max_size: int
    channel_order: str
    size_divisibility: int
    normalized: bool
    pixel_mean: list[float]
    pixel_std: list[float]
    outputs: list[str]
    scores_are_probabilities: bool
    resize_masks_first: bool
    input_type: str
    value_range: list[float] = field(default_factory=list)  # INPUT.VALUE_RANGE; files of older versions have none

    def as_dict(self) -> dict[str, Any]:
        """Return plain values by the keys that they have in a file."""
        values: dict[str, Any] = {}
        for known in fields(self):
            value = getattr(self, known.name)
            values |= value.as_dict() if isinstance(value, Classes) else {known.name: value}
        return values

    def as_text(self) -> str:
        """JSON, as it stands in the file until its checksum is known."""
        return json.dumps(self.as_dict() | {FIELD: BLANK})

    @classmethod
    def from_text(
        cls, source_text: str | None, path: str | os.PathLike, *, has_checksum: bool = True
    ) -> ExportMetadata:
        """Read `as_text`'s text; `UserError` naming `path`, and the key that is wrong.

        `has_checksum` says that the file's checksum was found and is right. Files of older versions have none.
        """
        try:
            values = json.loads(source_text or "")
        except (ValueError, RecursionError):
            values = None
        if not isinstance(values, dict):
            raise UserError(f"{path}: no metadata of a model of this project in it; write the file with semask export")
        known = {known.name for known in fields(cls)} - {"classes"} | Classes.of(()).as_dict().keys()
        unknown = values.keys() - known
        if unknown and not has_checksum:  # in no version: a checksum that is not whole, or a damaged key
            raise UserError(f"{path}: damaged metadata ({shown(sorted(unknown)[0])}); write it with semask export")
        return _read(Section(values, f"{path}: metadata"))


def _range(section: Section) -> list[float]:
    """Return the values of black and of white, or []."""
    values = section.entries("value_range", [])
    if not values:
        return []
    low, high = (number(x, f"{section.source}: value_range") for x in entries(values, section.source, 2))
    if low >= high:
        raise UserError(f"{section.source}: value_range: expected a higher value of white, got {shown(values)}")
    return [low, high]


def _read(section: Section) -> ExportMetadata:
    """Return the metadata of a mapping, every value of its type and in its range."""
    classes = Classes.from_dict(section)
    integer(len(classes), f"{section.source}: number of class_names", 1, MAX_CLASSES)
    outputs = section.entries("outputs")
    kinds = [list(kind) for kind in (LABELS, SCORES, MASK_LOGITS, PIXEL_LOGITS)]
    if outputs not in kinds:
        raise UserError(f"{section.source}: outputs: expected one of {kinds}, got {shown(outputs)}")
    min_size = section.integer("min_size", low=0, high=MAX_SIDE)
    mean, std = section.entries("pixel_mean", length=3), section.entries("pixel_std", length=3)
    return ExportMetadata(
        version=section.text("version"),
        architecture=section.text("architecture"),
        classes=classes,
        min_size=min_size,
        max_size=section.integer("max_size", low=min_size),
        channel_order=section.text("channel_order", choices=("RGB", "BGR")),
        size_divisibility=section.integer("size_divisibility", low=0, high=MAX_SIDE),
        normalized=section.flag("normalized"),
        pixel_mean=[number(x, f"{section.source}: pixel_mean", -MAX_PIXEL_VALUE, MAX_PIXEL_VALUE) for x in mean],
        pixel_std=[number(x, f"{section.source}: pixel_std", LEAST_STD, MAX_PIXEL_VALUE) for x in std],
        outputs=outputs,
        scores_are_probabilities=section.flag("scores_are_probabilities"),
        resize_masks_first=section.flag("resize_masks_first"),
        input_type=section.text("input_type", choices=("uint8", "float")),
        value_range=_range(section),
    )
