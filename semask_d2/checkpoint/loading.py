"""Loading of checkpoints into models: completely, or, at the start of training, as far as the kind allows."""

from __future__ import annotations

import logging
import os
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from semask_d2.checkpoint.backbone_training import check_training_of_backbone
from semask_d2.checkpoint.frozen_layers import KEY, check_frozen, frozen_names, located, weights_named_in
from semask_d2.checkpoint.kinds import CLASS_LAYERS, QUERIES, Kind, recognize
from semask_d2.checkpoint.load_report import SHOWN, LoadReport, report_load
from semask_d2.checkpoint.plain_values import NUMBERS
from semask_d2.checkpoint.readers import read_checkpoint
from semask_d2.checkpoint.semantic_windows import check_windows, windows_of_file, windows_of_released
from semask_d2.checkpoint.stems import RGB, fit_stem, stem_of
from semask_d2.checkpoint.vit_sizes import check_heads, sizes_hint
from semask_d2.modeling.backbones.lora import is_adapter
from semask_d2.utils.errors import UserError
from semask_d2.utils.excerpts import few

logger = logging.getLogger(__name__)

DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.bool, torch.uint8)
DTYPES += (torch.int8, torch.int16, torch.int32, torch.int64)
MAX_CHAIN = 4  # checkpoints without frozen layers, each of which names the next
CONTAINERS = ("model", "state_dict")  # the first is used by Detectron2, Microsoft and us, the second by mmsegmentation


def load_weights(
    model: nn.Module,
    source: str | os.PathLike,
    *,
    training_start: bool = False,
    drop_class_layers: bool = False,
    bgr: bool = False,
) -> LoadReport:
    """Load the checkpoint at `source`, any source of `read_checkpoint`, into `model`, and log the result.

    Every tensor of the model must be in the file with the same shape. Only with `training_start` may tensors be missing
    that this kind of checkpoint lacks: adapters, and semantic layers, output norms and head after ImageNet pretraining.
    With `drop_class_layers`, also layers that depend on the classes, and queries if their number differs, are not
    loaded, for fine-tuning on other classes. At the start of training, the first convolution of an RGB model is fitted
    to a model of other channels (`fit_stem`); `bgr` states that the weights are for BGR.
    Raises `UserError`, and leaves the model unchanged, if anything else is missing or has another shape.
    """
    return load_checkpoint(
        model,
        read_checkpoint(source),
        source,
        training_start=training_start,
        drop_class_layers=drop_class_layers,
        bgr=bgr,
    )


def load_checkpoint(
    model: nn.Module,
    data: dict[str, Any],
    source: str | os.PathLike,
    *,
    training_start: bool = False,
    drop_class_layers: bool = False,
    bgr: bool = False,
) -> LoadReport:
    """Load `data`, the result of `read_checkpoint(source)`, into `model`; otherwise like `load_weights`."""
    assert training_start or not drop_class_layers, "only a training start may leave layers out"
    model_state = model.state_dict()
    state = complete_tensors(model, model_state, data, source)
    check_training_of_backbone(str(source), data, state, model, training_start=training_start)
    kind = recognize(state, model_state)
    dropped = kind.left_out(state)
    check_heads(data, model, str(source))
    try:
        converted, notes = kind.convert(state, model_state)
    except UserError as error:
        raise UserError(f"{source} ({kind.name}): {error}") from error
    stem = stem_of(converted, model_state)
    if training_start:
        converted, fitted = fit_stem(converted, model_state, flip=bgr)
        notes = [*notes, *fitted]
    queries: list[str] = []
    if drop_class_layers:
        queries = mismatched_queries(converted, model_state)
        if queries:
            in_model, in_file = (len(weights[queries[0]]) for weights in (model_state, converted))
            logger.info("%s: the model's %d queries are re-initialized; the file has %d", source, in_model, in_file)
        reinitialized = {*queries, *filter(CLASS_LAYERS.match, converted)}
        dropped += [name for name in converted if name in reinitialized]
        converted = {name: value for name, value in converted.items() if name not in reinitialized}
    report = replace(report_load(model_state, converted), dropped=dropped, kind=kind.name, notes=notes)

    fresh = []
    if training_start:
        fresh = [name for name in report.missing if explained(name, kind, drop_class_layers) or name in queries]
    if report.misshaped or len(fresh) < len(report.missing):
        unexplained = replace(report, missing=[name for name in report.missing if name not in set(fresh)])
        advice = sizes_hint(converted, model_state) or hint(unexplained, kind, training_start)
        advice = advice or stem_hint(stem, state=converted, model_state=model_state)
        raise UserError(
            f"{source} ({kind.name}): these weights do not fit the model of this config{advice}: {unexplained}"
        )
    copy_into(model_state, converted, report.matched)
    broken = [name for name in report.matched if not converted[name].isfinite().all()]
    if broken:
        logger.warning(
            "%s: %d tensors are not finite (%s): predictions will be meaningless",
            source,
            len(broken),
            few(broken, count=SHOWN),
        )

    logger.info("%s: %s: %s", source, kind.name, report)
    if stem in report.matched and converted[stem].shape[1] > RGB and not model.get_parameter(stem).requires_grad:
        logger.warning(
            "%s: %s is frozen, so that channels with zero weights will never have an effect; set "
            "MODEL.BACKBONE.FREEZE_AT 0 and MODEL.BACKBONE.TRAIN full",
            source,
            stem,
        )
    if fresh:
        reasons = [f"which {kind.name} files lack ({kind.fresh_words})"] if kind.fresh else []
        reasons += ["as MODEL.WEIGHTS_DROP_CLASS_LAYERS requests"] if drop_class_layers else []
        reasons += ["as adapters, which start as zero"] if any(map(is_adapter, fresh)) else []
        logger.info(
            "%s: %d tensors are newly initialized, %s: %s",
            source,
            len(fresh),
            " and ".join(reasons),
            few(fresh, count=SHOWN),
        )
    if report.unexpected:
        logger.warning("%s: not in the model and ignored: %s", source, few(report.unexpected, count=SHOWN))
    released = windows_of_released(kind.decoder, state) if kind.decoder else None
    check_windows(str(source), kind.name, model, windows_of_file(data) or released)
    return report


def load_state(model: nn.Module, state: dict[str, Tensor]) -> LoadReport:
    """Copy the tensors of `state` that match in name and shape into `model`."""
    model_state = model.state_dict()
    report = report_load(model_state, state)
    copy_into(model_state, state, report.matched)
    return report


@torch.no_grad()
def copy_into(model_state: dict[str, Tensor], state: dict[str, Tensor], names: list[str]) -> None:
    """Copy the tensors of these names, converted to the model's dtype and device."""
    for name in names:
        model_state[name].copy_(state[name])


def tensors_of(data: dict[str, Any], source: str | os.PathLike) -> dict[str, Tensor]:
    """Return the tensors of a checkpoint by name; converts arrays, and removes the prefix of a distributed wrapper."""
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
            raise UserError(f"{source}: {name} is not a dense tensor of numbers")
        if value.dtype not in DTYPES:
            kind = str(value.dtype).removeprefix("torch.")
            raise UserError(f"{source}: {name} has the type {kind}, which no layer supports; save it as float32")
        state[name] = value.detach()
    if state and all(name.startswith("module.") for name in state):
        state = {name.removeprefix("module."): value for name, value in state.items()}
    return state


def explained(name: str, kind: Kind, drop_class_layers: bool) -> bool:
    """Return whether the tensor `name` may be missing when training starts from this kind of checkpoint."""
    return kind.initializes(name) or is_adapter(name) or (drop_class_layers and bool(CLASS_LAYERS.match(name)))


def complete_tensors(
    model: nn.Module, model_state: dict[str, Tensor], data: dict[str, Any], source: str | os.PathLike, depth: int = 0
) -> dict[str, Tensor]:
    """Return the tensors of a checkpoint, and the frozen layers of `model` from the weights that it names for them."""
    state, source = tensors_of(data, source), os.fspath(source)
    weights = weights_named_in(data, source)
    if not weights:
        return state
    try:
        if depth == MAX_CHAIN:
            raise UserError("too many checkpoints name one another")
        place = located(weights, source)
        logger.info("%s holds only what was trained; its frozen layers are those of %s", source, place)
        base = complete_tensors(model, model_state, read_checkpoint(place), place, depth + 1)
        converted, _ = recognize(base, model_state).convert(base, model_state)
    except UserError as error:
        raise UserError(
            f"{source}: it holds only what was trained ({KEY}), and its frozen layers are those of {weights}: {error}; "
            "put that file there, or beside the checkpoint"
        ) from error
    names = frozen_names(model)
    frozen = {name: value for name, value in converted.items() if name in names}
    check_frozen(frozen, names, data, source, place)
    return {**frozen, **state}


def mismatched_queries(state: dict[str, Tensor], model_state: dict[str, Tensor]) -> list[str]:
    """Return the names of the query tensors whose number of queries differs between `state` and the model."""
    return [
        name
        for name, value in state.items()
        if name in model_state and QUERIES.match(name) and len(value) != len(model_state[name])
    ]


def stem_hint(stem: str | None, *, state: dict[str, Tensor], model_state: dict[str, Tensor]) -> str:
    """Return advice on weights for images of other channels; "" if `stem`, their first convolution, fits."""
    if stem is None or state[stem].shape == model_state[stem].shape:
        return ""
    in_file, in_model = (weights[stem].shape[1] for weights in (state, model_state))
    return f"; they take images of {in_file} channel(s), the model of {in_model}: check INPUT.CHANNELS"


def hint(report: LoadReport, kind: Kind, training_start: bool) -> str:
    """Return advice on weights that do not fit, "" if there is none."""
    if any(map(kind.initializes, report.missing)) and not training_start:
        return f"; it holds {kind.holds_words} to start training from, but here all weights of the model are needed"
    wrong = [text.split(" ", 1)[0] for text in report.misshaped]
    if wrong and not report.missing and all(CLASS_LAYERS.match(name) or QUERIES.match(name) for name in wrong):
        what, key = "classes", "MODEL.SEM_SEG_HEAD.NUM_CLASSES"
        if all(map(QUERIES.match, wrong)):
            what, key = "queries", "MODEL.MASK_FORMER.NUM_OBJECT_QUERIES"
        if training_start:
            return (
                f"; they were trained with other {what}: to re-initialize those layers, set "
                "MODEL.WEIGHTS_DROP_CLASS_LAYERS True"
            )
        return f"; they were trained with another number of {what}: check {key}"
    unmatched, matched = (
        sum(name.startswith("backbone.") for name in names) for names in ([*report.missing, *wrong], report.matched)
    )
    if training_start and unmatched > matched:
        return (
            "; they are of another backbone: set MODEL.WEIGHTS to weights of this one (timm://NAME for the name in "
            'MODEL.TIMM.NAME or MODEL.VIT.NAME), or to "" to start from random weights'
        )
    return ""
