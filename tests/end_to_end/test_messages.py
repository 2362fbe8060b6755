"""A user's mistake ends with one clear line and a non-zero exit code, through the real entry point."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import TOY_CONFIG
from PIL import Image


def assert_one_line(result: tuple[int, str, str], *expected: str) -> None:
    code, out, err = result
    assert code not in (0, None)
    lines = [line for line in err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, err
    for text in expected:
        assert text in lines[0]
    assert "Traceback" not in out + err


def test_missing_data_set(train, tmp_path: Path) -> None:
    result = train("DATASETS.TRAIN", "('camvid_sem_seg_train',)", "OUTPUT_DIR", tmp_path / "out",
                   "MODEL.SEM_SEG_HEAD.NUM_CLASSES", "11", env={"DETECTRON2_DATASETS": str(tmp_path)})  # fmt: skip
    assert_one_line(result, "camvid_sem_seg_train", str(tmp_path), "DETECTRON2_DATASETS")


def test_unknown_data_set_names_the_nearest(train, tmp_path: Path) -> None:
    result = train("DATASETS.TRAIN", "('toy_scenes_trian',)", "OUTPUT_DIR", tmp_path)
    assert_one_line(result, "toy_scenes_trian", "toy_scenes_train")


def test_unknown_key_names_the_nearest(train, tmp_path: Path) -> None:
    result = train("SOLVER.BASE_LRR", "1.0", "OUTPUT_DIR", tmp_path)
    assert_one_line(result, "SOLVER.BASE_LRR", 'Did you mean "SOLVER.BASE_LR"?')


def test_yaml_tags_are_not_executed(run, tmp_path: Path) -> None:
    proof = tmp_path / "executed"
    config = tmp_path / "tags.yaml"
    config.write_text(f'INPUT:\n  MIN_SIZE_TRAIN: !!python/object/apply:os.mkdir ["{proof}"]\n')
    assert_one_line(run("train_net.py", "--config-file", config), str(config), "MIN_SIZE_TRAIN", "tag")
    assert not proof.exists()


@pytest.mark.parametrize("workers", [0, 1])
def test_label_out_of_range(train, tmp_path: Path, workers: int) -> None:
    for split in ("training", "validation"):
        for kind in ("images", "annotations"):
            (tmp_path / "toy_scenes" / kind / split).mkdir(parents=True)
        Image.fromarray(np.zeros((64, 64, 3), np.uint8)).save(tmp_path / f"toy_scenes/images/{split}/a.jpg")
        Image.fromarray(np.full((64, 64), 77, np.uint8)).save(tmp_path / f"toy_scenes/annotations/{split}/a.png")
    options = ("OUTPUT_DIR", tmp_path / "out", "DATALOADER.NUM_WORKERS", str(workers))
    result = train(*options, env={"DETECTRON2_DATASETS": str(tmp_path)})
    assert_one_line(result, "annotations/training/a.png", "77", "NUM_CLASSES")


def test_evaluation_without_weights(train, tmp_path: Path) -> None:
    assert_one_line(train("OUTPUT_DIR", tmp_path, flags=("--eval-only",)), "MODEL.WEIGHTS", "--resume")


def test_missing_weights(train, tmp_path: Path) -> None:
    result = train("MODEL.WEIGHTS", tmp_path / "nowhere.pth", "OUTPUT_DIR", tmp_path, flags=("--eval-only",))
    assert_one_line(result, "nowhere.pth", "MODEL.WEIGHTS")


def test_weights_of_another_model(train, tmp_path: Path) -> None:
    torch.save({"model": {"backbone.norm0.weight": torch.zeros(3)}}, tmp_path / "other.pth")
    result = train("MODEL.WEIGHTS", tmp_path / "other.pth", "OUTPUT_DIR", tmp_path, flags=("--eval-only",))
    assert_one_line(result, "other.pth", "missing", "backbone.norm0.weight (3,)")


def test_non_finite_loss(train, tmp_path: Path) -> None:
    options = ("SOLVER.BASE_LR", "1e30", "SOLVER.WARMUP_ITERS", "0", "SOLVER.MAX_ITER", "20", "DATASETS.TEST", "()")
    result = train(*options, "OUTPUT_DIR", tmp_path)
    assert_one_line(result, "not finite at iteration", "images", ".jpg", "loss_")
    assert not (tmp_path / "model_final.pth").exists()


def test_the_output_folder_cannot_be_written(train, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    assert_one_line(train("OUTPUT_DIR", tmp_path / "file/out"), "OUTPUT_DIR")


def test_a_batch_that_does_not_divide(train, tmp_path: Path) -> None:
    result = train("SOLVER.GRADIENT_ACCUMULATION_STEPS", "3", "OUTPUT_DIR", tmp_path)
    assert_one_line(result, "SOLVER.IMS_PER_BATCH", "SOLVER.GRADIENT_ACCUMULATION_STEPS")


def test_class_count_against_the_data_set(train, tmp_path: Path) -> None:
    result = train("MODEL.SEM_SEG_HEAD.NUM_CLASSES", "11", "OUTPUT_DIR", tmp_path)
    assert_one_line(result, "NUM_CLASSES", "11", "12")


def test_debug_shows_the_traceback(run) -> None:
    code, _, err = run("train_net.py", "--config-file", TOY_CONFIG, "--debug", "SOLVER.NOTHING", "1")
    assert code == 1
    assert "Traceback" in err


def test_an_error_in_one_of_two_processes(train, tmp_path: Path) -> None:
    options = ("SOLVER.BASE_LR", "1e30", "SOLVER.WARMUP_ITERS", "0", "SOLVER.MAX_ITER", "20", "DATASETS.TEST", "()")
    code, out, err = train(*options, "OUTPUT_DIR", tmp_path, flags=("--num-gpus", "2", "--dist-url", "auto"))
    assert code == 1
    assert "error: the loss is not finite" in err
    assert "Traceback" not in out + err


def test_the_demo_needs_weights(run, toy_root: Path, tmp_path: Path) -> None:
    image = toy_root / "toy_scenes/images/validation/0000.jpg"
    result = run("demo/demo.py", "--config-file", TOY_CONFIG, "--input", image, "--output", tmp_path)
    assert_one_line(result, "MODEL.WEIGHTS")
