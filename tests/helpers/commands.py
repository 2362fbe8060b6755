"""Helpers for command lines in tests: the paths of the scripts, and a model that trains quickly."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import torch

from semask_d2 import build_model, get_cfg

ROOT = Path(__file__).resolve().parents[2]
TOY_CONFIG = ROOT / "configs/toy_scenes/semask_swin_mini_msfapn_m2f.yaml"
# small sizes for every tiny model built from a config; tiny_model.py has a variant for tests of formulas
TINY_MODEL: dict[str, object] = {
    "MODEL.DEVICE": "cpu",
    "MODEL.SWIN.EMBED_DIM": 16,
    "MODEL.SWIN.DEPTHS": [1, 1, 1, 1],
    "MODEL.SWIN.NUM_HEADS": [1, 1, 2, 2],
    "MODEL.SWIN.WINDOW_SIZE": 4,
    "MODEL.SWIN.SEM_WINDOW_SIZE": 4,
    "MODEL.SEM_SEG_HEAD.CONVS_DIM": 32,
    "MODEL.SEM_SEG_HEAD.MASK_DIM": 32,
    "MODEL.SEM_SEG_HEAD.TRANSFORMER_ENC_LAYERS": 1,
    "MODEL.MASK_FORMER.HIDDEN_DIM": 32,
    "MODEL.MASK_FORMER.DIM_FEEDFORWARD": 64,
    "MODEL.MASK_FORMER.NUM_OBJECT_QUERIES": 14,
    "MODEL.MASK_FORMER.DEC_LAYERS": 3,
    "MODEL.MASK_FORMER.TRAIN_NUM_POINTS": 128,
}
TINY_TRAINING: dict[str, object] = {
    "MODEL.SWIN.DROP_PATH_RATE": 0.1,
    "INPUT.MIN_SIZE_TRAIN": [64],
    "INPUT.MIN_SIZE_TEST": 64,
    "INPUT.CROP.SIZE": [64, 64],
    "INPUT.SIZE_DIVISIBILITY": 64,
    "SOLVER.IMS_PER_BATCH": 4,
    "DATALOADER.NUM_WORKERS": 0,
    "TEST.PICTURES": 0,  # they take longer than the training
}
# command-line settings with which an iteration takes some tens of milliseconds
TINY = tuple(str(word) for pair in (TINY_MODEL | TINY_TRAINING).items() for word in pair)


def load_script(path: str) -> ModuleType:
    """Import a script of the project, given by its path, as a module."""
    name = f"script_{Path(path).stem}"
    spec = importlib.util.spec_from_file_location(name, ROOT / path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look up annotations there
    spec.loader.exec_module(module)
    return module


def write_tiny_run(folder: Path, config: Path) -> Path:
    """Write a run folder with the tiny model of a config file as `model_best.pth`, and return it."""
    folder.mkdir()
    torch.manual_seed(0)
    cfg = get_cfg(config, list(TINY))
    torch.save({"model": build_model(cfg).state_dict()}, folder / "model_best.pth")
    (folder / "config.yaml").write_text(cfg.dump())
    return folder
