"""Exported files as functions of images, run by the library of each format."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from semask_d2.export.checksum import verify, verify_archive
from semask_d2.export.interface import INPUT, Port, check_graph, check_results, spelled
from semask_d2.export.metadata import KEY, ExportMetadata
from semask_d2.utils.errors import UserError
from semask_d2.utils.extras import install_command
from semask_d2.utils.files import require_regular
from semask_d2.utils.memory import MESSAGES, out_of_memory

logger = logging.getLogger(__name__)

REASON = 120  # characters of a library's message
ARCHIVED = f"extra/{KEY}"  # name of the metadata in a program of torch.export
EXPORTED = (".onnx", ".xml")  # formats that `open_exported` reads


def require_library(*names: str) -> None:
    """Raise `UserError` unless all of these packages are installed."""
    for name in names:
        if find_spec(name) is None:
            raise UserError(f"{name} is not installed, which exported files need; {install_command('export')}")


class UnusableExport(UserError):
    """Error for an exported file that its library cannot read or run; `reason` is the library's message."""

    def __init__(self, path: Path, reason: str):
        super().__init__(f"{path}: cannot be run ({reason}); export it again with semask export")
        self.reason = reason


class ExportedModel:
    """Runnable file: maps `image` (B, C, H, W) to the arrays of `metadata.outputs`. Threads may share one.

    `shape` is the required shape of `image`, with None for free dimensions. Raises `UserError`, naming the file, if it
    is damaged, its library refuses it, or its graph contradicts the metadata.
    """

    path: Path
    metadata: ExportMetadata
    shape: tuple[int | None, ...] = (None, None, None, None)

    def __call__(self, image: np.ndarray) -> list[np.ndarray]:
        """Run the graph."""
        try:
            results = self.run(image)
        except Exception as error:  # libraries raise errors of many types
            if out_of_memory(error) or MESSAGES.search(str(error)):
                raise MemoryError(last_line(error)) from error
            reason = f"it failed on images {spelled(image.shape)}: {last_line(error)}"
            raise UnusableExport(self.path, reason) from error
        check_results(self.metadata, results, image.shape, self.path)
        return results

    def run(self, image: np.ndarray) -> list[np.ndarray]:
        """Return the results of the library."""
        raise NotImplementedError


class OnnxModel(ExportedModel):
    """ONNX file run by onnxruntime on the CPU."""

    def __init__(self, path: Path):
        require_library("onnxruntime")
        import onnxruntime

        self.path = path
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3  # errors only
        with library_errors(path):
            has_checksum = verify(files_of(path), path)
            self.session: Any = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
            text = self.session.get_modelmeta().custom_metadata_map.get(KEY)
            self.metadata = ExportMetadata.from_text(text, path, has_checksum=has_checksum)
            inputs, outputs = map(onnx_ports, (self.session.get_inputs(), self.session.get_outputs()))
        check_graph(self.metadata, inputs, outputs, path)
        self.shape = inputs[0].shape
        warn_without_checksum(path, has_checksum=has_checksum)

    def run(self, image: np.ndarray) -> list[np.ndarray]:
        return self.session.run(self.metadata.outputs, {INPUT: image})


def onnx_ports(nodes: Sequence[Any]) -> list[Port]:
    """Return the inputs or outputs of an onnxruntime session."""
    ports = []
    for node in nodes:
        kind = str(node.type).removeprefix("tensor(").removesuffix(")")
        shape = tuple(length if isinstance(length, int) else None for length in node.shape)
        ports.append(Port(node.name, "float32" if kind == "float" else kind, shape))
    return ports


class OpenVinoModel(ExportedModel):
    """OpenVINO file run on the CPU in `precision` ("f32" or "bf16")."""

    def __init__(self, path: Path, precision: str = "f32"):
        require_library("openvino")
        import openvino

        self.path = path
        weights = files_of(path)[-1]
        if not require_regular(weights).is_file():
            raise UserError(f"{path}: its weights are missing: expected {weights.name} beside it")
        core = openvino.Core()
        with library_errors(path):
            has_checksum = verify(files_of(path), path)
            model = core.read_model(path)
            text = model.get_rt_info([KEY]).astype(str) if model.has_rt_info([KEY]) else None
            self.metadata = ExportMetadata.from_text(text, path, has_checksum=has_checksum)
            inputs, outputs = map(openvino_ports, (model.inputs, model.outputs))
        check_graph(self.metadata, inputs, outputs, path)
        with library_errors(path):
            self.compiled: Any = core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": precision})
        self.shape = inputs[0].shape
        warn_without_checksum(path, has_checksum=has_checksum)

    def run(self, image: np.ndarray) -> list[np.ndarray]:
        request = self.compiled.create_infer_request()  # one per call, for thread safety
        request.infer([image])
        return [request.get_tensor(name).data.copy() for name in self.metadata.outputs]


def openvino_ports(nodes: Sequence[Any]) -> list[Port]:
    """Return the inputs or outputs of an OpenVINO model, one for each name."""
    return [
        Port(
            name,
            str(node.element_type.to_dtype()),
            tuple(length.get_length() if length.is_static else None for length in node.partial_shape),
        )
        for node in nodes
        for name in sorted(node.get_names())
    ]


class TorchModel(ExportedModel):
    """Program of torch.export. Loading can run code in the file, so this is only for files just written."""

    def __init__(self, path: Path):
        import torch

        self.path = path
        verify_archive(path, ARCHIVED)
        extra = {KEY: ""}
        self.program = torch.export.load(path, extra_files=extra).module()
        self.metadata = ExportMetadata.from_text(extra[KEY], path)

    def run(self, image: np.ndarray) -> list[np.ndarray]:
        import torch

        with torch.no_grad():
            outputs = self.program(torch.from_numpy(image))
        return [x.numpy() for x in (outputs if isinstance(outputs, tuple) else (outputs,))]


@contextmanager
def library_errors(path: Path) -> Iterator[None]:
    """Convert errors of a library while reading a file into a `UserError` that names it."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # libraries have no common base class; damaged names raise UnicodeDecodeError
        if out_of_memory(error) or MESSAGES.search(str(error)):
            raise MemoryError(last_line(error)) from error
        raise UnusableExport(path, last_line(error)) from error


def warn_without_checksum(path: Path, *, has_checksum: bool) -> None:
    """Warn that damage to a file of an older version cannot be detected."""
    if not has_checksum:
        logger.warning("%s is of an older version without a checksum: damage cannot be detected; export it again", path)


def last_line(error: Exception) -> str:
    """Return the last line of a library's message, shortened."""
    return (str(error).strip().splitlines() or [type(error).__name__])[-1][:REASON]


def files_of(path: Path) -> list[Path]:
    """Return all files of an exported file, the one with the metadata first."""
    return [path, path.with_suffix(".bin")] if path.suffix == ".xml" else [path]


def open_exported(path: Path) -> ExportedModel:
    """Open an ONNX or OpenVINO file; `UserError` for any other or a damaged file."""
    if not require_regular(path).is_file():
        raise UserError(f"{path}: no such file; expected a file written by semask export")
    models: dict[str, Callable[[Path], ExportedModel]] = {".onnx": OnnxModel, ".xml": OpenVinoModel}
    if path.suffix not in models:
        raise UserError(
            f"{path}: expected an exported file, {' or '.join(EXPORTED)}; other formats could run code when loaded"
        )
    return models[path.suffix](path)
