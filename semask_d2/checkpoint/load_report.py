"""The report of loading weights: which tensors of the file and of the model match."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from semask_d2.checkpoint.kinds import PLAIN
from semask_d2.utils.excerpts import few

SHOWN = 5  # names of tensors in a message
# buffers that are not weights: one follows from the window's size, the other is not used in evaluation
COMPUTED = ("relative_position_index", "num_batches_tracked")


@dataclass(frozen=True)
class LoadReport:
    """Names of the tensors that matched or did not; `misshaped` adds the shapes in the file and in the model.

    `dropped` lists the file's tensors that were left out on purpose, `kind` is the recognized kind of the file, and
    `notes` describe conversions.
    """

    matched: list[str]
    missing: list[str]
    unexpected: list[str]
    misshaped: list[str]
    dropped: list[str] = field(default_factory=list)
    kind: str = PLAIN
    notes: list[str] = field(default_factory=list)

    @property
    def complete(self) -> bool:
        """True if every tensor of the model is in the file with the same shape."""
        return not self.missing and not self.misshaped

    def __str__(self) -> str:
        text = f"{len(self.matched)} tensors matched"
        for what in ("missing", "misshaped", "unexpected", "dropped"):
            names = getattr(self, what)
            if names:
                text += f"; {len(names)} {what}: {few(names, count=SHOWN)}"
        return "; ".join([text, *self.notes])


def report_load(model_state: dict[str, Tensor], state: dict[str, Tensor]) -> LoadReport:
    """Compare the tensors of a file, under our names, with those of a model.

    A tensor that the model has under two names (FaPN's shared GroupNorm) is missing only if the file has neither name.
    Buffers that the model computes never count as missing.
    """
    shapes = {name: (tuple(state[name].shape), tuple(model_state[name].shape)) for name in model_state if name in state}
    loaded = {model_state[name].data_ptr() for name in shapes if model_state[name].numel()}
    return LoadReport(
        matched=[name for name, (in_file, in_model) in shapes.items() if in_file == in_model],
        missing=[
            name
            for name, value in model_state.items()
            if name not in state and value.data_ptr() not in loaded and not name.endswith(COMPUTED)
        ],
        unexpected=[name for name in state if name not in model_state and not name.endswith(COMPUTED)],
        misshaped=[
            f"{name} {in_file} (model: {in_model})"
            for name, (in_file, in_model) in shapes.items()
            if in_file != in_model
        ],
    )
