"""ImageNet weights of ResNets: torchvision's files, and Detectron2's pickles by their addresses."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch
import torchvision.models
from torch import nn

from semask_d2.checkpoint import load_weights, read_checkpoint
from semask_d2.config import with_defaults
from semask_d2.modeling.backbones import ResNet
from semask_d2.modeling.backbones.resnet import STAGES
from semask_d2.utils.errors import UserError
from tests.helpers.small_models import HEADS, SmallModel, snapshot, with_statistics

R_50 = "ImageNetPretrained/torchvision/R-50.pkl"


def model_of(depth: int = 18, norm: str = "FrozenBN") -> SmallModel:
    width = 64 if depth < 50 else 256
    kind = {"stride_in_1x1": False, "out_features": STAGES, "freeze_at": 0}  # torchvision's
    backbone = with_defaults(ResNet, depth=depth, res2_out_channels=width, norm=norm, **kind)
    return SmallModel(backbone, HEADS["Mask2Former"]).eval()


@pytest.fixture
def published() -> nn.Module:
    return with_statistics(torchvision.models.resnet18()).eval()


def detectron2_pickle(model: nn.Module, path: Path) -> Path:
    """Convert a torchvision model as Detectron2's script does: arrays under Detectron2's names."""
    arrays = {}
    for name, value in model.state_dict().items():
        name = name if "layer" in name else f"stem.{name}"
        for i in range(1, 5):
            name = name.replace(f"layer{i}", f"res{i + 1}").replace(f"bn{i}", f"conv{i}.norm")
        arrays[name.replace("downsample.0", "shortcut").replace("downsample.1", "shortcut.norm")] = value.numpy()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pickle.dumps({"model": arrays, "__author__": "torchvision", "matching_heuristics": True}))
    return path


def written(publisher: str, model: nn.Module, folder: Path) -> Path:
    if publisher == "Detectron2":
        return detectron2_pickle(model, folder / "R-50.pkl")
    torch.save(model.state_dict(), folder / "resnet.pth")
    return folder / "resnet.pth"


@pytest.mark.parametrize("publisher", ["torchvision", "Detectron2"])
@pytest.mark.parametrize("norm", ["FrozenBN", "BN"])
def test_a_training_starts_from_them(publisher: str, norm: str, published: nn.Module, tmp_path: Path) -> None:
    model = model_of(norm=norm)
    before = snapshot(model)
    report = load_weights(model, written(publisher, published, tmp_path), training_start=True)
    assert report.kind == f"ImageNet ResNet of {publisher}"
    assert report.unexpected == []
    assert sorted(report.dropped) == sorted(
        f"{'stem.' * (publisher == 'Detectron2')}fc.{x}" for x in ("weight", "bias")
    )
    assert set(report.missing) == {name for name in before if name.startswith("sem_seg_head.")}
    assert all(torch.equal(model.state_dict()[name], before[name]) for name in report.missing)
    image = torch.randn(1, 3, 64, 96)
    x = published.maxpool(published.relu(published.bn1(published.conv1(image))))
    with torch.no_grad():
        features = model.backbone(image)
        for i in range(1, 5):
            x = getattr(published, f"layer{i}")(x)
            torch.testing.assert_close(features[f"res{i + 1}"], x, atol=1e-5, rtol=1e-4)


def test_names_of_bottlenecks_are_known_too(tmp_path: Path) -> None:
    published, model = torchvision.models.resnet50(), model_of(50)
    for publisher in ("torchvision", "Detectron2"):
        report = load_weights(model, written(publisher, published, tmp_path), training_start=True)
        assert not [name for name in report.missing if name.startswith("backbone.")]


@pytest.mark.parametrize("publisher", ["torchvision", "Detectron2"])
def test_they_are_no_model_to_evaluate_and_fit_their_depth_alone(
    publisher: str, published: nn.Module, tmp_path: Path
) -> None:
    path = written(publisher, published, tmp_path)
    with pytest.raises(UserError, match=r"it holds a backbone to start training from, but here all weights"):
        load_weights(model_of(), path)
    with pytest.raises(UserError, match=r"do not fit the model of this config.* misshaped: backbone\.res2\.0\.conv1"):
        load_weights(model_of(50), path, training_start=True)


def test_addresses_of_detectron2_lead_to_its_files(
    published: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Read a file from the cache, where it lies under the path of its address."""
    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path))
    path = detectron2_pickle(published, tmp_path / "detectron2" / R_50)
    loaded = read_checkpoint(f"detectron2://{R_50}")["model"]
    assert loaded.keys() == pickle.loads(path.read_bytes())["model"].keys()
    report = load_weights(model_of(), f"detectron2://{R_50}", training_start=True)
    assert report.kind == "ImageNet ResNet of Detectron2"


def test_an_address_that_cannot_be_fetched_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path))

    def refuse(url: str, *args: object, **kwargs: object) -> str:
        raise OSError(f"no route to {url}")

    monkeypatch.setattr("iopath.common.file_io.download", refuse)
    message = r"^detectron2://none\.pkl: could not be downloaded: no route to https://dl\.fbaipublicfiles\.com/detectron2/none\.pkl$"
    with pytest.raises(UserError, match=message):
        read_checkpoint("detectron2://none.pkl")
