"""The command lines that tests run: where the scripts lie, and a model that is quick to train."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).resolve().parents[2]
TOY_CONFIG = ROOT / "configs/toy_scenes/semask_swin_mini_msfapn_m2f.yaml"
# what is small in every tiny model that a config describes; tiny_model.py has the variant of the formulas' tests
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
}
# the words of a command line; an iteration of it takes some tens of milliseconds
TINY = tuple(str(word) for pair in (TINY_MODEL | TINY_TRAINING).items() for word in pair)


def load_script(path: str) -> ModuleType:
    """A script of the project, by its path in it, as a module."""
    name = f"script_{Path(path).stem}"
    spec = importlib.util.spec_from_file_location(name, ROOT / path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # where dataclasses look for their annotations
    spec.loader.exec_module(module)
    return module
