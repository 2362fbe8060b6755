"""MODEL.BACKBONE.TRAIN frozen: pretrained layers keep their values and no activations; additions are trained."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor, nn

from semask_d2 import build_model, get_cfg
from semask_d2.d2 import BACKEND, CfgNode
from semask_d2.modeling.layers.semantic_attention import SemanticLayer
from semask_d2.utils.errors import UserError
from tests.helpers.tiny_model import make_inputs, randomize

CONFIGS = (
    "toy_scenes/semask_swin_mini_m2f",
    "toy_scenes/semask_mit_b0_m2f",
    "toy_scenes/semask_timm_resnet18_m2f",  # with batch norms
    "camvid/semask_vit_tiny_m2f",
)
FROZEN = ("MODEL.BACKBONE.TRAIN", "frozen")
SEMANTIC = ("MODEL.VIT.NUM_SEM_BLOCKS", 1)


def config(name: str, *options: object) -> CfgNode:
    """Return a config with dropout and stochastic depth, which frozen layers must not have."""
    rates = [word for section in ("SWIN", "MIT", "TIMM", "VIT") for word in (f"MODEL.{section}.DROP_PATH_RATE", 0.5)]
    rates += ["MODEL.SWIN.DROP_RATE", 0.5, "MODEL.SWIN.APE", True, "MODEL.VIT.DEPTH", 4]
    return get_cfg(f"{name}.yaml", ["MODEL.DEVICE", "cpu", "MODEL.SEM_SEG_HEAD.NUM_CLASSES", 6, *rates, *options])


def build(name: str, *options: object) -> nn.Module:
    torch.manual_seed(0)
    return build_model(config(name, *options))


@contextmanager
def saved_outside(additions: list[nn.Module]) -> Iterator[list[int]]:
    """Count the bytes of the tensors that autograd saves while none of these modules runs."""
    depth, counts = [0], [0]

    def enter(*_: object) -> None:
        depth[0] += 1

    def leave(*_: object) -> None:
        depth[0] -= 1

    def count(x: Tensor) -> Tensor:
        counts[0] += 0 if depth[0] else x.numel() * x.element_size()
        return x

    hooks = [hook for m in additions for hook in (m.register_forward_pre_hook(enter), m.register_forward_hook(leave))]
    with torch.autograd.graph.saved_tensors_hooks(count, lambda x: x):
        yield counts
    for hook in hooks:
        hook.remove()


@pytest.mark.parametrize("name", CONFIGS)
def test_a_frozen_body_keeps_no_activations(name: str) -> None:
    images = torch.randn(2, 3, 64, 64)
    kept = {}
    for tuning in ("full", "frozen"):
        backbone = build(name, "MODEL.BACKBONE.TRAIN", tuning).train().backbone
        with saved_outside(backbone.additions()) as counts:
            backbone(images)
        kept[tuning] = counts[0]
    assert kept["full"] > 100_000
    assert kept["frozen"] == 0


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("used", [["res2", "res3", "res4", "res5"], ["res3", "res4", "res5"]])
def test_additions_alone_get_gradients_and_change(name: str, used: list[str]) -> None:
    model = build(name, *FROZEN, "MODEL.SEM_SEG_HEAD.IN_FEATURES", used).train()
    pretrained = {f"backbone.{x}" for x in model.backbone.pretrained_names()}
    before = {x: value.clone() for x, value in model.state_dict().items()}
    trained = {x for x, parameter in model.named_parameters() if parameter.requires_grad}
    optimizer = torch.optim.AdamW([x for x in model.parameters() if x.requires_grad], lr=0.01, weight_decay=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        sum(model(make_inputs((64, 64), (64, 64))).values()).backward()
        optimizer.step()
    assert {x for x, parameter in model.named_parameters() if parameter.grad is not None} == trained
    assert not trained & pretrained
    changed = {x for x, value in model.state_dict().items() if not torch.equal(value, before[x])}
    assert changed & {x for x in trained if x.startswith("backbone.")}
    assert not changed & pretrained
    assert {
        x for x in before if x.startswith(("backbone.body.", "backbone.layers.1.blocks.", "backbone.block"))
    } <= pretrained


@pytest.mark.parametrize("name", CONFIGS)
def test_full_training_has_a_gradient_for_every_parameter_too(name: str) -> None:
    """Also if the head does not use all outputs; a pyramid's level of an unused one is not trained."""
    model = build(name, "MODEL.SEM_SEG_HEAD.IN_FEATURES", ["res3", "res4", "res5"]).train()
    sum(model(make_inputs((64, 64), (64, 64))).values()).backward()
    assert not [x for x, parameter in model.named_parameters() if parameter.requires_grad and parameter.grad is None]


@pytest.mark.parametrize("name", CONFIGS)
def test_semantic_layers_write_to_the_outputs_alone(name: str) -> None:
    """So a change of one changes the outputs of its stage, and with TRAIN full those of all later stages too."""
    images = torch.randn(1, 3, 64, 64)
    for tuning, affected in (
        ("frozen", {"res3", "sem3"}),
        ("full", {f"{x}{i}" for x in ("res", "sem") for i in (3, 4, 5)}),
    ):
        backbone = randomize(build(name, "MODEL.BACKBONE.TRAIN", tuning)).eval().backbone
        before = backbone(images)
        layer = [module for module in backbone.modules() if isinstance(module, SemanticLayer)][1]
        randomize(layer, std=1.0)
        after = backbone(images)
        assert {x for x in before if not torch.equal(before[x], after[x])} == affected


@pytest.mark.parametrize("name", CONFIGS)
def test_pretrained_layers_stay_in_evaluation_mode(name: str) -> None:
    model = build(name, *FROZEN)
    assert model.train() is model
    backbone = model.backbone
    assert backbone.training
    added = {module for addition in backbone.additions() for module in addition.modules()}
    assert len({module for module in added if isinstance(module, SemanticLayer)}) == 4
    assert all(module.training == (module in added) for module in backbone.modules() if module is not backbone)
    assert not any(module.training for module in model.eval().modules())


@pytest.mark.parametrize("tuning", ["frozen", "lora", "full"])
def test_an_encoder_only_head_trains_its_blocks_in_every_mode(tuning: str) -> None:
    """It reads the last semantic layer's features, so that this layer alone learns more than its map if frozen."""
    model = build("toy_scenes/eomt_vit_tiny", "MODEL.BACKBONE.TRAIN", tuning, "MODEL.VIT.DEPTH", 6, *SEMANTIC).train()
    pretrained = {f"backbone.{x}" for x in model.backbone.pretrained_names()}
    sum(model(make_inputs((64, 64), (64, 64))).values()).backward()
    trained = {x for x, parameter in model.named_parameters() if parameter.requires_grad}
    assert {x for x, parameter in model.named_parameters() if parameter.grad is not None} == trained
    assert bool(trained & pretrained) == (tuning == "full")
    assert [x for x in trained if x.startswith("sem_seg_head.backbone.blocks.")]
    learning = {int(x.split(".")[2]) for x in trained if x.endswith("class_injection.0.mlp_v.weight")}
    assert learning == ({3} if tuning == "frozen" else {0, 1, 2, 3})


@pytest.mark.parametrize("train", ["frozen", "full"])
def test_a_plain_resnet_is_frozen_whole(train: str) -> None:
    """On both backends, with batch norms, which do not collect statistics."""
    options = ["MODEL.DEVICE", "cpu", "MODEL.RESNETS.NORM", "BN", "MODEL.BACKBONE.TRAIN", train]
    options += ["MODEL.RESNETS.DEPTH", 18, "MODEL.RESNETS.RES2_OUT_CHANNELS", 64]
    model = build_model(get_cfg("ade20k/r50_m2f.yaml", [*options, "MODEL.SEM_SEG_HEAD.NUM_CLASSES", 6])).train()
    before = {name: value.clone() for name, value in model.backbone.state_dict().items()}
    sum(model(make_inputs((64, 64))).values()).backward()
    with_gradient = [x for x in model.backbone.parameters() if x.grad is not None]
    changed = [name for name, value in model.backbone.state_dict().items() if not torch.equal(value, before[name])]
    assert bool(with_gradient) == bool(changed) == (train == "full")


def test_other_backbones_take_no_adapters() -> None:
    cfg = get_cfg("ade20k/r50_m2f.yaml", ["MODEL.DEVICE", "cpu", "MODEL.BACKBONE.TRAIN", "lora"])
    with pytest.raises(
        UserError, match=r'^MODEL\.BACKBONE\.TRAIN: expected "full" or "frozen" .*build_resnet_backbone'
    ):
        build_model(cfg)


@pytest.mark.parametrize("value", ["Frozen", "none", ""])
def test_unknown_modes_are_refused(value: str) -> None:
    with pytest.raises(UserError, match=r'^MODEL\.BACKBONE\.TRAIN: expected "full" or "frozen" or "lora", got'):
        build("toy_scenes/semask_swin_mini_m2f", "MODEL.BACKBONE.TRAIN", value)


@pytest.mark.skipif(BACKEND != "detectron2", reason="Detectron2 is not in use")
@pytest.mark.parametrize("tuning", ["frozen", "lora"])
def test_other_architectures_need_a_backbone_of_this_project(tuning: str) -> None:
    options = ["MODEL.DEVICE", "cpu", "MODEL.META_ARCHITECTURE", "SemanticSegmentor", "MODEL.BACKBONE.TRAIN", tuning]
    options += ["MODEL.SEM_SEG_HEAD.NAME", "SemSegFPNHead", "MODEL.SEM_SEG_HEAD.NORM", "GN", "MODEL.RESNETS.NORM", "BN"]
    with pytest.raises(UserError, match=r'^MODEL\.BACKBONE\.TRAIN: expected "full" with .* SemanticSegmentor and '):
        build_model(get_cfg("ade20k/r50_m2f.yaml", options))
    model = build_model(get_cfg("ade20k/semask_swin_t_m2f.yaml", options))
    assert type(model).__name__ == "SemanticSegmentor"
    assert model.backbone.tuning == tuning
