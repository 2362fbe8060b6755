"""Tables of the tensor names of DINOv2, DINOv3 and ConvNeXt in transformers' and Meta's files, and of timm's names.

Rows are written as in transformers_names.py; the second name is that of timm's model.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from semask_d2.checkpoint.conversion import JOINT_BLOCKS, TIMM_BODY, State, fit_timm_body
from semask_d2.checkpoint.transformers_names import QKV, Rows, join_parts, renamed
from semask_d2.utils.errors import UserError

BLOCK = "blocks.{i}."
PREFIX = "(|model.|dinov2.|dinov2_with_registers.)"  # of models with a classifier, and of state dicts
EMBEDDINGS = f"{PREFIX}embeddings."
TOKENS: Rows = [
    (f"{EMBEDDINGS}cls_token", "cls_token"),
    (f"{EMBEDDINGS}register_tokens", "reg_token"),
]
NORM = (f"{PREFIX}(layernorm|norm).{{x}}", "norm.{x}")  # only of models whose head contains the last blocks
DINOV2_LAYER, DINOV3_LAYER = f"{PREFIX}encoder.layer.{{i}}.", f"{PREFIX}layer.{{i}}."
DINOV2_ROWS: Rows = [
    *TOKENS,
    (f"{EMBEDDINGS}position_embeddings", "pos_embed"),
    (f"{EMBEDDINGS}patch_embeddings.projection.{{x}}", "patch_embed.proj.{x}"),
    *(
        (f"{DINOV2_LAYER}attention.(attention.{word}|{letter}_proj).{{x}}", f"{BLOCK}attn.qkv.{{x}}#{part}")
        for part, (letter, word) in enumerate(QKV)
    ),
    (f"{DINOV2_LAYER}attention.(output.dense|o_proj).{{x}}", f"{BLOCK}attn.proj.{{x}}"),
    (f"{DINOV2_LAYER}layer_scale{{j}}.lambda1", f"{BLOCK}ls{{j}}.gamma"),
    (f"{DINOV2_LAYER}mlp.weights_in.{{x}}", f"{BLOCK}mlp.fc1.{{x}}"),
    (f"{DINOV2_LAYER}mlp.weights_out.{{x}}", f"{BLOCK}mlp.fc2.{{x}}"),
    (f"{DINOV2_LAYER}{{x}}", f"{BLOCK}{{x}}"),
    NORM,
]
DINOV3_ROWS: Rows = [
    *TOKENS,
    (f"{EMBEDDINGS}patch_embeddings.{{x}}", "patch_embed.proj.{x}"),
    *((f"{DINOV3_LAYER}attention.{letter}_proj.bias", f"{BLOCK}attn.{letter}_bias") for letter, _ in QKV),
    *(
        (f"{DINOV3_LAYER}attention.{letter}_proj.weight", f"{BLOCK}attn.qkv.weight#{part}")
        for part, (letter, _) in enumerate(QKV)
    ),
    (f"{DINOV3_LAYER}attention.o_proj.{{x}}", f"{BLOCK}attn.proj.{{x}}"),
    (f"{DINOV3_LAYER}layer_scale{{j}}.lambda1", f"{BLOCK}gamma_{{j}}"),
    (f"{DINOV3_LAYER}mlp.gate_proj.{{x}}", f"{BLOCK}mlp.fc1_g.{{x}}"),
    (f"{DINOV3_LAYER}mlp.up_proj.{{x}}", f"{BLOCK}mlp.fc1.{{x}}"),
    (f"{DINOV3_LAYER}mlp.down_proj.{{x}}", f"{BLOCK}mlp.fc2.{{x}}"),
    (f"{DINOV3_LAYER}{{x}}", f"{BLOCK}{{x}}"),
    NORM,
]
DINOV3_STAGE = "(|model.)stages.{i}."
DINOV3_CONVNEXT_ROWS: Rows = [
    ("(|model.)stages.0.downsample_layers.{x}", "stem.{x}"),
    (f"{DINOV3_STAGE}downsample_layers.{{x}}", "stages.{i}.downsample.{x}"),
    *(
        (f"{DINOV3_STAGE}layers.{{j}}.{foreign}.{{x}}", f"stages.{{i}}.blocks.{{j}}.{ours}.{{x}}")
        for foreign, ours in (
            ("depthwise_conv", "conv_dw"),
            ("layer_norm", "norm"),
            ("pointwise_conv1", "mlp.fc1"),
            ("pointwise_conv2", "mlp.fc2"),
        )
    ),
    (f"{DINOV3_STAGE}layers.{{x}}", "stages.{i}.blocks.{x}"),
]
META_DINOV2_ROWS: Rows = [
    ("register_tokens", "reg_token"),
    (f"{BLOCK}mlp.w12.{{x}}", f"{BLOCK}mlp.fc1.{{x}}"),
    (f"{BLOCK}mlp.w3.{{x}}", f"{BLOCK}mlp.fc2.{{x}}"),
]
META_DINOV3_ROWS: Rows = [
    ("storage_tokens", "reg_token"),
    (f"{BLOCK}ls{{j}}.gamma", f"{BLOCK}gamma_{{j}}"),
    (f"{BLOCK}mlp.w1.{{x}}", f"{BLOCK}mlp.fc1_g.{{x}}"),
    (f"{BLOCK}mlp.w2.{{x}}", f"{BLOCK}mlp.fc1_x.{{x}}"),
    (f"{BLOCK}mlp.w3.{{x}}", f"{BLOCK}mlp.fc2.{{x}}"),
]
META_CONVNEXT_ROWS: Rows = [
    ("downsample_layers.0.{x}", "stem.{x}"),
    ("downsample_layers.{i}.{x}", "stages.{i}.downsample.{x}"),
    *(
        (f"stages.{{i}}.{{j}}.{foreign}.{{x}}", f"stages.{{i}}.blocks.{{j}}.{ours}.{{x}}")
        for foreign, ours in (("dwconv", "conv_dw"), ("pwconv1", "mlp.fc1"), ("pwconv2", "mlp.fc2"))
    ),
    ("stages.{i}.{j}.{x}", "stages.{i}.blocks.{j}.{x}"),
]
PLACES = TIMM_BODY, JOINT_BLOCKS
# layers after the last feature, tensors that only pretraining uses, and buffers that timm's model computes
LEFT_OUT = re.compile(
    r"(.*\.)?(mask_token|bias_mask|periods)$"
    r"|(model\.|dinov2\.|dinov2_with_registers\.)?(layer_norm|classifier|head)\."
    r"|(local_cls_norm|norms|projectors)\."
)


def renaming(rows: Rows) -> Callable[[str], str | None]:
    """Return the function that gives timm's name of a tensor by these rows; None for a tensor that is left out."""

    def to_timm(name: str) -> str | None:
        if LEFT_OUT.match(name):
            return None
        return next(filter(None, (renamed(name, *row) for row in rows)), name)

    return to_timm


def fit_dinov2(state: State, model_state: State) -> tuple[State, list[str]]:
    """Convert DINOv2's tensors under timm's names to the model's shapes; also return notes for the log.

    With register tokens, timm adds the position embedding of the class token to that token.
    """
    fitted, _ = join_parts(state, model_state)
    positions, token = fitted.get("pos_embed"), fitted.get("cls_token")
    if "reg_token" in fitted and positions is not None and token is not None and positions.shape[2:] == token.shape[2:]:
        fitted["cls_token"], fitted["pos_embed"] = token + positions[:, :1], positions[:, 1:]
    return fit_timm_body(fitted, model_state)


def fit_dinov3(state: State, model_state: State) -> tuple[State, list[str]]:
    """Convert DINOv3's tensors under timm's names to the model's; also return notes for the log.

    Raises `UserError` if the file has biases of queries, keys or values that the model lacks, unless they are zero.
    """
    fitted, _ = join_parts(state, model_state)
    for name in [name for name in fitted if name.endswith(".attn.qkv.bias")]:
        for letter, part in zip("qkv", fitted.pop(name).chunk(3), strict=True):
            fitted[name.replace("qkv.bias", f"{letter}_bias")] = part
    for name in [name for name in fitted if ".mlp.fc1_g." in name]:  # "up" is a half of it only where a gate is
        up = name.replace(".fc1_g.", ".fc1.")
        if up in fitted:
            fitted[name.replace(".fc1_g.", ".fc1_x.")] = fitted.pop(up)
    absent = [
        name
        for name in fitted
        if re.fullmatch(r"blocks\.\d+\.attn\.[qkv]_bias", name)
        and not any(place + name in model_state for place in PLACES)
        and any(place + re.sub(r"\w_bias$", "qkv.weight", name) in model_state for place in PLACES)
    ]
    nonzero = next((name for name in absent if fitted[name].any()), None)
    if nonzero is not None:
        raise UserError(
            f'{nonzero} is not zero, and the model has no such bias: set MODEL.VIT.NAME to the variant with "_qkvb", '
            "such as vit_small_patch16_dinov3_qkvb"
        )
    for name in absent:
        del fitted[name]
    fitted, notes = fit_timm_body(fitted, model_state)
    return fitted, [f"{len(absent)} biases of zeros left out", *notes] if absent else notes


def fit_convnext(state: State, model_state: State) -> tuple[State, list[str]]:
    """Convert ConvNeXt's tensors under timm's names; linear layers are 1x1 convolutions in timm's small models."""
    fitted, notes = fit_timm_body(state, model_state)
    for name, value in fitted.items():
        if name in model_state and model_state[name].shape == (*value.shape, 1, 1):
            fitted[name] = value[..., None, None]
    return fitted, notes


dinov2_name, dinov3_name = renaming(DINOV2_ROWS), renaming(DINOV3_ROWS)
dinov3_convnext_name = renaming(DINOV3_CONVNEXT_ROWS)
meta_dinov2_name, meta_dinov3_name = renaming(META_DINOV2_ROWS), renaming(META_DINOV3_ROWS)
meta_convnext_name = renaming(META_CONVNEXT_ROWS)
