"""Weight files of released models are loaded, wrong files are refused, and nothing in a file runs."""

from __future__ import annotations

import contextlib
import os
import pickle
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from semask_d2.checkpoint import LoadReport, load_state, load_weights, read_checkpoint
from semask_d2.utils.errors import UserError


def make_model(seed: int = 0, classes: int = 3) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Linear(5, classes))


def snapshot(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def assert_same(a: dict[str, Tensor], b: dict[str, Tensor]) -> None:
    assert a.keys() == b.keys()
    for name in a:
        assert torch.equal(a[name], b[name]), name


@pytest.mark.parametrize("wrapped", [True, False])
def test_round_trip(tmp_path: Path, wrapped: bool) -> None:
    state = snapshot(make_model(1))
    torch.save({"model": state, "iteration": 7} if wrapped else state, tmp_path / "w.pth")
    model = make_model(2)
    report = load_weights(model, tmp_path / "w.pth")
    assert_same(snapshot(model), state)
    assert report == LoadReport(list(state), [], [], [])
    assert report.complete
    assert str(report) == f"{len(state)} tensors matched"


def test_tensors_that_the_model_lacks_are_reported_and_skipped(tmp_path: Path) -> None:
    state = snapshot(make_model(1))
    torch.save({"model": {**state, "criterion.empty_weight": torch.ones(4)}}, tmp_path / "w.pth")
    model = make_model(2)
    report = load_weights(model, str(tmp_path / "w.pth"))
    assert report.unexpected == ["criterion.empty_weight"]
    assert "1 unexpected: criterion.empty_weight" in str(report)
    assert_same(snapshot(model), state)


def broken(kind: str) -> dict[str, Tensor]:
    state = snapshot(make_model(1))
    if kind == "missing":
        del state["0.weight"]
    elif kind == "mis-shaped":
        state["2.weight"] = torch.zeros(7, 5)
    elif kind == "another model's":
        state = {f"net.{name}": tensor for name, tensor in state.items()}
    else:
        state = {}
    return state


@pytest.mark.parametrize(
    ("kind", "named"),
    [
        ("missing", "1 missing: 0.weight"),
        ("mis-shaped", "2.weight (7, 5) (model: (3, 5))"),
        ("another model's", "0 tensors matched"),
        ("empty", "0 tensors matched"),
    ],
)
def test_weights_that_do_not_fit_are_named_and_leave_the_model_as_it_was(tmp_path: Path, kind: str, named: str) -> None:
    torch.save({"model": broken(kind)}, tmp_path / "w.pth")
    model = make_model(2)
    before = snapshot(model)
    with pytest.raises(UserError) as caught:
        load_weights(model, tmp_path / "w.pth")
    assert str(tmp_path / "w.pth") in str(caught.value)
    assert named in str(caught.value)
    assert "\n" not in str(caught.value)
    assert_same(snapshot(model), before)


def test_load_state_copies_what_fits() -> None:
    model, state = make_model(2, classes=4), snapshot(make_model(1))
    before = snapshot(model)
    report = load_state(model, state)
    assert not report.complete
    assert report.misshaped == ["2.weight (3, 5) (model: (4, 5))", "2.bias (3,) (model: (4,))"]
    assert set(report.matched) == state.keys() - {"2.weight", "2.bias"}
    after = snapshot(model)
    for name in after:
        assert torch.equal(after[name], (state if name in report.matched else before)[name])


def test_a_long_report_is_cut() -> None:
    report = LoadReport([], [f"p{i}" for i in range(9)], [], [])
    assert str(report) == "0 tensors matched; 9 missing: p0, p1, p2, p3, p4 and 4 more"


def test_missing_file(tmp_path: Path) -> None:
    expected = {tmp_path / "no.pth": r"no such weight file.*MODEL\.WEIGHTS", tmp_path: "expected a run folder"}
    for path, message in expected.items():
        with pytest.raises(UserError, match=message) as caught:
            read_checkpoint(path)
        assert str(path) in str(caught.value)


def test_a_run_folder_is_its_best_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("SEED: 1\n")
    for name in ("model_final", "model_best"):
        torch.save({"model": {"w": torch.ones(1)}, "name": name}, tmp_path / f"{name}.pth")
    assert read_checkpoint(tmp_path)["name"] == "model_best"


def saved(tmp_path: Path, **kwargs) -> bytes:
    torch.save({"model": snapshot(make_model(1))}, tmp_path / "whole.pth", **kwargs)
    return (tmp_path / "whole.pth").read_bytes()


@pytest.mark.parametrize("zipped", [True, False])
def test_truncated_files(tmp_path: Path, zipped: bool) -> None:
    content = saved(tmp_path, _use_new_zipfile_serialization=zipped)
    path = tmp_path / "part.pth"
    for part in range(20):
        path.write_bytes(content[: len(content) * part // 20])
        with pytest.raises(UserError, match=r"part\.pth") as caught:
            read_checkpoint(path)
        assert "\n" not in str(caught.value)


@settings(deadline=None, derandomize=True, max_examples=150)
@given(content=st.binary(max_size=60))
def test_files_of_anything(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "anything.pth"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"anything\.pth"):
        read_checkpoint(path)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@settings(deadline=None, derandomize=True, max_examples=150)
@given(data=st.data(), protocol=st.sampled_from([2, 4]))
def test_damaged_pickles(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, protocol: int) -> None:
    """A flipped byte causes a UserError or, if it hits a value, still gives a dict; never another exception."""
    content = bytearray(pickle.dumps({"model": {"a": [1, 2.5, "x"]}, "iteration": 3}, protocol))
    content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.getbasetemp() / "damaged.pth"
    path.write_bytes(content)
    with contextlib.suppress(UserError):
        assert isinstance(read_checkpoint(path), dict)


class Bomb:
    """An object that creates a folder when it is unpickled."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.path),)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("form", ["pickle", "torch", "old torch"])
def test_a_foreign_pickle_is_refused_unexecuted(tmp_path: Path, form: str) -> None:
    proof, path = tmp_path / "executed", tmp_path / "bomb.pth"
    data = {"model": snapshot(make_model()), "extra": Bomb(proof)}
    if form == "pickle":
        path.write_bytes(pickle.dumps(data))
    else:
        torch.save(data, path, _use_new_zipfile_serialization=form == "torch")
    model = make_model(2)
    before = snapshot(model)
    with pytest.raises(UserError, match=r"bomb\.pth: refused"):
        load_weights(model, path)
    assert not proof.exists()
    assert_same(snapshot(model), before)
    # an ordinary load would really run the code
    torch.load(path, weights_only=False) if form != "pickle" else pickle.loads(path.read_bytes())
    assert proof.exists()


@pytest.mark.parametrize("content", [[1, 2], torch.zeros(3), "text"])
def test_a_file_without_a_dict(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "w.pth")
    with pytest.raises(UserError, match=r"w\.pth: expected a dict of tensors"):
        read_checkpoint(tmp_path / "w.pth")


@pytest.mark.parametrize("content", [{"model": torch.zeros(2)}, {"model": None}, {"model": [1]}, {1: 2}])
def test_a_dict_without_weights(tmp_path: Path, content: dict) -> None:
    torch.save(content, tmp_path / "w.pth")
    with pytest.raises(UserError, match=r"w\.pth"):
        load_weights(make_model(), tmp_path / "w.pth")
