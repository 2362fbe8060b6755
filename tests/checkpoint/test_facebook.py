"""Released files of facebookresearch's Mask2Former and MaskFormer: pickles of arrays, in every version of the names."""

from __future__ import annotations

import collections
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from semask_d2 import build_model
from semask_d2.checkpoint import load_weights
from semask_d2.d2 import CfgNode
from semask_d2.utils.errors import UserError
from tests.helpers.small_models import same, snapshot, with_statistics
from tests.helpers.tiny_model import randomize, tiny_cfg

HEADS = {
    "Mask2Former": {"MODEL__SEM_SEG_HEAD__PIXEL_DECODER_NAME": "MSDeformAttnPixelDecoder"},
    "MaskFormer": {
        "MODEL__SEM_SEG_HEAD__PIXEL_DECODER_NAME": "BasePixelDecoder",
        "MODEL__MASK_FORMER__TRANSFORMER_DECODER_NAME": "StandardTransformerDecoder",
        "MODEL__MASK_FORMER__TRANSFORMER_IN_FEATURE": "res5",
    },
}
VERSIONS = ("newest", "without the buffer", "static_query", "version 1")


R50 = {
    "MODEL__BACKBONE__NAME": "build_resnet_backbone",
    "MODEL__RESNETS__STEM_OUT_CHANNELS": 8,
    "MODEL__RESNETS__RES2_OUT_CHANNELS": 16,
    "MODEL__RESNETS__WIDTH_PER_GROUP": 4,
    "MODEL__RESNETS__OUT_FEATURES": ["res2", "res3", "res4", "res5"],
}


def config(decoder: str, num_blocks: int = 0, **options: object) -> CfgNode:
    return tiny_cfg(MODEL__SWIN__NUM_SEM_BLOCKS=num_blocks, **HEADS[decoder], **options)


def released(state: dict[str, Tensor], version: str, folder: Path) -> Path:
    """Write a file in the published format: an ordered dict of arrays with module versions, and the author's name."""
    arrays = collections.OrderedDict((name, value.numpy()) for name, value in state.items())
    if version != "without the buffer":
        arrays["criterion.empty_weight"] = np.ones(7, np.float32)
    if version in ("static_query", "version 1"):
        arrays = collections.OrderedDict((name.replace("query_feat", "static_query"), x) for name, x in arrays.items())
    if version == "version 1":
        arrays = collections.OrderedDict((name.replace("pixel_decoder.", "", 1), x) for name, x in arrays.items())
    arrays._metadata = collections.OrderedDict({"": {"version": 1}, "sem_seg_head": {"version": 2}})
    path = folder / "model_final_54b88a.pkl"
    path.write_bytes(pickle.dumps({"model": arrays, "__author__": "MaskFormer", "matching_heuristics": True}))
    return path


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("decoder", HEADS)
def test_every_version_loads_whole(decoder: str, version: str, tmp_path: Path) -> None:
    source, model = randomize(build_model(config(decoder))), build_model(config(decoder))
    report = load_weights(model, released(snapshot(source), version, tmp_path))
    assert same(snapshot(model), snapshot(source))
    named = version != "without the buffer"  # without the buffer, it cannot be distinguished from our files
    assert report.kind == (
        f"{decoder} of facebookresearch" if named else "semask_d2 checkpoint without semantic layers"
    )
    assert report.unexpected == []
    assert report.dropped == (["criterion.empty_weight"] if named else [])


@pytest.mark.parametrize("decoder", HEADS)
@pytest.mark.parametrize("trained_with", ["FrozenBN", "BN"])
def test_so_do_those_on_a_resnet_however_its_norms_were_trained(
    decoder: str, trained_with: str, tmp_path: Path, log: pytest.LogCaptureFixture
) -> None:
    source = with_statistics(build_model(config(decoder, **R50, MODEL__RESNETS__NORM=trained_with)))
    model = build_model(config(decoder, **R50))
    report = load_weights(model, released(snapshot(source), "newest", tmp_path))
    assert report.kind == f"{decoder} of facebookresearch"
    assert report.complete
    assert report.unexpected == []
    assert "not in the model" not in log.text
    model_state, published = snapshot(model), snapshot(source)
    assert {name for name in published if name not in model_state} == {
        name for name in published if name.endswith("num_batches_tracked")
    }
    assert {"backbone.stem.conv1.norm.running_mean", "backbone.res4.5.conv3.weight"} <= model_state.keys()
    assert same(model_state, {name: published[name] for name in model_state})
    image = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        actual, expected = (x.eval().backbone(image)["res5"] for x in (model, source))
    assert torch.equal(actual, expected)


@pytest.mark.parametrize("version", VERSIONS)
def test_a_semask_training_starts_from_one(version: str, tmp_path: Path, log: pytest.LogCaptureFixture) -> None:
    source = randomize(build_model(config("Mask2Former")))
    path = released(snapshot(source), version, tmp_path)
    model = build_model(config("Mask2Former", num_blocks=1))
    before = snapshot(model)
    with pytest.raises(UserError, match="a model without semantic layers to start training from"):
        load_weights(model, path)
    report = load_weights(model, path, training_start=True)
    model_state = {name for name in before if ".semantic_layer." in name}
    assert set(report.missing) == model_state
    expected = {**snapshot(source), **{name: before[name] for name in model_state}}
    assert same(snapshot(model), expected)
    assert "(semantic layers)" in log.text


def test_what_else_is_missing_is_still_refused(tmp_path: Path) -> None:
    state = snapshot(build_model(config("Mask2Former")))
    del state["backbone.norm2.weight"]
    path = released(state, "static_query", tmp_path)
    for training_start in (False, True):
        with pytest.raises(UserError, match=r"1 missing: backbone\.norm2\.weight"):
            load_weights(build_model(config("Mask2Former")), path, training_start=training_start)
