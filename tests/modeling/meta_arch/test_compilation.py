"""MODEL.COMPILE: graphs of backbone and head without breaks, with the same names and results as uncompiled."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from semask_d2 import UserError, build_model, get_cfg
from semask_d2.config.checks import check_common, check_training
from semask_d2.modeling.meta_arch.execution import COMPILATIONS
from tests.helpers.encoder_only import VITS, eomt_cfg
from tests.helpers.tiny_model import make_inputs, randomize, tiny_cfg

SIZES = ((64, 64), (96, 64))
VIT = {
    "MODEL__BACKBONE__NAME": "SeMaskViT",
    "MODEL__VIT__IMG_SIZE": 96,  # unlike the images, so that position embeddings are resampled
    "MODEL__VIT__EMBED_DIM": 32,
    "MODEL__VIT__DEPTH": 4,
    "MODEL__VIT__NUM_HEADS": 2,
    "MODEL__VIT__DROP_PATH_RATE": 0.0,
}
FAMILIES = {
    "msfapn": {},  # with the layers of MSDeformAttn and of FaPN
    "maskformer": {
        "MODEL__SEM_SEG_HEAD__PIXEL_DECODER_NAME": "BasePixelDecoder",
        "MODEL__MASK_FORMER__TRANSFORMER_DECODER_NAME": "StandardTransformerDecoder",
        "MODEL__MASK_FORMER__TRANSFORMER_IN_FEATURE": "res5",
    },
    "mit": {"MODEL__BACKBONE__NAME": "D2SeMaskMixTransformer"},
    "frozen": {"MODEL__BACKBONE__TRAIN": "frozen"},
    "lora": {"MODEL__BACKBONE__TRAIN": "lora"},
    "eomt": {"MODEL__VIT__NAME": VITS[1]},
    "vit": {**VIT, "MODEL__VIT__NAME": "vit_tiny_patch16_224"},
    "rotary vit": {**VIT, "MODEL__VIT__NAME": "vit_small_patch16_dinov3"},
}


@pytest.fixture(autouse=True)
def _fresh():
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def compile_parts(model: nn.Module) -> list[int]:
    """Trace backbone and head as the key does, raising an error for graph breaks, and count the graphs."""
    counts = []

    def count(graph: torch.fx.GraphModule, _) -> torch.fx.GraphModule:
        counts.append(len(graph.graph.nodes))
        return graph

    for part in (model.backbone, model.sem_seg_head):
        part.compile(backend=count, fullgraph=True, dynamic=False)
    return counts


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "training"),
    [*((family, True) for family in FAMILIES), ("msfapn", False), ("mit", False), ("eomt", False)],
)
def test_one_graph_per_part_and_size(family: str, training: bool) -> None:
    """Results and gradients equal those of the uncompiled model, in fp64 to exclude rounding."""
    make_cfg = eomt_cfg if family == "eomt" else tiny_cfg
    cfg = make_cfg(MODEL__MASK_FORMER__DROPOUT=0.0, MODEL__SWIN__DROP_PATH_RATE=0.0, **FAMILIES[family])
    model = randomize(build_model(cfg)).double().train(training)
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    results, sizes = [], SIZES if family == "msfapn" and training else SIZES[:1]
    for compiled in (False, True):
        graphs = compile_parts(model) if compiled else []
        for size in sizes:
            model.zero_grad()
            torch.manual_seed(0)
            batch = torch.randn(2, 3, *size, dtype=torch.float64)
            with torch.set_grad_enabled(training):
                features = model.backbone(batch)
                predictions = model.sem_seg_head(features)
                values = [*features.values(), predictions.class_logits, predictions.mask_embed, *predictions.maps]
                if training:
                    sum(x.square().mean() for x in values).backward()
            gradients = [p.grad for p in model.parameters() if p.grad is not None]
            results.append([x.detach() for x in (*values, *gradients)])
        assert len(graphs) == (2 * len(sizes) if compiled else 0)
    for plain, compiled in zip(results[: len(sizes)], results[len(sizes) :], strict=True):
        torch.testing.assert_close(compiled, plain, rtol=1e-6, atol=1e-8)


@pytest.mark.slow
def test_semantic_fpn_compiles_too() -> None:
    model = build_model(get_cfg("toy_scenes/semask_swin_mini_fpn.yaml", ["MODEL.DEVICE", "cpu"]))
    graphs = compile_parts(model.train())
    sum(model(make_inputs((64, 64))).values()).backward()
    with torch.no_grad():
        model.eval().predict(make_inputs((64, 96), labels=False))
    assert len(graphs) == 4


def test_the_key_compiles_in_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both parts are compiled in the given mode; names of weights stay the same."""
    asked = []
    monkeypatch.setattr(nn.Module, "compile", lambda self, **options: asked.append((type(self).__name__, options)))
    plain = build_model(tiny_cfg())
    assert not asked
    model = build_model(tiny_cfg(MODEL__COMPILE="default"))
    options = {"mode": "default", "dynamic": False}
    assert asked == [("D2SeMaskSwinTransformer", options), ("BranchMaskFormerHead", options)]
    assert model.state_dict().keys() == plain.state_dict().keys()


def test_compiled_models_keep_their_names() -> None:
    """In-place compilation by torch keeps them too."""
    model = build_model(tiny_cfg(MODEL__COMPILE="default"))
    assert model.state_dict().keys() == build_model(tiny_cfg()).state_dict().keys()


def test_unknown_modes_are_refused() -> None:
    with pytest.raises(UserError, match=r"MODEL\.COMPILE: expected one of \('', 'default', .*got 'fast'"):
        build_model(tiny_cfg(MODEL__COMPILE="fast"))
    with pytest.raises(UserError, match=r'MODEL\.COMPILE: expected "" or "default" in training'):
        check_training(tiny_cfg(MODEL__COMPILE="reduce-overhead"))
    check_common(tiny_cfg(MODEL__COMPILE="reduce-overhead"))
    assert COMPILATIONS == ("", "default", "reduce-overhead")


def test_without_a_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda name: None)
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(UserError, match=r"MODEL\.COMPILE: 'default' needs a C\+\+ compiler; found none of g\+\+"):
        check_common(tiny_cfg(MODEL__COMPILE="default"))
    monkeypatch.setenv("CXX", "/opt/bin/g++")
    check_common(tiny_cfg(MODEL__COMPILE="default"))
