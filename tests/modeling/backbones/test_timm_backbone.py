"""timm backbones: without semantic layers and norms they equal timm's models."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from semask_d2.config import with_defaults
from semask_d2.modeling.backbones.base import SemanticSettings
from semask_d2.modeling.backbones.timm_backbone import SeMaskTimm, module_chain


@pytest.mark.parametrize(
    "name", ["tf_efficientnet_lite0", "mobilenetv3_small_050", "mobilenetv4_conv_small_050", "lcnet_050"]
)
def test_efficientnets_and_mobilenets(name: str) -> None:
    backbone = with_defaults(
        SeMaskTimm, name=name, semantic=with_defaults(SemanticSettings, num_blocks=0), drop_path_rate=0.0, freeze_at=0
    ).eval()
    backbone.norms = nn.ModuleList(nn.Identity() for _ in backbone.norms)
    image = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        actual, reference = backbone(image), backbone.body(image)
    assert list(actual) == ["res2", "res3", "res4", "res5"]
    for result, other in zip(actual.values(), reference, strict=True):
        torch.testing.assert_close(result, other)
    assert [image.shape[-1] // x.shape[-1] for x in reference] == [4, 8, 16, 32]


def test_stem_and_stages_cover_the_chain() -> None:
    backbone = with_defaults(
        SeMaskTimm, name="mobilenetv3_small_050", semantic=with_defaults(SemanticSettings), freeze_at=0
    )
    parts = backbone.stem_and_stages()
    assert len(parts) == 5
    used = [module for part in parts for module in part]
    assert used == [backbone.body.get_submodule(name) for name in module_chain(backbone.body)][: len(used)]
