"""What a checkpoint says of its classes: names, colors and the ignored id, so that it can be drawn by itself."""

from __future__ import annotations

import logging
from typing import Any

logger = logging.getLogger(__name__)

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


def warn_of_other_classes(data: dict[str, Any], metadata: dict[str, Any], path: str) -> None:
    """Warn where the checkpoint `data`, of the file `path`, was trained on other class names than `metadata` has.

    The number of classes may be equal, so that the weights fit, while an id means something else.
    """
    recorded = metadata_of_file(data)
    if recorded is None:
        return
    pairs = zip(recorded["class_names"], metadata["class_names"], strict=False)
    differing = [(i, there, here) for i, (there, here) in enumerate(pairs) if there != here]
    if differing:
        i, there, here = differing[0]
        more = f", and {len(differing) - 1} more differ" if len(differing) > 1 else ""
        logger.warning(
            'THE DATA HAVE OTHER CLASS NAMES than %s was trained on: id %d is "%s" there and "%s" here%s; where an id '
            "means something else, bring the label files' ids to the model's, or train anew with "
            "MODEL.WEIGHTS_DROP_CLASS_LAYERS True",
            path,
            i,
            there,
            here,
            more,
        )


def is_color(value: Any) -> bool:
    """Whether a value is [r, g, b]."""
    return isinstance(value, list) and len(value) == 3 and all(type(x) is int and 0 <= x <= 255 for x in value)
