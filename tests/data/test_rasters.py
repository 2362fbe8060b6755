"""Images of any number of channels: TIFF by tifffile, .npy and RGBA, in every layout; and files that do not fit."""

from __future__ import annotations

import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image

from semask_d2 import read_image
from semask_d2.data import rasters
from semask_d2.data.augmentation import View, resize_image
from semask_d2.data.image_io import count_channels, picture_size, read_image_facts, read_labels, value_span
from semask_d2.data.picture import Picture
from semask_d2.data.pixel_values import ValueSpan
from semask_d2.utils.errors import UnreadableFile, UserError
from tests.helpers.refusals import refusal

RNG = np.random.default_rng(0)


def image(channels: int, dtype: type, height: int = 12, width: int = 16) -> np.ndarray:
    """Return random values (H, W, C) that use the default range of their type."""
    values = RNG.integers(0, 256, (height, width, channels))
    if np.issubdtype(dtype, np.floating):
        return (values / 255).astype(dtype)
    return (values * (1 if dtype is np.uint8 else 257)).astype(dtype)


def levels(values: np.ndarray) -> np.ndarray:
    """Return what is read of `image`: each value in 0..255."""
    if values.dtype == np.uint8:
        return values
    return np.round(values.astype(np.float64) * (255 if values.dtype.kind == "f" else 1 / 257)).astype(np.uint8)


LAYOUTS = {
    "interleaved": lambda path, x: tifffile.imwrite(path, x, photometric="minisblack", planarconfig="contig"),
    "planes": lambda path, x: tifffile.imwrite(
        path, x.transpose(2, 0, 1), photometric="minisblack", planarconfig="separate"
    ),
    "array of shape (H, W, C)": lambda path, x: tifffile.imwrite(path, x, photometric="minisblack"),
    "array of shape (C, H, W)": lambda path, x: tifffile.imwrite(path, x.transpose(2, 0, 1), photometric="minisblack"),
    "pages without a word": lambda path, x: tifffile.imwrite(
        path, x.transpose(2, 0, 1), photometric="minisblack", metadata=None
    ),
    "named axes": lambda path, x: tifffile.imwrite(
        path, x.transpose(2, 0, 1)[None], photometric="minisblack", metadata={"axes": "TCYX"}, imagej=False
    ),
    "big": lambda path, x: tifffile.imwrite(path, x, photometric="minisblack", planarconfig="contig", bigtiff=True),
    "compressed": lambda path, x: tifffile.imwrite(
        path, x, photometric="minisblack", planarconfig="contig", compression="zlib"
    ),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    ("channels", "dtype"),
    [(4, np.uint16), (5, np.float32), (2, np.uint8), (7, np.int32), (4, np.float64), (6, np.uint32)],
)
def test_a_tiff_of_any_layout_and_type(tmp_path: Path, layout: str, channels: int, dtype: type) -> None:
    values = image(channels, dtype)
    path = tmp_path / "a.tif"
    LAYOUTS[layout](path, values)
    np.testing.assert_array_equal(read_image(path, channels=channels), levels(values))
    assert picture_size(path, channels=channels) == (16, 12)
    facts = read_image_facts(path, channels=channels)
    np.testing.assert_array_equal(facts.pixels, levels(values))
    assert (facts.size, facts.problem) == ((16, 12), "")
    span = (
        None if dtype is np.uint8 else ValueSpan(float(values.min()), float(values.max()), 0, dtype().dtype.kind == "f")
    )
    assert value_span(path, channels) == facts.span == span
    if layout != "pages without a word":  # they may be slices of a volume as well
        assert count_channels(path) == channels


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float16, np.float64, bool])
@pytest.mark.parametrize("planar", [True, False])
def test_arrays_of_numpy(tmp_path: Path, dtype: type, planar: bool) -> None:
    values = image(5, np.uint8 if dtype in (bool, np.int16) else dtype)
    values = values > 100 if dtype is bool else values.astype(dtype)
    np.save(tmp_path / "a.npy", values.transpose(2, 0, 1) if planar else values)
    expected = 255 * values if dtype is bool else values if dtype is np.int16 else levels(values)
    value_range = (0, 255) if dtype is np.int16 else ()
    np.testing.assert_array_equal(read_image(tmp_path / "a.npy", value_range=value_range, channels=5), expected)
    np.save(tmp_path / "gray.npy", values[:, :, 0])
    gray = read_image(tmp_path / "gray.npy", value_range=value_range)
    np.testing.assert_array_equal(gray, expected[:, :, :1] + np.zeros((1, 1, 3)))
    assert picture_size(tmp_path / "a.npy", channels=5) == (16, 12)


def test_the_number_of_channels_decides_where_a_layout_is_unclear(tmp_path: Path) -> None:
    values = image(16, np.uint8, height=4, width=9)  # the shorter axis is the first, the channels are the last
    np.save(tmp_path / "a.npy", values)
    np.testing.assert_array_equal(read_image(tmp_path / "a.npy", channels=16), values)
    assert read_image(tmp_path / "a.npy", channels=4).shape == (9, 16, 4)


def test_one_channel_stays_one(tmp_path: Path) -> None:
    gray = image(1, np.uint8)
    for name, pillow in (
        ("gray.png", Image.fromarray(gray[:, :, 0])),
        ("alpha.png", Image.fromarray(np.dstack([gray, 255 - gray]), "LA")),
        ("gray.tif", Image.fromarray(gray[:, :, 0])),
        ("deep.tif", Image.fromarray(gray[:, :, 0].astype(np.uint16) * 257)),
        ("float.tif", Image.fromarray(gray[:, :, 0].astype(np.float32) / 255)),
    ):
        pillow.save(tmp_path / name)
        np.testing.assert_array_equal(read_image(tmp_path / name, channels=1), gray)
        assert count_channels(tmp_path / name) == 3  # read as RGB unless the user says otherwise
    tifffile.imwrite(tmp_path / "double.tif", gray[:, :, 0] / 255.0)
    np.testing.assert_array_equal(read_image(tmp_path / "double.tif", channels=1), gray)
    np.testing.assert_array_equal(read_image(tmp_path / "double.tif"), np.repeat(gray, 3, axis=2))
    Image.fromarray(gray[:, :, 0] > 99).save(tmp_path / "bits.png")
    np.testing.assert_array_equal(read_image(tmp_path / "bits.png", channels=1), 255 * (gray > 99))


def test_transparency_is_a_fourth_channel_only_if_expected(tmp_path: Path) -> None:
    rgba = image(4, np.uint8)
    Image.fromarray(rgba, "RGBA").save(tmp_path / "a.png")
    Image.fromarray(rgba, "RGBA").save(tmp_path / "a.tif")
    cv2.imwrite(str(tmp_path / "deep.png"), rgba[:, :, [2, 1, 0, 3]].astype(np.uint16) * 257)
    for name in ("a.png", "a.tif", "deep.png"):
        np.testing.assert_array_equal(read_image(tmp_path / name, channels=4), rgba)
        np.testing.assert_array_equal(read_image(tmp_path / name), rgba[:, :, :3])
        assert count_channels(tmp_path / name) == 3
    Image.fromarray(rgba[:, :, 2:], "LA").save(tmp_path / "two.png")
    np.testing.assert_array_equal(read_image(tmp_path / "two.png", channels=2), rgba[:, :, 2:])


def test_planes_of_rgb_are_read(tmp_path: Path) -> None:
    values = image(3, np.uint16)
    tifffile.imwrite(tmp_path / "a.tif", values.transpose(2, 0, 1), photometric="rgb", planarconfig="separate")
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif"), levels(values))
    floats = image(3, np.float32)
    LAYOUTS["interleaved"](tmp_path / "b.tif", floats)
    np.testing.assert_array_equal(read_image(tmp_path / "b.tif"), levels(floats))


@pytest.mark.parametrize("orientation", range(2, 9))
def test_a_turned_tiff_is_turned_as_its_labels_are(tmp_path: Path, orientation: int) -> None:
    values = image(4, np.uint8)
    tag = [(274, "H", 1, orientation, True)]
    tifffile.imwrite(
        tmp_path / "a.tif", values, photometric="minisblack", planarconfig="contig", extratags=tag, metadata=None
    )
    tifffile.imwrite(tmp_path / "label.tif", values[:, :, 0], extratags=tag, metadata=None)
    turned = read_image(tmp_path / "a.tif", channels=4)
    np.testing.assert_array_equal(turned[:, :, 0], read_labels(tmp_path / "label.tif"))
    assert picture_size(tmp_path / "a.tif", channels=4) == turned.shape[1::-1]


@pytest.mark.parametrize(
    ("count", "channels", "suffix"),
    [(5, 3, "tif"), (4, 5, "tif"), (1, 4, "tif"), (3, 4, "png"), (3, 1, "png"), (1, 4, "png"), (3, 1, "tif"),
     (5, 4, "npy"), (4, 3, "npy")],
)  # fmt: skip
def test_another_number_of_channels_is_one_line(tmp_path: Path, count: int, channels: int, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    values = image(count, np.uint8)
    if suffix == "npy":
        np.save(path, values)
    elif suffix == "png" or count in (1, 3):
        Image.fromarray(values.squeeze()).save(path)
    else:
        LAYOUTS["interleaved"](path, values)
    message = (
        rf"a\.{suffix} has {count} channel\(s\), but {channels} are expected \(INPUT.CHANNELS\): .*`channels: {count}`"
    )
    with pytest.raises(UnreadableFile, match=message) as caught:
        read_image(path, channels=channels)
    assert "\n" not in str(caught.value)
    assert str(caught.value) == read_image_facts(path, channels=channels).problem


def test_a_palette_has_colors(tmp_path: Path) -> None:
    Image.fromarray(image(3, np.uint8)).convert("P").save(tmp_path / "a.png")
    with pytest.raises(UnreadableFile, match=r"a\.png has 3 channel\(s\), but 1 are expected"):
        read_image(tmp_path / "a.png", channels=1)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.zeros((2, 4, 5, 6)), "holds 2 x 4 x 5 x 6 values, expected height x width x channels"),
        (np.zeros(7), "holds 7 values"),
        (np.zeros((4, 4, 2), np.complex64), "holds values of type complex64, expected integers or floats"),
        (np.zeros((0, 4, 2)), "is 4 x 0 pixels, an empty image"),
        (np.array([[None, "x"]]), "holds values of type object"),
    ],
)
def test_arrays_that_are_no_images(tmp_path: Path, values: np.ndarray, message: str) -> None:
    np.save(tmp_path / "a.npy", values)
    with pytest.raises(UnreadableFile, match=rf"a\.npy {message}"):
        read_image(tmp_path / "a.npy", channels=2)


def test_damaged_files_are_named_and_large_ones_refused_by_their_header(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    LAYOUTS["interleaved"](tmp_path / "a.tif", image(4, np.uint16))
    np.save(tmp_path / "a.npy", image(4, np.uint16))
    for name in ("a.tif", "a.npy"):
        content = (tmp_path / name).read_bytes()
        for length in (0, 3, 40, len(content) // 2):
            (tmp_path / f"cut{name[1:]}").write_bytes(content[:length])
            with pytest.raises(UnreadableFile, match=rf"cut{name[1:]} cannot be read as an image"):
                read_image(tmp_path / f"cut{name[1:]}", channels=4)
    with pytest.raises(UnreadableFile, match=r"none\.npy does not exist"):
        read_image(tmp_path / "none.npy", channels=4)
    monkeypatch.setattr("semask_d2.data.opening.MAX_PIXELS", 12 * 16)
    monkeypatch.setattr(rasters.Raster, "read", None)
    for name in ("a.tif", "a.npy"):
        with pytest.raises(UnreadableFile, match=r"is 16 x 12 pixels of 4 channels, but the limit"):
            read_image(tmp_path / name, channels=4)


@pytest.mark.parametrize("name", ["interleaved.tif", "planes.tif", "compressed.tif", "a.npy"])
def test_damaged_bytes_give_an_image_or_one_line(tmp_path: Path, name: str) -> None:
    values = image(4, np.uint16)
    if name == "a.npy":
        np.save(tmp_path / name, values)
    else:
        LAYOUTS[name.removesuffix(".tif")](tmp_path / name, values)
    content, rng, refused = (tmp_path / name).read_bytes(), np.random.default_rng(0), 0
    for _ in range(150):
        damaged = bytearray(content)
        for place in rng.integers(0, min(len(content), 600), rng.integers(1, 4)):
            damaged[place] = rng.integers(256)
        (tmp_path / name).write_bytes(damaged)
        pictures: list[np.ndarray] = []
        message = refusal(lambda pictures=pictures: pictures.append(read_image(tmp_path / name, channels=4)))
        if message is None:
            assert pictures[0].shape[2:] == (4,)
        else:
            refused += 1
            assert name in message
            assert "\n" not in message
    assert refused


def test_a_missing_library_is_named_with_its_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    LAYOUTS["interleaved"](tmp_path / "a.tif", image(4, np.uint16))
    np.save(tmp_path / "a.npy", image(4, np.uint16))
    Image.fromarray(image(3, np.uint8)).save(tmp_path / "rgb.tif")

    def refuse(*_: object, **__: object) -> np.ndarray:
        raise ValueError("<COMPRESSION.LZW: 5> requires the 'imagecodecs' package")

    with monkeypatch.context() as patch:
        patch.setattr(tifffile.TiffPageSeries, "asarray", refuse)
        with pytest.raises(UserError, match=r"a\.tif: reading this TIFF needs imagecodecs .*: pip install "):
            read_image(tmp_path / "a.tif", channels=4)
    monkeypatch.setitem(sys.modules, "tifffile", None)
    with pytest.raises(UserError, match=r"a\.tif: reading this TIFF needs tifffile .*: pip install ") as caught:
        read_image(tmp_path / "a.tif", channels=4)
    assert not isinstance(caught.value, UnreadableFile)  # INPUT.SKIP_UNREADABLE must not skip every image
    assert read_image(tmp_path / "rgb.tif").shape == (12, 16, 3)
    assert read_image(tmp_path / "a.npy", channels=4).shape == (12, 16, 4)


def test_each_channel_is_resized_as_pillow_resizes_it() -> None:
    values = image(5, np.uint8, 30, 41)
    for view in (
        View(20, 27, 3, 4, 10, 11),
        View(60, 82, 0, 0, 60, 82),
        View(30, 41, 2, 3, 10, 20),
        View.whole(30, 41),
    ):
        shown = resize_image(Picture.of_pixels(values), view)
        assert shown.shape == (view.height, view.width, 5)
        for first in (0, 2):
            rgb = resize_image(Picture.of_pixels(np.ascontiguousarray(values[:, :, first : first + 3])), view)
            np.testing.assert_array_equal(shown[:, :, first : first + 3], rgb)
