"""Exported files as functions of pictures, each by the library that its format is for."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from semask_d2.export.metadata import KEY, ExportMetadata
from semask_d2.utils.errors import UserError
from semask_d2.utils.extras import install_command

REASON = 120  # characters of what a library says
EXPORTED = (".onnx", ".xml")  # that `open_exported` reads


def require_library(*names: str) -> None:
    """Raise `UserError` where one of these packages is not installed."""
    for name in names:
        if find_spec(name) is None:
            raise UserError(f"{name} is not installed, which exported files need; {install_command('export')}")


class ExportedModel:
    """A file that is run: `image` (B, 3, H, W) in, the arrays of `metadata.outputs` out. Threads may share one.

    `shape` is what `image` must have, None where it is free.
    """

    metadata: ExportMetadata
    shape: tuple[int | None, ...] = (None, 3, None, None)

    def __call__(self, image: np.ndarray) -> list[np.ndarray]:
        """Run the graph."""
        raise NotImplementedError


class OnnxModel(ExportedModel):
    """An ONNX file on onnxruntime, on the CPU."""

    def __init__(self, path: Path):
        require_library("onnxruntime")
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3  # errors alone
        try:
            self.session: Any = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # its own types, which have no common base
            raise unreadable(path, error) from error
        self.metadata = ExportMetadata.from_text(self.session.get_modelmeta().custom_metadata_map.get(KEY), path)
        self.shape = tuple(x if isinstance(x, int) else None for x in self.session.get_inputs()[0].shape)

    def __call__(self, image: np.ndarray) -> list[np.ndarray]:
        return self.session.run(self.metadata.outputs, {"image": image})


class OpenVinoModel(ExportedModel):
    """An OpenVINO file on the CPU, computing in `precision` ("f32" or "bf16")."""

    def __init__(self, path: Path, precision: str = "f32"):
        require_library("openvino")
        import openvino

        core = openvino.Core()
        try:
            model = core.read_model(path)
            text = model.get_rt_info([KEY]).astype(str) if model.has_rt_info([KEY]) else None
            self.metadata = ExportMetadata.from_text(text, path)
            self.compiled: Any = core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": precision})
            dimensions = self.compiled.input(0).partial_shape
            self.shape = tuple(x.get_length() if x.is_static else None for x in dimensions)
        except RuntimeError as error:
            raise unreadable(path, error) from error

    def __call__(self, image: np.ndarray) -> list[np.ndarray]:
        request = self.compiled.create_infer_request()  # one a call, so that threads do not meet
        request.infer([image])
        return [request.get_tensor(name).data.copy() for name in self.metadata.outputs]


class TorchModel(ExportedModel):
    """A program of torch.export. Loading one can run code that is in the file: only for files just written."""

    def __init__(self, path: Path):
        import torch

        extra = {KEY: ""}
        self.program = torch.export.load(path, extra_files=extra).module()
        self.metadata = ExportMetadata.from_text(extra[KEY], path)

    def __call__(self, image: np.ndarray) -> list[np.ndarray]:
        import torch

        with torch.no_grad():
            outputs = self.program(torch.from_numpy(image))
        return [x.numpy() for x in (outputs if isinstance(outputs, tuple) else (outputs,))]


def unreadable(path: Path, error: Exception) -> UserError:
    """What to raise for a file that its library refuses."""
    reason = (str(error).strip().splitlines() or [type(error).__name__])[-1]
    return UserError(f"{path}: no model that can be run ({reason[:REASON]}); write it again with semask export")


def open_exported(path: Path) -> ExportedModel:
    """The model in an ONNX or OpenVINO file; `UserError` for any other, and where it is damaged."""
    if not path.is_file():
        raise UserError(f"{path}: there is no such file; expected one that semask export wrote")
    if path.suffix == ".onnx":
        return OnnxModel(path)
    if path.suffix == ".xml":
        return OpenVinoModel(path)
    raise UserError(f"{path}: expected an exported file, {' or '.join(EXPORTED)}; others could run code when loaded")
