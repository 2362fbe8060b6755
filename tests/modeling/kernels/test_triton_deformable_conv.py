"""Fused deformable convolution: compilation of its kernels, and its cases in the interpreter."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from semask_d2.modeling.kernels.triton_deformable_conv import (
    VARIABLE,
    deformable_convolution_backward_op,
    deformable_convolution_op,
    triton_serves,
)
from semask_d2.modeling.layers.feature_alignment import FeatureAlignment
from tests.modeling.kernels.test_triton_deformable_attention import COMPILER, compiled_kernels, needs_triton, python

CASES = "tests/modeling/kernels/triton_deformable_conv_cases.py"
COMPILE = (
    COMPILER
    + """
from semask_d2.modeling.kernels import deformable_conv_kernels as kernels

dtype, channels = getattr(torch, sys.argv[2]), int(sys.argv[3])
for height, width in ((32, 32), (33, 31), (1, 64)):
    x = torch.zeros(2, height * width, channels, dtype=dtype)
    offsets, mask = torch.zeros(2, 144, height * width), torch.zeros(2, 72, height * width)
    weight = torch.zeros(16, 9 * channels, dtype=dtype)
    out = kernels.forward(x, offsets, mask, weight, height, width)
    kernels.backward(out, x, offsets, mask, weight, height, width)
print({name: len(binaries) for name, binaries in compiled.items()})
"""
)


@needs_triton
@pytest.mark.slow
@pytest.mark.parametrize("device", ["interpreter", "gpu"])
def test_cases(device: str) -> None:
    """Run the cases in Triton's interpreter, and on a GPU if there is one."""
    if device == "gpu" and not torch.cuda.is_available():
        pytest.skip("there is no GPU")
    interpret = "1" if device == "interpreter" else ""
    done = python("-m", "pytest", "-v", "-p", "no:cacheprovider", CASES, TRITON_INTERPRET=interpret, **{VARIABLE: ""})
    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed" in done.stdout


@needs_triton
@pytest.mark.slow
@pytest.mark.parametrize(
    ("capability", "dtype", "channels"), [(75, "float16", 256), (90, "bfloat16", 256), (90, "float32", 80)]
)
def test_kernels_compile_for_gpus(capability: int, dtype: str, channels: int, tmp_path: Path) -> None:
    """Kernels compile to machine code without a GPU, few times for images of all sizes."""
    assert compiled_kernels(COMPILE, tmp_path, capability, dtype, channels) == str(
        {"sampling_kernel": 1, "gradient_kernel": 1}
    )


def test_tensors_without_data() -> None:
    """Fake tensors give shape, dtype and device of result and gradients, without Triton."""
    with FakeTensorMode():
        x = torch.empty(2, 20, 16, dtype=torch.bfloat16, device="cuda")
        offsets, mask = torch.empty(2, 144, 20, device="cuda"), torch.empty(2, 72, 20, device="cuda")
        weight = torch.empty(6, 144, dtype=torch.bfloat16, device="cuda")
        out = deformable_convolution_op(x, offsets, mask, weight, 4, 5)
        assert (out.shape, out.dtype, out.device.type) == ((2, 20, 6), torch.bfloat16, "cuda")
        gradients = deformable_convolution_backward_op(out, x, offsets, mask, weight, 4, 5)
        for gradient, tensor in zip(gradients, (x, offsets, mask, weight), strict=True):
            assert (gradient.shape, gradient.dtype, gradient.device) == (tensor.shape, tensor.dtype, tensor.device)


def test_a_cpu_is_not_served(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    assert not triton_serves(torch.zeros(1, dtype=torch.bfloat16))


@pytest.mark.parametrize("serves", [True, False])
def test_feature_alignment_on_a_gpu_under_autocast(serves: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything is in half precision with the operator; otherwise torchvision's convolution is in fp32."""
    monkeypatch.setattr("torch.cuda.amp.common.amp_definitely_not_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: True)
    for module in ("feature_alignment", "deformable_conv"):
        monkeypatch.setattr(f"semask_d2.modeling.layers.{module}.triton_serves", lambda x: serves)
    seen = []
    with FakeTensorMode():
        with torch.device("cuda"):
            layer = FeatureAlignment(16, torch.nn.GroupNorm(2, 16))
            lateral, coarse = torch.empty(2, 16, 4, 5), torch.empty(2, 16, 4, 5)
        layer.dcpack_L2.register_forward_hook(lambda module, args, out: seen.append(out.dtype))
        with torch.autocast("cuda", torch.bfloat16):
            out = layer(lateral, coarse)
    assert seen == [torch.bfloat16 if serves else torch.float32]
    assert (out.dtype, out.device.type, out.shape) == (torch.float32, "cuda", (2, 16, 4, 5))
