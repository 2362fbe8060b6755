"""The classes of a dataset or model as one value, used in the catalog, checkpoints, exported files and drawings."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from semask_d2.utils.colors import Color, distinct_colors, is_color
from semask_d2.utils.errors import UserError
from semask_d2.utils.foreign import Section, shown, text

IGNORED = 255  # the default id of ignored pixels
KINDS = ("stuff", "thing")  # Detectron2's kinds of classes, prefixes of keys in its metadata


@dataclass(frozen=True)
class Classes:
    """Names and RGB colors by class id, the id of ignored pixels, and the ids of things.

    `things`, the classes of countable objects, is None if unknown; files do not record it. Drawing code also uses this
    class for numbered segments, one class each.
    """

    names: tuple[str, ...]
    colors: tuple[Color, ...]
    ignore_label: int = IGNORED
    things: frozenset[int] | None = None

    def __post_init__(self) -> None:
        assert len(self.names) == len(self.colors), (len(self.names), len(self.colors))

    def __len__(self) -> int:
        return len(self.names)

    @classmethod
    def of(
        cls,
        names: Iterable[str],
        colors: Iterable[Sequence[int]] | np.ndarray | None = None,
        ignore_label: int = IGNORED,
        things: Iterable[int] | None = None,
    ) -> Classes:
        """Return classes from any sequences; generates distinct colors unless there is exactly one per name."""
        names = tuple(names)
        rows = () if colors is None else tuple((int(color[0]), int(color[1]), int(color[2])) for color in colors)
        rows = rows if len(rows) == len(names) else tuple(distinct_colors(len(names)))
        return cls(names, rows, ignore_label, None if things is None else frozenset(things))

    @classmethod
    def from_metadata(cls, metadata: Any, kind: str | None = None) -> Classes | None:
        """Return the classes in Detectron2's metadata of a dataset, None if it lists none.

        `kind` is one of KINDS; the default is stuff if there are stuff classes, else things.
        """
        kinds = KINDS if kind is None else (kind,)
        names = next((x for kind in kinds if (x := metadata.get(f"{kind}_classes"))), None)
        colors = next((x for kind in kinds if (x := metadata.get(f"{kind}_colors"))), None)
        things = metadata.get("thing_dataset_id_to_contiguous_id")
        if names is None:
            return None
        ignore_label = metadata.get("ignore_label", IGNORED)
        return cls.of(names, colors, ignore_label, None if things is None else things.values())

    def as_metadata(self, kind: str) -> dict[str, Any]:
        """Return the classes as Detectron2's metadata of a `kind`, except `things`, which it records by dataset ids."""
        facts = {f"{kind}_classes": list(self.names), f"{kind}_colors": [list(color) for color in self.colors]}
        return facts | ({"ignore_label": self.ignore_label} if kind == "stuff" else {})

    @classmethod
    def from_dict(cls, section: Section) -> Classes:
        """Return the classes that `as_dict` recorded; `UserError` naming the key of a malformed value."""
        names = [text(name, f"{section.source}: class_names") for name in section.entries("class_names")]
        colors = section.entries("class_colors", length=len(names))
        for color in colors:
            if not is_color(color):
                raise UserError(f"{section.source}: class_colors: expected [r, g, b] from 0 to 255, got {shown(color)}")
        return cls.of(names, colors, section.integer("ignore_label"))

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for checkpoints and exported files."""
        return {
            "class_names": list(self.names),
            "class_colors": [list(color) for color in self.colors],
            "ignore_label": self.ignore_label,
        }

    @cached_property
    def color_table(self) -> np.ndarray:
        """The colors as an array (K, 3) uint8."""
        return np.array(self.colors, np.uint8).reshape(-1, 3)
