"""Custom dataset through the commands: trained, evaluated and drawn in processes that have not registered it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open

from semask_d2 import Predictor, get_cfg
from semask_d2.checkpoint import read_checkpoint
from semask_d2.checkpoint.class_metadata import classes_of_file
from tests.helpers.commands import ROOT, TINY, TOY_CONFIG
from tests.helpers.own_data import NAMES, TEXT, write_data, write_pair

TINY_RUN = (*TINY, "SOLVER.MAX_ITER", "2", "SOLVER.IMS_PER_BATCH", "2", "TEST.EVAL_PERIOD", "0")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, run) -> tuple[Path, str]:
    """Train on a custom dataset; return the folder with the dataset and the run, and the training's output."""
    folder = tmp_path_factory.mktemp("custom")
    file = write_data(
        folder, TEXT + "map: {0: 0, 1: 1, 2: 2}\ncolors: [[1, 1, 1], [2, 2, 2], [3, 3, 3]]\n", size=(64, 80)
    )
    words = ("train_net.py", "--config-file", TOY_CONFIG, "--data", file, *TINY_RUN, "OUTPUT_DIR", folder / "run")
    code, out, err = run(*words)
    assert code == 0, err
    return folder, out


@pytest.mark.slow
def test_training_reports_its_checks_and_evaluates(trained: tuple[Path, str]) -> None:
    _, out = trained
    assert "mine_train: 4 pairs; checked the sizes of 4 and the ids of 4" in out
    assert "mine_val mIoU" in out


@pytest.mark.slow
def test_a_run_is_evaluated_and_drawn_without_the_data_file(trained: tuple[Path, str], run, tmp_path: Path) -> None:
    folder, out = trained
    line = next(line for line in out.splitlines() if line.startswith("mine_val mIoU"))
    words = ("--config-file", folder / "run/config.yaml", "--eval-only", "OUTPUT_DIR", tmp_path / "evaluation")
    code, evaluated, err = run("train_net.py", *words, "MODEL.WEIGHTS", folder / "run/model_best.pth")
    assert code == 0, err
    assert line in evaluated.splitlines()
    words = ("--weights", folder / "run", "--input", folder / "img/b/0.png", "--compare", folder / "lab/b")
    code, _, err = run("demo/demo.py", *words, "--output", tmp_path / "pictures", "--labels")
    assert code == 0, err
    assert (tmp_path / "pictures/labels/classes.txt").read_text() == "0 sky\n1 road\n2 car\n"


@pytest.mark.slow
def test_names_are_in_the_checkpoint_and_its_export(trained: tuple[Path, str], run, tmp_path: Path) -> None:
    folder, _ = trained
    expected = {"class_names": list(NAMES), "class_colors": [[i, i, i] for i in (1, 2, 3)], "ignore_label": 255}
    for name in ("model_best.pth", "model_final.pth"):
        assert torch.load(folder / "run" / name, weights_only=True)["metadata"] == expected
    exported = tmp_path / "w.safetensors"
    assert run("tools/export_weights.py", "--weights", folder / "run", "--output", exported)[0] == 0
    assert classes_of_file(read_checkpoint(exported)).as_dict() == expected
    with safe_open(exported, framework="pt") as file:
        assert '"sky"' in file.metadata()["semask_d2"]
    # the dataset of this config is not registered here, so the names come from the checkpoint
    cfg = get_cfg(TOY_CONFIG, [*TINY, "MODEL.SEM_SEG_HEAD.NUM_CLASSES", "3", "DATASETS.TEST", "('elsewhere_val',)",
                               "MODEL.WEIGHTS", str(exported)])  # fmt: skip
    predictor = Predictor(cfg)
    assert predictor.class_names == list(NAMES)
    assert predictor.class_colors.tolist() == expected["class_colors"]


@pytest.mark.slow
def test_a_run_is_evaluated_on_another_folder(trained: tuple[Path, str], in_process, tmp_path: Path) -> None:
    folder, _ = trained
    write_pair(tmp_path, "c", "0", np.zeros((64, 64), np.uint8))
    (tmp_path / "other.yaml").write_text("val: {images: img, labels: lab}\nnames: [sky, road, car]\n")
    words = ("--config-file", folder / "run/config.yaml", "--eval-only", "--data", tmp_path / "other.yaml")
    code, out, err = in_process(
        "train_net.py", *words, "MODEL.WEIGHTS", folder / "run/model_best.pth", "OUTPUT_DIR", tmp_path / "evaluation"
    )
    assert code == 0, err
    assert "other_val mIoU" in out


def test_a_fault_stops_a_training_before_its_first_iteration(in_process, tmp_path: Path) -> None:
    file = write_data(tmp_path, size=(64, 80))
    Image.fromarray(np.full((64, 80), 9, np.uint8)).save(tmp_path / "lab/b/3.png")
    code, out, err = in_process(
        "train_net.py", "--config-file", TOY_CONFIG, "--data", file, *TINY_RUN, "OUTPUT_DIR", tmp_path / "run"
    )
    assert code == 1
    assert f"error: {tmp_path}/lab/b/3.png holds label id 9" in err
    assert "Starting training" not in out


def test_a_mistake_in_the_file_is_one_line(in_process, tmp_path: Path) -> None:
    file = write_data(tmp_path, TEXT.replace("names", "nmaes"))
    drawing = ("--input", ROOT / "docs/prediction.png", "--output", tmp_path / "pictures")
    for script, words in (("train_net.py", ()), ("demo/demo.py", drawing)):
        code, _, err = in_process(script, "--config-file", TOY_CONFIG, "--data", file, *words)
        assert code == 1
        assert err.startswith(f'error: {file}: unknown key "nmaes". Did you mean "names"? Known: name, root')
        assert err.count("\n") == 1
