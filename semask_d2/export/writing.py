"""Graphs to files: a program of torch.export, ONNX, OpenVINO."""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from semask_d2.export.graph import SegmentationGraph
from semask_d2.export.metadata import KEY, ExportMetadata
from semask_d2.export.running import require_library
from semask_d2.modeling.layers.grid_sample import without_grid_sample
from semask_d2.utils.files import put_in_place, temporary_beside

if TYPE_CHECKING:
    import onnx

SUFFIXES = {"torch_export": ".pt2", "onnx": ".onnx", "openvino": ".xml"}
OPSET = 17
AXES = {0: "batch", 2: "height", 3: "width"}
SIZED = ("mask_logits", "logits")  # outputs that are maps of another size than the picture
EXAMPLE = 64, 96  # the size that a graph of any size is made with


class GraphSettings(NamedTuple):
    """What a graph takes, pictures of `size` (H, W) in batches of `batch` (None: any), and how it is made.

    With `resize` the graph itself brings pictures to the size that they go through the model at.
    """

    size: tuple[int, int] | None
    batch: int | None = 1
    input_type: str = "uint8"
    grid_sample: bool = True
    half_weights: bool = False
    resize: bool = False

    def free_axes(self) -> dict[int, str]:
        """The axes of the picture that may be of any size."""
        fixed = {"batch": self.batch, "height": self.size, "width": self.size}
        return {dim: name for dim, name in AXES.items() if fixed[name] is None}

    def example(self) -> Tensor:
        """A picture that the graph is made with; no dimension that may be any is 1, which torch would fix."""
        height, width = self.size or EXAMPLE
        image = torch.randint(0, 256, (2 if self.batch is None else self.batch, 3, height, width), dtype=torch.uint8)
        return image if self.input_type == "uint8" else image.float()


def write_torch_export(graph: SegmentationGraph, path: Path, metadata: ExportMetadata, settings: GraphSettings) -> None:
    """Write `path`, which torch.export.load reads; the height and the width are fixed."""
    shapes = {"image": {0: torch.export.Dim("batch")}} if settings.batch is None else None
    with torch.no_grad(), sampling(settings):
        program = torch.export.export(graph, (settings.example(),), dynamic_shapes=shapes)
    torch.export.save(program, path, extra_files={KEY: metadata.as_text()})


def write_onnx(graph: SegmentationGraph, path: Path, metadata: ExportMetadata, settings: GraphSettings) -> None:
    """Write one ONNX file, weights and all.

    By tracing: torch.export takes minutes to follow a free height and width through a backbone's windows.
    """
    require_library("onnx")
    import onnx

    names = settings.free_axes()
    axes = {"image": names, **{name: free_outputs(name, names) for name in metadata.outputs}}
    with torch.no_grad(), sampling(settings), quiet():
        torch.onnx.export(
            graph,
            (settings.example(),),
            str(path),
            dynamo=False,
            opset_version=OPSET,
            input_names=["image"],
            output_names=metadata.outputs,
            dynamic_axes=axes,
        )
    model = onnx.load(path)
    onnx.helper.set_model_props(model, {KEY: metadata.as_text()})
    if settings.half_weights:
        halve_weights(model)
    onnx.save(model, path)


def write_openvino(graph: SegmentationGraph, path: Path, metadata: ExportMetadata, settings: GraphSettings) -> None:
    """Write the XML file `path`, and the weights beside it as .bin."""
    require_library("openvino", "onnx")
    import openvino

    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        onnx_file = Path(folder, "model.onnx")
        write_onnx(graph, onnx_file, metadata, settings._replace(half_weights=False))
        model = openvino.Core().read_model(onnx_file)  # convert_model's own changes lose some dynamic paddings
        model.set_rt_info(metadata.as_text(), [KEY])
        openvino.save_model(model, path, compress_to_fp16=settings.half_weights)


WRITERS = {"torch_export": write_torch_export, "onnx": write_onnx, "openvino": write_openvino}


def sampling(settings: GraphSettings) -> AbstractContextManager[None]:
    """Where a graph is made: with GridSample or without it."""
    return nullcontext() if settings.grid_sample else without_grid_sample()


def free_outputs(name: str, axes: dict[int, str]) -> dict[int, str]:
    """The free axes of the output `name`: those of the picture, where it is of the picture's size."""
    if name == "labels":
        return {max(0, dim - 1): axis for dim, axis in axes.items()}
    if name == "scores":
        return axes
    return {dim: axis if dim == 0 else f"{axis}_of_{name}" for dim, axis in axes.items() if dim == 0 or name in SIZED}


def halve_weights(model: onnx.ModelProto) -> None:
    """Store the fp32 weights of an ONNX model in fp16; a Cast before their use leaves the computing as it was."""
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


def files_of(path: Path) -> list[Path]:
    """The files that make up an exported file, what it needs first."""
    return [path.with_suffix(".bin"), path] if path.suffix == SUFFIXES["openvino"] else [path]


def move(source: Path, target: Path) -> None:
    """Put an exported file, and what belongs to it, in its place."""
    for part, place in zip(files_of(source), files_of(target), strict=True):
        with temporary_beside(place) as temporary:
            shutil.copyfile(part, temporary)
            put_in_place(temporary, place)


@contextmanager
def quiet() -> Iterator[None]:
    """Within it the exporter's notes, which are for its makers, are not shown."""
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
    """The bytes of an exported file and what belongs to it."""
    return sum(os.path.getsize(part) for part in files_of(path))
