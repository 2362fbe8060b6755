"""Lack of memory is recognized from the errors of all libraries."""

from __future__ import annotations

import cv2
import pytest
import torch

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
