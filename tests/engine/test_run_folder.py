"""Preparing the output folder: files of a run move aside, files of the user stay, nothing is written outside."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from semask_d2 import get_cfg
from semask_d2.d2 import MetadataCatalog
from semask_d2.engine import run_folder
from semask_d2.evaluation import EvaluatedModel, SemanticEvaluator
from semask_d2.evaluation.result_files import keep_earlier
from semask_d2.utils import locking
from semask_d2.utils.errors import UserError

RUN = (
    *("model_0000099.pth", "model_final.pth", "model_best.pth", "model_best_of_unknown_value_2.pth", "last_checkpoint"),
    *("config.yaml", "metrics.json", "log.txt", "log.txt.rank1", "report.html", "trackers.json"),
    *("events.out.tfevents.17.host.1.0", "non_finite_batch.pth", "non_finite_batch_rank3.pth"),
    *("pictures/curves.png", "pictures/0000100_a b.png", "pictures/0000100_worst1_x.png"),
    *("inference/val/metrics.json", "inference/val/images.json", "inference/ema/val/classes.csv"),
    *("inference/val/predictions/deep/a.png", "inference/val/previous_1/confusion.png"),
)
USER = (
    *("model_pretrained.pth", "model_final.pth.bak", "my model_final.pth", "notes.txt", "log.txt.txt", "data/img.png"),
    *("pictures/holiday.png", "pictures/deep/curves.png", "inference/notes.txt", "inference/val/mine.json"),
    *("inference/val/predictions/readme.txt", "inference/metrics.json", "previous_9/model_final.pth", "events.txt"),
)


@pytest.fixture(autouse=True)
def _given_back(tmp_path: Path):
    yield
    locking.release(tmp_path)


def fill(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(get_cfg().dump() if name == "config.yaml" else name)


def names(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir()}


def test_a_runs_files_move_aside_and_a_users_stay(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    fill(tmp_path, *RUN, *USER)
    run_folder.prepare(str(tmp_path), training=True, resume=False)
    assert names(tmp_path) == {locking.LOCK_NAME, *USER, *(f"previous_1/{name}" for name in RUN)}
    assert f"moved to {tmp_path}/previous_1" in capsys.readouterr().out


@pytest.mark.parametrize(("training", "resume"), [(True, True), (False, False)])
def test_nothing_moves_for_a_resume_or_an_evaluation(tmp_path: Path, training: bool, resume: bool) -> None:
    fill(tmp_path, *RUN, *USER)
    run_folder.prepare(str(tmp_path), training=training, resume=resume)
    assert names(tmp_path) - {locking.LOCK_NAME} == {*RUN, *USER}


def test_what_only_looks_like_a_run_stays(tmp_path: Path) -> None:
    fill(tmp_path, *USER, "pictures/curves.png", "metrics.json")
    run_folder.prepare(str(tmp_path), training=True, resume=False)
    assert names(tmp_path) == {locking.LOCK_NAME, *USER, "pictures/curves.png", "metrics.json"}


@pytest.mark.parametrize("resume", [False, True])
def test_a_users_config_is_not_overwritten(tmp_path: Path, resume: bool) -> None:
    (tmp_path / "config.yaml").write_text("_BASE_: toy_scenes/semask_swin_mini_fpn.yaml\nOUTPUT_DIR: .\n")
    (tmp_path / "model_final.pth").touch()
    before = (tmp_path / "config.yaml").read_text()
    with pytest.raises(UserError, match=r"config\.yaml: no run wrote this file"):
        run_folder.prepare(str(tmp_path), training=True, resume=resume)
    with pytest.raises(UserError, match="no run wrote this file"):
        run_folder.write_config(get_cfg(None, ["OUTPUT_DIR", str(tmp_path)]))
    assert (tmp_path / "config.yaml").read_text() == before


@pytest.mark.parametrize(
    "name", ["log.txt", "log.txt.rank1", "inference", "inference/val", "inference/ema/val", "inference/ema"]
)
@pytest.mark.parametrize("training", [False, True])
def test_a_strangers_links_lead_nowhere(tmp_path: Path, name: str, training: bool) -> None:
    (tmp_path / "run" / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / "run" / name).symlink_to(tmp_path / "precious")
    with pytest.raises(UserError, match=rf"run/{name} is a link that leads out of its folder"):
        run_folder.prepare(str(tmp_path / "run"), training=training, resume=True)
    locking.release(tmp_path / "run")


@pytest.mark.parametrize("name", ["metrics.json", "model_final.pth", "config.yaml", "report.html", "pictures/x.png"])
def test_a_training_follows_no_link_out_of_its_folder(tmp_path: Path, name: str) -> None:
    (tmp_path / "run" / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / "precious").write_text(get_cfg().dump())
    (tmp_path / "run" / name).symlink_to(tmp_path / "precious")
    with pytest.raises(UserError, match="is a link that leads out of its folder"):
        run_folder.prepare(str(tmp_path / "run"), training=True, resume=True)
    locking.release(tmp_path / "run")


@pytest.mark.parametrize("name", ["log.txt", "metrics.json"])
def test_a_pipe_as_a_log_is_not_waited_for(tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / name)
    with pytest.raises(UserError, match=f"{name}: not a regular file"):
        run_folder.prepare(str(tmp_path), training=True, resume=True)


def test_only_results_make_room_for_others(tmp_path: Path) -> None:
    results = ("metrics.json", "images.json", "classes.csv", "confusion.png", "predictions/a.png")
    mine = ("notes.txt", "predictions/readme.txt", "cards/a.png", "photo.png")
    fill(tmp_path, *results, *mine)
    keep_earlier(tmp_path, EvaluatedModel("model_best.pth", 3))
    assert names(tmp_path) == {*mine, *(f"previous_1/{name}" for name in results)}


@pytest.mark.parametrize("name", ["metrics.json", "classes.csv", "predictions", "predictions/deep/er"])
def test_results_follow_no_link_out_of_their_folder(tmp_path: Path, name: str) -> None:
    (tmp_path / "val" / name).parent.mkdir(parents=True)
    (tmp_path / "val" / name).symlink_to(tmp_path / "precious")
    with pytest.raises(UserError, match=f"{name} is a link that leads out of its folder"):
        keep_earlier(tmp_path / "val", EvaluatedModel("model_best.pth", 3))


@pytest.mark.parametrize("name", ["../../x", "/etc/x", "a/b", ".."])
def test_a_dataset_name_that_is_a_path_is_refused(tmp_path: Path, name: str) -> None:
    MetadataCatalog.get(name).set(stuff_classes=["a", "b"], ignore_label=255)
    try:
        SemanticEvaluator(name)  # without a folder it writes nothing
        with pytest.raises(UserError, match=r"name of a dataset: .* is not a plain name"):
            SemanticEvaluator(name, output_dir=tmp_path)
    finally:
        MetadataCatalog.remove(name)
