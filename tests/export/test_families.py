"""Every published family in every format: exported files agree with the model at any size and batch."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from torch import nn

import semask_d2
from semask_d2 import Predictor
from semask_d2.d2 import CfgNode
from semask_d2.export import writing
from semask_d2.export.exporting import write_verified
from semask_d2.export.graph import SegmentationGraph
from semask_d2.export.writing import GraphSettings
from semask_d2.utils.choices import EXPORT_SUFFIXES
from semask_d2.utils.classes import Classes
from semask_d2.utils.errors import UserError
from tests.helpers.commands import ROOT, load_script
from tests.helpers.tiny_model import CLASSES, OPTIONS, randomize

onnx = pytest.importorskip("onnx", reason="onnx is not installed")
pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
pytest.importorskip("openvino", reason="openvino is not installed")
pytestmark = pytest.mark.slow

# the table in docs/deployment.md, except one whose parts are covered by others
FAMILIES = {name: x for name, x in load_script("tools/export_matrix.py").FAMILIES.items() if name != "MiT Mask2Former"}
# one block per part, but two with windows, because every second one is shifted
SMALL = OPTIONS | {
    "MODEL.SEM_SEG_HEAD.IGNORE_VALUE": 255,
    "MODEL.MASK_FORMER.DEC_LAYERS": 3,
    "MODEL.MIT.EMBED_DIMS": [16, 16, 32, 32],
    "MODEL.MIT.DEPTHS": [1, 1, 1, 1],
    "MODEL.MIT.NUM_HEADS": [1, 1, 2, 2],
    "MODEL.VIT.IMG_SIZE": 64,  # smaller than the images, so that the graph resamples position embeddings
    "MODEL.VIT.EMBED_DIM": 32,
    "MODEL.VIT.DEPTH": 6,
    "MODEL.VIT.NUM_HEADS": 2,
}
SAMPLING = {config for config in FAMILIES.values() if config.endswith("m2f")}  # models with deformable layers
NAMED = Classes.of([f"class {i}" for i in range(CLASSES)], [[i] * 3 for i in range(CLASSES)])
ANY = GraphSettings(size=None, batch=None)


@pytest.fixture(scope="module", autouse=True)
def _shared_traces() -> Iterator[None]:
    """Trace each graph once: OpenVINO converts the ONNX graph that the test of ONNX has traced, which takes longest."""
    traces: dict[tuple, bytes] = {}

    def trace_once(graph: SegmentationGraph, path: Path, outputs: list[str], settings: GraphSettings) -> None:
        key = (graph.model, graph.outputs, graph.normalize, graph.size_rule, *outputs, settings)
        if key not in traces:
            trace(graph, path, outputs, settings)
            traces[key] = path.read_bytes()
        path.write_bytes(traces[key])

    trace = writing.trace
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(writing, "trace", trace_once)
        yield
    family.cache_clear()


@functools.cache
def family(config: str, **options: object) -> tuple[nn.Module, CfgNode]:
    """Return a model and its config, the same model in every test, so that its traces are shared."""
    timm = {"MODEL.TIMM.NAME": "test_resnet"} if "timm" in config else {}  # the smallest model in timm, for tests
    words = [word for pair in (SMALL | timm | options).items() for word in pair]
    cfg = semask_d2.get_cfg(ROOT / f"configs/toy_scenes/{config}.yaml", words)
    return randomize(semask_d2.build_model(cfg)).eval(), cfg


def export(
    config: str,
    kind: str,
    path: Path,
    settings: GraphSettings,
    options: dict[str, object] | None = None,
    **kwargs: object,
) -> list:
    model, cfg = family(config, **(options or {}))
    return write_verified(model, cfg, NAMED, kind, path, settings, **kwargs)


def operators(path: Path) -> set[str]:
    model = onnx.load(path)
    assert {entry.domain for entry in model.opset_import} <= {"", "ai.onnx"}
    assert all(node.domain == "" for node in model.graph.node)
    return {node.op_type for node in model.graph.node}


@pytest.mark.parametrize("config", FAMILIES.values(), ids=list(FAMILIES))
def test_onnx(config: str, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    agreements = export(config, "onnx", path, ANY)
    assert {agreement.shape[0] for agreement in agreements} == {1, 2}
    assert len({agreement.shape[2:] for agreement in agreements}) > 3
    if "GridSample" in operators(path):
        assert config in SAMPLING
        export(config, "onnx", path, ANY._replace(grid_sample=False))
        assert "GridSample" not in operators(path)
    else:
        assert config not in SAMPLING


@pytest.mark.parametrize(("attention", "residual"), [("centers", "raw"), ("scaled", "normalized")])
def test_variants_of_the_semantic_layer(attention: str, residual: str, tmp_path: Path) -> None:
    options = {"MODEL.SWIN.SEM_ATTENTION": attention, "MODEL.SWIN.SEM_RESIDUAL": residual}
    agreements = export(FAMILIES["Swin FPN"], "onnx", tmp_path / "model.onnx", ANY, options)
    assert {agreement.shape[0] for agreement in agreements} == {1, 2}


@pytest.mark.parametrize("config", FAMILIES.values(), ids=list(FAMILIES))
def test_openvino(config: str, tmp_path: Path) -> None:
    export(config, "openvino", tmp_path / "model.xml", ANY)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.bin", "model.xml"]


VITS = {  # position embeddings, patch size and rotary positions unlike those of the table's models
    "DINOv2": ("vit_small_patch14_reg4_dinov2", 14),
    "EVA-02": ("eva02_tiny_patch14_224", 14),
    "mixed rotary": ("vit_small_patch16_rope_mixed_224", 16),
}


@pytest.mark.parametrize(("kind", "suffix"), [("onnx", "onnx"), ("openvino", "xml")])
@pytest.mark.parametrize(("name", "patch"), VITS.values(), ids=VITS)
def test_vits_of_other_families(name: str, patch: int, kind: str, suffix: str, tmp_path: Path) -> None:
    options = {"MODEL.VIT.NAME": name, "MODEL.VIT.PATCH_SIZE": patch, "MODEL.VIT.IMG_SIZE": 5 * patch}
    agreements = export(FAMILIES["DINOv3 ViT FPN"], kind, tmp_path / f"model.{suffix}", ANY, options)
    assert len({agreement.shape[2:] for agreement in agreements}) > 3


def test_torch_export(tmp_path: Path) -> None:
    export(FAMILIES["Swin MaskFormer"], "torch_export", tmp_path / "model.pt2", GraphSettings(size=(64, 96)))


@pytest.mark.parametrize(
    ("kind", "config", "outputs"),
    [("onnx", FAMILIES["Swin MSFaPN"], "logits"), ("openvino", FAMILIES["Swin FPN"], "scores")],
)
def test_a_fixed_size_with_other_inputs_and_outputs(kind: str, config: str, outputs: str, tmp_path: Path) -> None:
    fixed = GraphSettings(size=(70, 106), batch=2, input_type="float")
    path = tmp_path / f"model{EXPORT_SUFFIXES[kind]}"
    export(config, kind, path, fixed, outputs=outputs, normalize=outputs == "scores")
    message = "accepts input of shape 2 x 3 x 70 x 106, got 1 x 3 x 128 x 160 after resizing"
    with pytest.raises(UserError, match=message):
        Predictor.from_export(path)(np.zeros((64, 80, 3), np.uint8))


@pytest.mark.parametrize(
    ("config", "kind", "settings", "masks_first"),
    [
        (FAMILIES["Swin MaskFormer"], "openvino", ANY, False),
        (FAMILIES["Swin MaskFormer"], "onnx", ANY, True),
        (FAMILIES["Swin FPN"], "torch_export", GraphSettings(size=(110, 150)), False),
    ],
)
def test_graphs_that_resize(config: str, kind: str, settings: GraphSettings, masks_first: bool, tmp_path: Path) -> None:
    options = {
        "INPUT.MIN_SIZE_TEST": 64,
        "INPUT.MAX_SIZE_TEST": 90,  # the longer side of some images would exceed it
        "MODEL.MASK_FORMER.TEST.SEM_SEG_POSTPROCESSING_BEFORE_INFERENCE": masks_first,
    }
    path = tmp_path / f"model{EXPORT_SUFFIXES[kind]}"
    agreements = export(config, kind, path, settings._replace(resize=True), options, outputs="scores")
    assert all(agreement.error < 2e-4 for agreement in agreements)


@pytest.mark.parametrize("kind", ["onnx", "openvino"])
def test_half_weights_halve_the_file(kind: str, tmp_path: Path) -> None:
    model, _ = family(FAMILIES["Swin FPN"])
    path = tmp_path / f"model{EXPORT_SUFFIXES[kind]}"
    export(FAMILIES["Swin FPN"], kind, path, GraphSettings(size=(64, 96), half_weights=True))
    full = 4 * sum(parameter.numel() for parameter in model.parameters())
    assert (path.with_suffix(".bin") if kind == "openvino" else path).stat().st_size < 0.75 * full


@pytest.mark.parametrize("masks", [False, True])
@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "vit_small_patch16_dinov3"])
def test_the_encoder_only_head_after_and_before_annealing(name: str, masks: bool, tmp_path: Path) -> None:
    model, cfg = family.__wrapped__("eomt_vit_tiny", **{"MODEL.VIT.NAME": name})  # a new one, as it is changed
    model.sem_seg_head.anneal(0.0 if masks else 1.0)
    write_verified(model, cfg, NAMED, "onnx", tmp_path / "model.onnx", ANY)
    assert ("Greater" in operators(tmp_path / "model.onnx")) == masks  # it compares mask logits with 0
