"""What a load found: which tensors of a file and of a model met."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from semask_d2.checkpoint.kinds import PLAIN
from semask_d2.utils.excerpts import few

SHOWN = 5  # names of tensors in a message
# buffers that are no weights: one follows from the window's size, the other means nothing in evaluation
COMPUTED = ("relative_position_index", "num_batches_tracked")


@dataclass(frozen=True)
class LoadReport:
    """Which tensors of a load met: names, and for `misshaped` the shapes in the file and in the model.

    `dropped` are the file's tensors that were left out on purpose, `kind` is what the file was recognized as, and
    `notes` say what was converted.
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
        """Whether every tensor of the model was in the file, with its shape."""
        return not self.missing and not self.misshaped

    def __str__(self) -> str:
        text = f"{len(self.matched)} tensors matched"
        for what in ("missing", "misshaped", "unexpected", "dropped"):
            names = getattr(self, what)
            if names:
                text += f"; {len(names)} {what}: {few(names, count=SHOWN)}"
        return "; ".join([text, *self.notes])


def report_load(own: dict[str, Tensor], state: dict[str, Tensor]) -> LoadReport:
    """How the tensors of a file, under our names, meet those of a model.

    A tensor that the model has under two names (FaPN's shared GroupNorm) is missing only if the file has neither, and
    what the model computes is never missing.
    """
    shapes = {name: (tuple(state[name].shape), tuple(own[name].shape)) for name in own if name in state}
    found = {own[name].data_ptr() for name in shapes if own[name].numel()}
    return LoadReport(
        matched=[name for name, (theirs, ours) in shapes.items() if theirs == ours],
        missing=[
            name
            for name, value in own.items()
            if name not in state and value.data_ptr() not in found and not name.endswith(COMPUTED)
        ],
        unexpected=[name for name in state if name not in own and not name.endswith(COMPUTED)],
        misshaped=[f"{name} {theirs} (model: {ours})" for name, (theirs, ours) in shapes.items() if theirs != ours],
    )
