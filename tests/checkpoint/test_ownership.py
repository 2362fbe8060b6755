"""Loaded tensors own their memory, so that in-place changes never write beyond it."""

from __future__ import annotations

import io
import pickle
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from semask_d2.checkpoint import Checkpointer, read_checkpoint
from semask_d2.checkpoint.ownership import Owner, is_dense
from semask_d2.engine.averaging import WeightAverage
from semask_d2.engine.optimizer import load_optimizer_state


def overlapping() -> dict[str, Tensor]:
    return {
        "one number": torch.full((1,), 2.0).expand(4, 3),
        "one row": torch.arange(3.0).expand(4, 3),
        "a window": torch.arange(6.0).as_strided((4, 3), (1, 1)),
        "every other": torch.arange(24.0).reshape(8, 3)[::2],
    }


def saved(state: object, path: Path) -> Path:
    if path.suffix == ".pkl":
        path.write_bytes(pickle.dumps(state))
    else:
        torch.save(state, path, _use_new_zipfile_serialization=path.stem != "legacy")
    return path


def owns_its_memory(value: Tensor) -> bool:
    return is_dense(value) and value.untyped_storage().nbytes() >= value.numel() * value.element_size()


@pytest.mark.parametrize("name", ["zip.pth", "legacy.pth", "pickle.pkl"])
def test_what_overlaps_in_a_file_is_copied(tmp_path: Path, name: str) -> None:
    states = overlapping()
    read = read_checkpoint(saved({"model": states, "more": [(states["one row"], 1)]}, tmp_path / name))
    for key, value in states.items():
        assert torch.equal(read["model"][key], value)
        assert owns_its_memory(read["model"][key])
    assert owns_its_memory(read["more"][0][0])


def test_of_tensors_in_the_same_memory_each_has_its_own(tmp_path: Path) -> None:
    memory = torch.arange(12.0)
    state = {"whole": memory, "again": memory, "part": memory[3:9], "turned": memory.reshape(3, 4).t()}
    read = read_checkpoint(saved(state, tmp_path / "w.pth"))
    before = {name: value.clone() for name, value in read.items()}
    read["whole"].zero_()
    for name in ("again", "part", "turned"):
        assert torch.equal(read[name], before[name])
        read[name].fill_(-1)
        assert torch.equal(read["whole"], torch.zeros(12))


def test_what_lies_alone_is_not_copied(tmp_path: Path) -> None:
    values = {
        "plain": torch.randn(3, 4),
        "turned": torch.randn(3, 4).t(),
        "none": torch.zeros(0, 3),
        "number": torch.ones(()),
    }
    owner = Owner()
    assert all(owner.tensor(value, name) is value for name, value in values.items())
    images = torch.randn(2, 3, 4, 5).contiguous(memory_format=torch.channels_last)
    assert owner.within({"a": (images, 3)})["a"][0] is images


def test_signs_and_conjugates_that_are_only_noted_are_written_out() -> None:
    value = torch.complex(torch.ones(2), torch.ones(2)).conj().imag
    assert value.is_neg()
    copy = Owner().tensor(value, "x")
    assert not copy.is_neg()
    assert torch.equal(copy, -torch.ones(2))


def stepped(optimizer: torch.optim.Optimizer) -> dict[int, dict[str, Tensor]]:
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    torch.manual_seed(1)
    for parameter in parameters:
        parameter.grad = torch.randn_like(parameter)
    optimizer.step()
    return {number: optimizer.state[parameter] for number, parameter in enumerate(parameters)}


def adamw() -> torch.optim.AdamW:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(400, 300), nn.Linear(400, 300))
    return torch.optim.AdamW(model.parameters(), lr=0.1, fused=True)


@pytest.mark.parametrize("through_file", [False, True])
@pytest.mark.parametrize("name", ["exp_avg", "exp_avg_sq"])
def test_a_moment_of_one_number_trains_as_a_whole_one(tmp_path: Path, name: str, through_file: bool) -> None:
    """Without a copy, the fused step would write 480 KB over the four bytes."""
    source = adamw()
    stepped(source)
    state = source.state_dict()
    whole, shared = adamw(), adamw()
    for entry in state["state"].values():
        entry[name] = torch.full(entry[name].shape, 0.5)
    load_optimizer_state(whole, state)
    one = torch.full((1,), 0.5)  # shared by all parameters, too
    for entry in state["state"].values():
        entry[name] = one.expand(entry[name].shape)
    if through_file:
        state = read_checkpoint(saved(state, tmp_path / "optimizer.pth"))
    load_optimizer_state(shared, state)
    expected = stepped(whole)
    for number, entry in stepped(shared).items():
        assert owns_its_memory(entry[name])
        assert all(torch.equal(entry[key], expected[number][key]) for key in entry)


def test_a_moment_that_lies_otherwise_is_laid_out_as_its_parameter() -> None:
    source = adamw()
    stepped(source)
    state = source.state_dict()
    expected = {number: dict(entry) for number, entry in state["state"].items()}
    for entry in state["state"].values():
        entry["exp_avg"] = entry["exp_avg"].t().contiguous().t() if entry["exp_avg"].dim() == 2 else entry["exp_avg"]
    optimizer = adamw()
    load_optimizer_state(optimizer, state)
    for number, parameter in enumerate(optimizer.param_groups[0]["params"]):
        moment = optimizer.state[parameter]["exp_avg"]
        assert moment.stride() == parameter.stride()
        assert torch.equal(moment, expected[number]["exp_avg"])


def test_parameters_that_share_their_count_of_steps_count_each() -> None:
    source = adamw()
    stepped(source)
    state = source.state_dict()
    step = torch.tensor(5.0)
    for entry in state["state"].values():
        entry["step"] = step
    optimizer = adamw()
    load_optimizer_state(optimizer, state)
    assert [float(entry["step"]) for entry in stepped(optimizer).values()] == [6.0] * 4


class Averaged:
    """A trainer whose state is only an average of weights."""

    def __init__(self, model: nn.Module) -> None:
        self.average = WeightAverage(model, 0.9)
        self.average.before_train()

    def state_dict(self) -> dict:
        return self.average.state_dict()

    def load_state_dict(self, state: dict) -> None:
        self.average.load_state_dict(state)


def test_weights_and_averages_of_one_number_are_loaded_whole(tmp_path: Path) -> None:
    model = nn.Linear(30, 20)
    trainer = Averaged(model)
    state = {name: torch.full((1,), 0.5).expand(value.shape) for name, value in model.state_dict().items()}
    average = {
        name: value if name == "n_averaged" else torch.full((1,), 0.25).expand(value.shape)
        for name, value in trainer.state_dict().items()
    }
    saved({"model": state, "trainer": average}, tmp_path / "w.pth")
    Checkpointer(model, str(tmp_path), trainer=trainer).load(str(tmp_path / "w.pth"))
    for value in model.state_dict().values():
        assert owns_its_memory(value)
        assert torch.equal(value, torch.full(value.shape, 0.5))
    trainer.average.after_step()  # in place
    assert trainer.average.model is not None
    for value in trainer.average.model.state_dict().values():
        assert owns_its_memory(value)
        assert bool((value > 0.25).all())


def test_a_file_of_many_names_for_one_memory_is_refused(tmp_path: Path) -> None:
    memory = torch.zeros(2**20)
    file = io.BytesIO()
    torch.save({f"w{number}": memory for number in range(100)}, file)
    (tmp_path / "w.pth").write_bytes(file.getvalue())
    with pytest.raises(Exception, match=r"w\.pth: w\d+ repeats few numbers"):
        read_checkpoint(tmp_path / "w.pth")
