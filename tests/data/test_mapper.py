"""The mapper: its output, the alignment of image and labels, and its messages."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from semask_d2.data import augmentation
from semask_d2.data.mapper import SemanticMapper
from semask_d2.data.mappers import build_mapper
from semask_d2.utils.errors import UserError


def rng(seed=0):
    return np.random.default_rng(seed)


def test_training_sample(cfg, pairs):
    before = dict(pairs[0])
    sample = build_mapper(cfg, is_train=True)(pairs[0], rng=rng())
    assert pairs[0] == before
    assert before.items() <= sample.items()
    assert (sample["height"], sample["width"]) == (30, 40)
    assert sample["image"].shape == (3, 32, 32)
    assert sample["sem_seg"].shape == (32, 32)
    assert sample["image"].dtype == sample["sem_seg"].dtype == torch.uint8
    assert sample["image"].is_contiguous()
    assert sample["sem_seg"].is_contiguous()


def test_image_and_labels_stay_together(cfg, pairs):
    """Red is 40 times the id, so that the labels can be read from the image after any scale, crop and flip."""
    mapper = build_mapper(cfg, is_train=True)
    shapes = set()
    for seed in range(40):
        sample = mapper(pairs[seed % len(pairs)], rng=rng(seed))
        red, labels = sample["image"][0].numpy().astype(int), sample["sem_seg"].numpy().astype(int)
        inside = sample["image"][2].numpy() == 90  # blue is 90 everywhere but in the padding
        shapes.add((inside.any(1).sum(), inside.any(0).sum()))
        assert (labels[~inside] == 255).all()
        assert (sample["image"][:, ~inside] == 128).all()
        expected = np.where(labels == 255, 200, 40 * labels)
        agree = (np.abs(red - expected) <= 4)[inside]
        assert agree.mean() > 0.6  # bilinear edges between the 10-pixel tiles mix their colors
        flipped = (np.abs(red[:, ::-1] - expected) <= 4)[inside]
        assert agree.mean() > flipped.mean()
    assert shapes == {(24, 32), (30, 32), (32, 32)}


@settings(deadline=None, derandomize=True, max_examples=40)
@given(
    height=st.integers(8, 150), width=st.integers(8, 150), edge=st.integers(8, 200), crop=st.integers(4, 90),
    seed=st.integers(0, 99),
)  # fmt: skip
def test_a_crop_is_that_of_the_whole_image_resized(tmp_path_factory, height, width, edge, crop, seed):
    """Compare with the plain order: decode and resize the whole image and all labels, then crop them."""
    folder, values = tmp_path_factory.mktemp("photograph"), rng(seed)
    ids = values.integers(0, 5, (-(-height // 8), -(-width // 8)), dtype=np.uint8)
    ids = ids.repeat(8, axis=0).repeat(8, axis=1)[:height, :width]
    photograph = (40 * ids[:, :, None] + values.integers(0, 50, (height, width, 3))).astype(np.uint8)
    Image.fromarray(photograph).save(folder / "a.jpg", quality=90)
    Image.fromarray(ids).save(folder / "a.png")
    mapper = SemanticMapper(
        True, image_format="RGB", num_classes=5, ignore_label=255, short_edges=(edge,), max_size=400,
        crop_size=(crop, crop), single_category_max_area=0.75,
    )  # fmt: skip
    sample = mapper({"file_name": folder / "a.jpg", "sem_seg_file_name": folder / "a.png"}, rng=rng(seed))

    draws = rng(seed)
    augmentation.sample_short_edge(draws, (edge,), "choice")
    shape = augmentation.resized_shape(height, width, edge, 400)
    view = augmentation.sample_view(draws, shape, (crop, crop), labels=ids, max_area=0.75)
    rows, columns = slice(view.top, view.top + view.height), slice(view.left, view.left + view.width)
    whole = Image.open(folder / "a.jpg").resize(shape[::-1], Image.Resampling.BILINEAR)
    difference = sample["image"].permute(1, 2, 0).numpy().astype(int) - np.asarray(whole)[rows, columns]
    assert np.abs(difference).max() <= 1  # the rounding of two passes
    centers = [((np.arange(n) + 0.5) * m / n).astype(int) for n, m in zip(shape, (height, width), strict=True)]
    near = ids[np.ix_(*centers)][rows, columns]
    exact = [(2 * np.arange(n) + 1) * m % (2 * n) == 0 for n, m in zip(shape, (height, width), strict=True)]
    kept = np.ix_(~exact[0][rows], ~exact[1][columns])  # if a center falls between two pixels, rounding decides
    np.testing.assert_array_equal(sample["sem_seg"].numpy()[kept], near[kept])


def test_flip_happens_half_of_the_time_and_only_when_asked(cfg, pairs):
    cfg.INPUT.CROP.ENABLED = False
    cfg.INPUT.MIN_SIZE_TRAIN = (30,)
    plain = torch.from_numpy(np.array(Image.open(pairs[0]["file_name"]))).permute(2, 0, 1)
    flips = []
    for setting in ("horizontal", "none"):
        cfg.INPUT.RANDOM_FLIP = setting
        mapper = build_mapper(cfg, is_train=True)
        images = [mapper(pairs[0], rng=rng(seed))["image"][:, :30] for seed in range(60)]
        assert all(torch.equal(i, plain) or torch.equal(i, plain.flip(-1)) for i in images)
        flips.append(sum(torch.equal(i, plain.flip(-1)) for i in images))
    assert 18 < flips[0] < 42
    assert flips[1] == 0


def test_an_image_larger_than_the_padding_is_not_cut(cfg, pairs):
    cfg.INPUT.CROP.ENABLED = False
    cfg.INPUT.MIN_SIZE_TRAIN = (45,)
    sample = build_mapper(cfg, is_train=True)(pairs[0], rng=rng())
    assert sample["image"].shape == (3, 45, 60)
    assert sample["sem_seg"].shape == (45, 60)


@settings(deadline=None, derandomize=True, max_examples=60)
@given(
    long=st.integers(1, 5000), short=st.integers(1, 2), tall=st.booleans(), edge=st.integers(0, 40), crop=st.booleans()
)
def test_very_thin_images_are_cropped_and_flipped(tmp_path_factory, long, short, tall, edge, crop):
    size = (short, long) if tall else (long, short)
    folder = tmp_path_factory.mktemp("thin")
    Image.new("RGB", size).save(folder / "a.bmp")
    Image.new("L", size, 1).save(folder / "a.png")
    mapper = SemanticMapper(
        True, image_format="RGB", num_classes=5, ignore_label=255, short_edges=(edge,), max_size=90, color_jitter=True,
        horizontal_flip=True, crop_size=(32, 32) if crop else None, pad_to=0,
    )  # fmt: skip
    for seed in range(4):
        sample = mapper({"file_name": folder / "a.bmp", "sem_seg_file_name": folder / "a.png"}, rng=rng(seed))
        assert sample["image"].shape[1:] == sample["sem_seg"].shape
        assert min(sample["sem_seg"].shape) >= 1
        assert (sample["sem_seg"] == 1).all()


def test_the_generator_decides_everything(cfg, pairs):
    cfg.INPUT.COLOR_AUG_SSD = True
    cfg.INPUT.CROP.SINGLE_CATEGORY_MAX_AREA = 0.75
    mapper = build_mapper(cfg, is_train=True)
    a, b, c = (mapper(pairs[0], rng=rng(seed)) for seed in (1, 1, 2))
    assert torch.equal(a["image"], b["image"])
    assert torch.equal(a["sem_seg"], b["sem_seg"])
    assert not torch.equal(a["image"], c["image"])


def test_without_a_generator_numpys_state_decides(cfg, pairs):
    mapper, images = build_mapper(cfg, is_train=True), []
    for seed in (5, 5, 6):
        np.random.seed(seed)  # noqa: NPY002 - what Detectron2's loaders seed
        images.append(torch.stack([mapper(pairs[0])["image"] for _ in range(4)]))
    assert torch.equal(images[0], images[1])
    assert not torch.equal(images[0], images[2])


def test_jitter_changes_the_image_and_not_the_labels(cfg, pairs):
    plain, jittered = [], []
    for seed in range(8):
        cfg.INPUT.COLOR_AUG_SSD = False
        plain.append(build_mapper(cfg, is_train=True)(pairs[0], rng=rng(seed)))
        cfg.INPUT.COLOR_AUG_SSD = True
        jittered.append(build_mapper(cfg, is_train=True)(pairs[0], rng=rng(seed)))
    assert sum(not torch.equal(a["image"], b["image"]) for a, b in zip(plain, jittered, strict=True)) >= 6
    # the flip is drawn after the jitter: labels are equal up to it
    for a, b in zip(plain, jittered, strict=True):
        assert torch.equal(a["sem_seg"].sort()[0], b["sem_seg"].sort()[0])


def test_test_sample_is_resized_and_has_no_labels(cfg, pairs):
    whole = build_mapper(cfg, is_train=False)(pairs[0])
    np.testing.assert_array_equal(whole["image"].permute(1, 2, 0), np.array(Image.open(pairs[0]["file_name"])))
    cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST = 60, 70
    small = build_mapper(cfg, is_train=False)({"file_name": pairs[0]["file_name"]})
    assert small["image"].shape == (3, 53, 70)
    assert (small["height"], small["width"]) == (30, 40)
    assert "sem_seg" not in whole
    assert "sem_seg" not in small


def test_bgr(cfg, pairs):
    rgb = build_mapper(cfg, is_train=True)(pairs[0], rng=rng())["image"]
    cfg.INPUT.FORMAT = "BGR"
    assert torch.equal(build_mapper(cfg, is_train=True)(pairs[0], rng=rng())["image"], rgb.flip(0))


def test_many_classes_need_wide_labels(pairs):
    mapper = SemanticMapper(
        True, image_format="RGB", num_classes=300, ignore_label=65535, short_edges=(0,), max_size=100, pad_to=50
    )
    wide = np.full((30, 40), 299, np.uint16)
    Image.fromarray(wide).save(pairs[0]["sem_seg_file_name"])
    labels = mapper(pairs[0], rng=rng())["sem_seg"]
    assert labels.dtype == torch.int64
    assert labels.unique().tolist() == [299, 65535]


def test_a_label_file_of_another_size(cfg, pairs):
    Image.new("L", (40, 31)).save(pairs[0]["sem_seg_file_name"])
    with pytest.raises(UserError, match=r"0\.image\.png is 40 x 30 but .*0\.png is 40 x 31"):
        build_mapper(cfg, is_train=True)(pairs[0], rng=rng())


def test_an_id_out_of_range(cfg, pairs):
    Image.new("L", (40, 30), 5).save(pairs[0]["sem_seg_file_name"])
    with pytest.raises(UserError, match=r"0\.png holds label id 5, but MODEL\.SEM_SEG_HEAD\.NUM_CLASSES is 5"):
        build_mapper(cfg, is_train=True)(pairs[0], rng=rng())


def test_a_training_image_without_labels(cfg, pairs):
    with pytest.raises(UserError, match=r"0\.image\.png has no sem_seg_file_name"):
        build_mapper(cfg, is_train=True)({"file_name": pairs[0]["file_name"]}, rng=rng())


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("INPUT.DATASET_MAPPER_NAME", "panoptic", r'DATASET_MAPPER_NAME.*"panoptic".*mask_former_semantic'),
        ("INPUT.FORMAT", "YUV", r'FORMAT is "YUV"; expected "RGB" or "BGR"'),
        ("INPUT.CROP.TYPE", "relative", r'CROP\.TYPE is "relative"; expected "absolute"'),
        ("INPUT.RANDOM_FLIP", "vertical", r'RANDOM_FLIP is "vertical"; expected "horizontal" or "none"'),
        ("INPUT.MIN_SIZE_TRAIN_SAMPLING", "any", r'MIN_SIZE_TRAIN_SAMPLING is "any"'),
        ("INPUT.MIN_SIZE_TRAIN", (), r"MIN_SIZE_TRAIN \(\); expected .* at least one"),
    ],
)
def test_settings_that_mean_nothing(cfg, key, value, message):
    cfg.merge_from_list([key, value])
    with pytest.raises(UserError, match=message):
        build_mapper(cfg, is_train=True)


def test_other_projects_models_get_the_label_type_that_they_take(cfg, pairs) -> None:
    assert SemanticMapper(cfg, True)(pairs[0])["sem_seg"].dtype == torch.uint8
    cfg.MODEL.META_ARCHITECTURE = "SemanticSegmentor"
    assert SemanticMapper(cfg, True)(pairs[0])["sem_seg"].dtype == torch.int64
