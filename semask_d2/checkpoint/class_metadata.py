"""What a checkpoint says of its classes: names, colors and the ignored id, so that it can be drawn by itself."""

from __future__ import annotations

from typing import Any

METADATA = "metadata"


def metadata_of_file(data: dict[str, Any]) -> dict[str, Any] | None:
    """`class_names`, `class_colors` and `ignore_label` that a checkpoint of ours records; None where it has none."""
    metadata = data.get(METADATA)
    if not isinstance(metadata, dict):
        return None
    names, colors, ignored = (metadata.get(key) for key in ("class_names", "class_colors", "ignore_label"))
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names) or type(ignored) is not int:
        return None
    if not isinstance(colors, list) or len(colors) != len(names) or not all(map(is_color, colors)):
        return None
    return {"class_names": names, "class_colors": colors, "ignore_label": ignored}


def is_color(value: Any) -> bool:
    """Whether a value is [r, g, b]."""
    return isinstance(value, list) and len(value) == 3 and all(type(x) is int and 0 <= x <= 255 for x in value)
