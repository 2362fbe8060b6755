"""One run of the ablation: paired initial weights, control variants, mIoU of maps, and training for two steps."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from semask_d2.checkpoint import load_weights
from semask_d2.config import get_cfg
from semask_d2.d2 import build_model
from semask_d2.data.labels import read_sample_labels
from semask_d2.data.loader import build_test_loader
from semask_d2.engine import Trainer
from tests.helpers.commands import ROOT, TINY, TOY_CONFIG
from tests.helpers.tiny_model import make_inputs

sys.path.append(str(ROOT / "benchmarks"))
ablation, ablation_experiment, ablation_results, ablation_run = map(
    importlib.import_module, ("ablation", "ablation_experiment", "ablation_results", "ablation_run")
)
Run = ablation_experiment.Run

FILE = f"""
config: {TOY_CONFIG}
iterations: 2
evaluate_every: 1
seeds: [1, 2]
baseline: plain
settings: {json.dumps(dict(zip(TINY[::2], TINY[1::2], strict=True)))}
variants:
  plain: {{MODEL.SWIN.NUM_SEM_BLOCKS: 0}}
  live: {{}}
  no prior loss: {{MODEL.MASK_FORMER.CATE_WEIGHT: 0}}
  released: {{MODEL.SWIN.SEM_INIT: released}}
  normalization alone: {{MODEL.SWIN.SEM_INIT: released, MODEL.MASK_FORMER.CATE_WEIGHT: 0}}
  raw residual: {{MODEL.SWIN.SEM_RESIDUAL: raw}}
  small start: {{MODEL.SWIN.SEM_INIT: small}}
  wide: {{MODEL.SEM_SEG_HEAD.CONVS_DIM: 64}}
"""


@pytest.fixture
def experiment(tmp_path: Path):
    path = tmp_path / "toy.yaml"
    path.write_text(FILE)
    return ablation_experiment.read_experiment(path)


def weights(experiment, variant: str, seed: int = 1) -> dict[str, Tensor]:
    return ablation_run.paired_weights(experiment, Run(variant, seed))


def differing(a: dict[str, Tensor], b: dict[str, Tensor]) -> set[str]:
    """Return the names of tensors that two sets of weights share with equal shapes but different values."""
    common = {name for name in a.keys() & b.keys() if a[name].shape == b[name].shape}
    assert len(common) > 50
    return {name for name in common if not torch.equal(a[name], b[name])}


def test_what_variants_have_in_common_starts_the_same(experiment) -> None:
    plain, live = weights(experiment, "plain"), weights(experiment, "live")
    assert not differing(plain, live)
    assert live.keys() - plain.keys()
    assert not differing(live, weights(experiment, "no prior loss"))
    assert not differing(live, weights(experiment, "raw residual"))
    # the spread of a bias and the shape of a matrix depend on the number of input channels
    assert {name.rpartition(".")[2] for name in differing(live, weights(experiment, "wide"))} == {"bias"}
    asleep = differing(live, weights(experiment, "released"))
    assert {name.rpartition(".class_injection.0.")[2] for name in asleep} == {"mlp_res.weight"}
    assert len(asleep) == 4
    small = {name.rpartition(".class_injection.0.")[2] for name in differing(live, weights(experiment, "small start"))}
    assert small == {f"mlp_{part}.weight" for part in ("cls_q", "cls_k", "v", "res")}
    # the same seed alone is not enough
    torch.manual_seed(1)
    assert differing(plain, build_model(experiment.cfg("live", 1)).state_dict())


def test_seeds_differ_and_repeat_themselves(experiment) -> None:
    first = weights(experiment, "live", 1)
    torch.rand(3)
    assert not differing(first, weights(experiment, "live", 1))
    assert len(differing(first, weights(experiment, "live", 2))) > 50


def gradients(experiment, variant: str) -> dict[str, float]:
    """Return the gradient norms of a variant's second training step, by the last part of the parameter names."""
    torch.manual_seed(0)
    model = build_model(experiment.cfg(variant, 1)).train()
    model.load_state_dict(weights(experiment, variant))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    inputs = make_inputs((64, 64), (64, 64))
    for _ in range(2):
        optimizer.zero_grad()
        sum(model(inputs).values()).backward()
        optimizer.step()
    norms: dict[str, float] = {}
    for name, parameter in model.backbone.named_parameters():
        if "semantic_layer" in name:
            last = name.rpartition(".class_injection.0.")[2] or "norm1"
            norms[last] = norms.get(last, 0.0) + float(parameter.grad.norm())
    return norms


ATTENTION = ("gamma", "mlp_res.weight", "mlp_v.weight", "mlp_cls_k.weight")


@pytest.mark.slow
def test_the_controls_do_what_their_names_say(experiment) -> None:
    """`plain` has no semantic layer; in the other variants different parts of the layer learn."""
    assert not gradients(experiment, "plain")
    live, without_loss = gradients(experiment, "live"), gradients(experiment, "no prior loss")
    released, normalization = gradients(experiment, "released"), gradients(experiment, "normalization alone")
    for part in ATTENTION:
        assert live[part] > 0
        assert without_loss[part] > 0
        assert released[part] == normalization[part] == 0
    assert live["mlp_cls_q.weight"] > 100 * without_loss["mlp_cls_q.weight"] > 0  # from attention only
    assert released["mlp_cls_q.weight"] > 0
    assert normalization["mlp_cls_q.weight"] == 0


@pytest.mark.parametrize("head", ["msfapn_m2f", "fpn"])
def test_miou_of_maps(head: str, toy_data: Path, monkeypatch) -> None:
    """The mIoU is known for maps that always show one class, and whose sum shows another."""
    cfg = get_cfg(f"toy_scenes/semask_swin_mini_{head}.yaml", TINY)
    model = build_model(cfg)
    classes = cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES
    backbone = model.backbone.forward
    shown = {"sem2": 0, "sem3": 0, "sem4": 1, "sem5": 2}

    def constant(images: torch.Tensor) -> dict[str, torch.Tensor]:
        features = backbone(images)
        for name, shown_class in shown.items():
            features[name] = torch.zeros_like(features[name])
            features[name][:, shown_class] = 1
        return features

    monkeypatch.setattr(model.backbone, "forward", constant)
    mious = ablation_run.mious(cfg, model, maps=True)
    assert mious.keys() == {"mIoU", "sem2", "sem3", "sem4", "sem5", "sum"}
    truth = [read_sample_labels(sample) for (sample,) in build_test_loader(cfg, cfg.DATASETS.TEST[0])]
    counts = np.bincount(np.concatenate([x[x != 255] for x in truth]), minlength=classes)
    for name, shown_class in {**shown, "sum": 0}.items():
        expected = 100 * counts[shown_class] / counts.sum() / (counts > 0).sum()
        assert mious[name] == pytest.approx(expected, abs=1e-4)
    assert ablation_run.mious(cfg, model, maps=False).keys() == {"mIoU"}
    assert model.training


EXPERIMENTS = sorted((ROOT / "benchmarks/experiments").glob("*.yaml"))


@pytest.mark.slow
@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.stem)
def test_the_experiments_that_come_along(path: Path) -> None:
    """Every variant can be built, and existing results belong to the current version of the experiment."""
    come_along = ablation_experiment.read_experiment(path)
    for variant in come_along.variants:
        cfg = come_along.cfg(variant)
        cfg.MODEL.DEVICE = "meta"
        with torch.device("meta"):
            build_model(cfg)
    ablation_results.read_results(ROOT / f"benchmarks/results/{path.stem}.jsonl", come_along)


@pytest.mark.slow
def test_a_real_run(experiment, toy_data: Path, tmp_path: Path) -> None:
    """The process ends, its result is complete, and the mIoU equals the project's evaluation of its weights."""
    words = ["--results", str(tmp_path), "--output", str(tmp_path / "runs"), "--keep", "--seeds", "1"]
    words += ["--variants", "plain", "live"]
    ablation.main(ablation.argument_parser().parse_args([str(experiment.path), *words]))
    plain, live = map(json.loads, (tmp_path / "toy.jsonl").read_text().splitlines())
    assert plain["maps"] == {}
    assert live["maps"].keys() == {"sem2", "sem3", "sem4", "sem5", "sum"}
    assert (len(plain["gates"]), len(live["gates"])) == (0, 4)
    assert live["curve"].keys() == {"1", "2"}
    assert live["curve"]["2"] == live["mIoU"]
    assert min(live[key] for key in ("seconds", "cpu_seconds", "step_cpu_seconds", "peak_mb")) > 0
    cfg = experiment.cfg("live", 1, tmp_path / "evaluation")
    model = build_model(cfg)
    load_weights(model, tmp_path / "runs/toy/live-1/model_final.pth")
    assert Trainer.test(cfg, model)["sem_seg"]["mIoU"] == pytest.approx(live["mIoU"], abs=1e-3)
