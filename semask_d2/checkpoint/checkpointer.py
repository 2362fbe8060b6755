"""Checkpoints that are written atomically, and read without executing anything in them."""

from __future__ import annotations

import logging
import os
import re
from pathlib import Path
from typing import Any

import torch
from fvcore.common.checkpoint import Checkpointer as FvcoreCheckpointer
from torch import nn

from semask_d2.checkpoint.backbone_training import RECORD as TRAINING
from semask_d2.checkpoint.backbone_training import training_of_model
from semask_d2.checkpoint.class_metadata import METADATA, warn_of_other_classes
from semask_d2.checkpoint.frozen_layers import absolute, frozen_checksum, frozen_names
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
    """Saves and loads a model and, with `trainer`, the state that a resumed run needs.

    Files are `NAME.pth` with `{"model": ..., "trainer": ..., "iteration": N}`; `last_checkpoint` names the newest.
    With `classes`, every file records them as "metadata", and loading a file with other class names logs a warning.
    With `frozen_weights`, files lack the frozen layers of the backbone and name these weights, which have them.
    Every parameter of the model must be loaded. The exception is a `training_start`, a run that does not resume: it
    may lack the tensors that `load_weights` lists, and with `drop_class_layers` skips layers that depend on the
    classes.
    """

    def __init__(
        self,
        model: nn.Module,
        save_dir: str = "",
        *,
        training_start: bool = False,
        drop_class_layers: bool = False,
        bgr: bool = False,
        classes: Classes | None = None,
        frozen_weights: str = "",
        **checkpointables: Any,
    ):
        super().__init__(model, save_dir, save_to_disk=comm.is_main_process(), **checkpointables)
        self.classes = classes
        self.frozen_weights = absolute(frozen_weights)
        self.frozen_checksum: str | None = None  # computed once, because frozen layers do not change
        self.start_allowances = {"training_start": training_start, "drop_class_layers": drop_class_layers, "bgr": bgr}

    def save(self, name: str, **kwargs: Any) -> None:
        """Write `NAME.pth`, with `kwargs` in addition to the model's state, and point `last_checkpoint` to it."""
        if self.write(name, **kwargs):
            self.tag_last_checkpoint(f"{name}.pth")

    def write(self, name: str, *, model: nn.Module | None = None, weights_only: bool = False, **kwargs: Any) -> bool:
        """Write `NAME.pth` without changing `last_checkpoint`; return False on processes that do not write.

        `model` may be another model of the same layout, such as an average of the weights.

        Raises `UserError`, and writes nothing, if a weight is not finite, since no run could resume from it.
        """
        if not self.save_dir or not self.save_to_disk:
            return False
        model = self.model if model is None else model
        weights = model.state_dict()
        if not all_finite(weights):
            last = self.newest_numbered()
            raise UserError(
                f"the weights are no longer finite, so {name}.pth was not written; the last good checkpoint is "
                f"{last or '(none)'}. Continue from it with --resume and a lower SOLVER.BASE_LR, or without "
                "SOLVER.AMP.ENABLED"
            )
        training = training_of_model(model)
        if self.frozen_weights:
            left_out = frozen_names(model)
            self.frozen_checksum = self.frozen_checksum or frozen_checksum(weights, left_out)
            training |= {"weights": self.frozen_weights, "checksum": self.frozen_checksum}
            weights = {name: value for name, value in weights.items() if name not in left_out}
        state: dict[str, Any] = {"model": weights, RECORD: windows_of_model(model)}
        if training:
            state[TRAINING] = training
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
        """Return the folder's numbered checkpoints (`model_0000099.pth`, ...), oldest first."""
        files = [path for path in Path(self.save_dir).glob("model_*.pth") if NUMBERED.fullmatch(path.name)]
        return sorted(files, key=lambda path: int(path.stem.removeprefix("model_")))

    def newest_numbered(self) -> Path | None:
        """Return the folder's newest numbered checkpoint, None if there is none."""
        return next(reversed(self.numbered()), None)

    def remove_all_but(self, count: int) -> None:
        """Remove all numbered checkpoints except the `count` newest ones; 0 keeps all."""
        if count > 0 and self.save_to_disk:
            for path in self.numbered()[:-count]:
                path.unlink(missing_ok=True)

    def has_checkpoint(self) -> bool:
        """Return whether the output folder has a checkpoint to resume from.

        Raises `UserError` if `last_checkpoint` exists and does not name one.
        """
        return bool(self.get_checkpoint_file())

    def get_checkpoint_file(self) -> str:
        """Return the path that `last_checkpoint` names, "" if there is no checkpoint; errors as `has_checkpoint`."""
        pointer, newest = Path(self.save_dir, LAST), self.newest_numbered()
        advice = f"; to continue from the newest checkpoint there, write {newest.name} into it" if newest else ""
        if not os.path.lexists(pointer):
            if newest is None:
                return ""
            # a run was killed after it wrote its first checkpoint and before it wrote the pointer
            logger.warning("%s is missing: continuing from the newest checkpoint there, %s", pointer, newest.name)
            return str(newest)
        try:
            name = last_checkpoint(self.save_dir)
        except UserError as error:
            raise UserError(f"{error}{advice}") from error
        path = Path(self.save_dir, name)
        if not name or not path.is_file():
            raise UserError(f"{pointer} names {name!r}, which is not a file in {self.save_dir}{advice}")
        return str(path)

    def load(self, path: str, checkpointables: list[str] | None = None) -> dict[str, Any]:
        """Load all model weights and `checkpointables` (None: all); return the rest of the file's content."""
        return self._load(path, list(self.checkpointables) if checkpointables is None else checkpointables)

    def _load(self, path: str, checkpointables: list[str], **allowances: bool) -> dict[str, Any]:
        if not path:
            logger.info("No weights to load: the model is initialized from scratch")
            return {}
        logger.info("Loading %s", path)
        data = read_checkpoint(path)
        for key in checkpointables:
            if key not in data:
                raise UserError(f'{path}: it has no state "{key}", so the run cannot resume from it')
        load_checkpoint(self.model, data, path, **allowances)
        if self.classes is not None and not allowances.get("drop_class_layers"):
            warn_of_other_classes(data, self.classes, path)
        for key in checkpointables:
            try:
                self.checkpointables[key].load_state_dict(data.pop(key))
            except UserError as error:
                raise UserError(f"{path}: {error}") from error
        return {key: value for key, value in data.items() if key not in ("model", RECORD, TRAINING, METADATA)}

    def resume_or_load(self, path: str, *, resume: bool = True) -> dict[str, Any]:
        """Load the last checkpoint of the output folder if `resume` and there is one; otherwise load `path`."""
        if resume:
            have_checkpoint = comm.all_gather(self.has_checkpoint())
            if any(have_checkpoint) and not all(have_checkpoint):
                missing = [rank for rank, has in enumerate(have_checkpoint) if not has]
                raise UserError(
                    f"{self.save_dir}: processes {missing} find no checkpoint to resume from, but others do; "
                    "copy the output folder to every machine"
                )
            if all(have_checkpoint):
                return self.load(self.get_checkpoint_file())
            if not path and not self.checkpointables:  # without a trainer this is an evaluation, which needs weights
                raise UserError(f"{self.save_dir}: no checkpoint there; add MODEL.WEIGHTS FILE, or correct OUTPUT_DIR")
            logger.info("%s holds no checkpoint to resume from", self.save_dir)
        return self._load(path, [], **self.start_allowances)


def all_finite(state: dict[str, Any]) -> bool:
    """Return whether all floating-point tensors of a state dict are finite; synchronizes with the device once."""
    checks = [x.isfinite().all() for x in state.values() if torch.is_tensor(x) and x.is_floating_point()]
    return not checks or bool(torch.stack(checks).all())
