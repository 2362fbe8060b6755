"""Putting a checkpoint into a model: wholly, or where a training starts, as far as the checkpoint's kind explains."""

from __future__ import annotations

import logging
import os
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from semask_d2.checkpoint.kinds import CLASS_LAYERS, QUERIES, Kind, recognize
from semask_d2.checkpoint.load_report import SHOWN, LoadReport, report_load
from semask_d2.checkpoint.plain_values import NUMBERS
from semask_d2.checkpoint.readers import read_checkpoint
from semask_d2.checkpoint.semantic_windows import check_windows, windows_of_file, windows_of_released
from semask_d2.utils.errors import UserError
from semask_d2.utils.excerpts import few

logger = logging.getLogger(__name__)

DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.bool, torch.uint8)
DTYPES += (torch.int8, torch.int16, torch.int32, torch.int64)
CONTAINERS = ("model", "state_dict")  # Detectron2's, Microsoft's and ours; mmsegmentation's


def load_weights(
    model: nn.Module, source: str | os.PathLike, *, training_start: bool = False, drop_class_layers: bool = False
) -> LoadReport:
    """Load the checkpoint at `source`, whatever `read_checkpoint` reads, into `model`, and log how they met.

    Every tensor of the model must be there with its shape. Only where `training_start` may those be missing that the
    kind of checkpoint explains: semantic layers, output norms and head after ImageNet. With `drop_class_layers` too,
    the file's class-sized layers, and queries of another number, are left out and the model keeps its own, for
    fine-tuning on other classes.
    Raises `UserError`, and leaves the model as it was, where more is missing or mis-shaped.
    """
    return load_checkpoint(
        model,
        read_checkpoint(source),
        source,
        training_start=training_start,
        drop_class_layers=drop_class_layers,
    )


def load_checkpoint(
    model: nn.Module,
    data: dict[str, Any],
    source: str | os.PathLike,
    *,
    training_start: bool = False,
    drop_class_layers: bool = False,
) -> LoadReport:
    """As `load_weights`, with what `read_checkpoint` gave for `source`."""
    assert training_start or not drop_class_layers, "only a training start may leave layers out"
    state = tensors_of(data, source)
    own = model.state_dict()
    kind = recognize(state, own)
    dropped = kind.left_out(state)
    converted, notes = kind.convert(state, own)
    queries: list[str] = []
    if drop_class_layers:
        queries = other_queries(converted, own)
        if queries:
            ours, theirs = (len(weights[queries[0]]) for weights in (own, converted))
            logger.info("%s: the model's %d queries start anew, in the place of %d", source, ours, theirs)
        anew = {*queries, *filter(CLASS_LAYERS.match, converted)}
        dropped += [name for name in converted if name in anew]
        converted = {name: value for name, value in converted.items() if name not in anew}
    report = replace(report_load(own, converted), dropped=dropped, kind=kind.name, notes=notes)

    fresh = []
    if training_start:
        fresh = [name for name in report.missing if explained(name, kind, drop_class_layers) or name in queries]
    if report.misshaped or len(fresh) < len(report.missing):
        unexplained = replace(report, missing=[name for name in report.missing if name not in set(fresh)])
        raise UserError(
            f"{source} ({kind.name}): these weights do not fit the model of this config"
            f"{hint(unexplained, kind, training_start)}: {unexplained}"
        )
    copy_into(own, converted, report.matched)
    broken = [name for name in report.matched if not converted[name].isfinite().all()]
    if broken:
        logger.warning(
            "%s: %d tensors are not finite (%s): predictions mean nothing",
            source,
            len(broken),
            few(broken, count=SHOWN),
        )

    logger.info("%s: %s: %s", source, kind.name, report)
    if fresh:
        reasons = [f"as after any {kind.name} ({kind.fresh_words})"] if kind.fresh else []
        reasons += ["as MODEL.WEIGHTS_DROP_CLASS_LAYERS asks"] if drop_class_layers else []
        logger.info(
            "%s: %d tensors are newly initialized, %s: %s",
            source,
            len(fresh),
            " and ".join(reasons),
            few(fresh, count=SHOWN),
        )
    if report.unexpected:
        logger.warning("%s: the model has no place for %s", source, few(report.unexpected, count=SHOWN))
    released = windows_of_released(kind.decoder, state) if kind.decoder else None
    check_windows(str(source), kind.name, model, windows_of_file(data) or released)
    return report


def load_state(model: nn.Module, state: dict[str, Tensor]) -> LoadReport:
    """Copy what fits of `state` into `model`."""
    own = model.state_dict()
    report = report_load(own, state)
    copy_into(own, state, report.matched)
    return report


@torch.no_grad()
def copy_into(own: dict[str, Tensor], state: dict[str, Tensor], names: list[str]) -> None:
    """Copy the tensors of these names, to the dtype and device of the model's."""
    for name in names:
        own[name].copy_(state[name])


def tensors_of(data: dict[str, Any], source: str | os.PathLike) -> dict[str, Tensor]:
    """The tensors of a checkpoint by name, arrays made tensors, without the prefix of a distributed wrapper."""
    content = next((data[key] for key in CONTAINERS if key in data), data)
    if not isinstance(content, dict):
        raise UserError(f"{source}: expected a dict of tensors, got a {type(content).__name__} of weights")
    state = {}
    for name, value in content.items():
        if isinstance(value, (np.ndarray, np.generic)) and value.dtype.kind in NUMBERS:
            value = torch.from_numpy(np.array(value, value.dtype.newbyteorder("=")))
        if not isinstance(name, str) or not isinstance(value, Tensor):
            continue
        if value.layout != torch.strided or value.is_meta or value.is_quantized:
            raise UserError(f"{source}: {name} is no dense tensor of numbers")
        if value.dtype not in DTYPES:
            kind = str(value.dtype).removeprefix("torch.")
            raise UserError(f"{source}: {name} holds numbers of type {kind}, which no layer has; save it as float32")
        state[name] = value.detach()
    if state and all(name.startswith("module.") for name in state):
        state = {name.removeprefix("module."): value for name, value in state.items()}
    return state


def explained(name: str, kind: Kind, drop_class_layers: bool) -> bool:
    """Whether a training that starts from this kind of checkpoint may lack the tensor `name`."""
    return kind.initializes(name) or (drop_class_layers and bool(CLASS_LAYERS.match(name)))


def other_queries(state: dict[str, Tensor], own: dict[str, Tensor]) -> list[str]:
    """The names of the queries of which `state` has another number than the model."""
    return [
        name for name, value in state.items() if name in own and QUERIES.match(name) and len(value) != len(own[name])
    ]


def hint(report: LoadReport, kind: Kind, training_start: bool) -> str:
    """What to do about weights that do not fit, where that can be told."""
    if any(map(kind.initializes, report.missing)) and not training_start:
        return f"; it holds {kind.holds_words} for training to start from, and here the weights of all of it are needed"
    wrong = [text.split(" ", 1)[0] for text in report.misshaped]
    if wrong and not report.missing and all(CLASS_LAYERS.match(name) or QUERIES.match(name) for name in wrong):
        what, key = "classes", "MODEL.SEM_SEG_HEAD.NUM_CLASSES"
        if all(map(QUERIES.match, wrong)):
            what, key = "queries", "MODEL.MASK_FORMER.NUM_OBJECT_QUERIES"
        if training_start:
            return (
                f"; they were trained with other {what}: to initialize those layers, "
                "MODEL.WEIGHTS_DROP_CLASS_LAYERS True"
            )
        return f"; they were trained with another number of {what}: check {key}"
    return ""
