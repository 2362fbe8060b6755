"""Writers of graphs: programs of torch.export, ONNX and OpenVINO."""

from __future__ import annotations

import io
import logging
import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

from semask_d2.export.checksum import seal, sealed_archive
from semask_d2.export.graph import SegmentationGraph
from semask_d2.export.metadata import KEY, ExportMetadata
from semask_d2.export.quantizing import quantize
from semask_d2.export.running import ARCHIVED, files_of, require_library
from semask_d2.modeling.kernels.grid_sample import without_grid_sample
from semask_d2.utils.choices import EXPORT_SUFFIXES
from semask_d2.utils.files import put_in_place, temporary_beside

if TYPE_CHECKING:
    import onnx

Batches = Sequence[np.ndarray]  # inputs of a graph, which calibrate 8-bit products
OPSET = 17
AXES = {0: "batch", 2: "height", 3: "width"}
SIZED = ("mask_logits", "logits")  # outputs whose size differs from that of the image
EXAMPLE = 64, 96  # example size for tracing a graph of any size


class GraphSettings(NamedTuple):
    """Settings of a graph: input images of `size` (H, W) in batches of `batch` (None: any), and how to build it.

    With `resize` the graph resizes images to the test-time size. With `int8` products are quantized.
    """

    size: tuple[int, int] | None
    batch: int | None = 1
    input_type: str = "uint8"
    grid_sample: bool = True
    half_weights: bool = False
    resize: bool = False
    int8: bool = False

    @property
    def precision(self) -> str:
        """Precision of the weights in the file."""
        return "int8" if self.int8 else "fp16" if self.half_weights else "fp32"

    def free_axes(self) -> dict[int, str]:
        """Return the axes of the input that may have any size."""
        fixed = {"batch": self.batch, "height": self.size, "width": self.size}
        return {dim: name for dim, name in AXES.items() if fixed[name] is None}

    def example(self, channels: int) -> Tensor:
        """Return an example input; free dimensions are not 1, because torch would treat a 1 as constant."""
        height, width = self.size or EXAMPLE
        batch = 2 if self.batch is None else self.batch
        image = torch.randint(0, 256, (batch, channels, height, width), dtype=torch.uint8)
        return image if self.input_type == "uint8" else image.float()


def write_torch_export(
    graph: SegmentationGraph, path: Path, metadata: ExportMetadata, settings: GraphSettings, calibration: Batches
) -> None:
    """Write `path` for torch.export.load, with fixed height and width."""
    shapes = {"image": {0: torch.export.Dim("batch")}} if settings.batch is None else None
    with torch.no_grad(), sampling(settings):
        program = torch.export.export(graph, (settings.example(graph.model.channels),), dynamic_shapes=shapes)
    file = io.BytesIO()  # when the disk is full, torch's file writer aborts the process
    torch.export.save(program, file, extra_files={KEY: metadata.as_text()})
    path.write_bytes(sealed_archive(file.getvalue(), ARCHIVED))


def write_onnx(
    graph: SegmentationGraph, path: Path, metadata: ExportMetadata, settings: GraphSettings, calibration: Batches
) -> None:
    """Write one ONNX file, including the weights."""
    require_library("onnx")
    import onnx

    trace(graph, path, metadata.outputs, settings)
    model = onnx.load(path)
    onnx.helper.set_model_props(model, {KEY: metadata.as_text()})
    if settings.half_weights:
        halve_weights(model)
    if settings.int8:
        quantize(model, calibration, path, results=True)
    onnx.save(model, path)
    seal(files_of(path))


def trace(graph: SegmentationGraph, path: Path, outputs: list[str], settings: GraphSettings) -> None:
    """Write an ONNX file without metadata.

    It uses tracing, because torch.export takes minutes for the windows of a backbone with free height and width.
    """
    names = settings.free_axes()
    axes = {"image": names, **{name: free_outputs(name, names) for name in outputs}}
    with torch.no_grad(), sampling(settings), quiet():
        torch.onnx.export(
            graph,
            (settings.example(graph.model.channels),),
            str(path),
            dynamo=False,
            opset_version=OPSET,
            input_names=["image"],
            output_names=outputs,
            dynamic_axes=axes,
        )


def write_openvino(
    graph: SegmentationGraph, path: Path, metadata: ExportMetadata, settings: GraphSettings, calibration: Batches
) -> None:
    """Write the XML file `path` and its weights as .bin, through a temporary .onnx file beside them."""
    require_library("openvino", "onnx")
    import onnx
    import openvino

    onnx_file = path.with_suffix(EXPORT_SUFFIXES["onnx"])
    try:
        trace(graph, onnx_file, metadata.outputs, settings)
        if settings.int8:
            quantized = onnx.load(onnx_file)
            quantize(quantized, calibration, path, results=False)
            onnx.save(quantized, onnx_file)
        model = openvino.Core().read_model(onnx_file)  # convert_model would lose some dynamic paddings
        model.set_rt_info(metadata.as_text(), [KEY])
        openvino.save_model(model, path, compress_to_fp16=settings.half_weights)
    finally:
        onnx_file.unlink(missing_ok=True)
    seal(files_of(path))


WRITERS = {"torch_export": write_torch_export, "onnx": write_onnx, "openvino": write_openvino}


def sampling(settings: GraphSettings) -> AbstractContextManager[None]:
    """Return a context that builds graphs with or without GridSample."""
    return nullcontext() if settings.grid_sample else without_grid_sample()


def free_outputs(name: str, axes: dict[int, str]) -> dict[int, str]:
    """Return the free axes of the output `name`; those of image-sized outputs are named as in the input."""
    if name == "labels":
        return {max(0, dim - 1): axis for dim, axis in axes.items()}
    if name == "scores":
        return axes
    return {dim: axis if dim == 0 else f"{axis}_of_{name}" for dim, axis in axes.items() if dim == 0 or name in SIZED}


def halve_weights(model: onnx.ModelProto) -> None:
    """Store the fp32 weights of an ONNX model in fp16; a Cast before each use keeps computation in fp32."""
    from onnx import TensorProto, helper, numpy_helper

    casts = []
    for tensor in model.graph.initializer:
        if tensor.data_type != TensorProto.FLOAT or len(tensor.dims) < 2:
            continue
        name = tensor.name
        half = numpy_helper.from_array(numpy_helper.to_array(tensor).astype("float16"), f"{name}_fp16")
        tensor.CopyFrom(half)
        casts.append(helper.make_node("Cast", [half.name], [name], name=f"{name}_cast", to=TensorProto.FLOAT))
    nodes = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend([*casts, *nodes])


@contextmanager
def exported_beside(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path` for an exported file; remove all of its files afterwards.

    Raises `UnwritableFile` if the system refuses to write.
    """
    with temporary_beside(path, path.suffix) as temporary:
        try:
            yield temporary
        finally:
            for part in files_of(temporary)[1:]:
                part.unlink(missing_ok=True)


def put_all_in_place(temporary: Path, path: Path) -> None:
    """Rename a complete exported file to `path`, the file with the metadata last."""
    for part, place in reversed(list(zip(files_of(temporary), files_of(path), strict=True))):
        with open(part, "rb+") as file:
            os.fsync(file.fileno())
        put_in_place(part, place)


@contextmanager
def quiet() -> Iterator[None]:
    """Hide messages of the exporter, which are for its developers."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def size_of(path: Path) -> int:
    """Return the size in bytes of all files of an exported file."""
    return sum(os.path.getsize(part) for part in files_of(path))
