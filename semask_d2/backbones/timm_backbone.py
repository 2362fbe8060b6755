"""SeMask on any backbone of timm whose stages are a chain: swin, convnext, pvt_v2, resnet, ..."""

from __future__ import annotations

from torch import Tensor, nn

from semask_d2.backbones.base import HierarchicalBackbone, SemanticSettings
from semask_d2.d2 import BACKBONE_REGISTRY, configurable
from semask_d2.errors import UserError

STRIDES = [4, 8, 16, 32]


@BACKBONE_REGISTRY.register()
class SeMaskTimm(HierarchicalBackbone):
    """A timm model with a semantic layer after each of its stages of strides 4, 8, 16 and 32.

    As in SeMask Swin, a semantic layer's output feeds both the stage's output, through a LayerNorm, and the next
    stage.
    """

    @configurable
    def __init__(self, *, name: str, semantic: SemanticSettings, drop_path_rate: float = 0.1):
        super().__init__()
        self.body = create_body(name, drop_path_rate)
        self.channels_last = getattr(self.body, "output_fmt", "NCHW") == "NHWC"
        self.stage_of = dict(zip(self.body.return_layers, range(len(STRIDES)), strict=True))
        dims = self.body.feature_info.channels()
        self.semantic_layers = nn.ModuleList(semantic.layer(i, dim) or nn.Identity() for i, dim in enumerate(dims))
        self.norms = nn.ModuleList(nn.LayerNorm(dim) for dim in dims)
        self.has_semantics = semantic.num_blocks > 0
        self.declare_outputs(dims, STRIDES, semantic)

    @classmethod
    def from_config(cls, cfg, input_shape):
        """The arguments of `__init__` from `cfg.MODEL.TIMM` and the head's class count."""
        return {
            "name": cfg.MODEL.TIMM.NAME,
            "semantic": SemanticSettings.from_config(cfg, "TIMM"),
            "drop_path_rate": cfg.MODEL.TIMM.DROP_PATH_RATE,
        }

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Normalised images (B, 3, H, W) -> every feature that `output_shape()` names, (B, C, h, w)."""
        outputs = {}
        for name, module in self.body.items():
            x = module(x)
            if name not in self.stage_of:
                continue
            stage = self.stage_of[name]
            tokens = x if self.channels_last else x.permute(0, 2, 3, 1)
            if self.has_semantics:
                tokens, semantics = self.semantic_layers[stage](tokens)
                outputs[f"sem{stage + 2}"] = semantics.permute(0, 3, 1, 2)
            outputs[f"res{stage + 2}"] = self.norms[stage](tokens).permute(0, 3, 1, 2)
            x = tokens if self.channels_last else tokens.permute(0, 3, 1, 2)
        return outputs


def create_body(name: str, drop_path_rate: float) -> nn.ModuleDict:
    """timm's model `name` as a chain of modules; `UserError` where there is none, or it has no such stages."""
    import timm  # here, because only this backbone needs it and importing it takes seconds
    from timm.models import FeatureListNet

    if not timm.is_model(name):
        near = timm.list_models(f"*{name.split('_')[0]}*")[:5] if name else []
        hint = f"; near are {', '.join(near)}" if near else ""
        raise UserError(f'MODEL.TIMM.NAME: timm has no model "{name}"{hint}')
    # swin models take their windows' size from the image's unless this lets them take any
    flexible = {"strict_img_size": False} if name.startswith("swin") else {}
    try:
        body = timm.create_model(name, pretrained=False, features_only=True, drop_path_rate=drop_path_rate, **flexible)
    except (RuntimeError, TypeError, AssertionError) as error:
        raise UserError(f'MODEL.TIMM.NAME: "{name}" gives no stages of features ({error})') from error
    if not isinstance(body, FeatureListNet):
        raise UserError(f'MODEL.TIMM.NAME: the stages of "{name}" are not a chain of modules, as SeMask needs')
    reductions = body.feature_info.reduction()
    indices = [i for i, reduction in enumerate(reductions) if reduction in STRIDES]
    if [reductions[i] for i in indices] != STRIDES:
        raise UserError(f'MODEL.TIMM.NAME: "{name}" has features of strides {reductions}; SeMask needs {STRIDES}')
    if len(indices) != len(reductions):
        body = timm.create_model(
            name,
            pretrained=False,
            features_only=True,
            out_indices=indices,
            drop_path_rate=drop_path_rate,
            **flexible,
        )
    return body
