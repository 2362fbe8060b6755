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
    """Return the classes that the content of a checkpoint records; None if they are missing or damaged."""
    try:
        return Classes.from_dict(Section.of(data.get(METADATA), METADATA))
    except UserError:
        return None


def warn_of_other_classes(data: dict[str, Any], classes: Classes, path: str) -> None:
    """Warn if the checkpoint `data`, from the file `path`, was trained on class names other than those of `classes`.

    Even with an equal number of classes, so that the weights fit, an id may mean another class.
    """
    recorded = classes_of_file(data)
    if recorded is None:
        return
    pairs = zip(recorded.names, classes.names, strict=False)
    differing = [(i, trained, current) for i, (trained, current) in enumerate(pairs) if trained != current]
    if differing:
        i, trained, current = differing[0]
        more = f", and {len(differing) - 1} more differ" if len(differing) > 1 else ""
        logger.warning(
            'CLASS NAMES DIFFER from those that %s was trained on: id %d is "%s" there and "%s" here%s; if an id '
            "means another class, map the label files' ids to the model's, or fine-tune with "
            "MODEL.WEIGHTS_DROP_CLASS_LAYERS True",
            path,
            i,
            trained,
            current,
            more,
        )
