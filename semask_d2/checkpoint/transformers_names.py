"""Tables of transformers' and our tensor names of Mask2Former and MaskFormer, used in both directions.

A row is (transformers' name, our name); the first row that matches is used. `(a|b)` are the names of two generations
of transformers' files, of which the first is written; `{i}` and `{j}` are numbers, `{x}` is the rest of a name. `#0`,
`#1` and `#2` after our name are parts of one tensor along dimension 0: query, key and value; `#0/2` and `#1/2` halves.
"""

from __future__ import annotations

import functools
import re
from typing import NamedTuple

import torch
from torch import Tensor

State = dict[str, Tensor]
Rows = list[tuple[str, str]]

QKV = ("q", "query"), ("k", "key"), ("v", "value")
DECODER, TRANSFORMER = "model.pixel_level_module.decoder.", "model.transformer_module."
PIXEL_DECODER, PREDICTOR = "sem_seg_head.pixel_decoder.", "sem_seg_head.predictor."


def swin_rows(encoder: str) -> Rows:
    """Return the rows of a Swin backbone; the prefix `encoder` depends on the family."""
    block, ours = f"{encoder}encoder.layers.{{i}}.blocks.{{j}}.", "backbone.layers.{i}.blocks.{j}."
    table = "relative_position_bias_table"
    return [
        (f"{encoder}embeddings.patch_embeddings.projection.{{x}}", "backbone.patch_embed.proj.{x}"),
        (f"{encoder}embeddings.norm.{{x}}", "backbone.patch_embed.norm.{x}"),
        (f"{encoder}encoder.layers.{{i}}.downsample.{{x}}", "backbone.layers.{i}.downsample.{x}"),
        (f"{block}layernorm_before.{{x}}", f"{ours}norm1.{{x}}"),
        (f"{block}layernorm_after.{{x}}", f"{ours}norm2.{{x}}"),
        (f"{block}attention.(self|relative_position_bias).{table}", f"{ours}attn.{table}"),
        *(
            (f"{block}attention.(self.{word}|{letter}_proj).{{x}}", f"{ours}attn.qkv.{{x}}#{part}")
            for part, (letter, word) in enumerate(QKV)
        ),
        (f"{block}attention.(output.dense|o_proj).{{x}}", f"{ours}attn.proj.{{x}}"),
        (f"{block}(intermediate.dense|mlp.fc1).{{x}}", f"{ours}mlp.fc1.{{x}}"),
        (f"{block}(output.dense|mlp.fc2).{{x}}", f"{ours}mlp.fc2.{{x}}"),
    ]


def resnet_rows() -> Rows:
    """Return the rows of a ResNet backbone, whose norms are siblings of convolutions there, children here."""
    pairs = [("embedder.embedder", "stem.conv1")]
    for n in range(4):
        foreign, ours = f"encoder.stages.{n}.layers.{{i}}.", f"res{n + 2}.{{i}}."
        pairs += [(f"{foreign}shortcut", f"{ours}shortcut")]
        pairs += [(f"{foreign}layer.{k}", f"{ours}conv{k + 1}") for k in range(3)]
    return [
        row
        for foreign, ours in pairs
        for row in (
            (f"{ENCODER}{foreign}.normalization.{{x}}", f"backbone.{ours}.norm.{{x}}"),
            (f"{ENCODER}{foreign}.convolution.{{x}}", f"backbone.{ours}.{{x}}"),
        )
    ]


def attention_rows(foreign: str, ours: str) -> Rows:
    """Return the rows of an attention of queries: separate projections in transformers, joined ones here."""
    return [
        *((f"{foreign}.{letter}_proj.{{x}}", f"{ours}.in_proj_{{x}}#{part}") for part, (letter, _) in enumerate(QKV)),
        (f"{foreign}.(out|o)_proj.{{x}}", f"{ours}.out_proj.{{x}}"),
    ]


ENCODER = "model.pixel_level_module.encoder."
MASK_EMBED = f"{PREDICTOR}mask_embed.layers.{{i}}.{{x}}"
LAYER = f"{TRANSFORMER}decoder.layers.{{i}}."
CROSS_ATTENTION = f"{PREDICTOR}transformer_cross_attention_layers.{{i}}."
SELF_ATTENTION = f"{PREDICTOR}transformer_self_attention_layers.{{i}}."
FEED_FORWARD = f"{PREDICTOR}transformer_ffn_layers.{{i}}."
ENCODER_LAYER, OUR_ENCODER_LAYER = (
    f"{DECODER}encoder.layers.{{i}}.",
    f"{PIXEL_DECODER}transformer.encoder.layers.{{i}}.",
)
MASK2FORMER_ROWS: Rows = [
    *swin_rows(f"{ENCODER}(|swin.|model.)"),
    *resnet_rows(),
    *((f"{ENCODER}hidden_states_norms.stage{n + 1}.{{x}}", f"backbone.norm{n}.{{x}}") for n in range(4)),
    (f"{DECODER}level_embed", f"{PIXEL_DECODER}transformer.level_embed"),
    (f"{DECODER}input_projections.{{x}}", f"{PIXEL_DECODER}input_proj.{{x}}"),
    (f"{DECODER}mask_projection.{{x}}", f"{PIXEL_DECODER}mask_features.{{x}}"),
    (f"{ENCODER_LAYER}self_attn.{{x}}", f"{OUR_ENCODER_LAYER}self_attn.{{x}}"),
    (f"{ENCODER_LAYER}self_attn_layer_norm.{{x}}", f"{OUR_ENCODER_LAYER}norm1.{{x}}"),
    (f"{ENCODER_LAYER}final_layer_norm.{{x}}", f"{OUR_ENCODER_LAYER}norm2.{{x}}"),
    (f"{ENCODER_LAYER}fc{{j}}.{{x}}", f"{OUR_ENCODER_LAYER}linear{{j}}.{{x}}"),
    *(
        row
        for part in ("adapter", "layer")
        for row in (
            (f"{DECODER}{part}_{{i}}.1.{{x}}", f"{PIXEL_DECODER}{part}_{{i}}.norm.{{x}}"),
            (f"{DECODER}{part}_{{i}}.0.{{x}}", f"{PIXEL_DECODER}{part}_{{i}}.{{x}}"),
        )
    ),
    (f"{TRANSFORMER}queries_embedder.{{x}}", f"{PREDICTOR}query_embed.{{x}}"),
    (f"{TRANSFORMER}queries_features.{{x}}", f"{PREDICTOR}query_feat.{{x}}"),
    (f"{TRANSFORMER}level_embed.{{x}}", f"{PREDICTOR}level_embed.{{x}}"),
    (f"{TRANSFORMER}input_projections.{{x}}", f"{PREDICTOR}input_proj.{{x}}"),
    (f"{TRANSFORMER}decoder.layernorm.{{x}}", f"{PREDICTOR}decoder_norm.{{x}}"),
    (f"{TRANSFORMER}decoder.mask_predictor.mask_embedder.{{i}}.0.{{x}}", MASK_EMBED),
    ("class_predictor.{x}", f"{PREDICTOR}class_embed.{{x}}"),
    *attention_rows(f"{LAYER}self_attn", f"{SELF_ATTENTION}self_attn"),
    (f"{LAYER}self_attn_layer_norm.{{x}}", f"{SELF_ATTENTION}norm.{{x}}"),
    (f"{LAYER}cross_attn_layer_norm.{{x}}", f"{CROSS_ATTENTION}norm.{{x}}"),
    (f"{LAYER}cross_attn.{{x}}", f"{CROSS_ATTENTION}multihead_attn.{{x}}"),
    (f"{LAYER}fc{{j}}.{{x}}", f"{FEED_FORWARD}linear{{j}}.{{x}}"),
    (f"{LAYER}final_layer_norm.{{x}}", f"{FEED_FORWARD}norm.{{x}}"),
]
OUR_LAYER = f"{PREDICTOR}transformer.decoder.layers.{{i}}."
MASKFORMER_ROWS: Rows = [
    *swin_rows(f"{ENCODER}(model.|swin.|)"),
    *resnet_rows(),
    (  # used only for writing; Mask2Former's files lack it
        f"{ENCODER}(model.|)encoder.layers.{{i}}.blocks.{{j}}.attention.self.relative_position_index",
        "backbone.layers.{i}.blocks.{j}.attn.relative_position_index",
    ),
    *((f"{ENCODER}hidden_states_norms.{n}.{{x}}", f"backbone.norm{n}.{{x}}") for n in range(4)),
    (f"{DECODER}fpn.stem.1.{{x}}", f"{PIXEL_DECODER}layer_4.norm.{{x}}"),
    (f"{DECODER}fpn.stem.0.{{x}}", f"{PIXEL_DECODER}layer_4.{{x}}"),
    *(
        row
        for n in range(3)  # transformers counts from the coarsest feature, we count from the finest
        for foreign, ours in (("proj", f"adapter_{3 - n}"), ("block", f"layer_{3 - n}"))
        for row in (
            (f"{DECODER}fpn.layers.{n}.{foreign}.1.{{x}}", f"{PIXEL_DECODER}{ours}.norm.{{x}}"),
            (f"{DECODER}fpn.layers.{n}.{foreign}.0.{{x}}", f"{PIXEL_DECODER}{ours}.{{x}}"),
        )
    ),
    (f"{DECODER}mask_projection.{{x}}", f"{PIXEL_DECODER}mask_features.{{x}}"),
    (f"{TRANSFORMER}queries_embedder.{{x}}", f"{PREDICTOR}query_embed.{{x}}"),
    (f"{TRANSFORMER}input_projection.{{x}}", f"{PREDICTOR}input_proj.{{x}}"),
    (f"{TRANSFORMER}decoder.layernorm.{{x}}", f"{PREDICTOR}transformer.decoder.norm.{{x}}"),
    ("mask_embedder.{i}.0.{x}", MASK_EMBED),
    ("class_predictor.{x}", f"{PREDICTOR}class_embed.{{x}}"),
    *attention_rows(f"{LAYER}self_attn", f"{OUR_LAYER}self_attn"),
    *attention_rows(f"{LAYER}encoder_attn", f"{OUR_LAYER}multihead_attn"),
    (f"{LAYER}self_attn_layer_norm.{{x}}", f"{OUR_LAYER}norm1.{{x}}"),
    (f"{LAYER}encoder_attn_layer_norm.{{x}}", f"{OUR_LAYER}norm2.{{x}}"),
    (f"{LAYER}final_layer_norm.{{x}}", f"{OUR_LAYER}norm3.{{x}}"),
    (f"{LAYER}(|mlp.)fc{{j}}.{{x}}", f"{OUR_LAYER}linear{{j}}.{{x}}"),
]
# tensors that are not weights, or weights that are never used
LEFT_OUT = re.compile(rf"{re.escape(ENCODER)}(swin\.|model\.)?layernorm\.|.*\.relative_position_index$|criterion\.")
PARTS = ("#0", "#1", "#2"), ("#0/2", "#1/2")
FIELDS = {"{i}": r"(?P<i>\d+)", "{j}": r"(?P<j>\d+)", "{x}": r"(?P<x>[^#]+)"}


class TensorNames(NamedTuple):
    """The table of names for one family of models."""

    rows: tuple[tuple[str, str], ...]

    def to_ours(self, name: str) -> str | None:
        """Return our name of transformers' tensor, with `#part` if it is a part of ours; None if we do not have it."""
        if LEFT_OUT.match(name):
            return None
        return next(filter(None, (renamed(name, *row) for row in self.rows)), name)

    def to_transformers(self, name: str) -> str | None:
        """Return transformers' name of our tensor, or of a part `#part` of it; None if its model does not have it."""
        return next(filter(None, (renamed(name, ours, first(foreign)) for foreign, ours in self.rows)), None)


MASK2FORMER, MASKFORMER = TensorNames(tuple(MASK2FORMER_ROWS)), TensorNames(tuple(MASKFORMER_ROWS))


@functools.cache
def pattern(template: str) -> re.Pattern[str]:
    """Return the regular expression of one side of a row."""
    text = template.replace(".", r"\.")
    for field, group in FIELDS.items():
        text = text.replace(field, group)
    return re.compile(text)


def first(template: str) -> str:
    """Return one side of a row with the first of its alternatives."""
    return re.sub(r"\(([^|)]*)\|[^)]*\)", r"\1", template)


def renamed(name: str, source: str, target: str) -> str | None:
    """Return `name` renamed by the row from `source` to `target`; None if it does not match."""
    match = pattern(source).fullmatch(name)
    return target.format(**match.groupdict()) if match else None


def join_parts(state: State, model_state: State) -> tuple[State, list[str]]:
    """Join the parts of a tensor, such as `name#0`, `name#1` and `name#2`, if all have one shape; returns no notes."""
    joined = {name: value for name, value in state.items() if "#" not in name}
    for name in dict.fromkeys(name.split("#")[0] for name in state if "#" in name):
        suffixes = next(suffixes for suffixes in PARTS if any(name + suffix in state for suffix in suffixes))
        parts = {name + suffix: state.get(name + suffix) for suffix in suffixes}
        present = [value for value in parts.values() if value is not None]
        if len(present) == len(suffixes) and len({value.shape for value in present}) == 1 and present[0].ndim:
            joined[name] = torch.cat(present)
        else:
            joined |= {part: value for part, value in parts.items() if value is not None}
    return joined, []


def split_names(family: TensorNames, state: State) -> tuple[State, list[str]]:
    """Return our state under transformers' names, and the names that have no counterpart there."""
    foreign_state: State = {}
    unmatched = []
    for name, value in state.items():
        whole = family.to_transformers(name)
        divided = [[family.to_transformers(name + suffix) for suffix in suffixes] for suffixes in PARTS]
        parts = next((names for names in divided if None not in names), None)
        if whole is not None:
            foreign_state[whole] = value
        elif parts is not None:
            foreign_state |= dict(zip(map(str, parts), value.chunk(len(parts)), strict=True))
        else:
            unmatched.append(name)
    return foreign_state, unmatched
