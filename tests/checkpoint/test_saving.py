"""Tests of writing safetensors."""

from __future__ import annotations

from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import nn

from semask_d2.checkpoint import load_weights, read_checkpoint, save_weights, saving
from semask_d2.modeling.layers.conv import ConvNorm
from semask_d2.modeling.layers.feature_alignment import FeatureAlignment
from tests.helpers.small_models import same, snapshot, swin_model


def test_round_trip(tmp_path: Path) -> None:
    source, model = swin_model(stages=(1, 2)), swin_model(stages=(1, 2))
    save_weights(source, tmp_path / "w.safetensors")
    assert load_weights(model, tmp_path / "w.safetensors").complete
    assert same(snapshot(model), snapshot(source))
    assert read_checkpoint(tmp_path / "w.safetensors")["semantic_windows"] == [None, 4, 4, None]
    assert [path.name for path in tmp_path.iterdir()] == ["w.safetensors"]


class Shared(nn.Module):
    """A model with one norm under two names, as FaPN has."""

    def __init__(self):
        super().__init__()
        layer = ConvNorm(32, 32, 3, norm="GN")
        self.align_1 = FeatureAlignment(32, layer.norm)
        self.layer_1 = layer


def test_a_tensor_with_two_names(tmp_path: Path) -> None:
    source, model = Shared(), Shared()
    nn.init.normal_(source.layer_1.norm.weight)
    save_weights(source, tmp_path / "w.safetensors")
    names = safetensors.torch.load_file(tmp_path / "w.safetensors").keys()
    assert {"align_1.offset.norm.weight", "layer_1.norm.weight"} <= names
    load_weights(model, tmp_path / "w.safetensors")
    assert torch.equal(model.layer_1.norm.weight, source.layer_1.norm.weight)
    assert model.align_1.offset.norm is model.layer_1.norm


@pytest.mark.parametrize("name", ["align_1.offset.norm", "layer_1.norm"])
def test_one_of_two_names_is_enough(tmp_path: Path, name: str) -> None:
    """Load a file of a program that writes a shared tensor once."""
    source, model = Shared(), Shared()
    nn.init.normal_(source.layer_1.norm.weight)
    state = {key: value for key, value in snapshot(source).items() if not key.startswith(name)}
    torch.save(state, tmp_path / "w.pth")
    assert load_weights(model, tmp_path / "w.pth").complete
    assert same(snapshot(model), snapshot(source))


def test_where_two_names_differ_the_layers_own_counts(tmp_path: Path) -> None:
    model, state = Shared(), snapshot(Shared())
    state["align_1.offset.norm.weight"] = torch.full((32,), 2.0)
    state["layer_1.norm.weight"] = torch.full((32,), 3.0)
    torch.save(state, tmp_path / "w.pth")
    load_weights(model, tmp_path / "w.pth")
    assert model.align_1.offset.norm.weight.unique().tolist() == [3.0]


def test_a_failed_write_leaves_the_older_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "w.safetensors"
    save_weights(nn.Linear(2, 2), path)
    before = path.read_bytes()
    monkeypatch.setattr(saving.safetensors.torch, "save", lambda *args: "no bytes")
    with pytest.raises(TypeError):
        save_weights(nn.Linear(2, 2), path)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["w.safetensors"]


@pytest.mark.slow
def test_the_export_tool(tmp_path: Path, run) -> None:
    source = swin_model()
    data = {"model": snapshot(source), "trainer": {"big": torch.ones(3)}, "semantic_windows": [4, 4, None, None]}
    torch.save(data, tmp_path / "w.pth")
    target = tmp_path / "w.safetensors"
    code, out, err = run("tools/export_weights.py", "--weights", tmp_path / "w.pth", "--output", target)
    assert code == 0, err
    assert f"{len(data['model'])} tensors" in out
    read = read_checkpoint(target)
    assert same(read["model"], data["model"])
    assert read["semantic_windows"] == [4, 4, None, None]
