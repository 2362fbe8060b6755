"""Checks of the inputs and outputs of an exported graph against its metadata, before and after it runs."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from semask_d2.export.metadata import ExportMetadata
from semask_d2.utils.errors import UserError
from semask_d2.utils.foreign import shown

INPUT = "image"
DIMENSIONS = {"labels": 3, "scores": 4, "logits": 4, "mask_logits": 4, "class_logits": 3}
TYPES = {"uint8": "uint8", "float": "float32"}  # NumPy's names


class Port(NamedTuple):
    """Input or output of a graph: `kind` is the NumPy name of its type; free dimensions of `shape` are None."""

    name: str
    kind: str
    shape: tuple[int | None, ...]


def spelled(shape: Sequence[int | None]) -> str:
    """Format a shape for a message."""
    return " x ".join("any" if length is None else str(length) for length in shape) or "a single number"


def check_graph(metadata: ExportMetadata, inputs: Sequence[Port], outputs: Sequence[Port], path: os.PathLike) -> None:
    """Raise `UserError`, naming `path` and the input or output, if the graph contradicts the metadata."""
    if [port.name for port in inputs] != [INPUT]:
        raise _mismatch(path, f"inputs {shown([port.name for port in inputs])}", f"one, {INPUT}")
    _check_port(inputs[0], TYPES[metadata.input_type], (None, metadata.channels, None, None), path)
    by_name = {port.name: port for port in outputs}
    for name in metadata.outputs:
        if name not in by_name:
            raise _mismatch(path, f"outputs {shown(list(by_name))}", f"{name} among them, as the metadata says")
        kind = "int64" if name == "labels" else "float32"
        _check_port(by_name[name], kind, _output_shape(name, len(metadata.classes)), path)


def check_results(
    metadata: ExportMetadata, results: Sequence[np.ndarray], image: tuple[int, ...], path: os.PathLike
) -> None:
    """Raise `UserError`, naming `path`, if results for an `image` (B, C, H, W) contradict the metadata."""
    batch, _, height, width = image
    classes = len(metadata.classes)
    for name, result in zip(metadata.outputs, results, strict=True):
        expected = list(_output_shape(name, classes))
        expected[0] = batch
        if name in ("labels", "scores"):
            expected[-2:] = height, width
        if not _fits(result.shape, expected) or 0 in result.shape:
            raise _mismatch(path, f"{name} of shape {result.shape}", f"{spelled(expected)} for {spelled(image)}")
    if metadata.outputs == ["labels"] and not 0 <= results[0].min() <= results[0].max() < classes:
        actual = f"labels from {results[0].min()} to {results[0].max()}"
        raise _mismatch(path, actual, f"at most {classes - 1}, for {classes} classes")
    if len(results) == 2 and results[0].shape[1] != results[1].shape[1]:
        counts = " and ".join(str(result.shape[1]) for result in results)
        raise _mismatch(path, f"{' and '.join(metadata.outputs)} of {counts} queries", "equal numbers")


def _output_shape(name: str, classes: int) -> tuple[int | None, ...]:
    if name == "class_logits":
        return None, None, classes + 1
    channels = classes if name in ("scores", "logits") else None
    return (None, channels, None, None)[: DIMENSIONS[name]]


def _check_port(port: Port, kind: str, shape: Sequence[int | None], path: os.PathLike) -> None:
    if port.kind != kind:
        raise _mismatch(path, f"{port.name} of type {port.kind}", kind)
    if not _fits(port.shape, shape) or any(length is not None and length < 1 for length in port.shape):
        raise _mismatch(path, f"{port.name} of shape {spelled(port.shape)}", spelled(shape))


def _fits(shape: Sequence[int | None], expected: Sequence[int | None]) -> bool:
    """Return whether one array can have both shapes."""
    pairs = zip(shape, expected, strict=False)
    return len(shape) == len(expected) and all(a is None or b is None or a == b for a, b in pairs)


def _mismatch(path: os.PathLike, actual: str, expected: str) -> UserError:
    return UserError(f"{path}: its graph has {actual}; expected {expected}: export it again with semask export")
