"""Metadata of an exported file: everything needed to segment and draw images with it."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field, fields
from typing import Any

from semask_d2.config.checks import MAX_CHANNELS
from semask_d2.export.checksum import BLANK, FIELD
from semask_d2.export.graph import LABELS, MASK_LOGITS, PIXEL_LOGITS, SCORES
from semask_d2.utils.classes import Classes
from semask_d2.utils.errors import UserError
from semask_d2.utils.foreign import Section, entries, integer, number, shown

PRECISIONS = ("fp32", "fp16", "int8")
KEY = "semask_d2"  # name of the metadata in a file
MAX_CLASSES = 100_000
MAX_SIDE = 2**16  # pixels of the shorter side after resizing
MAX_PIXEL_VALUE = 1e6
MAX_IMAGES = 10**9
LEAST_STD = 1e-6


@dataclass(frozen=True)
class ExportMetadata:
    """Classes, preparation of images, and outputs of an exported file.

    Images have `channels`, and three of them are in `channel_order`. They are resized so that the shorter side is
    `min_size` (0: not at all) and the longer at most `max_size`. If `normalized` is False, the caller subtracts
    `pixel_mean` and divides by `pixel_std`. The graph itself pads to a multiple of `size_divisibility`. `precision` is
    that of the weights; in "int8", products compute in 8 bits, with ranges from `calibration_images` images.
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
    # missing in files of older versions: the rest, of which the next are INPUT.VALUE_RANGE, CHANNELS, DISPLAY_CHANNELS
    value_range: list[float] = field(default_factory=list)
    channels: int = 3
    display_channels: list[int] = field(default_factory=list)
    precision: str | None = None
    calibration_images: int = 0

    def as_dict(self) -> dict[str, Any]:
        """Return plain values by their keys in a file."""
        values: dict[str, Any] = {}
        for known in fields(self):
            value = getattr(self, known.name)
            values |= value.as_dict() if isinstance(value, Classes) else {known.name: value}
        return values

    def as_text(self) -> str:
        """Return the JSON text for a file whose checksum is not yet known."""
        return json.dumps(self.as_dict() | {FIELD: BLANK})

    @classmethod
    def from_text(
        cls, source_text: str | None, path: str | os.PathLike, *, has_checksum: bool = True
    ) -> ExportMetadata:
        """Parse the result of `as_text`; `UserError` names `path` and the wrong key.

        `has_checksum` says that the file has a correct checksum. Files of older versions have none.
        """
        try:
            values = json.loads(source_text or "")
        except (ValueError, RecursionError):
            values = None
        if not isinstance(values, dict):
            raise UserError(f"{path}: has no metadata of this project; write the file with semask export")
        known = {known.name for known in fields(cls)} - {"classes"} | Classes.of(()).as_dict().keys()
        unknown = values.keys() - known
        if unknown and not has_checksum:  # no version has this key: the checksum or a key is damaged
            raise UserError(f"{path}: damaged metadata ({shown(sorted(unknown)[0])}); write it with semask export")
        return _read(Section(values, f"{path}: metadata"))


def _range(section: Section) -> list[float]:
    """Return the values of black and white, or []."""
    values = section.entries("value_range", [])
    if not values:
        return []
    low, high = (number(x, f"{section.source}: value_range") for x in entries(values, section.source, 2))
    if low >= high:
        raise UserError(
            f"{section.source}: value_range: expected a larger value for white than for black, got {shown(values)}"
        )
    return [low, high]


def _display(section: Section, channels: int) -> list[int]:
    """Return the channels to draw, [] for the default."""
    shown = section.entries("display_channels", [])
    if len(shown) not in (0, 1, 3):
        raise UserError(f"{section.source}: display_channels: expected none, one or three, got {len(shown)}")
    return [integer(x, f"{section.source}: display_channels", 0, channels - 1) for x in shown]


def _read(section: Section) -> ExportMetadata:
    """Read the metadata and check the type and range of every value."""
    classes = Classes.from_dict(section)
    integer(len(classes), f"{section.source}: number of class_names", 1, MAX_CLASSES)
    outputs = section.entries("outputs")
    kinds = [list(kind) for kind in (LABELS, SCORES, MASK_LOGITS, PIXEL_LOGITS)]
    if outputs not in kinds:
        raise UserError(f"{section.source}: outputs: expected one of {kinds}, got {shown(outputs)}")
    min_size = section.integer("min_size", low=0, high=MAX_SIDE)
    channels = section.integer("channels", 3, 1, MAX_CHANNELS)
    mean, std = (section.entries(key, length=channels) for key in ("pixel_mean", "pixel_std"))
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
        channels=channels,
        display_channels=_display(section, channels),
        precision=section.text("precision", None, PRECISIONS),
        calibration_images=section.integer("calibration_images", 0, 0, MAX_IMAGES),
    )
