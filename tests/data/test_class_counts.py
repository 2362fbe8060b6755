"""Class pixels are counted once, by one process of a job, and cached in the run folder until the files change."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from semask_d2 import get_cfg
from semask_d2.d2 import CfgNode, comm
from semask_d2.data import class_counts, get_dataset_dicts, parallel, quick_check
from semask_d2.data.class_counts import NAME, class_pixels_of_run
from semask_d2.data.labels import LabelFormat
from semask_d2.data.statistics import class_pixels
from semask_d2.utils.errors import UserError
from tests.data.test_statistics import write_labels
from tests.helpers.commands import TINY, TOY_CONFIG
from tests.helpers.processes import process_group


def make_cfg(folder: Path, classes: int = 4) -> CfgNode:
    options = ["OUTPUT_DIR", str(folder / "run"), "MODEL.SEM_SEG_HEAD.NUM_CLASSES", str(classes)]
    return get_cfg(TOY_CONFIG, [*TINY, *options])


@pytest.fixture
def dicts(tmp_path: Path) -> list[dict]:
    rng = np.random.default_rng(0)
    return write_labels(tmp_path, [rng.integers(0, 3, (6, 7)).astype(np.uint8) for _ in range(5)])


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Record the number of files that each call counts."""
    counted: list[int] = []

    def count(samples, *args, **kwargs):
        counted.append(len(samples))
        return class_pixels(samples, *args, **kwargs)

    monkeypatch.setattr(class_counts, "class_pixels", count)
    return counted


def test_counts_are_kept_and_taken_again(dicts, calls, tmp_path: Path) -> None:
    cfg = make_cfg(tmp_path)
    expected = class_pixels(dicts, 4, 255)
    for _ in range(2):
        counts = class_pixels_of_run(cfg, dicts)
        np.testing.assert_array_equal(counts, expected)
        assert counts.dtype == np.int64
    assert calls == [5]


def changed_file(dicts: list[dict], cfg: CfgNode) -> None:
    os.utime(dicts[2]["sem_seg_file_name"], ns=(1, 1))


def another_list(dicts: list[dict], cfg: CfgNode) -> None:
    dicts.pop()


def another_order(dicts: list[dict], cfg: CfgNode) -> None:
    dicts.reverse()


def another_format(dicts: list[dict], cfg: CfgNode) -> None:
    dicts[0]["label_format"] = LabelFormat(255, ((0, 1), (1, 1), (2, 2)))


def other_classes(dicts: list[dict], cfg: CfgNode) -> None:
    cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = 9


def damaged(dicts: list[dict], cfg: CfgNode) -> None:
    path = Path(cfg.OUTPUT_DIR, NAME)
    path.write_text(path.read_text()[:-9])


def with_wrong_values(dicts: list[dict], cfg: CfgNode) -> None:
    path = Path(cfg.OUTPUT_DIR, NAME)
    path.write_text(json.dumps({**json.loads(path.read_text()), "pixels": [[99, 1]] * 5}))


CHANGES = (changed_file, another_list, another_order, another_format, other_classes, damaged, with_wrong_values)


@pytest.mark.parametrize("change", CHANGES)
def test_whatever_the_counts_depend_on_makes_them_anew(change, dicts, calls, tmp_path: Path) -> None:
    cfg = make_cfg(tmp_path)
    class_pixels_of_run(cfg, dicts)
    change(dicts, cfg)
    counts = class_pixels_of_run(cfg, dicts)
    np.testing.assert_array_equal(counts, class_pixels(dicts, cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES, 255))
    assert len(calls) == 2


def test_a_folder_that_takes_no_file_is_a_warning(dicts, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    cfg = make_cfg(tmp_path)
    Path(cfg.OUTPUT_DIR).write_text("a file")
    with caplog.at_level(logging.WARNING):
        assert class_pixels_of_run(cfg, dicts).sum() == 5 * 42
    assert "cannot save the class pixels" in caplog.text


def one_of_two(rank: int, folder: Path) -> None:
    """Count and check as a process of a job does; in the second process, any access to a file is an error."""
    with process_group(folder / "meeting", rank, 2):
        dicts = json.loads((folder / "dicts.json").read_text())
        cfg = make_cfg(folder)
        if rank:
            class_counts.class_pixels = quick_check.check_some_pairs = parallel.map_files = None  # a call would raise
        np.save(folder / f"counts{rank}.npy", class_pixels_of_run(cfg, dicts))
        quick_check.quick_check(get_cfg(TOY_CONFIG, list(TINY)))
        try:
            parallel.on_main_process(lambda: class_pixels(dicts, 1, 255))
        except UserError as error:
            (folder / f"error{rank}.txt").write_text(str(error))
        comm.synchronize()


@pytest.mark.slow
def test_one_process_of_a_job_counts_and_checks_for_all(dicts, toy_data, tmp_path: Path) -> None:
    (tmp_path / "dicts.json").write_text(json.dumps(dicts))
    torch.multiprocessing.spawn(one_of_two, (tmp_path,), nprocs=2)
    for rank in range(2):
        np.testing.assert_array_equal(np.load(tmp_path / f"counts{rank}.npy"), class_pixels(dicts, 4, 255))
        assert "NUM_CLASSES is 1" in (tmp_path / f"error{rank}.txt").read_text()


def test_a_training_counts_once_for_weights_and_for_drawing(toy_data, calls, tmp_path: Path) -> None:
    from semask_d2.data.class_balance import with_class_weights
    from semask_d2.data.loader import build_train_loader

    options = ["DATALOADER.RARE_CLASS_TEMPERATURE", "0.1", "MODEL.SEM_SEG_HEAD.CLASS_WEIGHTS", "['auto']"]
    cfg = with_class_weights(get_cfg(TOY_CONFIG, [*TINY, "OUTPUT_DIR", str(tmp_path), *options]))
    assert build_train_loader(cfg).rare_classes is not None
    assert calls == [len(get_dataset_dicts("toy_scenes_train"))]
