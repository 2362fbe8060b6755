"""Reading pictures and labels of every kind, and the messages for those that cannot be read."""

import numpy as np
import pytest
from PIL import Image

from semask_d2.data.image_io import check_labels, count_ids, read_image, read_labels
from semask_d2.utils.errors import UserError

RNG = np.random.default_rng(0)
RGB = RNG.integers(0, 256, (6, 9, 3), dtype=np.uint8)
GRAY = RGB[:, :, 0]


@pytest.mark.parametrize("mode", ["L", "RGBA", "LA", "P", "1"])
def test_every_mode_becomes_rgb(tmp_path, mode):
    Image.fromarray(RGB).convert(mode).save(tmp_path / "a.png")
    expected = np.asarray(Image.fromarray(RGB).convert(mode).convert("RGB"))
    image = read_image(tmp_path / "a.png")
    assert image.dtype == np.uint8
    np.testing.assert_array_equal(image, expected)


def test_cmyk_becomes_rgb(tmp_path):
    Image.new("RGB", (9, 6), (200, 40, 90)).convert("CMYK").save(tmp_path / "a.jpg", quality=100)
    assert np.abs(read_image(tmp_path / "a.jpg").astype(int) - (200, 40, 90)).max() <= 4


def test_sixteen_bits_keep_their_brightness(tmp_path):
    Image.fromarray(GRAY.astype(np.uint16) * 257).save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), GRAY[:, :, None].repeat(3, axis=2))


def test_bgr_reverses_the_channels(tmp_path):
    Image.fromarray(RGB).save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_image(tmp_path / "a.png", "BGR"), RGB[:, :, ::-1])
    with pytest.raises(UserError, match=r"INPUT\.FORMAT.*YUV"):
        read_image(tmp_path / "a.png", "YUV")


def test_exif_orientation_is_applied(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: show it 90 degrees clockwise
    Image.fromarray(RGB).save(tmp_path / "a.png", exif=exif)
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), np.rot90(RGB, -1))


def test_labels_are_the_stored_ids(tmp_path):
    Image.fromarray(GRAY).save(tmp_path / "gray.png")
    palette = Image.frombytes("P", (9, 6), GRAY.tobytes())
    palette.putpalette(RNG.integers(0, 256, 768, dtype=np.uint8).tobytes())
    palette.save(tmp_path / "palette.png")
    wide = GRAY.astype(np.uint16) * 9
    Image.fromarray(wide).save(tmp_path / "wide.png")
    Image.fromarray(GRAY > 99).save(tmp_path / "bits.png")
    for name, expected in {"gray": GRAY, "palette": GRAY, "wide": wide, "bits": GRAY > 99}.items():
        labels = read_labels(tmp_path / f"{name}.png")
        assert labels.dtype == (np.int64 if name == "wide" else np.uint8)
        np.testing.assert_array_equal(labels, expected)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA"])
def test_labels_in_color_are_refused(tmp_path, mode):
    Image.fromarray(RGB).convert(mode).save(tmp_path / "a.png")
    with pytest.raises(UserError, match=r"a\.png is .*(RGB|LA).*one class id per pixel"):
        read_labels(tmp_path / "a.png")


@pytest.mark.parametrize("read", [read_image, read_labels])
def test_unreadable_files_are_named(tmp_path, read):
    Image.fromarray(RNG.integers(0, 256, (64, 64), dtype=np.uint8)).save(tmp_path / "whole.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "whole.png").read_bytes()[:1500])
    (tmp_path / "text.png").write_text("not an image")
    (tmp_path / "empty.png").touch()
    for name in ("cut", "text", "empty", "none"):
        message = "does not exist" if name == "none" else "cannot be read"
        with pytest.raises(UserError, match=rf"{name}\.png.*{message}") as caught:
            read(tmp_path / f"{name}.png")
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("dtype", [np.uint8, np.int64])
def test_count_ids_is_unique(dtype):
    labels = RNG.integers(0, 7, (31, 17)).astype(dtype)
    for got, expected in zip(count_ids(labels), np.unique(labels, return_counts=True), strict=True):
        np.testing.assert_array_equal(got, expected)


def test_ids_out_of_range_are_named():
    labels = np.array([[0, 4, 255]], np.uint8)
    check_labels(labels, num_classes=5, ignore_label=255, path="x.png")
    with pytest.raises(UserError, match=r"x\.png holds label id 255, but .*NUM_CLASSES is 5.*0\.\.4.*label 254"):
        check_labels(labels, num_classes=5, ignore_label=254, path="x.png")
    with pytest.raises(UserError, match=r"x\.png holds label ids -1, 300,"):
        check_labels(np.array([[-1, 300, 2]]), num_classes=5, ignore_label=255, path="x.png")
    many = np.arange(64, dtype=np.uint8)[None]
    with pytest.raises(UserError, match=r"ids 5, 6, 7, 8, 9, 10, 11, 12, \.\.\., but"):
        check_labels(many, num_classes=5, ignore_label=255, path="x.png")
