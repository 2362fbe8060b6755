"""What a checkpoint is, recognized by the names in it, and what follows from that."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, NamedTuple

from torch import Tensor

from semask_d2.checkpoint import conversion
from semask_d2.checkpoint.transformers_names import MASK2FORMER, MASKFORMER, TensorNames, join_parts

PLAIN = "plain state dict"  # of the model itself, or of something unknown: names are taken as they are
SEMANTIC_LAYERS = r"backbone\.(.*\.)?semantic_layers?\d*\."
SEMASK_SWIN = (r"backbone\..*\.mlp_cls_q\.weight$", r"backbone\..*\.relative_position_bias_table$")
HEAD = r"(?!backbone\.)"
# what depends on the classes of the dataset
CLASS_LAYERS = re.compile(r"(.*\.)?(class_embed|mlp_cls_q|mlp_cls_k|conv_seg)\.(weight|bias)$")
# of mask models; another number of them starts them anew as other classes do those layers
QUERIES = re.compile(r"(.*\.)?query_(feat|embed)\.weight$")


class Kind(NamedTuple):
    """A kind of checkpoint.

    It has a tensor whose name matches each of `holds` and none that matches `lacks`. `rename` gives our name of a
    tensor, or None to leave it out. `fresh` matches the names that a model starting its training from such a
    checkpoint initializes itself, and `fresh_words` says which those are. `holds_words` says what it does have.
    `decoder` is that of a released model.
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
        """Whether the names of `state` are those of this kind."""

        def found(pattern: str) -> bool:
            return any(re.match(pattern, name) for name in state)

        return all(map(found, self.holds)) and not any(map(found, self.lacks))

    def convert(self, state: dict[str, Tensor], own: dict[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
        """`state` under our names and, where that is known, in the shapes of `own`; also notes of what was done."""
        renamed = {new: value for name, value in state.items() if (new := self.rename(name)) is not None}
        return self.fit(renamed, own) if self.fit else (renamed, [])

    def initializes(self, name: str) -> bool:
        """Whether a training that starts from this kind finds the tensor `name` of the model newly initialized."""
        return bool(self.fresh and re.match(self.fresh, name))

    def left_out(self, state: dict[str, Tensor]) -> list[str]:
        """The names of `state` that mean nothing to our models."""
        return [name for name in state if self.rename(name) is None]


def released_mask_model(decoder: str, *holds: str) -> Kind:
    """A released model of the Mask2Former or MaskFormer family; ours lack its `criterion.empty_weight`."""
    return Kind(
        f"released {decoder}",
        (r"criterion\.empty_weight$", *SEMASK_SWIN, *holds),
        rename=conversion.released_mask_name,
        decoder=decoder,
    )


def imagenet_swin(publisher: str, rename: Callable[[str], str | None], *, holds: str, lacks: str = r"$") -> Kind:
    """A Swin trained on ImageNet."""
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
    """A ResNet trained on ImageNet."""
    return Kind(f"ImageNet ResNet of {publisher}", holds, rename=rename, fresh=HEAD, fresh_words="head")


def plain_model(name: str, *holds: str, **fields: Any) -> Kind:
    """A whole model without semantic layers, which the training of one with them can start from."""
    return Kind(
        name,
        holds,
        fresh=SEMANTIC_LAYERS,
        fresh_words="semantic layers",
        holds_words="a model without semantic layers",
        **fields,
    )


def transformers_model(decoder: str, family: TensorNames, queries: str) -> Kind:
    """A model of transformers'."""
    holds = (r"model\.pixel_level_module\.", rf"model\.transformer_module\.{queries}\.")
    return plain_model(f"{decoder} of transformers", *holds, rename=family.to_ours, fit=join_parts)


def facebook_model(decoder: str, *holds: str) -> Kind:
    """A model of facebookresearch's, told from ours by a buffer of its training or by names of an older version."""
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
    Kind("semask_d2 checkpoint", (SEMANTIC_LAYERS, r"sem_seg_head\.")),
    plain_model("semask_d2 checkpoint without semantic layers", r"backbone\.", r"sem_seg_head\."),
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
    """A classifier whose tensors fit the body of a model on a timm backbone."""
    return Kind(
        name,
        fresh=rf"{HEAD}|{SEMANTIC_LAYERS}|backbone\.norms\.",
        fresh_words="semantic layers, output norms and head",
        **fields,
    )


# recognized by the model too, as any timm model has names of its own
CLASSIFIERS = (
    classifier(
        "EfficientNet of efficientnet_pytorch",
        holds=(r"_conv_stem\.", r"_blocks\.0\._depthwise_conv\."),
        rename=conversion.efficientnet_name,
        fit=conversion.fit_efficientnet,
    ),
    classifier(
        "timm model",
        lacks=(r"backbone\.",),
        rename=conversion.timm_body_name,
        fit=conversion.fit_timm_body,
    ),
)


def recognize(state: dict[str, Tensor], own: dict[str, Tensor]) -> Kind:
    """The first kind that the names of `state` match; a plain state dict where none does.

    `own` is the state of the model: one on a timm backbone takes the tensors of the same timm model.
    """
    on_timm = any(name.startswith(conversion.TIMM_BODY) for name in own)
    kinds = (*CLASSIFIERS, *KINDS) if on_timm else KINDS
    return next((kind for kind in kinds if kind.matches(state)), Kind(PLAIN))
