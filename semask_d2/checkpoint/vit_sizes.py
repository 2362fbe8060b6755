"""Sizes of the ViT in a checkpoint and in a model, and messages about differences."""

from __future__ import annotations

import re
from typing import Any

from torch import Tensor, nn

from semask_d2.checkpoint.conversion import TIMM_BODY
from semask_d2.utils.errors import UserError

HEADS = "num_heads"  # the key in a checkpoint that was read from a folder of transformers
BLOCK = re.compile(rf"{re.escape(TIMM_BODY)}blocks\.(\d+)\.attn\.")


def sizes_hint(state: dict[str, Tensor], model_state: dict[str, Tensor]) -> str:
    """Return advice on a ViT whose width or depth is not the model's; "" if there is none."""
    in_file, in_model = sizes_of(state), sizes_of(model_state)
    if in_file is None or in_model is None or (in_file[0] == in_model[0] and in_file[1] >= in_model[1]):
        return ""
    texts = [f"{width} channels and {depth} blocks" for width, depth in (in_file, in_model)]
    keys = "MODEL.VIT.NAME, EMBED_DIM, DEPTH and OUT_INDICES"
    return f"; the file's ViT has {texts[0]}, the model's {texts[1]}: check {keys}"


def sizes_of(state: dict[str, Tensor]) -> tuple[int, int] | None:
    """Return the number of channels and of blocks of the ViT in a state with our names; None if it has none."""
    blocks = {int(match[1]) for name in state if (match := BLOCK.match(name))}
    kernel = state.get(f"{TIMM_BODY}patch_embed.proj.weight")
    return (len(kernel), len(blocks)) if blocks and kernel is not None and kernel.ndim else None


def check_heads(data: dict[str, Any], model: nn.Module, source: str) -> None:
    """Raise `UserError` if a file says that its ViT has other attention heads than the model; no shape shows them."""
    blocks = getattr(getattr(getattr(model, "backbone", None), "body", None), "blocks", None)
    heads = getattr(getattr(blocks[0], "attn", None), "num_heads", None) if blocks else None
    recorded = data.get(HEADS)
    if heads is not None and recorded is not None and heads != recorded:
        raise UserError(
            f"{source}: its ViT has {recorded} attention heads, the model's {heads}: set MODEL.VIT.NUM_HEADS {recorded}"
        )
