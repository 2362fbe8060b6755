"""Which stages' semantic layers attend within windows: no parameter's shape tells, so it is checked apart.

`Windows` is a list with one entry a stage: the window's side, or None where the layer attends globally. Our own
checkpoints record it as `semantic_windows`; for released ones it is known from what they are.
"""

from __future__ import annotations

import logging
from typing import Any

from torch import Tensor, nn

from semask_d2.modeling.layers.semantic_attention import SemanticLayer

logger = logging.getLogger(__name__)

Windows = list[int | None]
RECORD = "semantic_windows"

# Which stages of the released models are windowed, by decoder and, where it matters, by class count
MASK2FORMER = {150: (0, 1, 2), 19: (0, 1, 2, 3)}
FAPN = (0, 1)
MASKFORMER = (0, 1, 2)


def windows_of_model(model: nn.Module) -> Windows:
    """The windows that a model computes by; empty where it has no semantic layers."""
    return [module.window for module in model.modules() if isinstance(module, SemanticLayer)]


def windows_of_file(data: dict[str, Any]) -> Windows | None:
    """The windows that a checkpoint of ours records; None where it has none."""
    windows = data.get(RECORD)
    valid = isinstance(windows, list) and all(window is None or isinstance(window, int) for window in windows)
    return windows if valid and windows else None


def windows_of_released(decoder: str, state: dict[str, Tensor]) -> Windows | None:
    """The windows of the released model with this decoder and these tensors; None where the table does not tell.

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
    """Windows in the words of the config's keys."""
    sides = sorted({window for window in windows if window})
    size = f" and SEM_WINDOW_SIZE {', '.join(map(str, sides))}" if sides else ""
    return f"SEM_WINDOWED_STAGES {[stage for stage, window in enumerate(windows) if window]}{size}"


def check_windows(source: str, kind: str, model: nn.Module, expected: Windows | None) -> None:
    """Log the windows that `model` computes by, with a warning that names both where the weights had others."""
    windows = windows_of_model(model)
    if not windows:
        return
    if expected is None:
        logger.info("%s: semantic layers attend as the config says, %s", source, describe(windows))
    elif windows == expected:
        logger.info("%s: semantic layers attend as in the %s, %s", source, kind, describe(windows))
    else:
        logger.warning(
            "%s: the %s has %s, but this config has %s: its weights fit either way and compute something else",
            source,
            kind,
            describe(expected),
            describe(windows),
        )
