"""Reading the settings of transformers' DINOv2 and DINOv3 backbones as values by our config keys."""

from __future__ import annotations

from typing import Any, NamedTuple

from semask_d2.config.transformers_backbones import Setting, whole
from semask_d2.utils.errors import UserError
from semask_d2.utils.foreign import Section, flag, shown

VIT = "MODEL.VIT"
SIZE = whole(1, 2**14)
WIDTH, DEPTH, HEADS, PATCH = "hidden_size", "num_hidden_layers", "num_attention_heads", "patch_size"


class FoundationBackbone(NamedTuple):
    """Kind of ViT in transformers: our config file, its settings, and the values that a config.json must have.

    `fixed` is {name: (needed value, transformers' default)}. `gated` is the name of the setting of gated MLPs, and
    `plain_names` and `gated_names` are timm's models by width, of which the first is used for other widths.
    """

    file: str
    settings: tuple[Setting, ...]
    fixed: dict[str, tuple[Any, Any]]
    gated: str
    plain_names: dict[int, str]
    gated_names: dict[int, str]


def vit_settings(width: int, heads: int, patch: int) -> tuple[Setting, ...]:
    """Return the settings of sizes, with these defaults of transformers."""
    return (
        Setting(WIDTH, f"{VIT}.EMBED_DIM", width, SIZE),
        Setting(DEPTH, f"{VIT}.DEPTH", 12, whole(4, 1000)),
        Setting(HEADS, f"{VIT}.NUM_HEADS", heads, SIZE),
        Setting(PATCH, f"{VIT}.PATCH_SIZE", patch, whole(1, 256)),
    )


def dinov2(patch: int, fixed: dict[str, tuple[Any, Any]], infix: str) -> FoundationBackbone:
    """Return the kind of DINOv2 with this default patch size; `infix` is a part of timm's names."""
    sizes = {384: "small", 768: "base", 1024: "large", 1536: "giant"}
    names = {width: f"vit_{size}_patch14{infix}_dinov2" for width, size in sizes.items()}
    image = Setting("image_size", f"{VIT}.IMG_SIZE", 224, SIZE)
    values = {"mlp_ratio": (4, 4), "hidden_act": ("gelu", "gelu"), "layer_norm_eps": (1e-6, 1e-6)}
    values |= {"qkv_bias": (True, True), **fixed}
    giant = {1536: names.pop(1536)}
    return FoundationBackbone(
        "backbones/dinov2_vit_s.yaml",
        (*vit_settings(768, 12, patch), image),
        values,
        "use_swiglu_ffn",
        names,
        giant,
    )


DINOV3_SIZES = {384: "small", 768: "base", 1024: "large"}
DINOV3 = FoundationBackbone(
    "backbones/dinov3_vit_s.yaml",
    vit_settings(384, 6, 16),
    {
        "num_register_tokens": (4, 0),
        "rope_theta": (100.0, 100.0),
        "layer_norm_eps": (1e-5, 1e-5),
        "key_bias": (False, False),
        "proj_bias": (True, True),
        "mlp_bias": (True, True),
    },
    "use_gated_mlp",
    {width: f"vit_{size}_patch16_dinov3_qkvb" for width, size in DINOV3_SIZES.items()},
    {
        384: "vit_small_plus_patch16_dinov3_qkvb",
        1280: "vit_huge_plus_patch16_dinov3_qkvb",
        4096: "vit_7b_patch16_dinov3",
    },
)
VITS = {
    "dinov3_vit": DINOV3,
    "dinov2": dinov2(14, {}, ""),
    "dinov2_with_registers": dinov2(16, {"num_register_tokens": (4, 4)}, "_reg4"),
}
CONVNEXT = "dinov3_convnext"
CONVNEXTS = {  # widths and depths
    "tiny": ([96, 192, 384, 768], [3, 3, 9, 3]),
    "small": ([96, 192, 384, 768], [3, 3, 27, 3]),
    "base": ([128, 256, 512, 1024], [3, 3, 27, 3]),
    "large": ([192, 384, 768, 1536], [3, 3, 27, 3]),
}
BACKBONE_TYPES = (*VITS, CONVNEXT)


def is_backbone(config: dict[str, Any]) -> bool:
    """Return whether a `config.json` describes a backbone alone that this project has."""
    return config.get("model_type") in BACKBONE_TYPES


def backbone_values(config: dict[str, Any], source: str) -> tuple[str, dict[str, Any]]:
    """Return the config file and the values by our keys for the `config.json` of a backbone.

    Raises `UserError`, naming `source` and the key, for unsupported values.
    """
    settings = Section(config, source)
    if config["model_type"] == CONVNEXT:
        return convnext_values(settings)
    kind = VITS[config["model_type"]]
    gated = flag(settings.get(kind.gated, False), f"{source}: {kind.gated}")
    values = {x.key: x.read(settings.get(x.name, x.default), f"{source}: {x.name}") for x in kind.settings}
    fixed = dict(kind.fixed)
    width = values[f"{VIT}.EMBED_DIM"]
    if kind is DINOV3:
        ratio = 2 if gated and width == 4096 else 4
        fixed |= {"intermediate_size": (ratio * width, 1536)}
        fixed |= {"hidden_act": ("silu" if gated else "gelu", "gelu")}
    for name, (needed, default) in fixed.items():
        value = settings.get(name, default)
        if value != needed:
            raise UserError(f"{source}: {name}: {shown(value)} is not supported, only {needed!r}")
    names = kind.gated_names if gated else kind.plain_names
    values[f"{VIT}.NAME"] = names.get(width, next(iter(names.values())))
    return kind.file, values


def heads_of(config: dict[str, Any], source: str) -> int | None:
    """Return the number of attention heads in the `config.json` of a backbone, None for a ConvNeXt.

    Raises `UserError` as `backbone_values` does, because a model with other values would not fit the weights.
    """
    return None if config["model_type"] == CONVNEXT else backbone_values(config, source)[1][f"{VIT}.NUM_HEADS"]


def convnext_values(settings: Section) -> tuple[str, dict[str, Any]]:
    """Return the config file and the values by our keys for the `config.json` of a DINOv3 ConvNeXt."""
    default = CONVNEXTS["tiny"]
    sizes = settings.get("hidden_sizes", default[0]), settings.get("depths", default[1])
    for size, known in CONVNEXTS.items():
        if sizes == known:
            return f"backbones/dinov3_convnext_{size[0]}.yaml", {"MODEL.TIMM.NAME": f"convnext_{size}"}
    expected = f"those of ConvNeXt {', '.join(CONVNEXTS)}"
    raise UserError(f"{settings.source}: hidden_sizes and depths: expected {expected}, got {shown(list(sizes))}")
