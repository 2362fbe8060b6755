"""The dataset toy_scenes is deterministic, complete or absent, and not solved by color alone."""

import hashlib
import os
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest

from semask_d2.data import get_dataset_dicts
from semask_d2.data.datasets import toy_painter, toy_scenes
from semask_d2.data.image_io import read_image, read_labels
from semask_d2.utils.errors import UserError

CLASSES = len(toy_painter.CLASSES)
SMALL = {"training": 2, "validation": 1}


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_the_labels_are_the_same_everywhere():
    digest = hashlib.sha256()
    for number in range(4):
        digest.update(toy_painter.paint_scene(0, number)[1].tobytes())
    assert digest.hexdigest()[:16] == "c60bf169e31b117f"


def test_value_noise_is_interpolated_between_its_knots():
    noise = toy_painter.Dice(0).field(8, 16)
    assert noise.dtype.kind == "i"
    assert -toy_painter.ONE <= noise.min() < -600
    assert 600 < noise.max() <= toy_painter.ONE
    knots, middle = noise[::8, ::16], noise[4::8, ::16]
    assert np.abs((knots[:-1] + knots[1:]) / 2 - middle[:-1]).max() <= 1


def test_the_layout(tmp_path):
    toy_scenes.generate(tmp_path / "toy", SMALL)
    assert list(contents(tmp_path / "toy")) == [
        "annotations/training/0000.png",
        "annotations/training/0001.png",
        "annotations/validation/0000.png",
        "images/training/0000.jpg",
        "images/training/0001.jpg",
        "images/validation/0000.jpg",
    ]
    image, labels = toy_painter.paint_scene(0, 1)
    np.testing.assert_array_equal(read_labels(tmp_path / "toy/annotations/training/0001.png"), labels)
    stored = read_image(tmp_path / "toy/images/training/0001.jpg").astype(int)
    assert np.abs(stored - image).mean() < 5
    assert [p.name for p in tmp_path.iterdir()] == ["toy"]


def test_a_stop_in_the_middle_leaves_nothing(tmp_path, monkeypatch):
    real, count = toy_painter.paint_scene, 0

    def stopped(*seed):
        nonlocal count
        count += 1
        if count == 3:
            raise KeyboardInterrupt
        return real(*seed)

    monkeypatch.setattr(toy_painter, "paint_scene", stopped)
    with pytest.raises(KeyboardInterrupt):
        toy_scenes.generate(tmp_path / "toy", SMALL)
    assert list(tmp_path.iterdir()) == []


def test_processes_that_start_together_agree(tmp_path):
    with ProcessPoolExecutor(2, mp_context=get_context("fork")) as pool:
        list(pool.map(partial(toy_scenes.generate, sizes=SMALL), [tmp_path / "toy"] * 4))
    toy_scenes.generate(tmp_path / "alone", SMALL)
    assert contents(tmp_path / "toy") == contents(tmp_path / "alone")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["alone", "toy"]


def test_it_appears_on_first_use_and_stays(tmp_path, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "new"))
    monkeypatch.setattr(toy_scenes, "SIZES", SMALL)
    assert len(get_dataset_dicts("toy_scenes_train")) == 2
    monkeypatch.setattr(toy_painter, "paint_scene", None)
    assert len(get_dataset_dicts("toy_scenes_val")) == 1


def test_a_root_that_cannot_be_written(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "file"))
    with pytest.raises(UserError, match=r"toy_scenes cannot be generated in \S+file/toy_scenes .*DETECTRON2_DATASETS"):
        get_dataset_dicts("toy_scenes_train")


@pytest.fixture(scope="module")
def split() -> dict[str, list[tuple[np.ndarray, np.ndarray]]]:
    """Every scene of the real dataset."""
    sizes = toy_scenes.SIZES
    jobs = [(number, i) for number, count in enumerate(sizes.values()) for i in range(count)]
    with ProcessPoolExecutor(os.cpu_count(), mp_context=get_context("fork")) as pool:
        scenes = list(pool.map(toy_painter.paint_scene, *zip(*jobs, strict=True), chunksize=25))
    return {"train": scenes[: sizes["training"]], "val": scenes[sizes["training"] :]}


def test_every_class_is_frequent(split):
    for name, least in (("train", 0.3 * 200), ("val", 15)):
        counts = np.zeros(CLASSES, int)
        for _, labels in split[name]:
            counts += np.bincount(labels[labels != toy_painter.IGNORE], minlength=CLASSES) >= 100
        assert counts.min() >= least


def test_labels_are_ids_or_ignored(split):
    present = set(np.unique(np.stack([labels for _, labels in split["train"]])).tolist())
    assert present == {*range(CLASSES), toy_painter.IGNORE}


def nearest_mean_color(train, val) -> np.ndarray:
    """Return the IoU per class on `val` of a baseline: each pixel gets the class of the nearest mean RGB in `train`."""
    pixels, ids = (np.concatenate([np.reshape(scene[i], (128 * 128, -1)) for scene in train]) for i in (0, 1))
    means = np.stack([pixels[ids[:, 0] == c].mean(axis=0) for c in range(CLASSES)])
    confusion = np.zeros((CLASSES, CLASSES), int)
    for image, labels in val:
        distance = ((image[:, :, None].astype(float) - means) ** 2).sum(axis=-1)
        valid = labels != toy_painter.IGNORE
        np.add.at(confusion, (labels[valid], distance.argmin(axis=-1)[valid]), 1)
    hits = confusion.diagonal()
    return hits / (confusion.sum(axis=0) + confusion.sum(axis=1) - hits)


def test_color_alone_does_not_solve_it(split):
    iou = nearest_mean_color(split["train"], split["val"])
    assert 0.1 < iou.mean() < 0.4  # the documentation promises below 0.5; the network must reach 0.85
    # the classes of a pair share their colors: if one wins the pixels, the other loses them
    pairs = [(toy_painter.SKY, toy_painter.WATER), (toy_painter.GRASS, toy_painter.TREE)]
    pairs += [(toy_painter.ROAD, toy_painter.BUILDING), (toy_painter.STRIPES, toy_painter.CHECKS)]
    assert all(min(iou[a], iou[b]) < 0.3 for a, b in pairs)
