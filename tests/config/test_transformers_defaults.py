"""What a file of transformers means by a setting that it leaves out is transformers' default, not ours."""

from __future__ import annotations

from typing import Any

import pytest

from semask_d2.config import DEFAULTS
from semask_d2.config.transformers_backbones import RESNET_BACKBONE, SWIN_BACKBONE, Setting
from semask_d2.config.transformers_config import FAMILIES

MODELS = {
    "mask2former": "Mask2FormerConfig",
    "maskformer": "MaskFormerConfig",
    "eomt": "EomtConfig",
    "eomt_dinov3": "EomtDinov3Config",
}


def transformers_default(setting: Setting, model_type: str, backbone: str) -> Any:
    """The value that transformers' own config class gives to a setting that nobody sets."""
    transformers = pytest.importorskip("transformers", reason="needs transformers, of the extra dev")
    section, _, name = setting.name.rpartition(".")
    classes = {
        "": MODELS[model_type],
        "decoder_config": "DetrConfig",
        "backbone_config": {"swin": "SwinConfig", "resnet": "ResNetConfig"}[backbone],
    }
    value = getattr(getattr(transformers, classes[section])(), name)
    return list(value) if isinstance(value, tuple) else value


@pytest.mark.parametrize("model_type", FAMILIES)
def test_defaults_of_models_are_theirs(model_type: str) -> None:
    settings = FAMILIES[model_type].settings
    assert {x.name: transformers_default(x, model_type, "swin") for x in settings} == {
        x.name: x.default for x in settings
    }


@pytest.mark.parametrize(("backbone", "kind"), [("swin", SWIN_BACKBONE), ("resnet", RESNET_BACKBONE)])
def test_defaults_of_backbones_are_theirs(backbone: str, kind: Any) -> None:
    expected = {x.name: x.default for x in kind.settings}
    assert {x.name: transformers_default(x, "mask2former", backbone) for x in kind.settings} == expected


def test_some_are_not_ours() -> None:
    """So none may be left out of the table, where ours would take its place."""
    settings = {x.key: x.default for kind in (SWIN_BACKBONE, FAMILIES["mask2former"]) for x in kind.settings}
    different = {key for key, value in settings.items() if key in DEFAULTS and DEFAULTS[key] != value}
    assert different >= {"MODEL.SWIN.DROP_PATH_RATE", "MODEL.MASK_FORMER.DROPOUT", "MODEL.MASK_FORMER.DEC_LAYERS"}
