"""Command line, setup of a job, logging, seeds, paths, and communication between processes."""

from __future__ import annotations

import logging
import random
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from semask_d2.d2 import (
    DatasetEvaluator,
    PathManager,
    collect_env_info,
    comm,
    default_argument_parser,
    launch,
    seed_all_rng,
    setup_logger,
)
from tests.helpers.detectron2_names import DatasetEvaluators


def test_the_command_line_has_its_defaults():
    args = default_argument_parser().parse_args([])
    assert vars(args) == {
        "config_file": "",
        "resume": False,
        "eval_only": False,
        "num_gpus": 1,
        "num_machines": 1,
        "machine_rank": 0,
        "dist_url": args.dist_url,
        "opts": [],
    }
    assert args.dist_url.startswith("tcp://127.0.0.1:")
    assert 1024 < int(args.dist_url.rsplit(":", 1)[1]) < 65536


def test_the_command_line_takes_options_and_then_settings():
    line = "--config-file a.yaml --resume --eval-only --num-gpus 2 --num-machines 3 --machine-rank 1 --dist-url auto"
    args = default_argument_parser().parse_args([*line.split(), "SOLVER.MAX_ITER", "5", "SEED", "-1"])
    assert (args.config_file, args.resume, args.eval_only, args.dist_url) == ("a.yaml", True, True, "auto")
    assert (args.num_gpus, args.num_machines, args.machine_rank) == (2, 3, 1)
    assert args.opts == ["SOLVER.MAX_ITER", "5", "SEED", "-1"]


def test_the_command_line_can_grow():
    parser = default_argument_parser(epilog="the end")
    parser.add_argument("--debug", action="store_true")
    assert parser.parse_args(["--debug"]).debug
    assert "the end" in parser.format_help()


@pytest.fixture
def logger_name():
    yield "d2_contract_logger"
    logging.getLogger("d2_contract_logger").handlers.clear()


def test_a_logger_writes_to_console_and_folder(tmp_path, capsys, logger_name):
    logger = setup_logger(str(tmp_path), name=logger_name, abbrev_name="short", color=False)
    assert setup_logger(str(tmp_path), name=logger_name, abbrev_name="short", color=False) is logger
    logging.getLogger(f"{logger_name}.child").debug("once")
    logger.warning("twice")
    text = (tmp_path / "log.txt").read_text()
    assert text.count("once") == text.count("twice") == 1
    assert f"{logger_name}.child DEBUG: once" in text
    assert logger.propagate is False
    assert "once" in capsys.readouterr().out


def test_a_colored_console_shortens_the_name(capsys, logger_name):
    setup_logger(name=logger_name, abbrev_name="short")
    logging.getLogger(f"{logger_name}.child").error("oh")
    shown = capsys.readouterr().out
    assert "short.child" in shown
    assert logger_name not in shown
    assert "ERROR" in shown


def test_a_higher_rank_logs_to_a_file_of_its_own(tmp_path, capsys, logger_name):
    setup_logger(str(tmp_path), distributed_rank=3, name=logger_name).info("hello")
    assert "hello" in (tmp_path / "log.txt.rank3").read_text()
    assert capsys.readouterr().out == ""


def test_a_log_can_have_a_name_of_its_own(tmp_path, logger_name):
    setup_logger(str(tmp_path / "sub" / "a.txt"), name=logger_name, configure_stdout=False).info("hello")
    assert "hello" in (tmp_path / "sub" / "a.txt").read_text()


def draws():
    return random.random(), np.random.rand(), torch.rand(1).item()  # noqa: NPY002 - the state that is seeded


def test_seeding_repeats_all_generators(monkeypatch):
    monkeypatch.setenv("PYTHONHASHSEED", "0")
    seed_all_rng(1)
    first = draws()
    seed_all_rng(1)
    assert draws() == first
    seed_all_rng(2)
    assert all(a != b for a, b in zip(draws(), first, strict=True))


def test_no_seed_is_another_one_each_time(monkeypatch):
    monkeypatch.setenv("PYTHONHASHSEED", "0")
    seed_all_rng(None)
    first = draws()
    seed_all_rng(None)
    assert draws() != first


def test_the_environment_names_all_that_results_depend_on():
    info = collect_env_info()
    for part in (torch.__version__, np.__version__, "Python", "GPU available"):
        assert part in info


def test_paths_are_opened_made_and_listed(tmp_path):
    folder = str(tmp_path / "a" / "b")
    PathManager.mkdirs(folder)
    with PathManager.open(f"{folder}/x.txt", "w") as file:
        file.write("text")
    assert PathManager.isfile(f"{folder}/x.txt")
    assert PathManager.exists(folder)
    assert PathManager.ls(folder) == ["x.txt"]
    assert PathManager.get_local_path(f"{folder}/x.txt") == f"{folder}/x.txt"


def test_a_process_alone_is_the_main_one():
    assert (comm.get_world_size(), comm.get_rank(), comm.get_local_rank()) == (1, 0, 0)
    assert comm.is_main_process()
    assert comm.all_gather("x") == ["x"]
    assert comm.synchronize() is None
    assert 0 <= comm.shared_random_seed() < 2**31


def test_one_process_is_not_launched_but_called():
    called = []
    launch(called.append, num_gpus_per_machine=1, num_machines=1, machine_rank=0, dist_url="auto", args=("here",))
    assert called == ["here"]


class RankResults(DatasetEvaluator):
    def evaluate(self):
        return {"task": comm.get_rank()}


def _rank_main(folder):
    """Write down the values that each rank sees."""
    rank = comm.get_rank()
    np.random.seed(rank)  # noqa: NPY002 - the state that shared_random_seed draws from
    if rank == 1:
        time.sleep(0.5)
        Path(folder, "late").touch()
    comm.synchronize()
    seen = {
        "waited": Path(folder, "late").exists(),
        "world": (comm.get_world_size(), rank, comm.get_local_rank(), comm.is_main_process()),
        "backend": torch.distributed.get_backend(),
        "all_gathered": comm.all_gather("x" * (rank + 1)),
        "seed": comm.shared_random_seed(),
        "results": DatasetEvaluators([RankResults()]).evaluate(),
    }
    comm.synchronize()
    setup_logger(folder, distributed_rank=rank, name="d2_contract_logger").info("rank %d was here", rank)
    torch.save(seen, f"{folder}/{rank}.pth")


@pytest.mark.slow
def test_launched_processes_know_and_reach_each_other(tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")  # the test needs no two GPUs
    launch(_rank_main, 2, dist_url="auto", args=(str(tmp_path),))
    first, second = (torch.load(tmp_path / f"{rank}.pth", weights_only=True) for rank in (0, 1))
    assert first["world"] == (2, 0, 0, True)
    assert second["world"] == (2, 1, 1, False)
    assert first["backend"] == second["backend"] == "gloo"
    assert first["waited"]
    assert first["all_gathered"] == second["all_gathered"] == ["x", "xx"]
    assert first["seed"] == second["seed"] == np.random.RandomState(0).randint(2**31)
    assert (first["results"], second["results"]) == ({"task": 0}, {})
    assert "rank 0 was here" in (tmp_path / "log.txt").read_text()
    assert "rank 1 was here" in (tmp_path / "log.txt.rank1").read_text()
