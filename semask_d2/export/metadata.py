"""What an exported file says of itself, so that pictures can be segmented and drawn with nothing else."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, fields
from typing import Any

from semask_d2.checkpoint.class_metadata import is_color
from semask_d2.utils.errors import UserError

KEY = "semask_d2"  # the name that the metadata has in a file


@dataclass(frozen=True)
class ExportMetadata:
    """The classes, how pictures are prepared, and what comes out.

    Pictures are resized so that the shorter side is `min_size` (0: not at all) and the longer at most `max_size`, with
    channels in `channel_order`. Where `normalized` is False the caller subtracts `pixel_mean` and divides by
    `pixel_std`. The graph itself pads to a multiple of `size_divisibility`.
    """

    version: str
    architecture: str
    class_names: list[str]
    class_colors: list[list[int]]
    ignore_label: int
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

    def as_text(self) -> str:
        """JSON, as it stands in the file."""
        return json.dumps(asdict(self))

    @classmethod
    def from_text(cls, text: str | None, path: str | os.PathLike) -> ExportMetadata:
        """Read `as_text`'s text; `UserError` naming `path` where it is not that."""
        try:
            values = json.loads(text or "")
        except (ValueError, RecursionError):
            values = None
        if not isinstance(values, dict) or not _sound(values):
            raise UserError(f"{path}: no metadata of a model of this project in it; write the file with semask export")
        return cls(**{field.name: values[field.name] for field in fields(cls)})


def _sound(values: dict[str, Any]) -> bool:
    """Whether every field is there with its type, and the classes have a name and a color each."""
    types = {"str": str, "int": int, "bool": bool}
    for field in fields(ExportMetadata):
        value, kind = values.get(field.name), str(field.type)
        if kind.startswith("list"):
            if not isinstance(value, list):
                return False
        elif type(value) is not types[kind]:
            return False
    if not all(type(x) in (int, float) for x in (*values["pixel_mean"], *values["pixel_std"])):
        return False
    names, colors = values["class_names"], values["class_colors"]
    if not all(isinstance(name, str) for name in (*names, *values["outputs"])) or not all(map(is_color, colors)):
        return False
    lengths = (len(names) == len(colors), len(values["pixel_mean"]) == 3, len(values["pixel_std"]) == 3)
    sizes = 0 <= values["min_size"] <= values["max_size"]
    return all(lengths) and sizes and values["channel_order"] in ("RGB", "BGR")
