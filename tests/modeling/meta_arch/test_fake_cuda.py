"""Complete models on fake CUDA tensors, without a GPU: devices, dtypes, and copies between devices.

Only what asks the machine for a GPU or needs numbers is replaced: the test for one that autocast makes, the classes of
a label map, and the costs that the assignment reads. Whatever else would wait for numbers raises an error in torch.
The backward pass is not run, as torch's engine wants a GPU for it.
"""

from __future__ import annotations

import traceback
from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import semask_d2
from semask_d2.d2 import build_model
from semask_d2.modeling.losses import targets
from tests.helpers.commands import ROOT
from tests.helpers.tiny_model import OPTIONS

pytestmark = pytest.mark.filterwarnings("ignore:.*uses standard operators, which are slower")  # there is no GPU

SIZES = [(40, 64), (61, 33)]
CLASSES = [0, 2, 5]  # classes of every image
PACKED_LABELS = 2 * 64 * 64 + 2 * len(CLASSES)  # the padded maps and the class ids of both images, as one tensor
BATCH = {(3, 40, 64), (3, 61, 33), (PACKED_LABELS,)}  # images and labels may cross


class Copies(TorchDispatchMode):
    """Counts the tensors copied between host and device, by direction, size and line of code.

    `product_dtypes` are those that matrix products and convolutions were computed in.
    """

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, tuple[int, ...], str]] = []
        self.dtypes: list[torch.dtype] = []
        self.product_dtypes: set[torch.dtype] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        sources = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        if name == "copy_":
            source, target = sources[1], sources[0]
        elif name == "_to_copy":
            source, target = sources[0], out
        else:
            if name in ("mm", "addmm", "bmm", "convolution"):
                self.product_dtypes.add(out.dtype)
            return out
        if source.device != target.device:
            direction = "to host" if target.device.type == "cpu" else "to device"
            self.found.append((direction, tuple(source.shape), line_of_package()))
            self.dtypes.append(target.dtype)
        return out

    def besides_batch(self, direction: str) -> list[str]:
        """Return shape and line of each copied tensor, except images and labels, single or as a padded batch."""
        return [f"{shape} at {line}" for kind, shape, line in self.found if kind == direction and shape not in BATCH]


class Kernels(TorchDispatchMode):
    """Counts the operators that compute on the device, without views and copies to it."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        views = any(argument.alias_info is not None for argument in func._schema.arguments)
        self.count += func.namespace == "aten" and not views and func.overloadpacket.__name__ != "_to_copy"
        return func(*args, **(kwargs or {}))


def line_of_package() -> str:
    """Return the innermost running line of the package: file, number and text."""
    package = str(ROOT / "semask_d2")
    for frame in reversed(traceback.extract_stack()):
        if frame.filename.startswith(package):
            return f"{frame.filename.removeprefix(package)}:{frame.lineno} {frame.line}"
    return "outside of the package"


def to_fake_cuda(model: nn.Module) -> None:
    """Replace the parameters and buffers of a model by fake CUDA tensors."""
    fakes: dict[int, Tensor] = {}
    for module in model.modules():
        for table in (module._parameters, module._buffers):
            for name, tensor in table.items():
                if tensor is not None and id(tensor) not in fakes:
                    fake = torch.empty(tensor.shape, dtype=tensor.dtype, device="cuda")
                    is_parameter = isinstance(tensor, nn.Parameter)
                    fakes[id(tensor)] = nn.Parameter(fake, tensor.requires_grad) if is_parameter else fake
                if tensor is not None:
                    table[name] = fakes[id(tensor)]


@pytest.fixture(autouse=True)
def _numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace functions that need a GPU or real data: autocast checks, classes of an image, costs on the host."""
    monkeypatch.setattr("torch.cuda.amp.common.amp_definitely_not_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: True)
    monkeypatch.setattr(targets, "present_ids", lambda labels: CLASSES)
    to_numpy = Tensor.numpy

    def numpy(tensor: Tensor) -> np.ndarray:
        if not isinstance(tensor, FakeTensor):
            return to_numpy(tensor)
        assert tensor.device.type == "cpu"
        return np.zeros(tensor.shape, np.float32)

    monkeypatch.setattr(Tensor, "numpy", numpy)


class Limits(NamedTuple):
    """Upper limits of copied tensors in a step with two images, besides images and labels."""

    training_to_device: int
    training_to_host: int
    evaluation_to_device: int


# Mask models in training copy costs to the host once, and all matches to the device as one tensor.
FAMILIES = {
    "semask_swin_mini_m2f": Limits(1, 1, 0),
    "semask_swin_mini_msfapn_m2f": Limits(1, 1, 0),
    "semask_swin_mini_fapn_m2f": Limits(1, 1, 0),
    "semask_swin_mini_mf": Limits(1, 1, 0),
    "semask_swin_mini_fpn": Limits(0, 0, 0),
    "semask_mit_b0_m2f": Limits(1, 1, 0),
    "semask_mit_b0_fpn": Limits(0, 0, 0),
    "semask_timm_resnet18_m2f": Limits(1, 1, 0),
    "eomt_vit_tiny": Limits(1, 1, 0),
    "semask_vit_tiny_m2f": Limits(1, 1, 0),
    "semask_dinov3_vit_tiny_fpn": Limits(0, 0, 0),
}
# bf16 and fp16 differ for no layer, so one family shows fp16
CASES = [
    *((family, torch.bfloat16) for family in FAMILIES),
    *(pytest.param(family, None, marks=pytest.mark.slow) for family in FAMILIES),
    ("semask_swin_mini_msfapn_m2f", torch.float16),
]


def build(family: str, **options: object) -> nn.Module:
    expected = OPTIONS | {"INPUT.SIZE_DIVISIBILITY": 64, "MODEL.SEM_SEG_HEAD.TRANSFORMER_ENC_LAYERS": 2} | options
    words = [word for item in expected.items() for word in item]
    return build_model(semask_d2.get_cfg(ROOT / f"configs/toy_scenes/{family}.yaml", words))


def make_batch(sizes: list[tuple[int, int]] = SIZES) -> list[dict]:
    """Return images and labels on the host, as from a data loader."""
    return [
        {"image": torch.zeros(3, *size, dtype=torch.uint8), "sem_seg": torch.zeros(size, dtype=torch.uint8)}
        for size in sizes
    ]


def assert_at_most(limit: int, copies: list[str]) -> None:
    assert len(copies) <= limit, "\n".join([f"{len(copies)} tensors cross, {limit} may:", *copies])


@pytest.mark.parametrize(("family", "precision"), CASES)
def test_training(family: str, precision: torch.dtype | None) -> None:
    """Losses are on the device in fp32, products have the expected precision, and few tensors are copied."""
    model = build(family).train()
    with FakeTensorMode(allow_non_fake_inputs=True):
        to_fake_cuda(model)
        batch = make_batch()
        with Copies() as copies, torch.autocast("cuda", precision or torch.float16, enabled=precision is not None):
            losses = model(batch)
        assert ("loss_cate" in losses) == family.startswith("semask_")
        for loss in losses.values():
            assert (loss.dtype, loss.device.type, loss.shape) == (torch.float32, "cuda", ())
            assert loss.requires_grad
    assert (precision or torch.float32) in copies.product_dtypes
    limits = FAMILIES[family]
    assert_at_most(limits.training_to_device, copies.besides_batch("to device"))
    assert_at_most(limits.training_to_host, copies.besides_batch("to host"))


@pytest.mark.parametrize(("family", "precision"), CASES)
def test_evaluation(family: str, precision: torch.dtype | None) -> None:
    """Scores and labels have the size of each image, scores are fp32, and nothing is copied to the host."""
    model = build(family).eval()
    with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
        to_fake_cuda(model)
        batch = make_batch()
        with Copies() as copies, torch.autocast("cuda", precision or torch.float16, enabled=precision is not None):
            labels = model.predict_labels(batch)
        for size, actual in zip(SIZES, labels, strict=True):
            assert (actual.dtype, actual.device.type, tuple(actual.shape)) == (torch.int64, "cuda", size)
        with torch.autocast("cuda", precision or torch.float16, enabled=precision is not None):
            scores = [x["sem_seg"] for x in model(batch)]
        for size, actual in zip(SIZES, scores, strict=True):
            assert (actual.dtype, actual.device.type, tuple(actual.shape[1:])) == (torch.float32, "cuda", size)
    assert (precision or torch.float32) in copies.product_dtypes
    assert_at_most(FAMILIES[family].evaluation_to_device, copies.besides_batch("to device"))
    assert_at_most(0, copies.besides_batch("to host"))


@pytest.mark.parametrize("attention", ["scaled", "centers"])
@pytest.mark.parametrize("residual", ["normalized", "raw"])
def test_variants_of_the_semantic_layer(attention: str, residual: str) -> None:
    options = {
        "MODEL.SWIN.SEM_ATTENTION": attention,
        "MODEL.SWIN.SEM_RESIDUAL": residual,
        "MODEL.MASK_FORMER.SEM_LOSS_PER_STAGE": True,
    }
    model = build("semask_swin_mini_fpn", **options).train()
    with FakeTensorMode(allow_non_fake_inputs=True):
        to_fake_cuda(model)
        with Copies() as copies, torch.autocast("cuda", torch.bfloat16):
            loss = model(make_batch())["loss_cate"]
    assert (loss.dtype, loss.device.type, loss.requires_grad) == (torch.float32, "cuda", True)
    assert_at_most(0, copies.besides_batch("to device") + copies.besides_batch("to host"))


def test_images_and_labels_are_copied_as_bytes() -> None:
    """The number of kernels does not depend on the number of images of one size."""
    model = build("semask_swin_mini_m2f").train()
    kernels = []
    for count in (2, 4):
        with FakeTensorMode(allow_non_fake_inputs=True):
            to_fake_cuda(model)
            batch = make_batch([(40, 64)] * count)
            with Copies() as copies:
                model(batch)
            with Kernels() as launched:
                model.normalizer([x["image"] for x in batch], 64)
        batch_copies = [shape for direction, shape, _ in copies.found if direction == "to device"][: count + 1]
        assert batch_copies == [(3, 40, 64)] * count + [(count * (64 * 64 + len(CLASSES)),)]
        assert copies.dtypes[: count + 1] == [torch.uint8] * (count + 1)
        kernels.append(launched.count)
    assert kernels[0] == kernels[1] <= 4


def test_hardest_pixels_are_selected_on_the_device() -> None:
    model = build("semask_swin_mini_fpn", **{"MODEL.SEM_SEG_HEAD.OHEM_PIXELS": 50}).train()
    with FakeTensorMode(allow_non_fake_inputs=True):
        to_fake_cuda(model)
        with Copies() as copies:
            assert model(make_batch())["loss_ce"].device.type == "cuda"
    assert_at_most(0, copies.besides_batch("to device") + copies.besides_batch("to host"))


def test_copies_are_counted() -> None:
    """Copies are counted in every way of writing them."""
    with FakeTensorMode(allow_non_fake_inputs=True), Copies() as copies:
        there = torch.zeros(7, device="cuda")
        torch.tensor([1, 2], device="cuda"), there.new_tensor([1, 2]), torch.from_numpy(np.ones(2)).cuda()
        there.cpu(), torch.zeros(7).copy_(there)
        with pytest.raises(RuntimeError):
            there.tolist()
    assert len(copies.besides_batch("to device")) == 3
    assert len(copies.besides_batch("to host")) == 2
