"""Each augmentation agrees with its plain formula."""

import colorsys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from semask_d2.data import augmentation as aug
from semask_d2.data.augmentation import ColorJitter, View
from semask_d2.data.picture import Picture


@pytest.mark.parametrize(
    ("shape", "edge", "longest", "expected"),
    [
        ((480, 640), 640, 2560, (640, 853)),
        ((683, 512), 640, 2560, (854, 640)),  # 853.75
        ((1024, 2048), 512, 2048, (512, 1024)),
        ((100, 900), 200, 600, (67, 600)),  # 66.67: the longer side decides
        ((37, 53), 0, 40, (37, 53)),
    ],
)
def test_resized_shape(shape, edge, longest, expected):
    assert aug.resized_shape(*shape, edge, longest) == expected


sides = st.integers(1, 5000)


@settings(deadline=None, derandomize=True, max_examples=300)
@given(height=sides, width=sides, edge=st.integers(0, 800), longest=sides)
def test_resized_shape_never_vanishes(height, width, edge, longest):
    new_height, new_width = aug.resized_shape(height, width, edge, longest)
    assert new_height >= 1
    assert new_width >= 1
    assert edge == 0 or max(new_height, new_width) <= longest


@settings(deadline=None, derandomize=True, max_examples=100)
@given(long=sides, short=st.integers(1, 3), tall=st.booleans(), longest=st.integers(1, 600), bgr=st.booleans())
def test_pictures_of_any_shape_become_tensors(long, short, tall, longest, bgr):
    height, width = (long, short) if tall else (short, long)
    picture = Picture([Image.new("RGB", (width, height), (1, 2, 3))])
    tensor = aug.resized_tensor(picture, 64, longest, "BGR" if bgr else "RGB")
    assert tensor.shape[1:] == aug.resized_shape(height, width, 64, longest)
    assert tensor[:, 0, 0].tolist() == ([3, 2, 1] if bgr else [1, 2, 3])


def test_sample_short_edge():
    rng = np.random.default_rng(0)
    choices = {aug.sample_short_edge(rng, (8, 16, 30), "choice") for _ in range(100)}
    assert choices == {8, 16, 30}
    ranged = {aug.sample_short_edge(rng, (8, 12), "range") for _ in range(200)}
    assert ranged == {8, 9, 10, 11, 12}


@st.composite
def views(draw):
    """Return the height and width of an image, and a view of the resized image."""
    source = draw(st.tuples(st.integers(5, 60), st.integers(5, 60)))
    full = draw(st.tuples(st.integers(5, 90), st.integers(5, 90)))
    size = [draw(st.integers(1, n)) for n in full]
    start = [draw(st.integers(0, n - s)) for n, s in zip(full, size, strict=True)]
    return source, View(*full, *start, *size)


def shown(array, view):
    return array[view.top : view.top + view.height, view.left : view.left + view.width]


@settings(deadline=None, derandomize=True)
@given(views())
def test_resizing_the_crop_is_cropping_the_resized(case):
    (height, width), view = case
    rng = np.random.default_rng(height * width)
    image = Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))
    whole = np.asarray(image.resize((view.full_width, view.full_height), Image.Resampling.BILINEAR))
    difference = np.abs(aug.resize_image(Picture([image]), view).astype(int) - shown(whole, view))
    assert difference.max() <= 1


@settings(deadline=None, derandomize=True)
@given(views())
def test_resized_labels_are_pil_nearest(case):
    (height, width), view = case
    labels = np.random.default_rng(height * width).integers(0, 256, (height, width), dtype=np.uint8)
    whole = Image.fromarray(labels).resize((view.full_width, view.full_height), Image.Resampling.NEAREST)
    got, expected = aug.resize_labels(labels, view), shown(np.asarray(whole), view)
    # if a center falls between two pixels, PIL's rounding error decides: those rows and columns are excluded
    rows, columns = (
        (2 * np.arange(start, start + count) + 1) * source % (2 * full) != 0
        for source, full, start, count in (
            (height, view.full_height, view.top, view.height),
            (width, view.full_width, view.left, view.width),
        )
    )
    np.testing.assert_array_equal(got[rows][:, columns], expected[rows][:, columns])
    np.testing.assert_array_equal(got, shown(aug.resize_labels(labels, View.whole(*whole.size[::-1])), view))


def test_no_resize_is_a_plain_crop():
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    view = View(20, 30, 3, 4, 10, 11)
    np.testing.assert_array_equal(aug.resize_image(Picture.of_pixels(pixels), view), pixels[3:13, 4:15])


class TestSampleView:
    def test_stays_inside_and_reaches_every_edge(self):
        rng, labels = np.random.default_rng(0), np.zeros((20, 30), np.uint8)
        drawn = [aug.sample_view(rng, (10, 15), (8, 99), labels=labels) for _ in range(60)]
        assert {v.top for v in drawn} == {0, 1, 2}
        assert {(v.left, v.height, v.width) for v in drawn} == {(0, 8, 15)}

    def test_no_class_fills_the_crop(self):
        labels = np.zeros((40, 40), np.uint8)
        labels[:, 20:] = 1
        labels[:10] = 255
        rng = np.random.default_rng(0)
        shares = []
        for _ in range(50):
            view = aug.sample_view(rng, (80, 80), (24, 24), labels=labels, max_area=0.75)
            crop = aug.resize_labels(labels, view)
            counts = np.bincount(crop[crop != 255], minlength=2)
            shares.append(counts.max() / max(counts.sum(), 1))
        # a free draw is valid less than a third of the time; ten tries fail for few
        assert np.mean(np.array(shares) < 0.75) > 0.85

    def test_gives_up_after_ten_draws(self):
        rng, count = np.random.default_rng(0), 0

        class Counting:
            def integers(self, high):
                nonlocal count
                count += 1
                return rng.integers(high)

        for value in (0, 255):
            count = 0
            one_class = np.full((16, 16), value, np.uint8)
            aug.sample_view(Counting(), (16, 16), (8, 8), labels=one_class, max_area=0.75)
            assert count == 2 * 10

    def test_ignored_pixels_do_not_count_as_a_class(self):
        labels = np.full((8, 8), 255, np.uint8)
        labels[0] = 0
        labels[1, :2] = 1
        view = aug.sample_view(np.random.default_rng(0), (8, 8), (8, 8), labels=labels, max_area=0.9, ignore_label=255)
        assert view == View.whole(8, 8)


def test_pad_fills_below_and_right_and_never_cuts():
    image = np.ones((3, 9, 3), np.uint8)
    padded = aug.pad(image, 5, 128)
    assert padded.shape == (5, 9, 3)
    assert (padded[:3] == 1).all()
    assert (padded[3:] == 128).all()
    labels = aug.pad(np.ones((3, 4), np.uint8), 6, 255)
    assert labels.shape == (6, 6)
    assert labels.sum() == 12 + 24 * 255
    assert aug.pad(image, -1, 0) is image


def plain_jitter(image, jitter):
    """Compute the definition, pixel by pixel, in floating point."""
    out = np.empty(image.shape)
    for index in np.ndindex(image.shape[:2]):
        pixel = image[index].astype(float)
        if jitter.brightness is not None:
            pixel = np.clip(pixel + jitter.brightness, 0, 255)
        if jitter.contrast is not None and jitter.contrast_first:
            pixel = np.clip(pixel * jitter.contrast, 0, 255)
        hue, saturation, value = colorsys.rgb_to_hsv(*(pixel / 255))
        if jitter.saturation is not None:
            saturation = min(saturation * jitter.saturation, 1.0)
        if jitter.hue is not None:
            hue = (hue + jitter.hue / 180) % 1.0
        pixel = 255 * np.array(colorsys.hsv_to_rgb(hue, saturation, value))
        if jitter.contrast is not None and not jitter.contrast_first:
            pixel = np.clip(pixel * jitter.contrast, 0, 255)
        out[index] = pixel
    return out


@pytest.mark.parametrize(
    ("jitter", "tolerance"),
    [
        (ColorJitter(20.0, None, None, None, True), 0.51),
        (ColorJitter(-30.0, 1.4, None, None, True), 0.51),
        (ColorJitter(-30.0, 0.6, None, None, False), 1.01),
        (ColorJitter(None, None, 1.4, None, True), 6),  # hue has 180 steps, saturation 256
        (ColorJitter(None, None, None, 15, True), 6),
        (ColorJitter(None, None, 0.6, -18, True), 6),
        (ColorJitter(12.0, 1.3, 0.7, -9, False), 8),
    ],
)
def test_jitter_is_the_plain_formula(jitter, tolerance):
    image = np.random.default_rng(1).integers(0, 256, (24, 24, 3), dtype=np.uint8)
    difference = np.abs(aug.jitter_colors(image, jitter) - plain_jitter(image, jitter))
    assert difference.max() <= tolerance
    assert np.abs(aug.jitter_colors(image, jitter).astype(int) - image).mean() > 2 * difference.mean()


def test_no_jitter_changes_nothing():
    image = np.random.default_rng(1).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    assert aug.jitter_colors(image, ColorJitter(None, None, None, None, True)) is image


def test_sampled_jitter_has_ssd_ranges():
    rng = np.random.default_rng(0)
    drawn = [aug.sample_color_jitter(rng) for _ in range(2000)]
    for name, low, high in (
        ("brightness", -32, 32),
        ("contrast", 0.5, 1.5),
        ("saturation", 0.5, 1.5),
        ("hue", -18, 18),
    ):
        values = np.array([v for j in drawn if (v := getattr(j, name)) is not None])
        assert 0.45 < len(values) / len(drawn) < 0.55
        assert low <= values.min() < low + 0.05 * (high - low)
        assert high - 0.05 * (high - low) < values.max() <= high
    assert 0.45 < np.mean([j.contrast_first for j in drawn]) < 0.55
