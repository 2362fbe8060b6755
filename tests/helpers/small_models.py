"""Small models with the project's backbones, and heads that only have the parameter names of real ones.

They are for tests of weight file layouts; tiny_model.py has complete models that compute something.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from semask_d2.config import with_defaults
from semask_d2.modeling.backbones.base import SemanticSettings
from semask_d2.modeling.backbones.mit import D2SeMaskMixTransformer
from semask_d2.modeling.backbones.swin import D2SeMaskSwinTransformer
from tests.helpers.tiny_model import randomize

CLASSES = 19
# tensors of each head, under the names of this project
MASK2FORMER = {
    "predictor.transformer_cross_attention_layers.0.norm.weight": (6,),
    "predictor.query_feat.weight": (3, 6),
    "predictor.class_embed.weight": (CLASSES + 1, 6),
    "predictor.class_embed.bias": (CLASSES + 1,),
}
DEFORMABLE = {"pixel_decoder.transformer.level_embed": (3, 6), "pixel_decoder.layer_1.norm.weight": (6,)}
ALIGN = {"pixel_decoder.align_1.dcpack_L2.weight": (6, 6, 3, 3), "pixel_decoder.layer_1.norm.weight": (6,)}
HEADS = {
    "Mask2Former": MASK2FORMER | DEFORMABLE,
    "FaPN": MASK2FORMER | ALIGN,
    "MSFaPN": MASK2FORMER | DEFORMABLE | ALIGN,
    "MaskFormer": {
        "pixel_decoder.layer_1.norm.weight": (6,),
        "predictor.transformer.decoder.norm.weight": (6,),
        "predictor.class_embed.weight": (CLASSES + 1, 6),
    },
    "FPN": {
        "scale_heads.0.0.conv.weight": (6, 8, 3, 3),
        "scale_heads.0.0.bn.weight": (6,),
        "scale_heads.0.0.bn.running_mean": (6,),
        "conv_seg.weight": (CLASSES, 6, 1, 1),
        "conv_seg.bias": (CLASSES,),
    },
}


class Tree(nn.Module):
    """A module with parameters under dotted names."""

    def __init__(self, shapes: dict[str, tuple[int, ...]]):
        super().__init__()
        for name, shape in shapes.items():
            node: nn.Module = self
            *parts, leaf = name.split(".")
            for part in parts:
                if part not in dict(node.named_children()):
                    node.add_module(part, Tree({}))
                node = node.get_submodule(part)
            node.register_parameter(leaf, nn.Parameter(torch.randn(shape)))


class SmallModel(nn.Module):
    """A model with `backbone` and `sem_seg_head`, like every model of the project."""

    def __init__(self, backbone: nn.Module, head: dict[str, tuple[int, ...]]):
        super().__init__()
        self.backbone = backbone
        self.sem_seg_head = Tree(head)


def swin_model(
    head: str = "MSFaPN", *, stages: tuple[int, ...] = (0, 1), num_blocks: int = 1, window: int = 4, **kwargs: object
) -> SmallModel:
    """Return a SeMask Swin of width 8 with two blocks per stage and this head; all parameters are random."""
    settings = with_defaults(
        SemanticSettings, num_classes=CLASSES, window=4, windowed_stages=stages, num_blocks=num_blocks
    )
    sizes = {"embed_dim": 8, "depths": (2, 2, 2, 2), "num_heads": (1, 2, 2, 4), "window_size": window, "freeze_at": 0}
    backbone = with_defaults(D2SeMaskSwinTransformer, semantic=settings, **(sizes | kwargs))
    return randomize(SmallModel(backbone, HEADS[head])).eval()


def mit_model() -> SmallModel:
    """Return a SeMask MiT with one block per stage and an FPN head."""
    settings = with_defaults(SemanticSettings, num_classes=CLASSES, window=4)
    sizes = {"embed_dims": (8, 8, 16, 16), "depths": (1, 1, 1, 1), "num_heads": (1, 1, 2, 2), "freeze_at": 0}
    backbone = with_defaults(D2SeMaskMixTransformer, semantic=settings, **sizes)
    return randomize(SmallModel(backbone, HEADS["FPN"])).eval()


def with_statistics(model: nn.Module) -> nn.Module:
    """Return `model` with random norms, because untrained batch norms change almost nothing."""
    with torch.no_grad():
        for name, value in model.state_dict().items():
            if name.endswith("running_var"):
                value.uniform_(0.5, 2)
            elif value.ndim == 1:
                value.add_(0.2 * torch.randn_like(value))
    return model


def snapshot(model: nn.Module) -> dict[str, Tensor]:
    """Return a copy of a model's state."""
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    """Return whether two states are equal."""
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def released(decoder: str, state: dict[str, Tensor]) -> dict:
    """Return a checkpoint in the layout of the released model with this decoder."""
    if decoder == "FPN":
        renamed = {name.replace("sem_seg_head.", "decode_head."): value for name, value in state.items()}
        return {"meta": {"epoch": 1, "CLASSES": ("road", "sky")}, "state_dict": renamed}
    return {"model": {**state, "criterion.empty_weight": torch.ones(CLASSES + 1)}, "iteration": 9}


def backbone_state(model: SmallModel) -> dict[str, Tensor]:
    """Return a copy of the state of a model's backbone, with names relative to it."""
    return {name: tensor.clone() for name, tensor in model.backbone.state_dict().items()}


def microsoft_swin(model: SmallModel) -> dict:
    """Return an ImageNet checkpoint in Microsoft's layout with the weights of the model's backbone."""
    state = {
        name: value
        for name, value in backbone_state(model).items()
        if "semantic_layer" not in name and not name.startswith(("norm0", "norm1", "norm2", "norm3"))
    }
    if "absolute_pos_embed" in state:
        state["absolute_pos_embed"] = state["absolute_pos_embed"].flatten(2).transpose(1, 2)
    state["layers.0.blocks.1.attn_mask"] = torch.zeros(4, 16, 16)
    state |= {"norm.weight": torch.ones(64), "norm.bias": torch.zeros(64)}
    return {"model": state | {"head.weight": torch.randn(10, 64), "head.bias": torch.zeros(10)}}
