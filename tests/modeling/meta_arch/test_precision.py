"""MODEL.PRECISION bf16: backbone and head in bfloat16; losses and labels in fp32, close to full precision."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from semask_d2 import UserError, build_model, get_cfg
from semask_d2.config.checks import check_common
from semask_d2.engine.setup import computation
from semask_d2.modeling.kernels import triton_choice
from semask_d2.modeling.layers.precision import gpu_has_bf16
from semask_d2.modeling.meta_arch import Execution, with_sliding
from tests.helpers.tiny_model import make_inputs, randomize, tiny_cfg

FAMILIES = {
    "mask2former": {},
    "maskformer": {
        "MODEL__SEM_SEG_HEAD__PIXEL_DECODER_NAME": "BasePixelDecoder",
        "MODEL__MASK_FORMER__TRANSFORMER_DECODER_NAME": "StandardTransformerDecoder",
        "MODEL__MASK_FORMER__TRANSFORMER_IN_FEATURE": "res5",
    },
}


@pytest.mark.parametrize("options", FAMILIES.values(), ids=FAMILIES.keys())
def test_bf16_results_are_close_to_fp32(options: dict) -> None:
    results = {}
    for precision in ("fp32", "bf16"):
        torch.manual_seed(0)
        cfg = tiny_cfg(MODEL__PRECISION=precision, **options)
        model, execution = randomize(build_model(cfg)), Execution.from_config(cfg)
        inputs = make_inputs((64, 96))
        dtypes = set()
        model.sem_seg_head.pixel_decoder.mask_features.register_forward_hook(lambda m, i, o, d=dtypes: d.add(o.dtype))
        torch.manual_seed(1)
        with execution.autocast(model.train()):
            losses = model(inputs)
        sum(losses.values()).backward()
        assert all(loss.dtype == torch.float32 for loss in losses.values())
        assert dtypes == {torch.bfloat16 if precision == "bf16" else torch.float32}
        with torch.no_grad(), execution.autocast(model.eval()):
            (result,) = model.predict(inputs, scores=True)
        assert result.scores.dtype == torch.float32
        results[precision] = losses, result
    for name, loss in results["fp32"][0].items():
        assert results["bf16"][0][name].item() == pytest.approx(loss.item(), rel=0.1, abs=0.05), name
    scores = [result.scores for _, result in results.values()]
    assert (scores[0] - scores[1]).abs().max() < 0.05 * scores[0].abs().max()


def test_semantic_fpn_in_bf16() -> None:
    cfg = get_cfg("toy_scenes/semask_swin_mini_fpn.yaml", ["MODEL.PRECISION", "bf16"])
    model = build_model(cfg)
    with Execution.from_config(cfg).autocast(model):
        losses = model.train()(make_inputs((64, 96)))
    assert all(loss.dtype == torch.float32 and loss.isfinite() for loss in losses.values())


def test_an_unknown_precision_is_refused() -> None:
    with pytest.raises(UserError, match=r'MODEL\.PRECISION: expected "fp32" or "bf16", got \'fp8\''):
        build_model(get_cfg("toy_scenes/semask_swin_mini_m2f.yaml", ["MODEL.PRECISION", "fp8"]))


@pytest.fixture(params=[True, False], ids=["bf16", "without bf16"])
def gpu_dtype(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> torch.dtype:
    """Return the dtype of mixed precision on a simulated GPU."""
    monkeypatch.setattr("torch.cuda.amp.common.amp_definitely_not_available", lambda: False)
    monkeypatch.setattr(
        torch.cuda, "is_bf16_supported", lambda including_emulation=True: request.param or including_emulation
    )
    return torch.bfloat16 if request.param else torch.float16


def test_mixed_evaluation_is_for_evaluation_on_a_gpu(gpu_dtype: torch.dtype) -> None:
    cfg = tiny_cfg(TEST__AMP__ENABLED=True)
    model, execution = build_model(cfg).eval(), Execution.from_config(cfg)
    with execution.autocast(model):
        assert not torch.is_autocast_enabled("cpu")
    with FakeTensorMode():
        model.normalizer.mean = torch.zeros(3, 1, 1, device="cuda")
    with execution.autocast(with_sliding(tiny_cfg(TEST__SLIDING__ENABLED=True), model)):  # also within a wrapper
        assert torch.is_autocast_enabled("cuda")
        assert torch.get_autocast_dtype("cuda") == gpu_dtype
    with execution.autocast(model.train()):
        assert not torch.is_autocast_enabled("cuda")
    with replace(execution, mixed_evaluation=False).autocast(model.eval()):
        assert not torch.is_autocast_enabled("cuda")


def test_emulated_bf16_is_refused(gpu_dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Tesla T4")
    cfg = tiny_cfg(MODEL__PRECISION="bf16", MODEL__DEVICE="cuda")
    if gpu_dtype == torch.bfloat16:
        check_common(cfg)
    else:
        with pytest.raises(UserError, match=r"MODEL\.PRECISION: Tesla T4 has no bf16 .*TEST\.AMP\.ENABLED"):
            check_common(cfg)
    assert gpu_has_bf16() == (gpu_dtype == torch.bfloat16)


def test_the_log_names_the_precision(gpu_dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    options = {"MODEL__SEM_SEG_HEAD__PIXEL_DECODER_NAME": "MSDeformAttnPixelFANDecoder"}
    text = computation(tiny_cfg(**options), cpu, training=True)
    assert text.startswith("float32, attention in parts, ")
    attention = "attention scaled_dot_product_attention"
    text = computation(tiny_cfg(**options), cpu, training=False)
    assert text == f"float32, {attention}, deformable attention plain, deformable convolution plain, not compiled"
    cfg = tiny_cfg(MODEL__PRECISION="bf16", MODEL__COMPILE="default", **options)
    assert computation(cfg, cpu, training=False).startswith("bfloat16 (autocast), ")
    assert computation(cfg, cpu, training=False).endswith(", compiled (default)")
    monkeypatch.setattr(triton_choice, "obstacle", lambda device, on_cpu: "")
    monkeypatch.setattr(triton_choice, "failed_check", lambda what, device, dtype: "")
    cfg = tiny_cfg(SOLVER__AMP__ENABLED=True, **options)
    with FakeTensorMode():
        mixed, whole = (computation(cfg, gpu, training=training) for training in (True, False))
    name = str(gpu_dtype).removeprefix("torch.")
    both = "deformable attention Triton (checked), deformable convolution"
    assert mixed == f"{name} (autocast), {attention}, {both} Triton (checked), not compiled"
    assert whole == f"float32 (products highest), {attention}, {both} torchvision (for float32), not compiled"
    cfg = tiny_cfg(MODEL__SEM_SEG_HEAD__PIXEL_DECODER_NAME="BasePixelDecoder")
    assert computation(cfg, cpu, training=False) == f"float32, {attention}, not compiled"
