"""Inference in bf16 on a CPU with weights that are cast once, and its twins of modules."""

from __future__ import annotations

import copy
import logging
import pickle
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from semask_d2 import build_model, get_cfg
from semask_d2.modeling.layers import precision
from semask_d2.modeling.layers.conv import ConvNorm
from semask_d2.modeling.layers.frozen_batch_norm import FrozenBatchNorm
from semask_d2.modeling.meta_arch import Execution
from semask_d2.modeling.meta_arch.base import SemanticSegmenter
from semask_d2.modeling.meta_arch.weight_casts import WeightCasts, is_mobile, parts_in_bf16
from tests.helpers.tiny_model import make_inputs, randomize, tiny_cfg

PRODUCTS = ("mm", "addmm", "bmm", "baddbmm", "convolution", "_scaled_dot_product_flash_attention_for_cpu")
MODELS: dict[str, dict[str, Any]] = {
    "deformable": {},
    "aligned": {"MODEL__SEM_SEG_HEAD__PIXEL_DECODER_NAME": "MSDeformAttnPixelFANDecoder"},
    "maskformer": {
        "MODEL__SEM_SEG_HEAD__PIXEL_DECODER_NAME": "BasePixelDecoder",
        "MODEL__MASK_FORMER__TRANSFORMER_DECODER_NAME": "StandardTransformerDecoder",
        "MODEL__MASK_FORMER__TRANSFORMER_IN_FEATURE": "res5",
    },
}


def tiny_model(**options: Any) -> SemanticSegmenter:
    torch.manual_seed(0)
    model = randomize(build_model(tiny_cfg(**options))).eval()
    assert isinstance(model, SemanticSegmenter)
    return model


def scores_of(model: nn.Module, inputs: list[dict[str, Tensor]], *, in_bf16: bool = True) -> Tensor:
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=in_bf16):
        (result,) = model.predict(inputs, scores=True)
    return result.scores


class Products(TorchDispatchMode):
    """Counts matrix products by dtype, and casts of tensors from fp32 to bf16."""

    def __init__(self) -> None:
        super().__init__()
        self.dtypes: Counter[torch.dtype] = Counter()
        self.cast: list[Tensor] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        if name in PRODUCTS:
            self.dtypes[tensors[0].dtype] += 1
        out = func(*args, **(kwargs or {}))
        if name == "_to_copy" and out.dtype == torch.bfloat16:
            self.cast.append(tensors[0])
        return out


@pytest.mark.parametrize("options", MODELS.values(), ids=MODELS.keys())
def test_products_are_in_bf16_and_weights_are_cast_once(options: dict[str, Any]) -> None:
    model, inputs = tiny_model(**options), make_inputs((64, 96), labels=False)
    addresses = {parameter.data_ptr() for parameter in model.parameters()}

    def weights_cast(products: Products) -> int:
        return sum(x.data_ptr() in addresses for x in products.cast)

    with Products() as first:
        scores_of(model, inputs)
    with Products() as second:
        scores_of(model, inputs)
    assert weights_cast(first) > 50
    assert weights_cast(second) == 0
    assert second.dtypes[torch.float32] == 0
    assert second.dtypes[torch.bfloat16] > 50


@pytest.mark.parametrize("options", MODELS.values(), ids=MODELS.keys())
def test_results_agree_with_fp32(options: dict[str, Any]) -> None:
    model, inputs = tiny_model(**options), make_inputs((64, 96), labels=False)
    expected, scores = scores_of(model, inputs, in_bf16=False), scores_of(model, inputs)
    assert scores.dtype == torch.float32
    assert not torch.equal(scores, expected)
    torch.testing.assert_close(scores, expected, rtol=0, atol=0.05 * expected.abs().max().item())


@pytest.mark.parametrize(
    "config",
    [
        "toy_scenes/semask_swin_mini_fpn.yaml",
        "toy_scenes/semask_mit_b0_m2f.yaml",
        "toy_scenes/semask_vit_tiny_m2f.yaml",
        "toy_scenes/eomt_vit_tiny.yaml",
        "toy_scenes/semask_timm_resnet18_m2f.yaml",
    ],
)
def test_every_backbone_agrees_with_fp32(config: str) -> None:
    torch.manual_seed(0)
    model = build_model(get_cfg(config, ["MODEL.DEVICE", "cpu"])).eval()
    inputs = make_inputs((64, 64), labels=False)
    expected, scores = scores_of(model, inputs, in_bf16=False), scores_of(model, inputs)
    torch.testing.assert_close(scores, expected, rtol=0, atol=0.05 * expected.abs().max().item())


def load(model: nn.Module) -> None:
    model.load_state_dict({name: 1.1 * x if x.is_floating_point() else x for name, x in model.state_dict().items()})


def train(model: nn.Module) -> None:
    losses = model.train()(make_inputs((64, 64)))
    torch.stack([*losses.values()]).sum().backward()
    torch.optim.SGD(model.parameters(), lr=0.01).step()
    model.eval()


def write_data(model: nn.Module) -> None:
    """Change weights through `.data` in training mode, as some optimizers do."""
    model.train()
    for parameter in model.parameters():
        parameter.data.mul_(1.1)
    model.eval()


def exchange_data(model: nn.Module) -> None:
    for parameter in model.parameters():
        parameter.data = 1.1 * parameter.data


def exchange_parameters(model: nn.Module) -> None:
    for module in model.modules():
        if isinstance(module, nn.Linear):
            module.weight = nn.Parameter(1.1 * module.weight.detach())


def exchange_module(model: nn.Module) -> None:
    model.sem_seg_head.pixel_decoder.mask_features = ConvNorm(32, 16, 1)


@pytest.mark.parametrize(
    "change", [load, train, write_data, exchange_data, exchange_parameters, exchange_module], ids=lambda f: f.__name__
)
def test_changed_weights_are_used(change: Callable[[nn.Module], None]) -> None:
    model, inputs = tiny_model(), make_inputs((64, 96), labels=False)
    before = scores_of(model, inputs)
    change(model)
    after = scores_of(model, inputs)
    model.weight_casts.clear()
    assert not torch.equal(before, after)
    assert torch.equal(after, scores_of(model, inputs))


def test_weights_of_inference_mode_are_used() -> None:
    with torch.inference_mode():
        model, inputs = tiny_model(), make_inputs((64, 96), labels=False)
        before = scores_of(model, inputs)
        for parameter in model.parameters():
            parameter.mul_(1.1)
        assert not torch.equal(before, scores_of(model, inputs))


def test_a_model_itself_is_untouched() -> None:
    model, inputs = tiny_model(), make_inputs((64, 96), labels=False)
    state = {name: x.clone() for name, x in model.state_dict().items()}
    expected = scores_of(model, inputs, in_bf16=False)
    scores_of(model, inputs)
    assert model.state_dict().keys() == state.keys()
    assert all(x.dtype == state[name].dtype and torch.equal(x, state[name]) for name, x in model.state_dict().items())
    assert all(type(parameter) is nn.Parameter for parameter in model.parameters())
    assert torch.equal(scores_of(model, inputs, in_bf16=False), expected)
    assert model.weight_casts._casts
    for copied in (copy.deepcopy(model), pickle.loads(pickle.dumps(model.weight_casts))):
        casts = copied if isinstance(copied, WeightCasts) else copied.weight_casts
        assert not casts._casts
    model.train()
    assert not model.weight_casts._casts


def test_hooks_and_attributes_are_those_of_the_modules() -> None:
    model, inputs = tiny_model(), make_inputs((64, 96), labels=False)
    before = scores_of(model, inputs)
    seen = []
    layer = model.sem_seg_head.predictor.class_embed
    layer.register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
    assert torch.equal(scores_of(model, inputs), before)
    assert seen == [torch.bfloat16]
    model.backbone.layers[0].blocks[0].attn.scale = 0.0
    assert not torch.equal(scores_of(model, inputs), before)


def test_norms_stay_in_fp32_and_shared_modules_are_shared() -> None:
    model = tiny_model(**MODELS["aligned"])
    _, head = model.weight_casts.twins([model.backbone, model.sem_seg_head])
    dtypes = {name: parameter.dtype for name, parameter in head.named_parameters(remove_duplicate=False)}
    assert dtypes["pixel_decoder.layer_1.norm.weight"] == dtypes["predictor.decoder_norm.bias"] == torch.float32
    assert dtypes["pixel_decoder.layer_1.weight"] == dtypes["pixel_decoder.transformer.level_embed"] == torch.bfloat16
    decoder = head.pixel_decoder
    assert decoder.align_1.offset.norm is decoder.layer_1.norm
    assert decoder.layer_1.norm is not model.sem_seg_head.pixel_decoder.layer_1.norm


def test_a_mobile_backbone_stays_in_fp32() -> None:
    torch.manual_seed(0)
    model = build_model(get_cfg("camvid/semask_timm_lite0_m2f.yaml", ["MODEL.DEVICE", "cpu"])).eval()
    assert isinstance(model, SemanticSegmenter)
    inputs, features, dtypes = make_inputs((64, 64), labels=False), [], set()
    model.backbone.register_forward_hook(lambda module, inputs, output: features.append(output))
    mask_features = model.sem_seg_head.get_submodule("pixel_decoder.mask_features")
    mask_features.register_forward_hook(lambda module, inputs, output: dtypes.add(output.dtype))
    scores_of(model, inputs)
    assert dtypes == {torch.bfloat16}
    scores_of(model, inputs, in_bf16=False)
    assert all(torch.equal(features[0][name], x) for name, x in features[1].items())


@pytest.mark.parametrize(
    ("layers", "expected"),
    [
        ([nn.Conv2d(4, 4, 3, groups=4), nn.BatchNorm2d(4)], True),
        ([nn.Conv2d(4, 4, 3, groups=4), FrozenBatchNorm(4)], True),
        ([nn.Conv2d(4, 4, 3, groups=2), nn.BatchNorm2d(4)], False),
        ([nn.Conv2d(4, 4, 3, groups=4), nn.LayerNorm(4)], False),
    ],
)
def test_mobile_backbones_are_recognized(layers: list[nn.Module], expected: bool) -> None:
    assert is_mobile(nn.Sequential(nn.Sequential(*layers))) is expected


def test_compiled_modules_keep_their_parameters() -> None:
    model = nn.ModuleList([nn.Linear(4, 4), nn.Linear(4, 4)])
    model[0].compile()
    compiled, other = WeightCasts().twins([*model])
    assert compiled is model[0]
    assert other.weight.dtype == torch.bfloat16
    assert parts_in_bf16(model[0], model[1], WeightCasts()) == (model[0], model[1])


def test_training_and_gradients_use_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    model, inputs = tiny_model(), make_inputs((64, 96))
    monkeypatch.setattr(WeightCasts, "twins", lambda self, modules: pytest.fail("weights were cast"))
    with torch.autocast("cpu", torch.bfloat16):
        model(inputs)
        with torch.no_grad():
            model.train()(inputs)
    scores_of(model.eval(), inputs, in_bf16=False)


@pytest.mark.parametrize("has_bf16", [True, False])
def test_the_log_says_once_that_bf16_does_not_pay(
    has_bf16: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(precision, "cpu_has_bf16", lambda: has_bf16)
    precision.warn_of_slow_bf16.cache_clear()
    model = tiny_model()
    with caplog.at_level(logging.WARNING):
        for options in ({"MODEL__PRECISION": "fp32"}, {"MODEL__PRECISION": "bf16"}, {"MODEL__PRECISION": "bf16"}):
            with Execution.from_config(tiny_cfg(**options)).autocast(model):
                pass
    precision.warn_of_slow_bf16.cache_clear()
    lines = [record.getMessage() for record in caplog.records if "bf16" in record.getMessage()]
    assert len(lines) == (0 if has_bf16 else 1)
    assert all(line.startswith("MODEL.PRECISION bf16 does not pay on this processor") for line in lines)


@pytest.mark.parametrize(("flag", "expected"), [("_is_avx512_bf16_supported", True), ("", False)])
def test_processors_with_bf16_are_recognized(flag: str, expected: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision.platform, "machine", lambda: "x86_64")
    for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"):
        monkeypatch.setattr(torch.cpu, name, lambda supported=name == flag: supported)
    assert precision.cpu_has_bf16() is expected
