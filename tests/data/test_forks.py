"""Work in forks of a process: its results, and where there are none."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import torch
from torch import nn

from semask_d2.data import forks
from semask_d2.data.forks import forked
from semask_d2.export.segmenter import ExportedSegmenter
from tests.helpers.forks import threads_and_cores

# torch warns where there are fewer cores than in these tests
pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")
COUNT = forks.FEW
MEGABYTE = 2**20


@pytest.fixture(autouse=True)
def three_threads() -> Iterator[None]:
    """Three threads and cores, so that there may be three forks."""
    with threads_and_cores(3):
        yield


def results(model: nn.Module, function, count: int = COUNT) -> list | None:
    loader = forked(model, function, range(count))
    return None if loader is None else [result for (result,) in loader]


def test_results_come_in_order_from_processes_of_one_thread() -> None:
    model = nn.Linear(1, 1)

    def work(number: int) -> tuple[int, int, int, float]:
        return number, os.getpid(), torch.get_num_threads(), model(torch.full((1,), float(number))).item()

    done = results(model, work)
    assert done is not None
    numbers, pids, threads, outputs = zip(*done, strict=True)
    assert list(numbers) == list(range(COUNT))
    assert len(set(pids)) == 3
    assert os.getpid() not in pids
    assert set(threads) == {1}
    assert list(outputs) == [work(number)[3] for number in range(COUNT)]


def test_forks_draw_no_random_number() -> None:
    model, state = nn.Linear(1, 1), torch.get_rng_state()
    assert results(model, lambda number: number) == list(range(COUNT))
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(("times", "count"), [(5, 2), (9, 3), (3, None)])
def test_there_are_as_many_as_memory_holds(times: int, count: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    def work(number: int) -> int:
        torch.ones(64 * MEGABYTE, dtype=torch.uint8)
        return os.getpid()

    monkeypatch.setattr(forks, "available_memory", lambda: times * 64 * MEGABYTE)  # half of which they may fill
    pids = results(nn.Linear(1, 1), work)
    assert (None if pids is None else len(set(pids))) == count


def test_without_a_limit_there_are_as_many_as_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forks, "available_memory", lambda: 0)  # unknown
    assert len(set(results(nn.Linear(1, 1), lambda number: os.getpid()) or ())) == 3


@pytest.mark.parametrize("reason", ["threads", "cores", "items", "system", "device", "compiled", "wrapped", "runtime"])
def test_there_are_none(reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model: nn.Module = nn.Sequential(nn.Linear(1, 1))
    if reason == "threads":
        torch.set_num_threads(1)
    if reason == "cores":
        monkeypatch.setattr(forks, "usable_cores", lambda: 1)
    if reason == "system":
        monkeypatch.setattr("sys.platform", "darwin")
    if reason == "device":
        model = model.to("meta")
    if reason == "compiled":
        model[0].compile(backend="eager")
    if reason == "wrapped":
        model = nn.Sequential(torch.compile(model, backend="eager"))
    if reason == "runtime":
        model = ExportedSegmenter.__new__(ExportedSegmenter)
        nn.Module.__init__(model)
    assert results(model, lambda number: number, COUNT - (reason == "items")) is None
