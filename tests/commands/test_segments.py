"""Panoptic and instance segmentation as a user runs them: training, evaluation and drawing."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from semask_d2 import Predictor, get_cfg, read_image
from semask_d2.utils.classes import Classes
from semask_d2.utils.segment_drawing import draw_segments, drawn_segments, map_of_masks
from tests.helpers.commands import TINY

FAST = (*TINY, "SOLVER.MAX_ITER", "2", "TEST.EVAL_PERIOD", "1", "SOLVER.CHECKPOINT_PERIOD", "2", "TEST.PICTURES", "1")
CASES = {"panoptic": ("PQ", "panoptic_seg/PQ"), "instance": ("AP", "segm/AP")}


@pytest.mark.slow
@pytest.mark.parametrize("task", CASES)
def test_a_run_is_trained_evaluated_and_drawn(in_process, toy_data: Path, tmp_path: Path, task: str) -> None:
    metric, scalar = CASES[task]
    config = f"toy_scenes_{task}/semask_swin_mini_msfapn_m2f.yaml"
    run = tmp_path / "run"
    words = ("--config-file", config, *FAST, "OUTPUT_DIR", run)
    code, out, err = in_process("train_net.py", *words)
    assert code == 0, err
    last = rf"toy_scenes_{task}_val {metric} \d+\.\d\d"
    assert re.fullmatch(last, out.splitlines()[-1])
    assert f'"{scalar}"' in (run / "metrics.json").read_text()
    drawn = {path.name.rpartition("_")[0] for path in (run / "pictures").glob("*_*.png")}
    assert {"0000002", "0000002_worst1"} <= drawn
    page = (run / "report.html").read_text()
    assert f"{metric} " in page.partition("<header>")[2].partition("</header>")[0]
    assert "<figcaption>ground truth" in page
    assert "No pictures" not in out
    evaluated = run / f"inference/toy_scenes_{task}_val"
    assert json.loads((evaluated / "metrics.json").read_text())["iteration"] == 2
    assert (run / "model_best.pth").is_file()
    code, out, err = in_process("train_net.py", "--eval-only", *words, "MODEL.WEIGHTS", run / "model_final.pth")
    assert code == 0, err
    assert re.fullmatch(last, out.splitlines()[-1])
    kept, new = (json.loads((evaluated / name).read_text()) for name in ("previous_1/metrics.json", "metrics.json"))
    assert kept["checkpoint"] is None
    assert new["checkpoint"] == str(run / "model_final.pth")
    assert kept["metrics"] == new["metrics"]

    image_path = next((toy_data / "toy_scenes/images/validation").iterdir())
    drawing = ("demo/demo.py", "--input", image_path, "--weights", run / "model_final.pth", "--output")
    code, out, err = in_process(*drawing, tmp_path / "a.png")
    assert code == 0, err
    assert Image.open(tmp_path / "a.png").height == 512
    code, out, err = in_process(*drawing, tmp_path / "b.png", "--task", "semantic")
    assert code == 0, err
    code, out, err = in_process(*drawing, tmp_path, "--labels")
    assert code == 1
    assert f"--labels is for --task semantic, not for {task}" in err

    cfg = get_cfg(run / "config.yaml", ["MODEL.WEIGHTS", str(run / "model_final.pth")])
    prediction = Predictor(cfg)(read_image(image_path))
    if task == "panoptic":
        assert prediction.instances is None
        ids, info = prediction.segments
        assert ids.shape == prediction.labels.shape == (128, 128)
        assert {0, *(x["id"] for x in info)} == {0, *np.unique(ids).tolist()}
    else:
        assert prediction.segments is None
        instances = prediction.instances
        assert instances.masks.shape == (len(instances.scores), 128, 128)
        assert (np.diff(instances.scores) <= 0).all()


def test_a_model_without_queries_predicts_no_segments(
    in_process, toy_data: Path, tiny_run: Path, tmp_path: Path
) -> None:
    image_path = next((toy_data / "toy_scenes/images/validation").iterdir())
    words = ("--input", image_path, "--weights", tiny_run / "model_best.pth", "--output", tmp_path / "a.png")
    code, _, err = in_process(
        "demo/demo.py", *words, "--task", "instance", "--opts", "MODEL.META_ARCHITECTURE", "SeMaskFPN"
    )
    assert code == 1
    assert "--task instance: MODEL.META_ARCHITECTURE SeMaskFPN predicts no segments" in err


def test_each_thing_has_a_distinct_color_and_number() -> None:
    ids = np.array([[0, 4, 4], [5, 9, 9]])
    segments = [(4, 1, True), (5, 1, True), (9, 0, False)]
    drawn = drawn_segments(ids, segments, Classes(("sky", "ball"), ((1, 2, 3), (4, 5, 6))))
    assert drawn.numbers.tolist() == [[-1, 0, 0], [1, 2, 2]]
    assert drawn.segments.names == ("ball 1", "ball 2", "sky")
    assert drawn.segments.colors[2] == (1, 2, 3)
    assert len(set(drawn.segments.colors)) == 3


def test_images_of_one_size_are_drawn_at_one_size() -> None:
    image, classes = np.zeros((40, 60, 3), np.uint8), Classes(("sky", "balloon"), ((0, 0, 0), (0, 0, 0)))
    ids = np.ones((40, 60), int)
    several = np.arange(40)[:, None].repeat(60, 1) // 10
    frames = [
        draw_segments(image, drawn_segments(ids, [(1, 0, False)], classes)),
        draw_segments(image, drawn_segments(several, [(i, 1, True) for i in range(1, 4)], classes)),
        draw_segments(image, drawn_segments(0 * ids, [], classes)),
    ]
    assert len({frame.shape for frame in frames}) == 1
    assert not frames[2][:, :480].any()  # pixels without a segment stay unchanged


def test_the_mask_with_the_highest_score_is_on_top() -> None:
    masks = np.array([[[1, 1, 0]], [[0, 1, 1]], [[1, 1, 1]]], bool)
    assert map_of_masks(masks, np.array([0.9, 0.6, 0.4]), 0.5).tolist() == [[1, 1, 2]]
    # the third instance is dropped if instances with higher scores cover two thirds of it
    assert map_of_masks(masks, np.array([0.9, 0.4, 0.6]), 0.5).tolist() == [[1, 1, 0]]
    assert map_of_masks(masks, np.array([0.6, 0.4, 0.9]), 0.5).tolist() == [[3, 3, 3]]
