"""A default is in `config/defaults.py` alone: components have none, and without a config they take it from there."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from typing import Any

import pytest

import semask_d2.modeling
from semask_d2 import build_model
from semask_d2.config import DEFAULTS, lazy, with_defaults
from semask_d2.config.components import default_arguments
from semask_d2.d2 import (
    BACKBONE_REGISTRY,
    META_ARCH_REGISTRY,
    SEM_SEG_HEADS_REGISTRY,
    ShapeSpec,
    configurable,
)
from semask_d2.modeling.backbones import D2SeMaskMixTransformer, D2SeMaskSwinTransformer
from semask_d2.modeling.backbones.base import SemanticSettings
from semask_d2.modeling.losses.mask_losses import DenseMaskLoss
from semask_d2.modeling.losses.set_criterion import SetCriterion
from semask_d2.modeling.pixel_decoders import PIXEL_DECODER_REGISTRY, MSDeformAttnPixelDecoder
from semask_d2.modeling.transformer_decoders import TRANSFORMER_DECODER_REGISTRY, StandardTransformerDecoder
from tests.helpers.tiny_model import tiny_cfg


def components() -> list[type]:
    """Every class of `modeling` that names config keys."""
    modules = [
        importlib.import_module(info.name)
        for info in pkgutil.walk_packages(semask_d2.modeling.__path__, "semask_d2.modeling.")
        if not info.name.endswith("kernels")  # which import Triton
    ]
    classes = {x for module in modules for x in vars(module).values() if inspect.isclass(x)}
    named = [x for x in classes if x.__module__.startswith("semask_d2.modeling.") and getattr(x, "config_keys", None)]
    return sorted(named, key=lambda x: x.__qualname__)


def repeated_defaults(component: type) -> list[str]:
    """The arguments with a default, of a component or of what it is derived from, that config keys have one for."""
    keys: dict[str, str] = getattr(component, "config_keys", {})
    return [
        f"{cls.__name__}.{name}"
        for cls in component.__mro__
        for name, parameter in inspect.signature(vars(cls).get("__init__", object.__init__)).parameters.items()
        if name in keys and parameter.default is not inspect.Parameter.empty
    ]


@pytest.mark.parametrize("component", components(), ids=lambda component: component.__name__)
def test_no_argument_repeats_the_default_of_its_key(component: type) -> None:
    assert not repeated_defaults(component)


def test_every_registered_class_is_looked_at() -> None:
    registries = (
        BACKBONE_REGISTRY,
        META_ARCH_REGISTRY,
        SEM_SEG_HEADS_REGISTRY,
        PIXEL_DECODER_REGISTRY,
        TRANSFORMER_DECODER_REGISTRY,
    )
    registered = {x for registry in registries for _, x in registry if inspect.isclass(x)}
    ours = {x for x in registered if x.__module__.startswith("semask_d2.")}
    assert {x.__name__ for x in ours - {*components()}} == {"BranchMaskFormerHead"}  # which has no key of its own
    assert {"Execution", "Normalizer", "PointMaskLoss", "SemanticSettings", "SetCriterion", "SlidingWindows"} <= {
        x.__name__ for x in components()
    }


def test_a_repeated_default_is_seen() -> None:
    class Base:
        config_keys = {"depth": "MODEL.DEPTH", "width": "MODEL.WIDTH"}  # noqa: RUF012 - a constant

        def __init__(self, *, depth: int = 3):
            pass

    class Derived(Base):
        @configurable
        def __init__(self, *, width: int = 5, other: int = 7, **shared: Any):
            super().__init__(**shared)

    assert repeated_defaults(Derived) == ["Derived.width", "Base.depth"]


def test_components_without_a_config_have_the_keys_defaults() -> None:
    semantic = with_defaults(SemanticSettings, num_classes=5)
    assert semantic.window == DEFAULTS["MODEL.SWIN.SEM_WINDOW_SIZE"] == DEFAULTS["MODEL.TIMM.SEM_WINDOW_SIZE"]
    backbone = with_defaults(D2SeMaskMixTransformer, semantic=semantic, freeze_at=0)
    assert [len(getattr(backbone, f"block{i}")) for i in range(1, 5)] == DEFAULTS["MODEL.MIT.DEPTHS"]
    assert backbone.drop_path_rate == DEFAULTS["MODEL.MIT.DROP_PATH_RATE"]
    assert backbone.output_shape()["sem2"].channels == 5
    decoder = with_defaults(StandardTransformerDecoder, in_channels=8, feedforward_dim=16)
    assert len(decoder.transformer.decoder.layers) == DEFAULTS["MODEL.MASK_FORMER.DEC_LAYERS"]
    shapes = {f"res{i}": ShapeSpec(channels=8, stride=2**i) for i in range(2, 6)}
    pixel_decoder = with_defaults(MSDeformAttnPixelDecoder, input_shape=shapes, conv_dim=32)
    assert pixel_decoder.mask_features.out_channels == DEFAULTS["MODEL.SEM_SEG_HEAD.MASK_DIM"]


def test_the_sections_of_the_backbones_have_the_same_semantic_defaults() -> None:
    sections = [
        {key.rpartition(".")[2]: value for key, value in DEFAULTS.items() if f".{section}." in key and "SEM" in key}
        for section in ("SWIN", "MIT", "TIMM")
    ]
    assert len(sections[0]) == 6
    assert sections[0] == sections[1] == sections[2]


def test_a_default_is_changed_in_one_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(DEFAULTS, "MODEL.SWIN.DROP_PATH_RATE", 0.25)
    monkeypatch.setitem(DEFAULTS, "MODEL.MASK_FORMER.DEEP_SUPERVISION", False)
    assert default_arguments(D2SeMaskSwinTransformer, {})["drop_path_rate"] == 0.25
    assert not with_defaults(SetCriterion, mask_loss=DenseMaskLoss()).deep_supervision
    assert not build_model(tiny_cfg()).criterion.deep_supervision


def test_lists_of_defaults_are_not_shared() -> None:
    lazy(D2SeMaskSwinTransformer)["depths"].append(9)
    assert lazy(D2SeMaskSwinTransformer)["depths"] == DEFAULTS["MODEL.SWIN.DEPTHS"] == [2, 2, 6, 2]


def test_lazy_names_its_target_and_keeps_what_is_given() -> None:
    arguments = lazy(SetCriterion, mask_loss=lazy(DenseMaskLoss), class_weight=7.0)
    assert arguments["_target_"] == "semask_d2.modeling.losses.set_criterion.SetCriterion"
    assert arguments["mask_loss"] == {"_target_": "semask_d2.modeling.losses.mask_losses.DenseMaskLoss"}
    assert arguments["class_weight"] == 7.0
    assert arguments["dice_weight"] == DEFAULTS["MODEL.MASK_FORMER.DICE_WEIGHT"]


def test_a_wrong_name_is_no_argument() -> None:
    with pytest.raises(TypeError, match="dephts"):
        with_defaults(D2SeMaskSwinTransformer, semantic=with_defaults(SemanticSettings), dephts=[1, 1, 1, 1])
