"""Kinds of checkpoints, recognized by their tensor names, and the conversion of each to our names and shapes."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, NamedTuple

from torch import Tensor

from semask_d2.checkpoint import conversion
from semask_d2.checkpoint import foundation_names as foundation
from semask_d2.checkpoint.eomt_names import EOMT, EOMT_DINOV3, fit_eomt
from semask_d2.checkpoint.transformers_names import MASK2FORMER, MASKFORMER, TensorNames, join_parts

PLAIN = "plain state dict"  # of the model itself, or unknown: names are used unchanged
SEMANTIC_LAYERS = r"backbone\.(.*\.)?semantic_layers?\d*\."
SEMASK_SWIN = (r"backbone\..*\.mlp_cls_q\.weight$", r"backbone\..*\.relative_position_bias_table$")
HEAD = r"(?!backbone\.|sem_seg_head\.backbone\.blocks\.)"
# layers that depend on the classes of the dataset
CLASS_LAYERS = re.compile(r"(.*\.)?(class_embed|mlp_cls_q|mlp_cls_k|conv_seg)\.(weight|bias)$")
# queries of mask models; they are re-initialized if their number differs, as class layers are
QUERIES = re.compile(r"(.*\.)?query_(feat|embed)\.weight$")


class Kind(NamedTuple):
    """A kind of checkpoint.

    A checkpoint is of this kind if each pattern of `holds` matches a tensor name and no pattern of `lacks` does.
    `rename` returns our name of a tensor, or None to leave it out. `fresh` matches the tensors that are newly
    initialized when training starts from such a checkpoint, and `fresh_words` describes them in messages;
    `holds_words` describes what the checkpoint does have. `decoder` is set for released models.
    """

    name: str
    holds: tuple[str, ...] = ()
    lacks: tuple[str, ...] = ()
    rename: Callable[[str], str | None] = str
    fit: Callable[[conversion.State, conversion.State], tuple[conversion.State, list[str]]] | None = None
    fresh: str | None = None
    fresh_words: str = ""
    holds_words: str = "a backbone"
    decoder: str | None = None

    def matches(self, state: dict[str, Tensor]) -> bool:
        """Return whether the names of `state` are those of this kind."""

        def occurs(pattern: str) -> bool:
            return any(re.match(pattern, name) for name in state)

        return all(map(occurs, self.holds)) and not any(map(occurs, self.lacks))

    def convert(self, state: dict[str, Tensor], model_state: dict[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
        """Return `state` with our names and, where possible, the shapes of `model_state`; also notes for the log."""
        renamed = {new: value for name, value in state.items() if (new := self.rename(name)) is not None}
        return self.fit(renamed, model_state) if self.fit else (renamed, [])

    def initializes(self, name: str) -> bool:
        """Return whether the model's tensor `name` is newly initialized when training starts from this kind."""
        return bool(self.fresh and re.match(self.fresh, name))

    def left_out(self, state: dict[str, Tensor]) -> list[str]:
        """Return the names of `state` that have no counterpart in our models."""
        return [name for name in state if self.rename(name) is None]


def released_mask_model(decoder: str, *holds: str) -> Kind:
    """Return the kind of a released model of the Mask2Former or MaskFormer family, with `criterion.empty_weight`."""
    return Kind(
        f"released {decoder}",
        (r"criterion\.empty_weight$", *SEMASK_SWIN, *holds),
        rename=conversion.released_mask_name,
        decoder=decoder,
    )


def imagenet_swin(publisher: str, rename: Callable[[str], str | None], *, holds: str, lacks: str = r"$") -> Kind:
    """Return the kind of a Swin trained on ImageNet."""
    return Kind(
        f"ImageNet Swin of {publisher}",
        (r"layers\.0\.blocks\.0\.attn\.relative_position_bias_table$", holds),
        (lacks,),
        rename=rename,
        fit=conversion.fit_swin,
        fresh=rf"{HEAD}|{SEMANTIC_LAYERS}|backbone\.norm\d\.",
        fresh_words="semantic layers, output norms and head",
    )


def imagenet_resnet(publisher: str, rename: Callable[[str], str | None], *holds: str) -> Kind:
    """Return the kind of a ResNet trained on ImageNet."""
    return Kind(f"ImageNet ResNet of {publisher}", holds, rename=rename, fresh=HEAD, fresh_words="head")


def plain_model(name: str, *holds: str, **fields: Any) -> Kind:
    """Return the kind of a complete model without semantic layers, from which a model with them can start training."""
    return Kind(
        name,
        holds,
        fresh=SEMANTIC_LAYERS,
        fresh_words="semantic layers",
        holds_words="a model without semantic layers",
        **fields,
    )


def transformers_model(decoder: str, family: TensorNames, queries: str) -> Kind:
    """Return the kind of a model in the transformers library."""
    holds = (r"model\.pixel_level_module\.", rf"model\.transformer_module\.{queries}\.")
    return plain_model(f"{decoder} of transformers", *holds, rename=family.to_ours, fit=join_parts)


def facebook_model(decoder: str, *holds: str) -> Kind:
    """Return the kind of a facebookresearch model; a training buffer or an older version's names identify it."""
    older = rf"criterion\.empty_weight$|sem_seg_head\.predictor\.static_query\.|{conversion.VERSION_1}"
    name = f"{decoder} of facebookresearch"
    return plain_model(name, r"backbone\.", older, *holds, rename=conversion.facebook_name)


ALIGN, DEFORMABLE = r"sem_seg_head\.pixel_decoder\.align_\d", r"sem_seg_head\.pixel_decoder\.transformer\."
MASKED_ATTENTION = r"sem_seg_head\.predictor\.transformer_cross_attention_layers\."
MASKFORMER_DECODER = r"sem_seg_head\.predictor\.transformer\.decoder\."

KINDS = (
    released_mask_model("MSFaPN", MASKED_ATTENTION, ALIGN, DEFORMABLE),
    released_mask_model("FaPN", MASKED_ATTENTION, ALIGN),
    released_mask_model("Mask2Former", MASKED_ATTENTION, DEFORMABLE),
    released_mask_model("MaskFormer", MASKFORMER_DECODER),
    Kind(
        "released FPN",
        (r"decode_head\.scale_heads\.", *SEMASK_SWIN),
        rename=conversion.released_fpn_name,
        decoder="FPN",
    ),
    transformers_model("Mask2Former", MASK2FORMER, "queries_features"),
    transformers_model("MaskFormer", MASKFORMER, "queries_embedder"),
    facebook_model("Mask2Former", MASKED_ATTENTION),
    facebook_model("MaskFormer", MASKFORMER_DECODER),
    Kind("semask_d2 checkpoint", (SEMANTIC_LAYERS, r"sem_seg_head\."), fit=conversion.fit_vit),
    plain_model(
        "semask_d2 checkpoint without semantic layers", r"backbone\.", r"sem_seg_head\.", fit=conversion.fit_vit
    ),
    # Microsoft's first stage ends with a patch merging, timm's second begins with one
    imagenet_swin("Microsoft", conversion.swin_name, holds=r"layers\.0\.downsample\."),
    imagenet_swin(
        "timm", conversion.timm_swin_name, holds=r"layers\.1\.downsample\.", lacks=r"layers\.0\.downsample\."
    ),
    imagenet_resnet("Detectron2", conversion.resnet_name, r"stem\.conv1\.weight$", r"res2\.0\.conv1\.weight$"),
    imagenet_resnet("torchvision", conversion.torchvision_resnet_name, r"bn1\.weight$", r"layer1\.0\.conv1\.weight$"),
    Kind(
        "ImageNet Mix Transformer",
        (r"patch_embed1\.proj\.", r"block1\.0\.attn\.kv\."),
        rename=conversion.mit_name,
        fresh=rf"{HEAD}|{SEMANTIC_LAYERS}",
        fresh_words="semantic layers and head",
    ),
)


def classifier(name: str, **fields: Any) -> Kind:
    """Return the kind of a classifier whose tensors fit the body of a timm backbone."""
    return Kind(
        name,
        fresh=rf"{HEAD}|{SEMANTIC_LAYERS}|backbone\.(norms|pyramid)\.",
        fresh_words="semantic layers, output norms, feature pyramid and head",
        **fields,
    )


def encoder_only_model(name: str, family: TensorNames, *holds: str, **fields: Any) -> Kind:
    """Return the kind of an EoMT in the transformers library."""
    holds = (r"attn_mask_probs$", r"query\.weight$", *holds)
    return plain_model(f"{name} of transformers", *holds, rename=family.to_ours, fit=fit_eomt, **fields)


# before other kinds: their names resemble those of classifiers
ENCODER_ONLY = (
    encoder_only_model("EoMT on DINOv2", EOMT, r"embeddings\.position_embeddings\."),
    encoder_only_model("EoMT on DINOv3", EOMT_DINOV3),
)

# also depend on the model: each timm architecture has its own names
CLASSIFIERS = (
    classifier(
        "EfficientNet of efficientnet_pytorch",
        holds=(r"_conv_stem\.", r"_blocks\.0\._depthwise_conv\."),
        rename=conversion.efficientnet_name,
        fit=conversion.fit_efficientnet,
    ),
    classifier(
        "DINOv3 of transformers",
        holds=(r"(.*\.)?embeddings\.patch_embeddings\.weight$", r"(.*\.)?layer\.0\.attention\.q_proj\."),
        rename=foundation.dinov3_name,
        fit=foundation.fit_dinov3,
    ),
    classifier(
        "DINOv2 of transformers",
        holds=(r"(.*\.)?embeddings\.patch_embeddings\.projection\.", r"(.*\.)?encoder\.layer\.0\.layer_scale1\."),
        rename=foundation.dinov2_name,
        fit=foundation.fit_dinov2,
    ),
    classifier(
        "DINOv3 ConvNeXt of transformers",
        holds=(r"(.*\.)?stages\.0\.downsample_layers\.0\.", r"(.*\.)?stages\.0\.layers\.0\.depthwise_conv\."),
        rename=foundation.dinov3_convnext_name,
        fit=foundation.fit_convnext,
    ),
    classifier(
        "DINOv3 of Meta",
        holds=(r"storage_tokens$", r"blocks\.0\.ls1\."),
        rename=foundation.meta_dinov3_name,
        fit=foundation.fit_dinov3,
    ),
    classifier(
        "DINOv2 of Meta",
        holds=(r"mask_token$", r"pos_embed$", r"blocks\.0\.ls1\."),
        rename=foundation.meta_dinov2_name,
        fit=foundation.fit_dinov2,
    ),
    classifier(
        "ConvNeXt of Meta",
        holds=(r"downsample_layers\.0\.0\.", r"stages\.0\.0\.dwconv\."),
        rename=foundation.meta_convnext_name,
        fit=foundation.fit_convnext,
    ),
    classifier(
        "timm model",
        lacks=(r"backbone\.",),
        rename=conversion.timm_body_name,
        fit=conversion.fit_timm_body,
    ),
)


def recognize(state: dict[str, Tensor], model_state: dict[str, Tensor]) -> Kind:
    """Return the first kind that matches the names of `state`; a plain state dict if none does.

    Classifiers are recognized only if `model_state` belongs to a model with a timm backbone.
    """
    on_timm = any(name.startswith(conversion.TIMM_BODY) for name in model_state)
    kinds = (*ENCODER_ONLY, *(CLASSIFIERS if on_timm else ()), *KINDS)
    return next((kind for kind in kinds if kind.matches(state)), Kind(PLAIN))
