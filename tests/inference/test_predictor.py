"""Predictor on one image or many: labels, scores and semantic maps, from a config or a run folder."""

from __future__ import annotations

import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from semask_d2 import Prediction, Predictor, build_model, get_cfg
from semask_d2.data.datasets.toy_scenes import TOY_SCENES
from semask_d2.utils.colors import distinct_colors
from semask_d2.utils.errors import UserError
from tests.helpers.commands import ROOT, TOY_CONFIG

FPN_CONFIG = ROOT / "configs/toy_scenes/semask_swin_mini_fpn.yaml"


@pytest.fixture(scope="module")
def predictor(tiny_run: Path) -> Predictor:
    return Predictor.from_run(tiny_run)


def make_image(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def assert_equal(a: Prediction, b: Prediction) -> None:
    assert np.array_equal(a.labels, b.labels)
    np.testing.assert_allclose(a.scores, b.scores, atol=1e-5)
    assert all(np.array_equal(a.priors[name], b.priors[name]) for name in b.priors)


def test_one_image_gives_labels_at_its_size(predictor: Predictor) -> None:
    prediction = predictor(make_image(50, 70))
    assert prediction.labels.shape == (50, 70)
    assert prediction.scores is None
    assert prediction.priors is None


def test_scores_are_those_of_the_labels(predictor: Predictor) -> None:
    prediction = predictor(make_image(50, 70), scores=True)
    assert prediction.scores.shape == (12, 50, 70)
    assert np.array_equal(prediction.scores.argmax(0), prediction.labels)


def test_priors_cover_the_image_without_its_padding(predictor: Predictor) -> None:
    prediction = predictor(make_image(80, 65), priors=True)  # 79 x 64 after resizing, padded to 96 x 64
    assert {name: prior.shape for name, prior in prediction.priors.items()} == {
        "sem2": (20, 16),
        "sem3": (10, 8),
        "sem4": (5, 4),
        "sem5": (3, 2),
    }
    assert np.array_equal(prediction.labels, predictor(make_image(80, 65)).labels)


def test_priors_are_the_backbones_maps(predictor: Predictor) -> None:
    image = make_image(64, 96)
    with torch.no_grad():
        pixels = predictor.prepare(image)["image"]
        features = predictor.model.backbone(predictor.model.normalizer([pixels], 32).tensor)
    for name, prior in predictor(image, priors=True).priors.items():
        assert np.array_equal(prior, features[name][0].argmax(0).numpy())


def test_a_list_of_several_sizes_predicts_as_its_images_alone(predictor: Predictor) -> None:
    images = [make_image(50, 70), make_image(80, 40), make_image(128, 64)]
    together = predictor(images, scores=True, priors=True)
    assert len(together) == 3
    for image, prediction in zip(images, together, strict=True):
        assert_equal(prediction, predictor(image, scores=True, priors=True))
    assert predictor([]) == []


def test_images_of_one_size_go_together_and_differ_by_rounding(predictor: Predictor) -> None:
    images = [make_image(50, 70, seed=seed) for seed in range(6)]
    images.insert(3, make_image(80, 40))
    alone = [predictor(image, scores=True) for image in images]
    for batched, expected in zip(predictor(images, scores=True), alone, strict=True):
        np.testing.assert_allclose(batched.scores, expected.scores, rtol=0, atol=5e-6)  # 2e-6 was measured
        first, second = np.sort(expected.scores, 0)[-2:][::-1]
        is_clear = first - second > 1e-5
        assert np.array_equal(batched.labels[is_clear], expected.labels[is_clear])
    for single, expected in zip(predictor(images, scores=True, batch_size=1), alone, strict=True):
        assert np.array_equal(single.scores, expected.scores)


def test_threads_share_a_predictor(predictor: Predictor) -> None:
    images = [make_image(40 + 8 * i, 64, seed=i) for i in range(6)]
    expected = [predictor(image, scores=True, priors=True) for image in images]
    with ThreadPoolExecutor(4) as pool:
        predictions = list(pool.map(lambda image: predictor(image, scores=True, priors=True), images * 3))
    for a, b in zip(predictions, expected * 3, strict=True):
        assert_equal(a, b)


def test_names_and_colors_are_the_datasets(predictor: Predictor, tiny_run: Path) -> None:
    assert predictor.class_names == list(TOY_SCENES.classes.names)
    assert predictor.class_colors.tolist() == [list(color) for color in TOY_SCENES.classes.colors]
    assert predictor.ignore_label == 255
    options = ["MODEL.WEIGHTS", str(tiny_run / "model_best.pth"), "DATASETS.TEST", "('not_registered_here',)"]
    other = Predictor(get_cfg(tiny_run / "config.yaml", options))
    assert other.class_names[:2] == ["class 0", "class 1"]
    assert other.class_colors.shape == (12, 3)


def test_colors_of_classes_that_have_none_differ() -> None:
    assert len(set(distinct_colors(150))) == 150


def test_bgr_models_get_their_channels(predictor: Predictor, tiny_run: Path) -> None:
    options = ["MODEL.WEIGHTS", str(tiny_run / "model_best.pth"), "INPUT.FORMAT", "BGR"]
    bgr = Predictor(get_cfg(tiny_run / "config.yaml", options))
    image = make_image(64, 64)
    assert torch.equal(bgr.prepare(image)["image"], predictor.prepare(image)["image"].flip(0))


@pytest.mark.parametrize("image", [make_image(8, 8)[:, :, 0], make_image(8, 8) / 255, make_image(8, 8)[:0], [[1, 2]]])
def test_invalid_images_are_refused(predictor: Predictor, image: object) -> None:
    with pytest.raises(UserError, match="expected a uint8 RGB image"):
        predictor([image])


def test_a_run_folder_gives_its_best_then_final_then_last_checkpoint(tiny_run: Path, tmp_path: Path) -> None:
    shutil.copy(tiny_run / "config.yaml", tmp_path)
    with pytest.raises(
        UserError,
        match=r"no checkpoint there \(model_best\.pth, model_final\.pth, model\.safetensors or last_checkpoint",
    ):
        Predictor.from_run(tmp_path)
    for name in ("model_0000009.pth", "model_final.pth", "model_best.pth"):
        shutil.copy(tiny_run / "model_best.pth", tmp_path / name)
        (tmp_path / "last_checkpoint").write_text("model_0000009.pth")
        assert str(tmp_path / name) == Predictor.from_run(tmp_path).cfg.MODEL.WEIGHTS
    final = tmp_path / "model_final.pth"
    assert str(final) == Predictor.from_run(tmp_path, weights=final).cfg.MODEL.WEIGHTS


def test_invalid_run_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no config\.yaml there"):
        Predictor.from_run(tmp_path)


def test_it_never_predicts_from_random_weights() -> None:
    with pytest.raises(UserError, match=r"MODEL\.WEIGHTS is empty"):
        Predictor(get_cfg(TOY_CONFIG))


def test_priors_need_a_model_with_semantic_maps(tiny_run: Path) -> None:
    cfg = get_cfg(tiny_run / "config.yaml", ["MODEL.SWIN.NUM_SEM_BLOCKS", "0"])
    plain = Predictor.of_model(cfg, build_model(cfg).eval())
    assert not plain.has_priors
    assert plain(make_image(64, 64)).labels.shape == (64, 64)
    with pytest.raises(UserError, match=r"D2SeMaskSwinTransformer: this model has no semantic maps; .* NUM_SEM_BLOCKS"):
        plain(make_image(64, 64), priors=True)


def test_semantic_fpn_has_priors_too() -> None:
    fpn = Predictor.of_model(cfg := get_cfg(FPN_CONFIG, ["MODEL.DEVICE", "cpu"]), build_model(cfg).eval())
    image = make_image(70, 130)  # 128 x 238 after resizing, not padded to a multiple
    prediction = fpn(image, scores=True, priors=True)
    assert {name: prior.shape for name, prior in prediction.priors.items()} == {
        "sem2": (32, 60),
        "sem3": (16, 30),
        "sem4": (8, 15),
        "sem5": (4, 8),
    }
    plain = fpn([image, image[:50]], scores=True)
    np.testing.assert_allclose(prediction.scores, plain[0].scores, atol=1e-4)
    assert plain[1].scores.shape == (12, 50, 130)
