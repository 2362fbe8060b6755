"""Hints for options and arguments that other programs have, such as mmsegmentation's `--work-dir`."""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Sequence
from typing import NoReturn

CONFIGS, WEIGHTS = (".yaml", ".yml"), (".pth", ".pt", ".pkl", ".bin", ".safetensors", ".onnx", ".xml")
SETTINGS = "settings follow at the end as KEY VALUE"
# options of mmsegmentation, transformers and other trainers, with what to write instead
OPTIONS = {
    "--work-dir": "--output DIR",
    "--out": "--output; `semask eval` always writes its results as JSON and CSV files (inference/ in the run folder)",
    "--cfg-options": f"SOLVER.MAX_ITER 1000, for example: {SETTINGS}",
    "--show-dir": "semask predict --input IMAGES --output DIR, with --compare DIR for ground truth and errors",
    "--show": "semask predict without --output, which opens a window",
    "--eval": "nothing: mIoU, the IoU of each class and accuracies are always computed",
    "--launcher": "--num-gpus N, or start train_net.py with torchrun",
    "--gpus": "--num-gpus N",
    "--gpu-ids": "--device cuda:N",
    "--amp": "SOLVER.AMP.ENABLED True at the end",
    "--fp16": "SOLVER.AMP.ENABLED True at the end",
    "--bf16": "MODEL.PRECISION bf16 at the end",
    "--tta": "TEST.AUG.ENABLED True at the end",
    "--seed": "SEED N at the end",
    "--lr": "SOLVER.BASE_LR X at the end",
    "--learning_rate": "SOLVER.BASE_LR X at the end",
    "--batch-size": "SOLVER.IMS_PER_BATCH N at the end",
    "--per_device_train_batch_size": "SOLVER.IMS_PER_BATCH N at the end, over all GPUs",
    "--epochs": "SOLVER.MAX_ITER N at the end, in iterations of SOLVER.IMS_PER_BATCH images",
    "--num_train_epochs": "SOLVER.MAX_ITER N at the end, in iterations of SOLVER.IMS_PER_BATCH images",
    "--config": "--config-file FILE",
    "--cfg": "--config-file FILE",
    "--checkpoint": "--weights SOURCE",
    "--ckpt": "--weights SOURCE",
    "--model": "--weights SOURCE for a trained model, --config-file NAME for a new one",
    "--model_name_or_path": "--weights SOURCE",
    "--load-from": "--weights SOURCE",
    "--resume-from": "--resume, which continues the run in --output DIR",
    "--data-root": "--data FILE; semask init-data FOLDER drafts the file",
    "--dataset": "--data FILE for your own, DATASETS.TRAIN NAME at the end for a registered one",
    "--output_dir": "--output DIR",
    "--out-dir": "--output DIR",
}


class Parser(argparse.ArgumentParser):
    """Parser that accepts no abbreviations, and names what to write instead of an option of another program."""

    words: Sequence[str] = ()  # to be parsed, set by `arguments.parse`

    def __init__(self, *args, **options):
        super().__init__(*args, **{"allow_abbrev": False, **options})

    def error(self, message: str) -> NoReturn:
        unknown = [word.partition("=")[0] for word in self.words if word.startswith("--")]
        hints = [f"{word}: write {OPTIONS[word]}" for word in unknown if self._is_foreign(word)]
        super().error("; ".join([message, *dict.fromkeys(hints)]))

    def _is_foreign(self, word: str) -> bool:
        return word in OPTIONS and word not in self._option_string_actions


def misplaced(words: Sequence[str]) -> str:
    """Return a message about arguments that are neither options nor settings, such as mmsegmentation's config file."""
    if python := next((word for word in words if word.endswith(".py")), None):
        return (
            f"{python}: Python configs are not read; name a YAML config with --config-file "
            "(docs/migration.md has the keys)"
        )
    options = []
    for word in words:
        if word.endswith(CONFIGS):
            options.append(f"--config-file {word}")
        elif word.endswith(WEIGHTS) or os.path.isdir(word) or re.fullmatch(r"[\w.-]+/[\w.-]+", word):
            options.append(f"--weights {word}")
        else:
            return f"{word}: expected an option or a setting; {SETTINGS}, such as SOLVER.MAX_ITER 1000"
    return f"{words[0]}: arguments have names: write {' '.join(options)}"
