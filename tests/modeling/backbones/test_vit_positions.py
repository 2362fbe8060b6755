"""Positions of patches equal timm's for grids of any size, in every class of rotary embeddings."""

from __future__ import annotations

import pytest
import timm
import torch
from torch import nn

from semask_d2.modeling.backbones.vit_positions import add_absolute, rotary

SMALL = {"embed_dim": 48, "depth": 4, "num_heads": 3, "num_classes": 0, "dynamic_img_size": True}
ROTARY = {
    "vit_small_patch16_dinov3": "RotaryEmbeddingDinoV3",
    "eva02_tiny_patch14_224": "RotaryEmbeddingCat",
    "vit_small_patch16_rope_224": "RotaryEmbeddingCat",
    "vit_small_patch16_rope_mixed_224": "RotaryEmbeddingMixed",
    "vit_small_patch16_rope_mixed_ape_224": "RotaryEmbeddingMixed",
}


@pytest.mark.parametrize(("name", "kind"), ROTARY.items())
@pytest.mark.parametrize("grid", [(14, 14), (5, 9), (1, 30)])
def test_rotary_positions(name: str, kind: str, grid: tuple[int, int]) -> None:
    rope = timm.create_model(name, **SMALL).eval().rope
    assert type(rope).__name__ == kind
    expected = rope.get_embed(shape=grid)
    torch.testing.assert_close(rotary(rope, grid), expected, rtol=1e-5, atol=1e-5)


def test_other_rotary_positions_are_timms() -> None:
    class Other(nn.Module):
        def get_embed(self, shape: tuple[int, int]) -> str:
            return f"embedding of {shape}"

    assert rotary(Other(), (3, 5)) == "embedding of (3, 5)"


@pytest.mark.parametrize(
    "name", ["vit_tiny_patch16_224", "vit_small_patch14_reg4_dinov2", "vit_base_patch16_siglip_224"]
)
def test_absolute_positions(name: str) -> None:
    """With a class token that has a position, with register tokens that have none, and with neither."""
    body = timm.create_model(name, **SMALL).eval()
    patches = torch.randn(2, 5, 7, 48)
    tokens = [x for x in (body.cls_token, body.reg_token) if x is not None]
    prefix = torch.cat([patches.new_empty(1, 0, 48), *tokens], 1)
    expected = body._pos_embed(patches)
    tokens, patches = add_absolute(prefix, patches, body.pos_embed, body.patch_embed.grid_size)
    sequence = torch.cat([tokens.expand(2, -1, -1), patches.flatten(1, 2)], 1)
    torch.testing.assert_close(sequence, expected, rtol=1e-5, atol=1e-5)
