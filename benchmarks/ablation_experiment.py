"""Experiments described by YAML files: one config and dataset, variants of settings, and paired seeds."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from semask_d2.config import all_keys, get_cfg
from semask_d2.config.custom_data import known_keys
from semask_d2.config.yaml_files import read_values
from semask_d2.d2 import CfgNode
from semask_d2.data import register_custom
from semask_d2.data.datasets import get_dataset_dicts
from semask_d2.utils.arguments import value_of
from semask_d2.utils.errors import UserError
from semask_d2.utils.foreign import Section, integer

KEYS = ("config", "data", "settings", "iterations", "evaluate_every", "baseline", "seeds", "variants")
# settings of the machine or the run, on which no result depends
NOT_PROTOCOL = ("SEED", "OUTPUT_DIR", "MODEL.DEVICE", "DATALOADER.NUM_WORKERS", "DATASETS.CUSTOM.ROOT")


class Run(NamedTuple):
    """One training of an experiment."""

    variant: str
    seed: int


@dataclass(frozen=True)
class Experiment:
    """Variants of one config, all trained with the same seeds; `settings` maps keys to values, as on a command line."""

    path: Path
    config: str
    data: str | None
    settings: Mapping[str, str]
    iterations: int
    evaluate_every: int
    baseline: str
    seeds: Sequence[int]
    variants: Mapping[str, Mapping[str, str]]

    @property
    def name(self) -> str:
        """Name of the file without suffix, which is also the name of its results."""
        return self.path.stem

    @property
    def runs(self) -> list[Run]:
        """All runs, seed by seed with all variants, so that an unfinished experiment has pairs to compare."""
        return [Run(variant, seed) for seed in self.seeds for variant in self.variants]

    def cfg(self, variant: str | None = None, seed: int = 0, folder: str | Path = "output") -> CfgNode:
        """Return the config of one run; without `variant`, the config that all runs share."""
        settings = {
            **self.settings,
            "SOLVER.MAX_ITER": self.iterations,
            "TEST.EVAL_PERIOD": self.evaluate_every,
            "SOLVER.CHECKPOINT_PERIOD": 10**6,
            "DATALOADER.NUM_WORKERS": 0,
            **(self.variants[variant] if variant else {}),
            "SEED": seed,
            "OUTPUT_DIR": folder,
        }
        words = [str(word) for pair in settings.items() for word in pair]
        try:
            return get_cfg(self.config, words, data=self.data)
        except UserError as error:
            raise UserError(f"{self.path}: {variant or 'settings'}: {error}") from error

    def protocol(self) -> str:
        """Return a fingerprint of the settings that all runs share and that differ from the defaults."""
        cfg, defaults = self.cfg(), get_cfg()
        values = {key: value_of(cfg, key) for key in all_keys(cfg) if key not in NOT_PROTOCOL}
        changed = {key: value for key, value in values.items() if value != value_of(defaults, key)}
        return fingerprint(changed)

    def data_fingerprint(self) -> str:
        """Return a fingerprint of the data: the names and sizes of all image and label files."""
        cfg = self.cfg()
        register_custom(cfg)
        files = []
        for name in (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST):
            for record in get_dataset_dicts(name):
                paths = [Path(record[key]) for key in ("file_name", "sem_seg_file_name") if key in record]
                files.append([name, *((path.name, path.stat().st_size) for path in paths)])
        return fingerprint(files)


def fingerprint(values: Any) -> str:
    """Return a short hash of plain values."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:12]


def read_experiment(path: str | Path) -> Experiment:
    """Read an experiment's YAML file; raises `UserError` for a key that is unknown, missing or wrong."""
    path = Path(path)
    values = read_values(path, (), None)
    known_keys(values, KEYS, str(path))
    file = Section(values, str(path))
    data = file.text("data", None)
    iterations = file.integer("iterations", low=1)
    variants = file.section("variants")
    experiment = Experiment(
        path=path,
        config=file.text("config"),
        data=str(path.parent / data) if data else None,
        settings=settings_of(file.section("settings", Section({}, ""))),
        iterations=iterations,
        evaluate_every=file.integer("evaluate_every", iterations, low=1),
        baseline=file.text("baseline", choices=list(variants.values)),
        seeds=[integer(seed, f"{path}: seeds", low=0) for seed in file.entries("seeds")],
        variants={str(name): settings_of(variants.section(name, Section({}, ""))) for name in variants.values},
    )
    if len(set(experiment.seeds)) < len(experiment.seeds) or not experiment.seeds:
        raise UserError(f"{path}: seeds: expected at least one seed and no duplicates, got {list(experiment.seeds)}")
    return experiment


def settings_of(section: Section) -> dict[str, str]:
    """Return a mapping of config keys to values as strings, as on a command line."""
    return {str(key): str(value) for key, value in section.values.items()}
