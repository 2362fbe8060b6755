"""Data of all processes is gathered on one of them, on both backends."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from semask_d2.d2 import comm
from tests.helpers.processes import process_group


def one_of_three(rank: int, folder: Path) -> None:
    with process_group(folder / "meeting", rank, 3):
        gathered = [comm.gather({"rank": rank}), comm.gather([rank] * rank, dst=2), comm.all_gather(rank)]
        comm.synchronize()
        (folder / f"{rank}.json").write_text(json.dumps(gathered))


def test_a_single_process_gathers_its_own_data() -> None:
    assert comm.gather("a") == comm.all_gather("a") == ["a"]


@pytest.mark.slow
def test_one_process_gathers_the_data_of_all(tmp_path: Path) -> None:
    torch.multiprocessing.spawn(one_of_three, (tmp_path,), nprocs=3)
    gathered = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(3)]
    assert gathered[0] == [[{"rank": 0}, {"rank": 1}, {"rank": 2}], [], [0, 1, 2]]
    assert gathered[1] == [[], [], [0, 1, 2]]
    assert gathered[2] == [[], [[], [1], [2, 2]], [0, 1, 2]]
