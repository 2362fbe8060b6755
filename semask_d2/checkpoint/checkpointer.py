"""Checkpoints that are written whole or not at all, and read without executing anything in them."""

from __future__ import annotations

import logging
import os
import re
from pathlib import Path
from typing import Any

import torch
from fvcore.common.checkpoint import Checkpointer as FvcoreCheckpointer
from torch import nn

from semask_d2.checkpoint.class_metadata import METADATA, warn_of_other_classes
from semask_d2.checkpoint.loading import load_checkpoint
from semask_d2.checkpoint.readers import read_checkpoint
from semask_d2.checkpoint.semantic_windows import RECORD, windows_of_model
from semask_d2.d2 import comm
from semask_d2.utils.classes import Classes
from semask_d2.utils.errors import UserError
from semask_d2.utils.files import atomic_write
from semask_d2.utils.runs import LAST, last_checkpoint

logger = logging.getLogger(__name__)

NUMBERED = re.compile(r"model_\d{7,}\.pth")


class Checkpointer(FvcoreCheckpointer):
    """Saves and loads a model and, with `trainer`, all that a resumed run needs.

    Files are `NAME.pth`, `{"model": ..., "trainer": ..., "iteration": N}`; `last_checkpoint` names the newest. With
    `classes` all of them record these as "metadata", and a file of other class names is loaded with a warning.
    Weights must fit the model wholly, except that a `training_start`, a run that does not resume, may lack what
    `load_weights` says, and with `drop_class_layers` leaves out what depends on the classes.
    """

    def __init__(
        self,
        model: nn.Module,
        save_dir: str = "",
        *,
        training_start: bool = False,
        drop_class_layers: bool = False,
        classes: Classes | None = None,
        **checkpointables: Any,
    ):
        super().__init__(model, save_dir, save_to_disk=comm.is_main_process(), **checkpointables)
        self.classes = classes
        self.start_allowances = {"training_start": training_start, "drop_class_layers": drop_class_layers}

    def save(self, name: str, **kwargs: Any) -> None:
        """Write `NAME.pth`, with `kwargs` beside the model's state, and point `last_checkpoint` to it."""
        if self.write(name, **kwargs):
            self.tag_last_checkpoint(f"{name}.pth")

    def write(self, name: str, *, model: nn.Module | None = None, weights_only: bool = False, **kwargs: Any) -> bool:
        """Write `NAME.pth` and leave `last_checkpoint` as it is; False on processes that do not write.

        `model` may be another of the same layout, as an average of the weights.

        Raises `UserError`, and writes nothing, where a weight is not finite: no run could resume from it.
        """
        if not self.save_dir or not self.save_to_disk:
            return False
        model = self.model if model is None else model
        weights = model.state_dict()
        if not all_finite(weights):
            last = self.newest_numbered()
            raise UserError(
                f"the weights are not finite any more, so {name}.pth was not written; the last good checkpoint is "
                f"{last or '(none)'}. Continue from it with --resume and a lower SOLVER.BASE_LR, or without "
                "SOLVER.AMP.ENABLED"
            )
        state: dict[str, Any] = {"model": weights, RECORD: windows_of_model(model)}
        if self.classes is not None:
            state[METADATA] = self.classes.as_dict()
        if not weights_only:
            state |= {key: value.state_dict() for key, value in self.checkpointables.items()}
        path = os.path.join(self.save_dir, f"{name}.pth")
        logger.info("Saving checkpoint to %s", path)
        with atomic_write(path, "wb") as file:
            torch.save(state | kwargs, file)
        return True

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        with atomic_write(os.path.join(self.save_dir, LAST)) as file:
            file.write(last_filename_basename)

    def numbered(self) -> list[Path]:
        """The folder's `model_0000099.pth` and so on, the oldest first."""
        found = [path for path in Path(self.save_dir).glob("model_*.pth") if NUMBERED.fullmatch(path.name)]
        return sorted(found, key=lambda path: int(path.stem.removeprefix("model_")))

    def newest_numbered(self) -> Path | None:
        """The folder's newest numbered checkpoint."""
        return next(reversed(self.numbered()), None)

    def remove_all_but(self, count: int) -> None:
        """Remove numbered checkpoints but the `count` newest ones; 0 keeps all."""
        if count > 0 and self.save_to_disk:
            for path in self.numbered()[:-count]:
                path.unlink(missing_ok=True)

    def has_checkpoint(self) -> bool:
        """Whether the output folder has a checkpoint to resume from.

        Raises `UserError` where `last_checkpoint` is there and does not name one.
        """
        return bool(self.get_checkpoint_file())

    def get_checkpoint_file(self) -> str:
        """The path that `last_checkpoint` names, "" where the folder holds no checkpoint; errors as above."""
        pointer, newest = Path(self.save_dir, LAST), self.newest_numbered()
        advice = f"; write {newest.name} into it, the newest checkpoint there, to continue from that" if newest else ""
        if not os.path.lexists(pointer):
            if newest is None:
                return ""
            # as a kill leaves it between a run's first checkpoint, which is written whole, and its name
            logger.warning("%s is missing: continuing from the newest checkpoint there, %s", pointer, newest.name)
            return str(newest)
        try:
            name = last_checkpoint(self.save_dir)
        except UserError as error:
            raise UserError(f"{error}{advice}") from error
        path = Path(self.save_dir, name)
        if not name or not path.is_file():
            raise UserError(f"{pointer} names {name!r}, which is no file in {self.save_dir}{advice}")
        return str(path)

    def load(self, path: str, checkpointables: list[str] | None = None) -> dict[str, Any]:
        """Load model weights, all of them, and `checkpointables` (None: all there are); what else the file holds."""
        return self._load(path, list(self.checkpointables) if checkpointables is None else checkpointables)

    def _load(self, path: str, checkpointables: list[str], **allowances: bool) -> dict[str, Any]:
        if not path:
            logger.info("No weights to load: the model is initialized from scratch")
            return {}
        logger.info("Loading %s", path)
        data = read_checkpoint(path)
        for key in checkpointables:
            if key not in data:
                raise UserError(f'{path}: holds no state "{key}", so the run cannot resume from it')
        load_checkpoint(self.model, data, path, **allowances)
        if self.classes is not None and not allowances.get("drop_class_layers"):
            warn_of_other_classes(data, self.classes, path)
        for key in checkpointables:
            try:
                self.checkpointables[key].load_state_dict(data.pop(key))
            except UserError as error:
                raise UserError(f"{path}: {error}") from error
        return {key: value for key, value in data.items() if key not in ("model", RECORD, METADATA)}

    def resume_or_load(self, path: str, *, resume: bool = True) -> dict[str, Any]:
        """With `resume`, continue from the last checkpoint of the output folder if it has one; else load `path`."""
        if resume:
            found = comm.all_gather(self.has_checkpoint())
            if any(found) and not all(found):
                missing = [rank for rank, has in enumerate(found) if not has]
                raise UserError(
                    f"{self.save_dir}: processes {missing} find no checkpoint to resume from, others do; "
                    "copy the output folder to every machine"
                )
            if all(found):
                return self.load(self.get_checkpoint_file())
            if not path and not self.checkpointables:  # nothing to train on from, and random weights tell nothing
                raise UserError(f"{self.save_dir}: holds no checkpoint; add MODEL.WEIGHTS FILE, or correct OUTPUT_DIR")
            logger.info("%s holds no checkpoint to resume from", self.save_dir)
        return self._load(path, [], **self.start_allowances)


def all_finite(state: dict[str, Any]) -> bool:
    """Whether no floating-point tensor of a state dict holds NaN or infinity, with one wait for the device."""
    checks = [x.isfinite().all() for x in state.values() if torch.is_tensor(x) and x.is_floating_point()]
    return not checks or bool(torch.stack(checks).all())
