"""Training script as a user runs it: training, resuming, evaluating, several processes."""

from __future__ import annotations

import json
import re
import signal
import time
from pathlib import Path

import pytest
import torch

from tests.helpers.commands import TINY, TOY_CONFIG

SHORT = ("SOLVER.MAX_ITER", "6", "SOLVER.CHECKPOINT_PERIOD", "2", "TEST.EVAL_PERIOD", "3")


def weights(path: Path) -> dict[str, torch.Tensor]:
    return torch.load(path, weights_only=True)["model"]


def last_miou(out: str) -> str:
    match = re.fullmatch(r"toy_scenes_val mIoU (\d+\.\d{2})", out.splitlines()[-1])
    assert match, out[-500:]
    return match[1]


@pytest.fixture(scope="module")
def trained(train, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train a short run and return its folder."""
    folder = tmp_path_factory.mktemp("trained")
    code, out, err = train(*SHORT, "TEST.PICTURES", "3", "OUTPUT_DIR", folder)
    assert code == 0, err
    (folder / "stdout.txt").write_text(out)
    return folder


def test_training_writes_a_complete_run_folder_and_eval_only_repeats_its_miou(train, trained: Path) -> None:
    names = {path.name for path in trained.iterdir()}
    assert {"model_final.pth", "model_best.pth", "config.yaml", "metrics.json", "log.txt", "last_checkpoint"} <= names
    assert any(name.startswith("events.out.tfevents") for name in names)
    drawn = {path.name for path in (trained / "pictures").iterdir()}
    evenly_spaced = {f"{i:07d}_{stem}.png" for i in (3, 6) for stem in ("0000", "0002", "0004")}
    worst = sorted(name.rpartition("_")[0] for name in drawn - evenly_spaced - {"curves.png"})
    assert drawn > evenly_spaced
    assert worst == [f"{i:07d}_worst{place}" for i in (3, 6) for place in (1, 2, 3)]
    assert (trained / "report.html").is_file()
    log = (trained / "log.txt").read_text()
    assert re.search(r"semask_d2 on the (native|detectron2) backend", log.splitlines()[0])
    assert "iter 6/6" in log
    assert re.search(r"data_time .* memory \d+ MB", log)
    records = [json.loads(line) for line in (trained / "metrics.json").read_text().splitlines()]
    assert any("loss_cate" in record and "lr" in record for record in records)
    assert any("sem_seg/mIoU" in record for record in records)

    best = torch.load(trained / "model_best.pth")
    assert best["iteration"] + 1 in (3, 6)
    printed = (trained / "stdout.txt").read_text().splitlines()[-2]
    assert printed.startswith(f"best: mIoU {best['best']:.2f} after {best['iteration'] + 1} iterations (")

    evaluation = ("MODEL.WEIGHTS", trained / "model_final.pth", "OUTPUT_DIR", trained)
    code, evaluated, err = train(*evaluation, flags=("--eval-only",))
    assert code == 0, err
    assert last_miou(evaluated) == last_miou((trained / "stdout.txt").read_text())
    parts = r"data [\d.]+, model [\d.]+, scoring [\d.]+"
    pace = rf"toy_scenes_val: \d+ images in [\d.]+ s, [\d.]+ images per second \(seconds per image: {parts}\)"
    assert len(re.findall(pace + r", peak memory \d+ MB", evaluated)) == 1


@pytest.mark.slow
def test_a_run_folder_alone_is_enough_to_evaluate(train, run, trained: Path) -> None:
    arguments = ("--config-file", trained / "config.yaml", "--eval-only", "--resume")
    code, out, err = run("train_net.py", *arguments)
    assert code == 0, err
    assert last_miou(out)


@pytest.mark.slow
def test_a_killed_run_resumes_to_the_same_weights(train_in_process, command, tmp_path: Path) -> None:
    options = ("SOLVER.MAX_ITER", "8", "SOLVER.CHECKPOINT_PERIOD", "3", "DATASETS.TEST", "()")
    assert train_in_process(*options, "OUTPUT_DIR", tmp_path / "whole")[0] == 0

    killed = tmp_path / "killed"
    process = command("train_net.py", "--config-file", TOY_CONFIG, *TINY, *options, "OUTPUT_DIR", killed)
    while not (killed / "last_checkpoint").exists() and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not (killed / "model_final.pth").exists()

    code, out, err = train_in_process(*options, "OUTPUT_DIR", killed, flags=("--resume",))
    assert code == 0, err
    assert "Starting training from iteration 0" not in out
    whole, resumed = weights(tmp_path / "whole/model_final.pth"), weights(killed / "model_final.pth")
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


@pytest.mark.slow
def test_two_processes_train_evaluate_and_agree_with_torchrun(train, train_in_process, run, tmp_path: Path) -> None:
    options = (*SHORT, "MODEL.SWIN.DROP_PATH_RATE", "0.0")
    spawned, elastic = tmp_path / "spawned", tmp_path / "elastic"
    code, out, err = train(*options, "OUTPUT_DIR", spawned, flags=("--num-gpus", "2", "--dist-url", "auto"))
    assert code == 0, err
    assert "2 process(es)" in out
    arguments = ("train_net.py", "--config-file", TOY_CONFIG, *TINY, *options, "OUTPUT_DIR", elastic)
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    code, torchrun_out, err = run(*arguments, launcher=launcher)
    assert code == 0, err
    assert last_miou(out) == last_miou(torchrun_out)
    a, b = weights(spawned / "model_final.pth"), weights(elastic / "model_final.pth")
    assert all(torch.equal(a[name], b[name]) for name in a)

    # one process computes the same confusion matrix as two
    evaluation = ("MODEL.WEIGHTS", spawned / "model_final.pth", "OUTPUT_DIR", spawned)
    assert last_miou(train_in_process(*evaluation, flags=("--eval-only",))[1]) == last_miou(out)


@pytest.mark.slow
def test_gradient_accumulation_trains(train_in_process, tmp_path: Path) -> None:
    options = ("SOLVER.MAX_ITER", "1", "DATASETS.TEST", "()", "MODEL.SWIN.DROP_PATH_RATE", "0.0")
    code, _, err = train_in_process(*options, "OUTPUT_DIR", tmp_path, "SOLVER.GRADIENT_ACCUMULATION_STEPS", "2")
    assert code == 0, err
    assert (tmp_path / "model_final.pth").exists()


@pytest.mark.slow
def test_a_new_run_moves_an_earlier_one_aside(train_in_process, tmp_path: Path) -> None:
    options = ("SOLVER.MAX_ITER", "1", "DATASETS.TEST", "()", "OUTPUT_DIR", tmp_path)
    (tmp_path / "model_final.pth").write_bytes(b"precious")
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures/curves.png").write_bytes(b"lovely")
    code, _, err = train_in_process(*options)
    assert code == 0, err
    assert (tmp_path / "previous_1/model_final.pth").read_bytes() == b"precious"
    assert (tmp_path / "previous_1/pictures/curves.png").read_bytes() == b"lovely"
    assert weights(tmp_path / "model_final.pth")


@pytest.mark.slow
def test_fine_tuning_starts_from_weights_at_iteration_zero(train_in_process, trained: Path, tmp_path: Path) -> None:
    options = ("SOLVER.MAX_ITER", "1", "SOLVER.BASE_LR", "0.0", "SOLVER.WEIGHT_DECAY", "0.0", "DATASETS.TEST", "()")
    start = trained / "model_final.pth"
    code, out, err = train_in_process(*options, "OUTPUT_DIR", tmp_path, "MODEL.WEIGHTS", start)
    assert code == 0, err
    assert "Starting training from iteration 0" in out
    before, after = weights(start), weights(tmp_path / "model_final.pth")
    assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.slow
def test_the_demo_draws_with_a_run_of_the_trainer(run, trained: Path, toy_root: Path, tmp_path: Path) -> None:
    image = toy_root / "toy_scenes/images/validation/0000.jpg"
    words = ("--weights", trained / "model_best.pth", "--input", image, "--output", tmp_path, "--semantic-priors")
    code, _, err = run("demo/demo.py", *words)
    assert code == 0, err
    assert (tmp_path / "0000.png").exists()
