#!/usr/bin/env python3
"""One run of an ablation, started by `ablation.py` in a separate process: train, evaluate, write the result.

    python benchmarks/ablation_run.py EXPERIMENT VARIANT SEED FOLDER

The run ends when its standard input is closed, so it never outlives an `ablation.py` that was killed.
"""

from __future__ import annotations

import json
import math
import os
import statistics
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import torch
import torch.nn.functional as F
from ablation_experiment import Experiment, Run, read_experiment
from ablation_results import Result
from torch import Tensor

from semask_d2.d2 import CfgNode, seed_all_rng
from semask_d2.data import register_custom, require_data
from semask_d2.data.labels import read_sample_labels
from semask_d2.data.loader import build_test_loader
from semask_d2.engine import Trainer
from semask_d2.engine.launch import guarded
from semask_d2.engine.setup import setup
from semask_d2.evaluation.confusion import ConfusionMatrix, mean_of_present
from semask_d2.modeling.layers.semantic_attention import SemanticAttention
from semask_d2.modeling.layers.semantic_decoder import SEMANTIC_MAPS, decode_semantic_prior
from semask_d2.modeling.meta_arch import SemanticSegmenter, build_model
from semask_d2.utils.files import atomic_write
from semask_d2.utils.memory import peak_memory

RESULT_NAME = "result.json"


def main(experiment: Experiment, run: Run, folder: Path) -> None:
    """Train one variant with one seed in `folder`, and write the result to its `result.json`."""
    start = time.perf_counter()
    result = train(experiment, run, folder)
    result |= {
        "seconds": round(time.perf_counter() - start, 1),
        "cpu_seconds": round(time.process_time(), 1),
        "peak_mb": round(peak_memory() / 1e6),
    }
    with atomic_write(folder / RESULT_NAME) as file:
        json.dump(result, file)


def train(experiment: Experiment, run: Run, folder: Path) -> Result:
    """Train and evaluate; return the mIoU during and after training, and the final mIoU of the semantic maps."""
    cfg = experiment.cfg(run.variant, run.seed, folder)
    register_custom(cfg)
    setup(cfg, training=True, resume=False)
    require_data(cfg, (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST))
    training_only = cfg.clone()
    training_only.DATASETS.TEST = ()  # skips images and reports, which take time
    curve: dict[str, float] = {}
    steps: list[float] = []

    class PairedTrainer(Trainer):
        @classmethod
        def build_model(cls, cfg: CfgNode) -> SemanticSegmenter:
            model = super().build_model(cfg)
            assert isinstance(model, SemanticSegmenter)
            model.load_state_dict(paired_weights(experiment, run))
            return model

        def run_step(self) -> None:
            start = time.process_time()  # unaffected by other programs
            super().run_step()
            steps.append(time.process_time() - start)
            done = self.iter + 1
            if done % experiment.evaluate_every == 0 and done < self.max_iter:
                curve[str(done)] = mious(cfg, self.checkpointer.model, maps=False)["mIoU"]

    trainer = PairedTrainer(training_only)
    trainer.resume_or_load(resume=False)
    trainer.train()
    model = trainer.checkpointer.model
    final = mious(cfg, model, maps=True)
    miou = final.pop("mIoU")
    curve[str(experiment.iterations)] = miou
    gates = [block.gamma.abs().mean().item() for block in model.modules() if isinstance(block, SemanticAttention)]
    return {
        "mIoU": miou,
        "maps": final,
        "curve": curve,
        "gates": [round(gate, 5) for gate in gates],  # how much each semantic attention contributes
        "step_cpu_seconds": round(statistics.median(steps), 4),
    }


def paired_weights(experiment: Experiment, run: Run) -> dict[str, Tensor]:
    """Return a run's initial weights, in which random values are shared with the other variants of the same seed.

    Each variant draws from one generator, so equal seeds alone would give different weights if the layers differ.
    Random tensors are therefore copied from the first variant that has the same name, shape and spread. Constants, and
    values that a variant draws from another distribution, are kept.
    """
    weights: dict[str, Tensor] = {}
    common: dict[str, Tensor] = {}
    for variant in experiment.variants:
        seed_all_rng(run.seed)
        weights = build_model(experiment.cfg(variant, run.seed)).state_dict()
        for name, value in weights.items():
            if is_random(value):
                shared = common.setdefault(name, value)
                weights[name] = shared if alike(shared, value) else value
        if variant == run.variant:
            break
    return weights


def is_random(value: Tensor) -> bool:
    """Return whether a tensor's values differ from each other."""
    return value.is_floating_point() and value.numel() > 1 and bool((value != value.flatten()[0]).any())


def alike(a: Tensor, b: Tensor) -> bool:
    """Return whether two random tensors have equal shapes, and standard deviations consistent with one distribution."""
    if a.shape != b.shape:
        return False
    standard_error = a.numel() ** -0.5  # of the difference of the logarithms of two standard deviations
    return abs(math.log(a.double().std() / b.double().std())) < 6 * standard_error


@torch.inference_mode()
def mious(cfg: CfgNode, model: SemanticSegmenter, *, maps: bool) -> dict[str, float]:
    """Return the "mIoU" of a model in percent; with `maps` also the mIoU of each semantic map, and of their "sum".

    A map is resized to the image, as the prior loss resizes the sum, and its argmax is evaluated.
    """
    align = model.prior_align_corners
    names = [*SEMANTIC_MAPS, "sum"] if maps and model.has_priors else []
    matrices = {
        name: ConfusionMatrix(model.num_classes, cfg.MODEL.SEM_SEG_HEAD.IGNORE_VALUE) for name in ("mIoU", *names)
    }
    was_training = model.training
    model.eval()
    for (sample,) in build_test_loader(cfg, cfg.DATASETS.TEST[0]):
        ground_truth = read_sample_labels(sample)
        images = model.normalizer([sample["image"]], model.size_divisibility)
        ((height, width),) = images.image_sizes
        features = model.backbone(images.tensor)
        (score_map,) = model.score_maps([sample], images, model.sem_seg_head(features))
        matrices["mIoU"].update(score_map.labels().cpu().numpy(), ground_truth)
        semantics = {**features, "sum": decode_semantic_prior(features, align_corners=align)}
        for name in names:
            padded = F.interpolate(semantics[name], images.tensor.shape[-2:], mode="bilinear", align_corners=align)
            image = F.interpolate(
                padded[..., :height, :width], ground_truth.shape, mode="bilinear", align_corners=False
            )
            matrices[name].update(image[0].argmax(0).cpu().numpy(), ground_truth)
    model.train(was_training)
    return {name: round(100 * mean_of_present(matrix.iou), 4) for name, matrix in matrices.items()}


def end_with_parent() -> None:
    """End this process when its standard input is closed, which means that its parent has ended."""

    def wait() -> None:
        while os.read(0, 1):
            pass
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def lower_priority() -> None:
    """Give this process and its session the lowest priority: Linux compares niceness only within a session."""
    os.nice(19)
    with suppress(OSError):  # a kernel without groups of sessions
        Path("/proc/self/autogroup").write_text("19")


if __name__ == "__main__":
    end_with_parent()
    lower_priority()
    _, file, variant, seed, output = sys.argv
    sys.exit(guarded(main, read_experiment(file), Run(variant, int(seed)), Path(output), debug=False))
