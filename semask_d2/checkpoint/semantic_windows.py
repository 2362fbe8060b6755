"""Windows of semantic layers, by stage; they affect no parameter's shape, so they are checked separately.

`Windows` is a list with one entry per stage: the side of the window, or None if the layer attends globally. Our own
checkpoints record it as `semantic_windows`; for released checkpoints a table in this file has it.
"""

from __future__ import annotations

import logging
from typing import Any

from torch import Tensor, nn

from semask_d2.modeling.layers.semantic_attention import SemanticLayer

logger = logging.getLogger(__name__)

Windows = list[int | None]
RECORD = "semantic_windows"

# the windowed stages of released models, by decoder and, if it matters, by number of classes
MASK2FORMER = {150: (0, 1, 2), 19: (0, 1, 2, 3)}
FAPN = (0, 1)
MASKFORMER = (0, 1, 2)


def windows_of_model(model: nn.Module) -> Windows:
    """Return the windows of a model's semantic layers; an empty list if it has none."""
    return [module.window for module in model.modules() if isinstance(module, SemanticLayer)]


def windows_of_file(data: dict[str, Any]) -> Windows | None:
    """Return the windows that a checkpoint of ours records; None if it has none."""
    windows = data.get(RECORD)
    valid = isinstance(windows, list) and all(window is None or isinstance(window, int) for window in windows)
    return windows if valid and windows else None


def windows_of_released(decoder: str, state: dict[str, Tensor]) -> Windows | None:
    """Return the windows of the released model with this decoder and these tensors; None if they are unknown.

    `decoder` is "Mask2Former", "FaPN", "MSFaPN", "MaskFormer" or "FPN".
    """
    classes, embed = next(value.shape for name, value in state.items() if name.endswith("mlp_cls_q.weight"))
    table = next(value for name, value in state.items() if name.endswith("relative_position_bias_table"))
    window = (round(len(table) ** 0.5) + 1) // 2
    if decoder == "Mask2Former":
        stages = MASK2FORMER.get(classes)
        window = 7 if classes == 19 else window
    elif decoder == "FPN":
        stages = (0, 1) if embed in (96, 192) and classes > 19 else (0, 1, 2, 3)
    else:
        stages = MASKFORMER if decoder == "MaskFormer" else FAPN
    return None if stages is None else [window if stage in stages else None for stage in range(4)]


def describe(windows: Windows) -> str:
    """Describe windows as config keys with values."""
    sides = sorted({window for window in windows if window})
    size = f" and SEM_WINDOW_SIZE {', '.join(map(str, sides))}" if sides else ""
    return f"SEM_WINDOWED_STAGES {[stage for stage, window in enumerate(windows) if window]}{size}"


def check_windows(source: str, kind: str, model: nn.Module, expected: Windows | None) -> None:
    """Log the windows of `model`; warn if they differ from those that its weights were trained with."""
    windows = windows_of_model(model)
    if not windows:
        return
    if expected is None:
        logger.info("%s: windows of semantic layers are those of the config, %s", source, describe(windows))
    elif windows == expected:
        logger.info("%s: windows of semantic layers are those of the %s, %s", source, kind, describe(windows))
    else:
        logger.warning(
            "%s: the %s has %s, but this config has %s: the weights load, but compute something else",
            source,
            kind,
            describe(expected),
            describe(windows),
        )
