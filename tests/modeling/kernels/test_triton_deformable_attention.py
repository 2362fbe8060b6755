"""Fused deformable attention: its conditions of use, compilation of its kernels, and the cases of its formula.

Triton is imported either to interpret kernels or to compile them, so each is done in a process of its own, and the
tests hold in whatever order and process pytest runs them.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from semask_d2.modeling.kernels import triton_choice, triton_deformable_attention
from semask_d2.modeling.kernels.triton_deformable_attention import VARIABLE, fused_deformable_attention, triton_serves
from semask_d2.utils.errors import UserError
from tests.helpers.commands import ROOT
from tests.helpers.triton_state import fresh_triton_state

CASES = "tests/modeling/kernels/triton_deformable_attention_cases.py"
needs_triton = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="Triton is not installed, which has no package for this system"
)
# compile kernels for the GPU of the arguments instead of launching them
COMPILER = """
import sys
import torch
from triton.backends.compiler import GPUTarget
from triton.runtime import driver
from triton.runtime.jit import JITFunction


class Driver:
    def get_current_target(self):
        return GPUTarget("cuda", int(sys.argv[1]), 32)

    def get_current_device(self):
        return 0

    def get_current_stream(self, device):
        return 0


compiled = {}
driver.set_active(Driver())


def compile(kernel, grid):
    def launch(*args, **kwargs):
        assert len(grid) == 3
        binary = kernel.run(*args, grid=grid, warmup=True, **kwargs)
        assert len(binary.asm["cubin"]) > 1000
        compiled.setdefault(kernel.fn.__name__, set()).add(binary.hash)
    return launch


JITFunction.__getitem__ = compile
"""
COMPILE = (
    COMPILER
    + """
from semask_d2.modeling.kernels import deformable_attention_kernels as kernels

dtype, heads, dim, points = getattr(torch, sys.argv[2]), 8, int(sys.argv[3]), 4
for sizes in ([32, 32, 16, 16, 8, 8], [33, 31, 16, 1, 5, 8], [64, 3, 1, 1, 2, 2]):
    tokens = sum(height * width for height, width in zip(sizes[::2], sizes[1::2]))
    value, reference = torch.zeros(2, tokens, heads, dim, dtype=dtype), torch.zeros(tokens, 2)
    logits = torch.zeros(2, tokens, heads, 3, points)
    offsets = torch.zeros(*logits.shape, 2)
    out = kernels.forward(value, sizes, reference, offsets, logits)
    kernels.backward(out, value, sizes, reference, offsets, logits, out)
print({name: len(binaries) for name, binaries in compiled.items()})
"""
)


def python(*arguments: object, **env: str) -> subprocess.CompletedProcess:
    """Run Python with additions to the environment; an empty value removes a variable."""
    environment = {name: value for name, value in {**os.environ, **env}.items() if value}
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=900)


def compiled_kernels(text: str, folder: Path, *arguments: object) -> str:
    """Return what the script `text` prints of the kernels that it compiles, with a new cache in `folder`."""
    from triton.backends import backends

    if "nvidia" not in backends:
        pytest.skip("this Triton compiles for no GPU of NVIDIA")
    script = folder / "compile.py"
    script.write_text(text)
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
    cache = str(folder / "cache")
    done = python(script, *arguments, TRITON_INTERPRET="", TRITON_CACHE_DIR=cache, PYTHONPATH=path)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


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
    ("capability", "dtype", "dim"),
    [(75, "float16", 32), (80, "bfloat16", 32), (90, "bfloat16", 32), (90, "float32", 24)],
)
def test_kernels_compile_for_gpus(capability: int, dtype: str, dim: int, tmp_path: Path) -> None:
    """Kernels compile to machine code without a GPU, once for images of all sizes."""
    assert compiled_kernels(COMPILE, tmp_path, capability, dtype, dim) == str(
        {"forward_kernel": 1, "backward_kernel": 1}
    )


def test_tensors_without_data() -> None:
    """Fake tensors give shape, dtype and device of result and gradients, without Triton."""
    with FakeTensorMode():
        value = torch.empty(2, 10, 4, 8, dtype=torch.bfloat16, device="cuda")
        reference, logits = torch.empty(5, 2, device="cuda"), torch.empty(2, 5, 4, 2, 3, device="cuda")
        offsets = torch.empty(2, 5, 4, 2, 3, 2, dtype=torch.float16, device="cuda")
        out = fused_deformable_attention(value, [(3, 2), (2, 2)], reference, offsets, logits)
        assert (out.shape, out.dtype, out.device.type) == ((2, 5, 32), torch.bfloat16, "cuda")
        arguments = (out, value, [3, 2, 2, 2], reference, offsets, logits, out)
        gradients = triton_deformable_attention.deformable_attention_backward_op(*arguments)
        for gradient, tensor in zip(gradients, (value, offsets, logits), strict=True):
            assert (gradient.shape, gradient.dtype, gradient.device) == (tensor.shape, tensor.dtype, tensor.device)


def test_the_package_is_imported_without_triton() -> None:
    code = "import sys; sys.modules['triton'] = None; import semask_d2, "
    code += (
        "semask_d2.modeling.kernels.triton_deformable_attention as module; assert 'triton.language' not in sys.modules"
    )
    done = python("-c", code)
    assert done.returncode == 0, done.stderr


@pytest.fixture
def _fresh(monkeypatch: pytest.MonkeyPatch):
    """Clear cached results about Triton before and after, and unset both variables."""
    for name in (VARIABLE, "TRITON_INTERPRET"):
        monkeypatch.delenv(name, raising=False)
    with fresh_triton_state():
        yield


@pytest.mark.filterwarnings("ignore:.*uses standard operators, which are slower")
@pytest.mark.usefixtures("_fresh")
class TestChoice:
    """`triton_serves` by environment variable and machine."""

    value = torch.zeros(1)

    @pytest.mark.parametrize("choice", ["", "auto", "plain"])
    def test_a_cpu_is_not_served(self, choice: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv(VARIABLE, choice)
        assert not triton_serves(self.value)

    def test_triton_cannot_be_forced_on_a_cpu(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv(VARIABLE, "triton")
        with pytest.raises(UserError, match=f"{VARIABLE}=triton, but Triton has no kernels for the device cpu"):
            triton_serves(self.value)

    def test_an_unknown_value(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv(VARIABLE, "cuda")
        with pytest.raises(UserError, match=f"{VARIABLE}='cuda': expected auto, triton or plain"):
            triton_serves(self.value)

    def test_without_triton(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "triton", None)
        monkeypatch.setitem(sys.modules, "triton.language", None)
        monkeypatch.setenv("TRITON_INTERPRET", "1")
        assert not triton_serves(self.value)
        monkeypatch.setenv(VARIABLE, "triton")
        with pytest.raises(UserError, match="Triton cannot be imported"):
            triton_serves(self.value)

    @pytest.mark.parametrize(
        ("missing", "reason"),
        [("gpu", "finds no GPU"), ("capability", "NVIDIA P100 is older"), ("compiler", "no C compiler"), ("", "")],
    )
    def test_a_gpu_that_nothing_can_be_compiled_for(
        self, missing: str, reason: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.delenv("CC", raising=False)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: missing != "gpu")
        capability = (6, 0) if missing == "capability" else (9, 0)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA P100")
        monkeypatch.setattr(torch.version, "cuda", "12.4")
        monkeypatch.setattr("shutil.which", lambda name: None if missing == "compiler" else f"/usr/bin/{name}")
        actual = triton_choice.compilation_obstacle(torch.device("cuda"))
        assert reason in actual
        assert bool(actual) == bool(reason)

    def test_slower_operators_on_a_gpu_raise_a_warning(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(triton_choice, "obstacle", lambda device, on_cpu: "no C compiler")
        with pytest.warns(UserWarning, match="no C compiler: deformable attention uses standard operators"):
            assert not triton_choice.served(VARIABLE, "deformable attention", torch.device("cuda"), torch.float32)
