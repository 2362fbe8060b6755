"""Reading weight files without executing anything in them, and putting them into a model."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from semask_d2.errors import UserError


class LoadReport(NamedTuple):
    """Which tensors of a load met: names, and for `misshaped` the shapes in the file and in the model."""

    matched: list[str]
    missing: list[str]
    unexpected: list[str]
    misshaped: list[str]

    @property
    def complete(self) -> bool:
        """Whether every tensor of the model was in the file, with its shape."""
        return not self.missing and not self.misshaped

    def __str__(self) -> str:
        text = f"{len(self.matched)} tensors matched"
        for what in ("missing", "misshaped", "unexpected"):
            names = getattr(self, what)
            if names:
                more = f" and {len(names) - 5} more" if len(names) > 5 else ""
                text += f"; {len(names)} {what}: {', '.join(names[:5])}{more}"
        return text


def read_checkpoint(path: str | os.PathLike) -> dict[str, Any]:
    """The dict that a torch checkpoint file holds, its tensors on the CPU.

    Raises `UserError` for a file that is missing, truncated, or holds anything but plain data and tensors.
    """
    if not Path(path).is_file():
        raise UserError(f"{path}: there is no such weight file; check MODEL.WEIGHTS")
    try:
        data = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise UserError(
            f"{path}: refused, because it is no torch file of plain tensors (or it is damaged): "
            f"{str(error).splitlines()[0]}"
        ) from error
    except (RuntimeError, EOFError, OSError) as error:
        raise UserError(f"{path}: truncated or no weight file: {str(error).splitlines()[0]}") from error
    if not isinstance(data, dict):
        raise UserError(f"{path}: expected a dict of tensors, got a {type(data).__name__}")
    return data


def load_state(model: nn.Module, state: dict[str, Tensor]) -> LoadReport:
    """Copy what fits of `state` into `model`."""
    own = model.state_dict()
    fitting = {name: state[name] for name in own if name in state and own[name].shape == state[name].shape}
    report = LoadReport(
        matched=list(fitting),
        missing=[name for name in own if name not in state],
        unexpected=[name for name in state if name not in own],
        misshaped=[
            f"{name} {tuple(state[name].shape)} (model: {tuple(own[name].shape)})"
            for name in own
            if name in state and name not in fitting
        ],
    )
    model.load_state_dict(fitting, strict=False)
    return report


def load_weights(model: nn.Module, path: str | os.PathLike) -> LoadReport:
    """Load a checkpoint file, `{"model": {...}}` or a bare state dict, into `model`.

    Raises `UserError`, and leaves the model as it was, unless every tensor of the model is there with its shape.
    """
    data = read_checkpoint(path)
    state = {name: value for name, value in data.get("model", data).items() if isinstance(value, Tensor)}
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    report = load_state(model, state)
    if not report.complete:
        model.load_state_dict(before)
        raise UserError(f"{path}: these weights do not fit the model of this config: {report}")
    return report
