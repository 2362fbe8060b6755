"""Conversion of other publishers' tensor names and shapes to ours."""

from __future__ import annotations

import math
import re

import torch.nn.functional as F
from torch import Tensor

State = dict[str, Tensor]

MASK_HEAD_BUFFERS = r"criterion\.empty_weight$"
VERSION_1 = r"sem_seg_head\.(?!pixel_decoder\.|predictor\.)"  # the prefix of the pixel decoder in older files
# tensors of classifiers that a backbone lacks, and buffers that the model computes
SWIN_LEFT_OUT = r"norm\.|head\.|.*\.(relative_position_index|attn_mask)$"
MIT_LEFT_OUT = r"head\."
RESNET_LEFT_OUT = r"(stem\.)?fc\.|linear\."
# layers after the last feature, and what only the pretraining of ViTs uses
TIMM_LEFT_OUT = r"(head|fc|classifier|conv_head|bn2|fc_norm|attn_pool|head_dist|lm_head)\.|mask_token$"

TIMM_BODY = "backbone.body."
JOINT_BLOCKS = "sem_seg_head.backbone."  # the last blocks and the norm of a ViT whose head contains them
MAX_PREFIX = 16  # class and register tokens with position embeddings


def released_mask_name(name: str) -> str | None:
    """Return our name of a released mask model's tensor; None if it is not a weight."""
    return None if re.match(MASK_HEAD_BUFFERS, name) else name


def facebook_name(name: str) -> str | None:
    """Return our name of a tensor of facebookresearch's Mask2Former or MaskFormer, any version; None if no weight."""
    name = re.sub(rf"^{VERSION_1}", "sem_seg_head.pixel_decoder.", name)
    return released_mask_name(name.replace("predictor.static_query.", "predictor.query_feat."))


def released_fpn_name(name: str) -> str:
    """Return our name of a released FPN model's tensor: mmsegmentation calls the head `decode_head`."""
    return re.sub(r"^decode_head\.", "sem_seg_head.", name)


def swin_name(name: str) -> str | None:
    """Return our name of a tensor of Microsoft's ImageNet Swin; None if a backbone lacks it."""
    return None if re.match(SWIN_LEFT_OUT, name) else f"backbone.{name}"


def timm_swin_name(name: str) -> str | None:
    """Return our name of a tensor of timm's Swin, whose stages begin with the patch merging; ours end with it."""
    name = re.sub(r"^layers\.(\d+)\.downsample", lambda match: f"layers.{int(match[1]) - 1}.downsample", name)
    return swin_name(name)


def mit_name(name: str) -> str | None:
    """Return our name of a tensor of a published Mix Transformer; None for its classifier."""
    return None if re.match(MIT_LEFT_OUT, name) else f"backbone.{name}"


def resnet_name(name: str) -> str | None:
    """Return our name of a tensor of an ImageNet ResNet in Detectron2's naming; None for its classifier."""
    return None if re.match(RESNET_LEFT_OUT, name) else f"backbone.{name}"


def torchvision_resnet_name(name: str) -> str | None:
    """Return our name of a tensor of torchvision's ResNet, whose norms are siblings of the convolutions."""
    name = re.sub(r"^(conv1|bn1)\.", r"stem.\1.", name)
    name = re.sub(r"^layer(\d)\.", lambda match: f"res{int(match[1]) + 1}.", name)
    name = re.sub(r"\bdownsample\.1\.", "shortcut.norm.", re.sub(r"\bdownsample\.0\.", "shortcut.", name))
    return resnet_name(re.sub(r"\bbn(\d)\.", r"conv\1.norm.", name))


def timm_body_name(name: str) -> str | None:
    """Return `name` for a tensor of a timm model; None for layers after the last feature."""
    return None if re.match(TIMM_LEFT_OUT, name) else name


def fit_timm_body(state: State, model_state: State) -> tuple[State, list[str]]:
    """Rename the tensors of a timm model to their names in a backbone, where `stages.0` becomes `stages_0`.

    The position embeddings and the patch kernel of a ViT are resampled to the model's; returns notes for the log.
    """
    fitted = {}
    for name, value in state.items():
        flat = TIMM_BODY + name.replace(".", "_", 1)
        fitted[flat if flat in model_state else TIMM_BODY + name] = value
    placed = place_joint_blocks(fitted, model_state)
    placed = {name: value for name, value in placed.items() if not name.startswith(f"{TIMM_BODY}norm.")}
    return fit_vit(placed, model_state)


def place_joint_blocks(state: State, model_state: State) -> State:
    """Rename the blocks and the norm of a ViT that the model has in its head."""
    moved = {name: name.replace(TIMM_BODY, JOINT_BLOCKS, 1) for name in state if name.startswith(TIMM_BODY)}
    return {new if (new := moved.get(name, name)) in model_state else name: value for name, value in state.items()}


def fit_vit(state: State, model_state: State) -> tuple[State, list[str]]:
    """Resample position embeddings and patch kernel of a ViT to the model's shapes; also return notes for the log.

    The kernel is resampled so that patches of resized images keep their embeddings (FlexiViT, arXiv 2212.08013).
    """
    fitted, notes = dict(state), []
    for name, resampled in (("pos_embed", resampled_positions), ("patch_embed.proj.weight", resampled_kernel)):
        old, new = state.get(TIMM_BODY + name), model_state.get(TIMM_BODY + name)
        if old is not None and new is not None and old.ndim == new.ndim:
            result = resampled(old, new)
            if result is not None:
                fitted[TIMM_BODY + name], note = result
                notes.append(note)
    return fitted, notes


def resampled_positions(old: Tensor, new: Tensor) -> tuple[Tensor, str] | None:
    """Return position embeddings (1, P + N, C) resampled to the square grid of `new`, and a note; None if unneeded."""
    sides = grid_sides(old.shape[1], new.shape[1]) if old.ndim == 3 and old.shape != new.shape else None
    if sides is None or old.shape[2] != new.shape[2]:
        return None
    from timm.layers.pos_embed import resample_abs_pos_embed  # imported late: it takes seconds

    prefix = old.shape[1] - sides[0] ** 2
    positions = resample_abs_pos_embed(old, [sides[1]] * 2, [sides[0]] * 2, num_prefix_tokens=prefix)
    return positions, f"position embeddings resampled from {sides[0]} x {sides[0]} to {sides[1]} x {sides[1]}"


def resampled_kernel(old: Tensor, new: Tensor) -> tuple[Tensor, str] | None:
    """Return a patch kernel (C, channels, p, p) resampled to the patch size of `new`, and a note; None if unneeded."""
    if old.ndim != 4 or len(old) != len(new) or old.shape[2:] == new.shape[2:]:
        return None
    from timm.layers.patch_embed import resample_patch_embed

    kernel = resample_patch_embed(old, list(new.shape[2:]))
    return kernel, f"patch kernel resampled from {old.shape[-1]} to {new.shape[-1]} pixels"


def grid_sides(old: int, new: int) -> tuple[int, int] | None:
    """Return the sides of two square grids of `old` and `new` position embeddings, which share their prefix tokens.

    None if there are no such grids with at most MAX_PREFIX prefix tokens.
    """
    for prefix in range(min(old, new, MAX_PREFIX + 1)):
        sides = math.isqrt(old - prefix), math.isqrt(new - prefix)
        if sides[0] ** 2 == old - prefix and sides[1] ** 2 == new - prefix:
            return sides
    return None


def efficientnet_name(name: str) -> str | None:
    """Return `name` for a tensor of an efficientnet_pytorch model; None for layers after the last feature."""
    return None if re.match(r"_(conv_head|bn1|fc)\.", name) else name


def fit_efficientnet(state: State, model_state: State) -> tuple[State, list[str]]:
    """Rename the tensors of an efficientnet_pytorch model to timm's names: the same tensors in the same order."""
    body = [name for name in model_state if name.startswith(TIMM_BODY)]
    same = len(body) == len(state) and all(
        model_state[name].shape == value.shape or takes_other_channels(value, model_state[name])
        for name, value in zip(body, state.values(), strict=True)
    )
    return (dict(zip(body, state.values(), strict=True)) if same else state), []


def fit_bias_table(table: Tensor, rows: int) -> Tensor:
    """Resize a relative position bias table ((2w-1)^2, heads) to `rows` for another window, bicubic for each head."""
    old, new = round(len(table) ** 0.5), round(rows**0.5)
    grid = table.float().T.reshape(1, -1, old, old)
    return F.interpolate(grid, (new, new), mode="bicubic", align_corners=False).flatten(2)[0].T


def fit_position_embedding(embedding: Tensor, side: int) -> Tensor:
    """Convert an absolute position embedding from Microsoft's layout (1, N, C) to ours (1, C, side, side)."""
    old = round(embedding.shape[1] ** 0.5)
    grid = embedding.float().transpose(1, 2).reshape(1, -1, old, old)
    return grid if old == side else F.interpolate(grid, (side, side), mode="bicubic", align_corners=False)


def fit_swin(state: State, model_state: State) -> tuple[State, list[str]]:
    """Resize tensors that depend on the window or image size to the model's shapes; also return notes for the log."""
    fitted, tables = dict(state), []
    for name, value in state.items():
        target = model_state.get(name)
        if target is None or target.shape == value.shape:
            continue
        if name.endswith("relative_position_bias_table") and value.shape[1:] == target.shape[1:]:
            fitted[name] = fit_bias_table(value, len(target))
            tables.append((value, target))
        elif name.endswith("absolute_pos_embed") and value.ndim == 3 and value.shape[2] == target.shape[1]:
            fitted[name] = fit_position_embedding(value, target.shape[-1])
    if not tables:
        return fitted, []
    old, new = ((round(len(table) ** 0.5) + 1) // 2 for table in tables[0])
    return fitted, [f"{len(tables)} bias tables interpolated from window {old} to {new}"]


def takes_other_channels(weight: Tensor, model_weight: Tensor) -> bool:
    """Return whether two weights of convolutions differ in the number of input channels only."""
    if weight.ndim != 4 or model_weight.ndim != 4 or weight.shape[1] == model_weight.shape[1]:
        return False
    return weight.shape[0] == model_weight.shape[0] and weight.shape[2:] == model_weight.shape[2:]
