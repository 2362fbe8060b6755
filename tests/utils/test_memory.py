"""Lack of memory is recognized from the errors of all libraries; the memory of a process and of the system."""

from __future__ import annotations

from pathlib import Path

import cv2
import pytest
import torch

from semask_d2.utils import memory
from semask_d2.utils.memory import out_of_memory


def opencv_error(code: int) -> cv2.error:
    error = cv2.error("Insufficient memory (Failed to allocate 1000000000000 bytes)")
    error.code = code
    return error


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:127] . DefaultCPUAllocator: can't allocate memory"),
        RuntimeError("could not create a primitive"),
        RuntimeError("could not create a memory object"),
        RuntimeError("std::bad_alloc"),
        RuntimeError("[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : Failed to allocate memory for requested buffer"),
        opencv_error(cv2.Error.StsNoMem),
    ],
    ids=str,
)
def test_errors_for_lack_of_memory(error: Exception) -> None:
    assert out_of_memory(error)


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("could not create a primitive descriptor for a convolution forward propagation primitive"),
        RuntimeError("shape '[2]' is invalid for input of size 3"),
        ValueError("out of memory"),
        opencv_error(cv2.Error.StsBadArg),
    ],
    ids=str,
)
def test_other_errors(error: Exception) -> None:
    assert not out_of_memory(error)


def test_a_real_lack_of_memory() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**58, dtype=torch.uint8)
    assert out_of_memory(caught.value)


@pytest.mark.skipif(not memory.STATUS.exists(), reason="only Linux reports the resident memory of a process")
def test_memory_of_this_process() -> None:
    before = memory.resident_memory()
    block = bytearray(b"x") * 2**26
    assert memory.resident_memory() - before > 0.9 * len(block)
    del block
    assert memory.peak_resident_memory() - before > 0.9 * 2**26


@pytest.mark.parametrize(
    ("limit", "used", "left"),
    [("max", "900", 2048), ("1000", "900", 300), ("1000", "1300", 1), ("9000", "900", 2048), (None, None, 2048)],
)
def test_available_memory(limit, used, left: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    system, group = tmp_path / "meminfo", tmp_path / "group"
    system.write_text("MemTotal:  9 kB\nMemAvailable:  2 kB\n")
    group.mkdir()
    if limit is not None:
        for name, content in (("max", limit), ("current", used), ("stat", "anon 5\ninactive_file 200\n")):
            (group / f"memory.{name}").write_text(content)
    monkeypatch.setattr(memory, "SYSTEM", system)
    monkeypatch.setattr(memory, "CONTROL_GROUP", group)
    assert memory.available_memory() == left
    monkeypatch.setattr(memory, "SYSTEM", tmp_path / "missing")
    assert memory.available_memory() == 0
