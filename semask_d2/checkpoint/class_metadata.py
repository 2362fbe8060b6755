"""The classes that a checkpoint records, so that its predictions can be drawn without the dataset."""

from __future__ import annotations

import logging
from typing import Any

from semask_d2.utils.classes import Classes
from semask_d2.utils.errors import UserError
from semask_d2.utils.foreign import Section

logger = logging.getLogger(__name__)

METADATA = "metadata"  # the key in a checkpoint


def classes_of_file(data: dict[str, Any]) -> Classes | None:
    """Return the classes that the content of a checkpoint records; None where it has none, or damaged ones."""
    try:
        return Classes.from_dict(Section.of(data.get(METADATA), METADATA))
    except UserError:
        return None


def warn_of_other_classes(data: dict[str, Any], classes: Classes, path: str) -> None:
    """Warn where the checkpoint `data`, of the file `path`, was trained on other class names than `classes` has.

    The number of classes may be equal, so that the weights fit, while an id means something else.
    """
    recorded = classes_of_file(data)
    if recorded is None:
        return
    pairs = zip(recorded.names, classes.names, strict=False)
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
