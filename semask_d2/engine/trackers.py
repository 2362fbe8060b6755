"""Experiment trackers beside tensorboard: what a training records goes to Weights & Biases or MLflow as well.

Their libraries are the extras "wandb" and "mlflow". Where they put what they get, and who one is there, is theirs to
say: WANDB_PROJECT, WANDB_MODE, MLFLOW_TRACKING_URI, MLFLOW_EXPERIMENT_NAME and so on. A resumed run goes on in the
tracker's run that it began.
"""

from __future__ import annotations

import importlib
import json
import logging
import os
import re
import time
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from semask_d2.d2 import CfgNode, EventWriter, get_event_storage
from semask_d2.utils.errors import UserError
from semask_d2.utils.extras import install_command
from semask_d2.utils.files import atomic_write, require_regular
from semask_d2.utils.foreign import Section, shown
from semask_d2.utils.nested import flattened

logger = logging.getLogger(__name__)

IDS_FILE = "trackers.json"  # of a run folder: each tracker's number for the run
MLFLOW_LETTERS = re.compile(r"[^\w\-. :/]")  # those that a metric's name cannot have
RUN_ID = re.compile(r"\w[\w .@+=~-]{0,127}")  # no path, and nothing that a path could begin with
WINDOW = 20  # iterations whose median is recorded, as in metrics.json
PARAMETER_LENGTH = 500  # letters that every MLflow server takes


class Tracker(EventWriter):
    """Hands new scalars and pictures to a tracker's library, which `library` names.

    The tracker's run begins with the first write; what it refuses then is a `UserError`, as nothing is lost yet. Later
    refusals, of a network mostly, are one warning and never end a training.
    """

    library = ""

    def __init__(self, cfg: CfgNode):
        self.cfg = cfg
        self.module = import_extra(self.library)
        self.run: Any = None
        self.last_iteration = -1
        self.last_picture = -1
        self.failed = False

    def write(self) -> None:
        if self.failed:
            return
        if self.run is None:
            try:
                self.begin(read_ids(self.cfg.OUTPUT_DIR).get(self.library))
            except Exception as error:  # of whatever type the library's are
                reason = " ".join(str(error).split())
                raise UserError(
                    f'TRACKERS: "{self.library}" does not start ({type(error).__name__}: {reason}); see its '
                    "documentation, or leave it out"
                ) from error
            write_id(self.cfg.OUTPUT_DIR, self.library, self.run_id)
        storage = get_event_storage()
        new: dict[int, dict[str, float]] = {}
        for name, (value, iteration) in storage.latest_with_smoothing_hint(WINDOW).items():
            if iteration > self.last_iteration:
                new.setdefault(iteration, {})[name] = value
        pictures = [entry for entry in storage._vis_data if entry[2] > self.last_picture]
        self.last_iteration = max(new, default=self.last_iteration)
        self.last_picture = max((iteration for *_, iteration in pictures), default=self.last_picture)
        try:
            for iteration, scalars in sorted(new.items()):
                self.put_scalars(scalars, iteration)
            for name, picture, iteration in pictures:
                self.put_picture(name, np.asarray(picture).transpose(1, 2, 0), iteration)
        except Exception as error:
            self.failed = True
            logger.warning("%s takes nothing more: %s: %s", self.library, type(error).__name__, error)

    def close(self) -> None:
        if self.run is not None:
            try:
                self.end()
            except Exception as error:
                logger.warning("%s did not end well: %s: %s", self.library, type(error).__name__, error)

    def begin(self, run_id: str | None) -> None:
        """Set `run`: a new one, or that of `run_id` to go on with."""
        raise NotImplementedError

    @property
    def run_id(self) -> str:
        """What the tracker calls its run."""
        raise NotImplementedError

    def put_scalars(self, scalars: Mapping[str, float], iteration: int) -> None:
        """Record numbers of one iteration."""
        raise NotImplementedError

    def put_picture(self, name: str, picture: np.ndarray, iteration: int) -> None:
        """Record an RGB picture (H, W, 3)."""
        raise NotImplementedError

    def end(self) -> None:
        """Send off what is left."""
        raise NotImplementedError


class WandbTracker(Tracker):
    """Weights & Biases. The iteration is a field of its own, as a resumed run repeats some, which a step cannot."""

    library = "wandb"

    def begin(self, run_id: str | None) -> None:
        folder = self.cfg.OUTPUT_DIR
        self.run = self.module.init(
            dir=folder, id=run_id, resume="allow", name=Path(folder).resolve().name, config=flattened(self.cfg)
        )
        self.run.define_metric("iteration")
        self.run.define_metric("*", step_metric="iteration")

    @property
    def run_id(self) -> str:
        return self.run.id

    def put_scalars(self, scalars: Mapping[str, float], iteration: int) -> None:
        self.run.log({**scalars, "iteration": iteration})

    def put_picture(self, name: str, picture: np.ndarray, iteration: int) -> None:
        self.run.log({name: self.module.Image(picture), "iteration": iteration})

    def end(self) -> None:
        self.run.finish()


class MlflowTracker(Tracker):
    """MLflow; letters that a name there cannot have become underscores."""

    library = "mlflow"

    def begin(self, run_id: str | None) -> None:
        name = Path(self.cfg.OUTPUT_DIR).resolve().name
        self.client = self.module.MlflowClient()
        self.run = self.module.start_run(run_id=run_id, run_name=None if run_id else name)
        for key, value in flattened(self.cfg).items() if run_id is None else ():
            self.client.log_param(self.run_id, key, str(value)[:PARAMETER_LENGTH], synchronous=False)
        self.client.log_text(self.run_id, self.cfg.dump(), "config.yaml")

    @property
    def run_id(self) -> str:
        return self.run.info.run_id

    def put_scalars(self, scalars: Mapping[str, float], iteration: int) -> None:
        now = int(1000 * time.time())
        metric = self.module.entities.Metric
        metrics = [metric(MLFLOW_LETTERS.sub("_", name), value, now, iteration) for name, value in scalars.items()]
        self.client.log_batch(self.run_id, metrics=metrics)

    def put_picture(self, name: str, picture: np.ndarray, iteration: int) -> None:
        self.client.log_image(self.run_id, picture, key=MLFLOW_LETTERS.sub("_", name), step=iteration)

    def end(self) -> None:
        self.module.end_run()


TRACKERS: dict[str, type[Tracker]] = {tracker.library: tracker for tracker in (WandbTracker, MlflowTracker)}


def build_trackers(cfg: CfgNode) -> list[Tracker]:
    """The writers that TRACKERS names; `UserError`, naming the extra, where a library is missing."""
    return [TRACKERS[name](cfg) for name in cfg.TRACKERS]


def import_extra(library: str) -> ModuleType:
    """A tracker's library, which is an extra of this package."""
    try:
        return importlib.import_module(library)
    except ImportError as error:
        raise UserError(f'TRACKERS: "{library}" needs its library ({error}): {install_command(library)}') from error


def read_ids(folder: str | os.PathLike) -> dict[str, str]:
    """Each tracker's number for the run of a folder; empty where it has none.

    What is damaged, or cannot be a number that a tracker gave, is left out with a warning: a tracker's library takes
    the number for the name of a folder.
    """
    path = Path(folder, IDS_FILE)
    try:
        ids = Section.of(json.loads(require_regular(path).read_text(encoding="utf-8")), str(path)).values
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError, UserError) as error:
        logger.warning("%s is left out, trackers begin new runs: %s", path, error)
        return {}
    good = {name: number for name, number in ids.items() if isinstance(number, str) and RUN_ID.fullmatch(number)}
    for name in ids.keys() - good.keys():
        logger.warning("%s: %s: expected a run's number, got %s; a new run begins", path, shown(name), shown(ids[name]))
    return good


def write_id(folder: str | os.PathLike, library: str, run_id: str) -> None:
    """Keep a tracker's number for the run of a folder."""
    with atomic_write(Path(folder, IDS_FILE)) as file:
        json.dump({**read_ids(folder), library: run_id}, file)
