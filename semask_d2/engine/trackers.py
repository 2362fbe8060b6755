"""Experiment trackers besides TensorBoard: logging a run to Weights & Biases or MLflow.

Their libraries are the extras "wandb" and "mlflow". Server, project and account are configured with the libraries'
environment variables: WANDB_PROJECT, WANDB_MODE, MLFLOW_TRACKING_URI, MLFLOW_EXPERIMENT_NAME and so on. A resumed run
continues its run in the tracker.
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

IDS_FILE = "trackers.json"  # in a run folder: each tracker's id of the run
MLFLOW_LETTERS = re.compile(r"[^\w\-. :/]")  # characters that MLflow does not allow in metric names
RUN_ID = re.compile(r"\w[\w .@+=~-]{0,127}")  # neither a path nor the start of one
WINDOW = 20  # iterations whose median is recorded, as in metrics.json
PARAMETER_LENGTH = 500  # characters that every MLflow server accepts


class Tracker(EventWriter):
    """Writes new scalars and images to an experiment tracker, using the library named by `library`.

    The first write starts the tracker's run. If that fails, it raises `UserError`, as no work is lost yet. A later
    failure, mostly of the network, is logged as one warning and never ends the training.
    """

    library = ""

    def __init__(self, cfg: CfgNode):
        self.cfg = cfg
        self.module = import_extra(self.library)
        self.run: Any = None
        self.last_iteration = -1
        self.last_image = -1
        self.failed = False

    def write(self) -> None:
        if self.failed:
            return
        if self.run is None:
            try:
                self.begin(read_ids(self.cfg.OUTPUT_DIR).get(self.library))
            except Exception as error:  # libraries raise errors of any type
                reason = " ".join(str(error).split())
                raise UserError(
                    f'TRACKERS: "{self.library}" does not start ({type(error).__name__}: {reason}); see its '
                    "documentation, or remove it from TRACKERS"
                ) from error
            write_id(self.cfg.OUTPUT_DIR, self.library, self.run_id)
        storage = get_event_storage()
        new: dict[int, dict[str, float]] = {}
        for name, (value, iteration) in storage.latest_with_smoothing_hint(WINDOW).items():
            if iteration > self.last_iteration:
                new.setdefault(iteration, {})[name] = value
        images = [entry for entry in storage._vis_data if entry[2] > self.last_image]
        self.last_iteration = max(new, default=self.last_iteration)
        self.last_image = max((iteration for *_, iteration in images), default=self.last_image)
        try:
            for iteration, scalars in sorted(new.items()):
                self.put_scalars(scalars, iteration)
            for name, image, iteration in images:
                self.put_image(name, np.asarray(image).transpose(1, 2, 0), iteration)
        except Exception as error:
            self.failed = True
            logger.warning("%s is switched off after an error: %s: %s", self.library, type(error).__name__, error)

    def close(self) -> None:
        if self.run is not None:
            try:
                self.end()
            except Exception as error:
                logger.warning("%s could not finish its run: %s: %s", self.library, type(error).__name__, error)

    def begin(self, run_id: str | None) -> None:
        """Set `run` to a new run, or to the run `run_id` to continue it."""
        raise NotImplementedError

    @property
    def run_id(self) -> str:
        """Identifier of the run in the tracker."""
        raise NotImplementedError

    def put_scalars(self, scalars: Mapping[str, float], iteration: int) -> None:
        """Record the scalars of one iteration."""
        raise NotImplementedError

    def put_image(self, name: str, image: np.ndarray, iteration: int) -> None:
        """Record an RGB image (H, W, 3)."""
        raise NotImplementedError

    def end(self) -> None:
        """Send the remaining data and end the run."""
        raise NotImplementedError


class WandbTracker(Tracker):
    """Weights & Biases. The iteration is logged as a metric, as a resumed run repeats some and steps must increase."""

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

    def put_image(self, name: str, image: np.ndarray, iteration: int) -> None:
        self.run.log({name: self.module.Image(image), "iteration": iteration})

    def end(self) -> None:
        self.run.finish()


class MlflowTracker(Tracker):
    """MLflow; characters that it does not allow in names become underscores."""

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

    def put_image(self, name: str, image: np.ndarray, iteration: int) -> None:
        self.client.log_image(self.run_id, image, key=MLFLOW_LETTERS.sub("_", name), step=iteration)

    def end(self) -> None:
        self.module.end_run()


TRACKERS: dict[str, type[Tracker]] = {tracker.library: tracker for tracker in (WandbTracker, MlflowTracker)}


def build_trackers(cfg: CfgNode) -> list[Tracker]:
    """Return the trackers named by TRACKERS; raises `UserError` with the extra to install if a library is missing."""
    return [TRACKERS[name](cfg) for name in cfg.TRACKERS]


def import_extra(library: str) -> ModuleType:
    """Import and return a tracker's library, which is an extra of this package."""
    try:
        return importlib.import_module(library)
    except ImportError as error:
        raise UserError(f'TRACKERS: "{library}" needs its library ({error}): {install_command(library)}') from error


def read_ids(folder: str | os.PathLike) -> dict[str, str]:
    """Return the run ids of the trackers that a run folder has stored, by library.

    Ids that are damaged or invalid are skipped with a warning, because a tracker's library uses the id as a folder
    name.
    """
    path = Path(folder, IDS_FILE)
    try:
        ids = Section.of(json.loads(require_regular(path).read_text(encoding="utf-8")), str(path)).values
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError, UserError) as error:
        logger.warning("%s is ignored, and trackers start new runs: %s", path, error)
        return {}
    valid = {name: run_id for name, run_id in ids.items() if isinstance(run_id, str) and RUN_ID.fullmatch(run_id)}
    for name in ids.keys() - valid.keys():
        logger.warning("%s: %s: expected a run id, got %s; a new run starts", path, shown(name), shown(ids[name]))
    return valid


def write_id(folder: str | os.PathLike, library: str, run_id: str) -> None:
    """Store a tracker's run id in the run folder."""
    with atomic_write(Path(folder, IDS_FILE)) as file:
        json.dump({**read_ids(folder), library: run_id}, file)
