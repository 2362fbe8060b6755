"""Hundreds of damaged trainer states, pointers and metrics files: each is accepted, or refused with one line."""

from __future__ import annotations

import copy
import json
import math
import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from semask_d2 import get_cfg
from semask_d2.checkpoint import Checkpointer
from semask_d2.config import with_defaults
from semask_d2.d2 import TrainerBase
from semask_d2.engine import Trainer
from semask_d2.engine.averaging import WeightAverage
from semask_d2.engine.early_stopping import EarlyStopping
from semask_d2.engine.hooks import BestCheckpoint, LRScheduler, SmoothingWindow
from semask_d2.engine.optimizer import build_optimizer, build_scheduler
from semask_d2.engine.step import TrainingStep
from semask_d2.modeling.meta_arch import Execution
from semask_d2.utils.curves import curves_as_svg
from semask_d2.utils.errors import UserError
from semask_d2.utils.runs import read_metrics, require_run

STATES = 400
LINES = 400
POINTERS = 200

ODD: tuple[Any, ...] = (
    *(None, True, 0, -1, 1, 2**70, 10**400, 0.5, math.nan, math.inf, -math.inf),
    *("", "x", "7", "\0", "../../x", "x" * 5000, b"\xff\0", 1j),
    *([], {}, (), [[]], [None], {"x": 1}, {1: 2}, {None: []}, {(1, 2): "x"}, {True: math.nan}),
    *(torch.zeros(0), torch.zeros(()), torch.tensor(math.nan), torch.zeros(2, 3), torch.ones(3, dtype=torch.int64)),
    *(torch.zeros(3, dtype=torch.complex64), torch.zeros(1).expand(9, 9), torch.zeros(2, 2).to_sparse()),
    torch.zeros(2, device="meta"),
)


def places(value: Any, path: tuple = ()) -> Iterator[tuple]:
    """Yield the path to every value in nested dicts and lists."""
    yield path
    if isinstance(value, (dict, list)):
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            yield from places(item, (*path, key))


def mutated(rng: random.Random, value: Any, strange: tuple[Any, ...] = ODD) -> Any:
    """Return a copy with one to three values replaced, removed, duplicated or moved to another key."""
    value = copy.deepcopy(value)
    for _ in range(rng.randint(1, 3)):
        path = rng.choice(list(places(value)))
        if not path:
            if rng.random() < 0.1:
                return rng.choice(strange)
            continue
        inside = value
        for key in path[:-1]:
            inside = inside[key]
        action, key = rng.random(), path[-1]
        if action < 0.6:
            inside[key] = copy.deepcopy(rng.choice(strange))
        elif action < 0.8:
            del inside[key]
        elif isinstance(inside, dict):
            inside[rng.choice(["x", 3, None, "iteration", "step"])] = inside.pop(key)
        else:
            inside.append(inside[key])
    return value


class Small(Trainer):
    """A trainer with all stateful components, around a model of one layer."""

    def __init__(self, folder: Path) -> None:
        TrainerBase.__init__(self)
        self.cfg = cfg = get_cfg(None, ["OUTPUT_DIR", str(folder), "MODEL.DEVICE", "cpu"])
        torch.manual_seed(0)
        model = torch.nn.Linear(3, 2)
        optimizer = build_optimizer(cfg, model)
        self._trainer = TrainingStep(
            model,
            optimizer,
            execution=with_defaults(Execution),
            dtype=None,
            accumulation_steps=1,
            seed=3,
            output_dir=str(folder),
        )
        self._trainer.scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
        self.scheduler = build_scheduler(cfg, optimizer)
        self.checkpointer = Checkpointer(model, str(folder), trainer=self)
        self.start_iter, self.max_iter = 0, 9
        self.average = WeightAverage(model, 0.9)
        early = EarlyStopping(["mIoU"], period=1, patience=3, min_delta=0.0, metrics_file="", checkpointer=None)
        self.register_hooks([LRScheduler(), self.average, SmoothingWindow(str(folder / "metrics.json")), early])

    def step(self) -> None:
        """Run one optimizer step, as the next iteration would."""
        for parameter in self._trainer.model.parameters():
            parameter.grad = torch.ones_like(parameter)
        self._trainer.optimizer.step()
        self.average.after_step()


def sound_state(trainer: Small) -> dict[str, Any]:
    trainer.average.before_train()
    trainer.step()
    state = {"iteration": 4, "_trainer": trainer._trainer.state_dict()}
    state["_trainer"]["iteration"] = 4
    window = {
        "total_loss": {"smooth": True, "values": [[1.5, 3], [1.25, 4]]},
        "lr": {"smooth": False, "values": [[0.1, 4]]},
    }
    state["hooks"] = {
        "LRScheduler": trainer.scheduler.state_dict(),
        "WeightAverage": trainer.average.state_dict(),
        "SmoothingWindow": window,
        "EarlyStopping": {"values": {1: 3.0, 3: 4.0}},
    }
    return copy.deepcopy(state)


def outcome(function: Any, *arguments: Any) -> str:
    """Return the one line with which a call refuses, or "taken"; any other outcome is a bug of the project."""
    message = "taken"
    try:
        function(*arguments)
    except UserError as error:
        message = str(error)
    assert "\n" not in message
    assert 0 < len(message) < 2000
    return message


def test_damaged_trainer_states_are_taken_over_or_refused(tmp_path: Path) -> None:
    rng = random.Random(0)
    state = sound_state(Small(tmp_path))
    trainer = Small(tmp_path)
    trainer.load_state_dict(copy.deepcopy(state))
    assert trainer.iter == 4
    ends = []
    for _ in range(STATES):
        trainer = Small(tmp_path)

        def resume(damaged: Any, trainer: Small = trainer) -> None:
            trainer.load_state_dict(damaged)
            trainer.step()

        ends.append(outcome(resume, mutated(rng, state)))
    assert 50 < ends.count("taken") < STATES - 50


@pytest.mark.filterwarnings("ignore:Validating sparse")
def test_damaged_states_in_files_name_the_file(tmp_path: Path) -> None:
    rng = random.Random(1)
    trainer = Small(tmp_path)
    state = sound_state(trainer)
    path = tmp_path / "model_0000004.pth"
    (tmp_path / "last_checkpoint").write_text(path.name)
    ends = []
    for _ in range(STATES // 8):
        whole = {"model": trainer._trainer.model.state_dict(), "trainer": state, "iteration": 4}
        torch.save(mutated(rng, whole), path)
        ends.append(outcome(Small(tmp_path).checkpointer.resume_or_load, ""))
    assert 5 < ends.count("taken") < len(ends) - 5
    assert all(end == "taken" or end.startswith(str(path)) for end in ends)


@pytest.mark.parametrize("best", [10**400, -math.inf, math.nan, True, "3", [1.0], None, {"a": 1}])
def test_a_best_model_of_no_known_value_is_kept_aside(tmp_path: Path, best: object) -> None:
    trainer = Small(tmp_path)
    torch.save({"model": trainer._trainer.model.state_dict(), "best": best}, tmp_path / "model_best.pth")
    trainer.start_iter = 1
    hook = BestCheckpoint(trainer.checkpointer, "mIoU")
    hook.trainer = trainer
    hook.after_step = lambda: None
    hook.before_train()
    assert (tmp_path / "model_best_of_unknown_value.pth").exists()
    assert hook.best == -math.inf


JSON_ODD = tuple(value for value in ODD if not isinstance(value, (torch.Tensor, bytes, complex, tuple, dict)))


def metrics_line(rng: random.Random) -> bytes:
    line: Any = {"iteration": rng.randint(0, 99), "total_loss": rng.random(), "sem_seg/mIoU": 3.0, "lr": 0.1}
    for _ in range(rng.randint(0, 2)):
        name = rng.choice(["iteration", "total_loss", "sem_seg/mIoU", "lr", "loss_$x", "_loss", "loss\0", ""])
        line[name] = rng.choice(JSON_ODD)
    if rng.random() < 0.3:
        line = rng.choice([[], [line], 3, None, "x", {"a": {}}, {"iteration": {"x": line}}])
    try:
        content = json.dumps(line).encode()
    except ValueError:  # Python refuses to write integers with so many digits
        content = b'{"iteration": ' + b"1" * 5000 + b"}"
    kind = rng.random()
    if kind < 0.1:
        content = content[: rng.randint(0, len(content))]
    elif kind < 0.2:
        content = bytes(rng.randrange(256) for _ in range(30))
    elif kind < 0.22:
        content = b"[" * 100_000
    return content


@pytest.mark.filterwarnings("ignore:Glyph")  # of names with characters that no font has
def test_odd_lines_of_metrics_are_left_out(tmp_path: Path) -> None:
    rng = random.Random(2)
    path = tmp_path / "metrics.json"
    path.write_bytes(b"\n".join(metrics_line(rng) for _ in range(LINES)))
    records = read_metrics(path)
    assert len(records) > 50
    assert list(records) == sorted(records)
    for iteration, record in records.items():
        assert type(iteration) is int
        assert all(type(value) in (int, float) and not abs(value) > 1e300 for value in record.values())
    assert curves_as_svg(records).startswith("<svg")


def test_odd_pointers_to_a_checkpoint_are_refused(tmp_path: Path) -> None:
    rng = random.Random(3)
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.yaml").write_text("VERSION: 2\n")
    (tmp_path / "outside.pth").write_bytes(b"")
    model = torch.nn.Linear(1, 1)
    for number in range(POINTERS):
        content = bytes(rng.randrange(256) for _ in range(rng.randint(0, 40)))
        if number % 2:
            content = os.fsencode(
                rng.choice(["../outside.pth", str(tmp_path / "outside.pth"), ".", "..", "x" * 3000, "\0"])
            )
        (run / "last_checkpoint").write_bytes(content)
        assert outcome(require_run, run) != "taken"
        assert outcome(Checkpointer(model, str(run)).resume_or_load, "") != "taken"
