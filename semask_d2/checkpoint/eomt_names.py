"""Tables of transformers' and our tensor names of EoMT, in the form of `transformers_names`."""

from __future__ import annotations

from semask_d2.checkpoint.conversion import TIMM_BODY, fit_vit, place_joint_blocks
from semask_d2.checkpoint.transformers_names import QKV, Rows, State, TensorNames, join_parts

BODY, HEAD = TIMM_BODY, "sem_seg_head."
POSITIONS = "embeddings.position_embeddings.weight"
LAYER = "layers.{i}."
COMMON_ROWS: Rows = [
    ("embeddings.cls_token", f"{BODY}cls_token"),
    ("embeddings.register_tokens", f"{BODY}reg_token"),
    ("layernorm.{x}", f"{HEAD}backbone.norm.{{x}}"),
    ("query.weight", f"{HEAD}query_embed.weight"),
    ("class_predictor.{x}", f"{HEAD}class_embed.{{x}}"),
    *((f"mask_head.fc{n + 1}.{{x}}", f"{HEAD}mask_embed.layers.{n}.{{x}}") for n in range(3)),
    ("attn_mask_probs", f"{HEAD}mask_probability"),
    *(
        (f"upscale_block.block.{{i}}.{foreign}.{{x}}", f"{HEAD}upscale.{{i}}.{ours}.{{x}}")
        for foreign, ours in (("conv1", "transposed"), ("conv2", "depthwise"), ("layernorm2d", "norm"))
    ),
]
# blocks have one name in files of transformers; `place_joint_blocks` knows which ones belong to the head
BLOCKS = (f"{BODY}blocks.{{i}}.", f"{HEAD}backbone.blocks.{{i}}.")
BLOCK_NORMS = [(f"{LAYER}norm{n}.{{x}}", f"norm{n}.{{x}}") for n in (1, 2)]
DINOV2_BLOCK = [
    *BLOCK_NORMS,
    *((f"{LAYER}attention.{letter}_proj.{{x}}", f"attn.qkv.{{x}}#{part}") for part, (letter, _) in enumerate(QKV)),
    (f"{LAYER}attention.out_proj.{{x}}", "attn.proj.{x}"),
    *((f"{LAYER}layer_scale{n}.lambda1", f"ls{n}.gamma") for n in (1, 2)),
]
PLAIN_MLP = [(f"{LAYER}mlp.fc{{j}}.{{x}}", "mlp.fc{j}.{x}")]
GATED_MLP = [
    (f"{LAYER}mlp.gate_proj.{{x}}", "mlp.fc1.{x}#0/2"),
    (f"{LAYER}mlp.up_proj.{{x}}", "mlp.fc1.{x}#1/2"),
    (f"{LAYER}mlp.(down_proj|weights_out).{{x}}", "mlp.fc2.{x}"),
]
JOINED_MLP = [(f"{LAYER}mlp.weights_in.{{x}}", "mlp.fc1.{x}")]  # only read: the names of transformers 4
DINOV3_BLOCK = [
    *BLOCK_NORMS,
    *((f"{LAYER}attention.{letter}_proj.weight", f"attn.qkv.weight#{part}") for part, (letter, _) in enumerate(QKV)),
    *((f"{LAYER}attention.{letter}_proj.bias", f"attn.{letter}_bias") for letter in ("q", "v")),
    (f"{LAYER}attention.o_proj.{{x}}", "attn.proj.{x}"),
    *((f"{LAYER}layer_scale{n}.lambda1", f"gamma_{n}") for n in (1, 2)),
    (f"{LAYER}mlp.up_proj.{{x}}", "mlp.fc1.{x}"),
    (f"{LAYER}mlp.down_proj.{{x}}", "mlp.fc2.{x}"),
]


def block_rows(rows: Rows) -> Rows:
    """Return the rows of a block for its places in the backbone and in the head."""
    return [(foreign, f"{place}{ours}") for place in BLOCKS for foreign, ours in rows]


def eomt_dinov2(*mlp: Rows) -> TensorNames:
    """Return the table for DINOv2 with these rows of the MLPs, of which the first that matches is written."""
    stem = [("embeddings.patch_embeddings.projection.{x}", f"{BODY}patch_embed.proj.{{x}}")]
    stem += [(POSITIONS, f"{BODY}pos_embed")]
    return TensorNames((*COMMON_ROWS, *stem, *block_rows([*DINOV2_BLOCK, *(row for rows in mlp for row in rows)])))


EOMT, EOMT_GATED = eomt_dinov2(PLAIN_MLP, GATED_MLP, JOINED_MLP), eomt_dinov2(GATED_MLP)


EOMT_DINOV3 = TensorNames(
    (
        *COMMON_ROWS,
        ("embeddings.patch_embeddings.{x}", f"{BODY}patch_embed.proj.{{x}}"),
        *block_rows(DINOV3_BLOCK),
    )
)


def fit_eomt(state: State, model_state: State) -> tuple[State, list[str]]:
    """Join projections, place the blocks, and resample positions and patch kernel; also return notes for the log."""
    joined, _ = join_parts(state, model_state)
    positions = joined.get(f"{BODY}pos_embed")
    if positions is not None and positions.ndim == 2:
        joined[f"{BODY}pos_embed"] = positions[None]
    return fit_vit(place_joint_blocks(joined, model_state), model_state)


def to_eomt(state: State) -> State:
    """Return tensors under transformers' names in its form: positions (N, C), and masks either on or off.

    Probabilities are rounded, since evaluation here masks queries in the blocks with probabilities of at least 1/2.
    """
    changed = dict(state)
    if POSITIONS in changed:
        changed[POSITIONS] = changed[POSITIONS][0]
    changed["attn_mask_probs"] = (changed["attn_mask_probs"] >= 0.5).float()
    return changed
