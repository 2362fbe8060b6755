"""Parity with the released models: small cases with weights derived from their names, and full-size shapes.

`SEMASK_D2_PARITY=FOLDER pytest tests/parity` uses the cases in `FOLDER/cases` (or FOLDER itself) and the manifests in
`FOLDER/manifests` instead of the copies here.
"""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from semask_d2 import build_model, get_cfg
from semask_d2.checkpoint.conversion import released_fpn_name
from semask_d2.d2 import CfgNode
from semask_d2.modeling.layers.semantic_decoder import decode_semantic_prior
from tests.helpers import fill

HERE = Path(__file__).resolve().parent
CONFIGS = HERE.parents[1] / "configs"
FOLDER = Path(os.environ.get("SEMASK_D2_PARITY", HERE))
CASES = FOLDER / "cases" if (FOLDER / "cases").is_dir() else FOLDER
MANIFESTS = FOLDER / "manifests"
SEEDS = 64

# config of the released model that the "source" of a case names
CONFIG_OF_SOURCE = {
    "SeMask-L Mask2Former, ADE20K": "ade20k/semask_swin_l_m2f.yaml",
    "SeMask-L Mask2Former FaPN, ADE20K": "ade20k/semask_swin_l_fapn_m2f.yaml",
    "SeMask-L Mask2Former MSFaPN, ADE20K": "ade20k/semask_swin_l_msfapn_m2f.yaml",
    "SeMask-L Mask2Former, Cityscapes": "cityscapes/semask_swin_l_m2f.yaml",
    "SeMask-L MaskFormer, ADE20K": "ade20k/semask_swin_l_mf.yaml",
    "SeMask-T FPN, ADE20K": "ade20k/semask_swin_t_fpn.yaml",
    "SeMask-B FPN rule (embed_dim not 96 or 192): all stages windowed": "cityscapes/semask_swin_b_fpn.yaml",
}
# the parts of a manifest's name, SeMask-SIZE-HEAD-DATA
CONFIG_OF_HEAD = {
    "FPN": "fpn",
    "MaskFormer": "mf",
    "Mask2Former": "m2f",
    "Mask2Former-FaPN": "fapn_m2f",
    "Mask2Former-MSFaPN": "msfapn_m2f",
}
FOLDER_OF_DATA = {"ADE20K": "ade20k", "Cityscapes": "cityscapes", "COCO-Stuff-10k": "coco_stuff10k"}
# the cases of Semantic FPN have shorter keys
FPN_KEYS = {
    "embed": "MODEL.SWIN.EMBED_DIM",
    "depths": "MODEL.SWIN.DEPTHS",
    "heads": "MODEL.SWIN.NUM_HEADS",
    "win": "MODEL.SWIN.WINDOW_SIZE",
    "sem": "MODEL.SWIN.SEM_WINDOW_SIZE",
    "n_cls": "MODEL.SEM_SEG_HEAD.NUM_CLASSES",
    "channels": "MODEL.SEM_SEG_HEAD.CONVS_DIM",
}
DROPS = ("p", "dropout", "attn_drop")  # attributes of modules that hold a dropout probability

case_names = sorted(path.stem for path in CASES.glob("*.json") if path.with_suffix(".npz").is_file())
manifest_names = sorted(path.stem for path in MANIFESTS.glob("*.json"))
each_case = pytest.mark.parametrize("name", case_names)


def read_spec(name: str) -> dict:
    return json.loads((CASES / f"{name}.json").read_text())


def load_config(relative: str | None, what: str, options: dict[str, object]) -> CfgNode:
    if relative is None or not (CONFIGS / relative).is_file():
        pytest.fail(f"no config is known for {what}: add it to the tables of {Path(__file__).name} (found: {relative})")
    return get_cfg(CONFIGS / relative, [text for key, value in options.items() for text in (key, str(value))])


def published_values(state: dict[str, Tensor], published_names: dict) -> dict[str, Tensor]:
    """Return the values of the case for every tensor of `state`; integer tensors keep the model's values."""
    values = dict(state)
    for published in published_names:
        tensor = state.get(released_fpn_name(published))
        if tensor is not None and tensor.is_floating_point():
            # the norm that FaPN shares has the value for its name in `layer_k`
            shared = published.replace("align_", "layer_").replace("offset.norm", "norm")
            source = shared if "offset.norm" in published else published
            values[released_fpn_name(published)] = torch.from_numpy(fill.tensor(source, tuple(tensor.shape)))
    return values


class Case(NamedTuple):
    """A case: its values, the model with its weights, and the model's outputs for its images, computed once."""

    spec: dict
    arrays: dict[str, np.ndarray]
    model: nn.Module
    inputs: list[dict]
    features: dict[str, Tensor]
    predictions: object  # of the head
    outputs: list[dict]

    @property
    def is_fpn(self) -> bool:
        return "logits" in self.arrays


@functools.cache
def load_case(name: str) -> Case:
    spec = read_spec(name)
    with np.load(CASES / f"{name}.npz") as file:
        arrays = dict(file)
    options = {"MODEL.DEVICE": "cpu", "INPUT.SIZE_DIVISIBILITY": -1}  # the losses are of unpadded images
    options |= {FPN_KEYS.get(key, key): value for key, value in spec["config"].items()}
    source = spec["source"]
    cfg = load_config(CONFIG_OF_SOURCE.get(source), f'source "{source}"', options)
    model = build_model(cfg).eval()
    model.load_state_dict(published_values(model.state_dict(), spec["state"]))
    images = torch.from_numpy(fill.image(spec["name"], spec["input"]))
    inputs = [{"image": image, "sem_seg": torch.from_numpy(labels_of(arrays, i))} for i, image in enumerate(images)]
    with torch.no_grad():
        batch = model.normalizer(list(images), spec.get("size_divisibility", 0)).tensor
        features = model.backbone(batch)
        return Case(spec, arrays, model, inputs, features, model.sem_seg_head(features), model(inputs))


def labels_of(arrays: dict[str, np.ndarray], image: int) -> np.ndarray:
    return arrays["labels"][image] if "labels" in arrays else arrays[f"labels.{image}"]


def output_arrays(case: Case) -> dict[str, Tensor]:
    """Return the model's complete outputs under the names of the cases."""
    arrays = {f"feature.res{i}": case.features[f"res{i}"] for i in range(2, 6)}
    arrays |= {f"prior.res{i}": case.features[f"sem{i}"] for i in range(2, 6)}
    arrays |= {f"sem_seg.{i}": output["sem_seg"] for i, output in enumerate(case.outputs)}
    prior = decode_semantic_prior(case.features, align_corners=not case.is_fpn)
    if case.is_fpn:
        return arrays | {"logits": case.predictions, "prior": prior}
    *_, height, width = case.spec["input"]
    arrays["prior"] = F.interpolate(prior, size=(height, width), mode="bilinear", align_corners=True)
    logits = case.predictions.class_logits
    arrays |= {f"aux{i}.pred_logits": logits[i] for i in range(len(logits) - 1)}
    return arrays | {
        "mask_features": case.predictions.mask_features,
        "pred_logits": logits[-1],
        "pred_masks": case.predictions.mask_logits(),
    }


def train_losses(case: Case) -> Callable[[], dict[str, Tensor]]:
    """Return the model's training step on the stored features and predictions, computed without dropout."""
    model = case.model

    def step() -> dict[str, Tensor]:
        forwards = {"backbone": lambda x: case.features, "sem_seg_head": lambda x: case.predictions}
        for part, forward in forwards.items():
            setattr(getattr(model, part), "forward", forward)  # noqa: B010 - overrides the method of this instance
        try:
            with torch.no_grad():
                return model.train()(case.inputs)
        finally:
            model.eval()
            for part in forwards:
                del getattr(model, part).forward

    return step


def test_there_are_cases() -> None:
    assert case_names, f"no cases in {CASES}"


@each_case
def test_parameters_have_the_published_names_and_shapes(name: str) -> None:
    case = load_case(name)
    shapes = {key: list(tensor.shape) for key, tensor in case.model.state_dict().items()}
    assert shapes == {released_fpn_name(key): shape for key, shape in case.spec["state"].items()}
    assert sum(parameter.numel() for parameter in case.model.parameters()) == case.spec["parameters"]


@each_case
def test_outputs(name: str) -> None:
    case = load_case(name)
    outputs = output_arrays(case)
    compared = 0
    for key, expected in case.arrays.items():
        if key.startswith("labels") or key.endswith("argmax"):
            continue
        stride = case.spec["stride"].get(key, 1)
        output = outputs[key][..., ::stride, ::stride].numpy()
        assert output.shape == expected.shape, key
        assert np.abs(output - expected).max() <= 1e-3 * max(1, np.abs(expected).max()), key
        compared += 1
    assert compared >= 10


@each_case
def test_segmentation(name: str) -> None:
    case = load_case(name)
    for i, output in enumerate(case.outputs):
        expected = case.arrays["sem_seg.argmax"][i] if case.is_fpn else case.arrays[f"sem_seg.{i}.argmax"]
        labels = output["sem_seg"].argmax(0).numpy()
        assert labels.shape == expected.shape
        assert (labels == expected).mean() >= 0.999


@pytest.mark.slow
@each_case
def test_losses(name: str) -> None:
    """Compare exact losses to 1e-3, and losses on random points as the mean over 64 seeds."""
    case = load_case(name)
    step = train_losses(case)
    if case.is_fpn:
        # mmsegmentation divides by the number of all pixels, including ignored ones
        valid = np.mean([labels_of(case.arrays, i) != 255 for i in range(len(case.inputs))])
        for key, expected in case.spec["losses"].items():
            loss = step()[key.split(" ")[0]].item() * valid
            assert loss == pytest.approx(expected, rel=1e-3), key
        return
    drawn = [seeded(step, seed) for seed in range(SEEDS if case.spec["losses"]["loss_ce"][2] > 1 else 1)]
    published = {
        key: value
        for key, value in case.spec["losses"].items()
        if not key.startswith("loss_cate_")  # always zero there
    }
    assert drawn[0].keys() == published.keys()
    for key, (mean, deviation, seeds) in published.items():
        loss = np.mean([losses[key].item() for losses in drawn])
        tolerance = 1e-3 * mean + (4 * deviation * (2 / SEEDS) ** 0.5 if seeds > 1 else 0)
        assert abs(loss - mean) <= tolerance, f"{key}: {loss} instead of {mean}"


def seeded(step: Callable[[], dict[str, Tensor]], seed: int) -> dict[str, Tensor]:
    torch.manual_seed(seed)
    return step()


@pytest.mark.parametrize("name", [name for name in case_names if "grad_norms" in read_spec(name)])
def test_gradient_norms(name: str) -> None:
    """Compare gradient norms for the cases whose losses do not use random points."""
    case = load_case(name)
    model = case.model.train()
    drops = [(m, a, getattr(m, a)) for m in model.modules() for a in DROPS if isinstance(getattr(m, a, None), float)]
    assert any(probability > 0 for _, _, probability in drops)
    try:
        for module, attribute, _ in drops:
            setattr(module, attribute, 0.0)
        sum(model(case.inputs).values()).backward()
        norms = {key: parameter.grad.norm().item() for key, parameter in model.named_parameters()}
    finally:
        for module, attribute, probability in drops:
            setattr(module, attribute, probability)
        model.zero_grad()
        model.eval()
    assert norms.keys() == case.spec["grad_norms"].keys()
    for key, expected in case.spec["grad_norms"].items():
        tolerance = {"rel": 1e-2} if expected > 1e-3 else {"abs": 1e-4}
        assert norms[key] == pytest.approx(expected, **tolerance), key


@pytest.mark.parametrize("name", manifest_names)
def test_manifest(name: str) -> None:
    """Check names and shapes of the full-size model, built on the meta device, against the released checkpoint."""
    manifest = json.loads((MANIFESTS / f"{name}.json").read_text())
    _, size, head = name.split("-", 2)
    data = next((data for data in FOLDER_OF_DATA if head.endswith(f"-{data}")), None)
    config = CONFIG_OF_HEAD.get(head.removesuffix(f"-{data}"))
    relative = f"{FOLDER_OF_DATA[data]}/semask_swin_{size.lower()}_{config}.yaml" if data and config else None
    cfg = load_config(relative, f"manifest {name}", {"MODEL.DEVICE": "meta"})
    with torch.device("meta"):
        model = build_model(cfg)
    shapes = {key: list(tensor.shape) for key, tensor in model.state_dict().items()}
    assert shapes == {released_fpn_name(key): shape for key, shape in manifest["state"].items()}
    assert sum(parameter.numel() for parameter in model.parameters()) == manifest["parameters"]
