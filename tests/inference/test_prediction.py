"""Predictions for every kind of image, and drawing and saving a prediction."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from semask_d2 import Prediction, Predictor
from semask_d2.inference.prediction import PanopticSegments, PredictedInstances
from semask_d2.utils.classes import Classes
from semask_d2.utils.errors import UserError


@pytest.fixture(scope="module")
def predictor(tiny_run: Path) -> Predictor:
    return Predictor(tiny_run)


def make_image(height: int = 50, width: int = 70) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)


def test_all_kinds_of_images_are_the_same(predictor: Predictor, tmp_path: Path) -> None:
    image = make_image()
    path = tmp_path / "image.png"
    Image.fromarray(image).save(path)
    kinds = [image, path, str(path), Image.fromarray(image), torch.from_numpy(image).permute(2, 0, 1)]
    predictions = predictor(kinds, batch_size=1)
    assert len(predictions) == 5
    for kind, prediction in zip(kinds, predictions, strict=True):
        assert np.array_equal(prediction.labels, predictions[0].labels)
        assert np.array_equal(prediction.image, image)
        assert np.array_equal(predictor(kind).labels, predictions[0].labels)


def test_a_photo_of_pil_is_turned_upright(predictor: Predictor, tmp_path: Path) -> None:
    turned = Image.fromarray(make_image())
    exif = Image.Exif()
    exif[0x0112] = 6
    turned.save(tmp_path / "turned.jpg", exif=exif)
    with Image.open(tmp_path / "turned.jpg") as image:
        assert predictor(image).labels.shape == (70, 50) == predictor(tmp_path / "turned.jpg").labels.shape


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (torch.zeros(3, 8, 8), r"expected a uint8 RGB image \(3, H, W\) as a tensor, got torch.float32"),
        (torch.zeros(1, 3, 8, 8, dtype=torch.uint8), r"got torch.uint8 \(1, 3, 8, 8\); for batches of tensors, call"),
        (np.zeros((8, 8), np.uint8), r"expected a uint8 RGB image \(H, W, 3\)"),
        ("no_such_file.jpg", "no_such_file.jpg"),
        ([7], "got int"),
    ],
)
def test_invalid_images_are_refused(predictor: Predictor, image: object, message: str) -> None:
    with pytest.raises(UserError, match=message):
        predictor(image)


def test_a_missing_source_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file or run folder"):
        Predictor(tmp_path / "nowhere" / "at" / "all")


def test_it_draws_and_saves_itself(predictor: Predictor, tmp_path: Path) -> None:
    prediction = predictor(make_image())
    drawn = prediction.draw()
    assert drawn.dtype == np.uint8
    assert drawn.shape[2] == 3
    prediction.save(tmp_path / "drawn.png")
    with Image.open(tmp_path / "drawn.png") as written:
        assert np.array_equal(np.asarray(written), drawn)
    with Image.open(io.BytesIO(prediction._repr_png_())) as shown:
        assert np.array_equal(np.asarray(shown), drawn)
    assert sum(prediction.shares.values()) == pytest.approx(100)
    assert list(prediction.shares.values()) == sorted(prediction.shares.values(), reverse=True)
    largest = np.bincount(prediction.labels.ravel()).argmax()
    assert next(iter(prediction.shares)) == predictor.classes.names[largest]
    with pytest.raises(UserError, match="opacity: expected a number from 0 to 1, got 2"):
        prediction.draw(opacity=2)


def test_segments_are_drawn_if_there_are_any() -> None:
    classes = Classes.of(["sky", "car"], things=[1])
    labels = np.zeros((40, 60), np.int64)
    ids = np.zeros((40, 60), np.int32)
    ids[10:30, 10:30] = 1
    info = [{"id": 1, "category_id": 1, "isthing": True, "score": 0.9}]
    image = make_image(40, 60)
    plain = Prediction(labels, image=image, classes=classes)
    panoptic = plain._replace(segments=PanopticSegments(ids, info))
    masks = (ids == 1)[None]
    instances = PredictedInstances(masks, np.array([[10, 10, 30, 30.0]]), np.array([1]), np.array([0.9]))
    assert [x.task for x in (plain, panoptic, plain._replace(instances=instances))] == [
        "semantic",
        "panoptic",
        "instance",
    ]
    for prediction in (panoptic, plain._replace(instances=instances)):
        drawn = prediction.draw(opacity=1)
        zoom = drawn.shape[0] // 40
        assert not np.array_equal(drawn[: 40 * zoom, : 60 * zoom], plain.draw(opacity=1)[: 40 * zoom, : 60 * zoom])


def test_drawing_needs_an_image() -> None:
    prediction = Prediction(np.zeros((2, 2), np.int64))
    assert prediction._repr_png_() is None
    with pytest.raises(UserError, match="no image and classes to draw"):
        prediction.draw()


def test_a_prediction_is_short_in_a_terminal(predictor: Predictor) -> None:
    text = repr(predictor(make_image(), scores=True, priors=True))
    assert text.startswith("Prediction(labels 50 x 70, ")
    assert text.endswith("; scores of 12 classes; priors sem2, sem3, sem4, sem5)")
    assert len(text) < 200
    bare = Prediction(np.zeros((4, 6), np.int64), segments=PanopticSegments(np.zeros((4, 6), np.int32), []))
    assert repr(bare) == "Prediction(labels 4 x 6, 1 classes in it; 0 segments)"


@pytest.mark.parametrize("name", ["x", "x.bmp", "folder.png/x"])
def test_a_drawing_has_a_known_suffix(predictor: Predictor, tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match=r"expected a name that ends in \.png, \.jpg, \.jpeg"):
        predictor(make_image()).save(tmp_path / name)
    assert not list(tmp_path.iterdir())
