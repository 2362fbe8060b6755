"""HTML panels, with their layers decoded again."""

from __future__ import annotations

import base64
import io
import re

import numpy as np
from PIL import Image

from semask_d2.inference.panels import LONGER_SIDE, Example, class_shares, main_classes, panels_html
from semask_d2.utils.classes import Classes

CLASSES = Classes(("sky", "tree, palm"), ((10, 20, 30), (40, 50, 60)))
LABELS = np.array([[0, 0, 1, 1], [0, 0, 0, 7]])
TRUTH = np.array([[0, 1, 1, 255], [0, 0, 0, 0]])
IMAGE = np.zeros((2, 4, 3), np.uint8)


def layers(html: str) -> list[np.ndarray]:
    encoded = re.findall(r'src="data:image/png;base64,([^"]+)"', html)
    return [np.asarray(Image.open(io.BytesIO(base64.b64decode(text)))) for text in encoded]


def test_layers_are_colors_with_transparent_gaps_and_errors() -> None:
    html = panels_html(Example("x", IMAGE, LABELS, TRUTH, {"sem2": np.array([[1]])}), CLASSES)
    truth, prediction, error, prior = layers(html)
    colors = {0: (10, 20, 30, 255), 1: (40, 50, 60, 255)}
    for ids, layer in ((TRUTH, truth), (LABELS, prediction), (np.ones((2, 4), int), prior)):
        expected = [[colors.get(int(i), (0, 0, 0, 0)) for i in row] for row in ids]
        assert layer.tolist() == [[list(pixel) for pixel in row] for row in expected]
    wrong, ignored, right = [230, 30, 30, 255], [0, 0, 0, 255], [0, 0, 0, 0]
    assert error.tolist() == [[right, wrong, right, ignored], [right, right, right, wrong]]
    captions = re.findall("<figcaption>([^<]*)", html)
    assert captions == ["image", "ground truth", "prediction", "error 28.6 %", "semantic map, stride 4"]
    assert html.count("data:image/jpeg") == 1


def test_large_images_become_small_and_small_ones_stay() -> None:
    image = np.zeros((300, 2 * LONGER_SIDE, 3), np.uint8)
    html = panels_html(Example("x", image, np.zeros(image.shape[:2], np.uint8)), CLASSES)
    assert layers(html)[0].shape == (150, LONGER_SIDE, 4)
    assert f"--shape:{LONGER_SIDE}/150" in html


def test_an_image_of_noise_takes_a_bounded_part_of_a_page() -> None:
    generator = np.random.default_rng(0)
    image = generator.integers(0, 256, (2000, 2000, 3), np.uint8)
    labels = generator.integers(0, 2, (2000, 2000))
    assert len(panels_html(Example("x", image, labels), CLASSES)) < 1_200_000


def test_shares_are_of_all_pixels_the_largest_first() -> None:
    assert class_shares(LABELS, CLASSES) == {0: 5 / 8, 1: 2 / 8}
    assert list(class_shares(1 - LABELS.clip(0, 1), CLASSES)) == [1, 0]
    assert main_classes(LABELS, CLASSES) == "sky 62 %, tree 25 %"
    assert main_classes(np.full((2, 2), 9), CLASSES) == "no class"
