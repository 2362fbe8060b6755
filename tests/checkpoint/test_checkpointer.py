"""Tests of checkpoints and the best model."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from semask_d2.engine import Checkpointer
from semask_d2.engine.hooks import BestCheckpoint, PeriodicCheckpoint
from semask_d2.utils.classes import Classes
from semask_d2.utils.errors import UserError
from tests.helpers.detectron2_names import EventStorage


class Counter:
    """An object with a state."""

    def __init__(self, count: int = 0):
        self.count = count

    def state_dict(self):
        return {"count": self.count}

    def load_state_dict(self, state):
        self.count = state["count"]


def test_a_checkpoint_brings_back_model_and_state(tmp_path) -> None:
    model, counter = nn.Linear(2, 2), Counter(7)
    Checkpointer(model, str(tmp_path), trainer=counter).save("model_0000004", iteration=4)
    other, fresh = nn.Linear(2, 2), Counter()
    extra = Checkpointer(other, str(tmp_path), trainer=fresh).resume_or_load("", resume=True)
    assert torch.equal(other.weight, model.weight)
    assert fresh.count == 7
    assert extra["iteration"] == 4


def test_without_resume_only_weights_are_loaded(tmp_path) -> None:
    model = nn.Linear(2, 2)
    Checkpointer(model, str(tmp_path), trainer=Counter(7)).save("model_final")
    other, fresh = nn.Linear(2, 2), Counter()
    Checkpointer(other, str(tmp_path), trainer=fresh).resume_or_load(str(tmp_path / "model_final.pth"), resume=False)
    assert torch.equal(other.weight, model.weight)
    assert fresh.count == 0


def named(*names: str) -> Classes:
    return Classes.of(names)


def test_weights_of_other_class_names_are_loaded_with_a_warning(tmp_path, caplog) -> None:
    Checkpointer(nn.Linear(2, 2), str(tmp_path), classes=named("sky", "pole", "car")).save("model_0000004")
    path = str(tmp_path / "model_0000004.pth")
    Checkpointer(nn.Linear(2, 2), classes=named("sky", "car", "pole")).resume_or_load(path, resume=False)
    assert "CLASS NAMES DIFFER" in caplog.text
    assert 'id 1 is "pole" there and "car" here, and 1 more differ' in caplog.text


@pytest.mark.parametrize("here", [named("sky", "pole"), None])
def test_equal_or_unknown_class_names_are_not_warned_of(tmp_path, caplog, here) -> None:
    Checkpointer(nn.Linear(2, 2), str(tmp_path), classes=named("sky", "pole")).save("model_0000004")
    path = str(tmp_path / "model_0000004.pth")
    Checkpointer(nn.Linear(2, 2), classes=here).resume_or_load(path, resume=False)
    assert "CLASS NAMES" not in caplog.text


def test_a_crash_while_saving_leaves_the_older_checkpoint(tmp_path, monkeypatch) -> None:
    model = nn.Linear(2, 2)
    checkpointer = Checkpointer(model, str(tmp_path))
    checkpointer.save("model_best")
    before = (tmp_path / "model_best.pth").read_bytes()

    def crash(state, file):
        file.write(b"half of it")
        raise OSError("no space left on device")

    monkeypatch.setattr(torch, "save", crash)
    with pytest.raises(OSError, match="no space"):
        checkpointer.save("model_best")
    assert (tmp_path / "model_best.pth").read_bytes() == before
    assert {path.name for path in tmp_path.iterdir()} == {"model_best.pth", "last_checkpoint"}


def test_weights_without_a_run_cannot_be_resumed_from(tmp_path) -> None:
    model = nn.Linear(2, 2)
    Checkpointer(model, str(tmp_path)).save("model_final")
    with pytest.raises(UserError, match='no state "trainer"'):
        Checkpointer(model, str(tmp_path), trainer=Counter()).resume_or_load("", resume=True)


def evaluate(hook: BestCheckpoint, storage: EventStorage, iteration: int, miou: float) -> None:
    storage.iter = hook.trainer.iter = iteration
    storage.put_scalar("sem_seg/mIoU", miou, smoothing_hint=False)
    hook.after_step()


def make_hook(model: nn.Module, folder, storage: EventStorage, start_iter: int) -> BestCheckpoint:
    hook = BestCheckpoint(Checkpointer(model, str(folder)), "sem_seg/mIoU")
    hook.trainer = SimpleNamespace(storage=storage, iter=start_iter, start_iter=start_iter, max_iter=100)
    hook.before_train()
    return hook


def test_the_best_model_survives_worse_ones_and_a_resume(tmp_path) -> None:
    model = nn.Linear(1, 1, bias=False)
    path = tmp_path / "model_best.pth"

    def saved() -> float:
        return torch.load(path, weights_only=True)["model"]["weight"].item()

    with EventStorage() as storage:
        hook = make_hook(model, tmp_path, storage, 0)
        for iteration, (weight, miou) in enumerate([(1.0, 40.0), (2.0, 50.0), (3.0, 45.0), (4.0, float("nan"))]):
            nn.init.constant_(model.weight, weight)
            evaluate(hook, storage, iteration, miou)
        assert saved() == 2.0
    with EventStorage() as storage:
        resumed = make_hook(model, tmp_path, storage, 2)
        nn.init.constant_(model.weight, 5.0)
        evaluate(resumed, storage, 2, 49.0)
        assert saved() == 2.0
        evaluate(resumed, storage, 3, 51.0)
        assert saved() == 5.0
    assert not (tmp_path / "last_checkpoint").exists()  # a run never resumes from the best model


def test_a_best_model_of_unknown_value_is_moved_aside(tmp_path) -> None:
    model = nn.Linear(1, 1)
    torch.save({"model": model.state_dict()}, tmp_path / "model_best.pth")
    with EventStorage() as storage:
        hook = make_hook(model, tmp_path, storage, 2)
        evaluate(hook, storage, 2, 10.0)
    assert (tmp_path / "model_best_of_unknown_value.pth").exists()
    assert torch.load(tmp_path / "model_best.pth", weights_only=True)["best"] == 10.0


def test_the_best_model_holds_weights_alone(tmp_path) -> None:
    checkpointer = Checkpointer(nn.Linear(1, 1), str(tmp_path), trainer=Counter(3))
    checkpointer.write("model_best", weights_only=True, best=1.0)
    assert torch.load(tmp_path / "model_best.pth", weights_only=True).keys() == {"model", "semantic_windows", "best"}


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_never_written(tmp_path, value: float) -> None:
    model = nn.Linear(2, 2)
    checkpointer = Checkpointer(model, str(tmp_path), trainer=Counter())
    checkpointer.save("model_0000009", iteration=9)
    with torch.no_grad():
        model.weight[1, 0] = value
    for write in (lambda: checkpointer.save("model_0000019", iteration=19), lambda: checkpointer.write("model_best")):
        with pytest.raises(UserError, match=r"no longer finite.*last good checkpoint is .*model_0000009\.pth"):
            write()
    assert {path.name for path in tmp_path.iterdir()} == {"model_0000009.pth", "last_checkpoint"}


def test_weights_that_are_not_finite_are_named_when_they_are_loaded(tmp_path, caplog) -> None:
    model = nn.Linear(2, 2)
    state = {name: value * float("nan") for name, value in model.state_dict().items()}
    torch.save({"model": state}, tmp_path / "nan.pth")
    Checkpointer(model).load(str(tmp_path / "nan.pth"))
    assert "2 tensors are not finite (weight, bias): predictions will be meaningless" in caplog.text


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "names ''"),
        (b"model_0000077.pth", "names 'model_0000077.pth', which is not a file"),
        (b"../elsewhere.pth", "is not a plain name"),
        (b"/etc/passwd", "is not a plain name"),
        (b"model_0000009.pth\0x", "is not a plain name"),
        (b"a" * 10**6, "is not a plain name"),
        (b"\xff\xfe\x00", "cannot be read"),
    ],
)
def test_resuming_never_starts_silently_from_scratch(tmp_path, content: bytes, message: str) -> None:
    checkpointer = Checkpointer(nn.Linear(1, 1), str(tmp_path), trainer=Counter())
    for iteration in (4, 9):
        checkpointer.save(f"model_{iteration:07d}", iteration=iteration)
    (tmp_path / "last_checkpoint").write_bytes(content)
    with pytest.raises(UserError, match=message) as caught:
        checkpointer.resume_or_load("", resume=True)
    assert "write model_0000009.pth into it" in str(caught.value)


def test_only_the_newest_checkpoints_are_kept(tmp_path) -> None:
    checkpointer = Checkpointer(nn.Linear(1, 1), str(tmp_path))
    hook = PeriodicCheckpoint(checkpointer, period=2, kept=2)
    hook.trainer = SimpleNamespace(iter=0, max_iter=9)
    (tmp_path / "model_best.pth").write_bytes(b"best")
    for hook.trainer.iter in range(9):
        hook.after_step()
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"model_0000005.pth", "model_0000007.pth", "model_final.pth", "model_best.pth", "last_checkpoint"}


def test_a_kill_before_the_first_checkpoint_got_its_pointer_loses_nothing(tmp_path, caplog) -> None:
    checkpointer = Checkpointer(nn.Linear(1, 1), str(tmp_path), trainer=Counter(9))
    checkpointer.save("model_0000009", iteration=9)
    (tmp_path / "last_checkpoint").unlink()
    assert checkpointer.resume_or_load("", resume=True)["iteration"] == 9
    assert "continuing from the newest checkpoint there, model_0000009.pth" in caplog.text
