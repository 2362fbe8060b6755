"""Reading of images and labels of every kind, and the messages for unreadable ones."""

import io
import os
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from semask_d2.data import image_io, opening
from semask_d2.data.image_io import picture_size, read_image, read_image_facts, read_labels, save_picture, value_span
from semask_d2.data.jpeg_scans import MAX_SCANS
from semask_d2.data.label_checks import check_labels, count_ids
from semask_d2.inference.media import IMAGE_SUFFIXES
from semask_d2.utils.errors import UnreadableFile, UserError
from tests.helpers.commands import ROOT

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


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["png", "tif"])  # Pillow itself turns TIFF files
def test_every_orientation_is_applied_once(tmp_path, orientation, kind):
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(RGB).save(tmp_path / f"a.{kind}", exif=exif)
    turned = np.rot90(RGB, {1: 0, 2: 0, 3: 2, 4: 2, 5: -1, 6: -1, 7: 1, 8: 1}[orientation])
    expected = turned[:, ::-1] if orientation in (2, 4, 5, 7) else turned
    np.testing.assert_array_equal(read_image(tmp_path / f"a.{kind}"), expected)
    assert image_io.picture_size(tmp_path / f"a.{kind}") == expected.shape[1::-1]
    Image.fromarray(RGB[:, :, 0]).save(tmp_path / f"labels.{kind}", exif=exif)
    labels = read_labels(tmp_path / f"labels.{kind}")
    assert image_io.picture_size(tmp_path / f"labels.{kind}", upright=False) == labels.shape[::-1]


@pytest.mark.parametrize(
    "exif",
    [
        b"Exif\0\0 no EXIF at all",
        b"Exif\0\0MM\0*\0\0\0\x08",  # ends before its first entry
        b"Exif\0\0MM\0*\0\0\0\x08\0\x05\x01\x12\0\x03\xff",  # ends within one
        b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x02\0\0\0\x03ab\0\0\0\0\0\0",  # the orientation is text
        b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x05\0\x01\0\0\0\xff\xff\xff\xff\0\0\0\0",  # or lies nowhere
    ],
)
@pytest.mark.filterwarnings("ignore:.*(EXIF|Truncated)")  # Pillow warns if it does not raise
@pytest.mark.parametrize("kind", ["png", "jpg", "webp"])
def test_malformed_exif_is_no_orientation(tmp_path, exif, kind, caplog):
    Image.new("RGB", (9, 6), (90, 90, 90)).save(tmp_path / f"a.{kind}", exif=exif)
    for _ in range(2):
        image = read_image(tmp_path / f"a.{kind}")
    assert image.shape == (6, 9, 3)
    assert caplog.text.count(f"a.{kind}: its EXIF data cannot be read") <= 1
    if b"no EXIF" in exif and kind != "jpg":  # Pillow has already parsed it, and does not warn again
        assert f"a.{kind}: its EXIF data cannot be read" in caplog.text


@pytest.mark.parametrize(
    "entry",
    [
        (0x011A, 2, 3, b"ab\0\0"),
        (0x0100, 2, 3, b"ab\0\0"),
        (0x0101, 11, 1, b"\0\0\x80\x3f"),
        (0x0101, 9, 1, b"\xfb" + b"\xff" * 3),
    ],
    ids=["text as resolution", "text as width", "float as height", "negative height"],
)
def test_the_orientation_beside_other_malformed_entries_is_applied(tmp_path, entry):
    entries = [struct.pack("<HHI4s", *fields) for fields in ((0x0112, 3, 1, b"\6\0\0\0"), entry)]
    exif = b"Exif\0\0II*\0\x08\0\0\0\2\0" + b"".join(entries) + bytes(4)
    Image.new("RGB", (9, 6)).save(tmp_path / "a.jpg", exif=exif)
    assert read_image(tmp_path / "a.jpg").shape == (9, 6, 3)


@pytest.mark.parametrize("suffix", IMAGE_SUFFIXES)
def test_every_suffix_of_a_picture_is_read(tmp_path, suffix):
    if suffix == ".avif" and "AVIF" not in opening._formats():
        pytest.skip("this Pillow was built without AVIF")
    Image.new("L" if suffix == ".pgm" else "RGB", (32, 24), 90).save(tmp_path / f"a{suffix}")
    assert read_image(tmp_path / f"a{suffix}").shape == (24, 32, 3)


def test_phones_jpeg_files_of_two_pictures_are_read(tmp_path):
    left, right = (Image.new("RGB", (32, 24), (shade, 90, 90)) for shade in (40, 200))
    left.save(tmp_path / "a.jpg", format="MPO", save_all=True, append_images=[right])
    assert Image.open(tmp_path / "a.jpg").format == "MPO"
    np.testing.assert_allclose(read_image(tmp_path / "a.jpg")[0, 0], (40, 90, 90), atol=4)


@pytest.mark.parametrize("read", [read_image, read_labels])
def test_no_other_format_is_opened_whatever_the_file_is_named(tmp_path, read, monkeypatch):
    def run(*_, **__):
        raise AssertionError("Ghostscript was started")

    monkeypatch.setattr("PIL.EpsImagePlugin.Ghostscript", run)
    other = {"EPS": "eps", "ICO": "ico", "TGA": "tga", "PCX": "pcx", "SGI": "sgi"}
    for kind, name in other.items():
        Image.fromarray(RGB).save(tmp_path / f"{name}.jpg", format=kind)
        with pytest.raises(UnreadableFile, match=rf"{name}\.jpg cannot be read .*one of JPEG, PNG, .*: convert"):
            read(tmp_path / f"{name}.jpg")


@pytest.mark.parametrize("read", [read_image, read_labels])
def test_a_picture_beyond_the_limit_is_refused_by_its_header(tmp_path, read, monkeypatch):
    file = io.BytesIO()
    Image.new("L", (1, 1)).save(file, "BMP")
    for width, height, size in ((11000, 10001, "11000 x 10001"), (40000, 40000, "1600000000")):
        header = bytearray(file.getvalue())
        header[18:26] = width.to_bytes(4, "little") + height.to_bytes(4, "little")
        (tmp_path / "a.bmp").write_bytes(header)
        monkeypatch.setattr("PIL.ImageFile.ImageFile.load", None)  # the decoder
        with pytest.raises(UnreadableFile, match=rf"a\.bmp is {size} pixels, but the limit is 110000000"):
            read(tmp_path / "a.bmp")


@pytest.mark.slow
def test_large_pictures_within_the_limit_are_read_without_a_warning(tmp_path):
    Image.new("L", (10000, 9001), 7).save(tmp_path / "a.png")  # the size above which Pillow warns
    program = (
        "import sys; from PIL import Image; from semask_d2.data.image_io import read_labels; "
        "from semask_d2.data.augmentation import View, resize_image; from semask_d2.data.picture import Picture; "
        "labels = read_labels(sys.argv[1]); picture = Picture([Image.fromarray(labels)]); "
        "print(labels.shape, resize_image(picture, View.whole(*labels.shape)).shape)"
    )
    command = [sys.executable, "-c", program, tmp_path / "a.png"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "(9001, 10000) (9001, 10000, 1)"
    assert "Bomb" not in result.stderr


def test_values_that_are_no_numbers_are_black_and_white(tmp_path):
    values = np.array([[np.nan, -np.inf, np.inf, 0, 65535]], np.float32)
    Image.fromarray(values).save(tmp_path / "a.tif")
    assert read_image(tmp_path / "a.tif", value_range=(0, 65535))[0, :, 0].tolist() == [0, 0, 255, 0, 255]


def test_a_jpeg_file_cannot_be_wider_than_the_format_allows(tmp_path):
    with pytest.raises(UserError, match=r"a\.jpg: a JPEG file is at most 65500 pixels"):
        save_picture(tmp_path / "a.jpg", np.zeros((1, 70000, 3), np.uint8))
    save_picture(tmp_path / "a.png", np.zeros((1, 70000, 3), np.uint8))
    assert [path.name for path in Path(tmp_path).iterdir()] == ["a.png"]


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


@settings(deadline=None, derandomize=True)
@given(
    ids=st.lists(st.integers(0, 255), min_size=1, max_size=8),
    below=st.booleans(),
    classes=st.integers(1, 300),
    ignored=st.sampled_from([0, 7, 254, 255, 65535, -1]),
)
def test_check_labels_finds_every_wrong_id(ids, below, classes, ignored):
    labels = np.array([[*ids, -1]]) if below else np.array([ids], np.uint8)
    wrong = sorted({i for i in labels.flat if not 0 <= i < classes and i != ignored})
    if not wrong:
        check_labels(labels, num_classes=classes, ignore_label=ignored, path="x.png")
        return
    with pytest.raises(UserError, match=rf"ids? {', '.join(map(str, wrong[:8]))}, "):
        check_labels(labels, num_classes=classes, ignore_label=ignored, path="x.png")


def test_a_picture_is_examined_in_two_openings(tmp_path, monkeypatch):
    opened = []
    open_image = Image.open
    monkeypatch.setattr(Image, "open", lambda *args, **kwargs: opened.append(args) or open_image(*args, **kwargs))
    pixels = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pixels).save(tmp_path / "turned.png", exif=exif)
    deep = Image.fromarray(np.array([[0, 40000]], np.uint16))
    deep.save(tmp_path / "deep.tif", save_all=True, append_images=[deep])
    Image.fromarray(pixels).save(tmp_path / "broken.jpg", exif=b"Exif\0\0II*\0\xff\xff\xff\xff")
    (tmp_path / "cut.png").write_bytes((tmp_path / "turned.png").read_bytes()[:-30])
    for name in ("turned.png", "deep.tif", "broken.jpg"):
        opened.clear()
        facts = read_image_facts(tmp_path / name)
        assert len(opened) == 2
        np.testing.assert_array_equal(facts.pixels, read_image(tmp_path / name))
        assert facts.size == picture_size(tmp_path / name)
        assert facts.span == value_span(tmp_path / name)
        assert (facts.pages, facts.has_broken_exif, facts.problem) == (
            1 + (name == "deep.tif"),
            name == "broken.jpg",
            "",
        )
    facts = read_image_facts(tmp_path / "cut.png")
    assert facts.pixels is None
    assert "cut.png cannot be read as an image" in facts.problem
    facts = read_image_facts(tmp_path / "deep.tif", (0, 70000))
    assert facts.pixels.tolist() == [[[0] * 3, [146] * 3]]
    assert (read_image_facts(tmp_path / "none.png").size, read_image_facts(tmp_path).pixels) == (None, None)


def test_ids_out_of_range_are_named():
    labels = np.array([[0, 4, 255]], np.uint8)
    check_labels(labels, num_classes=5, ignore_label=255, path="x.png")
    with pytest.raises(UserError, match=r"x\.png holds label id 255, but .*NUM_CLASSES is 5.*0\.\.4.*label 254"):
        check_labels(labels, num_classes=5, ignore_label=254, path="x.png")
    with pytest.raises(UserError, match=r"x\.png holds label ids -1, 300,"):
        check_labels(np.array([[-1, 300, 2]]), num_classes=5, ignore_label=255, path="x.png")
    many = np.arange(64, dtype=np.uint8)[None]
    with pytest.raises(UserError, match=r"ids 5, 6, 7, 8, 9, 10, 11, 12 and 51 more, but"):
        check_labels(many, num_classes=5, ignore_label=255, path="x.png")


def jpeg_of_scans(path, scans, *, mode="L", after=b"", **options):
    """Write a JPEG file whose last scan is repeated until it has `scans`."""
    file = io.BytesIO()
    Image.new(mode, (16, 16), 90).save(file, "JPEG", **options)
    data = file.getvalue()
    last, there = data.rindex(b"\xff\xda"), data.count(b"\xff\xda")
    path.write_bytes(data[:last] + data[last:-2] * (scans - there + 1) + data[-2:] + after)


@pytest.mark.parametrize("options", [{"progressive": True}, {"mode": "RGB", "progressive": True}, {}], ids=str)
@pytest.mark.parametrize("read", [read_image, read_labels])
def test_a_jpeg_file_of_hundreds_of_scans_is_refused(tmp_path, options, read):
    jpeg_of_scans(tmp_path / "a.jpg", 300, **options)
    with pytest.raises(UnreadableFile, match=rf"a\.jpg is a JPEG file of more than {MAX_SCANS} scans, each of .* save"):
        read(tmp_path / "a.jpg")


def test_what_only_looks_like_scans_is_not_counted(tmp_path):
    exif = Image.Exif()
    exif[0x010F] = b"\xff\xda" * 200
    for name, options in {"exif": {"exif": exif}, "after": {"after": b"\xff\xda" * 200}}.items():
        jpeg_of_scans(tmp_path / f"{name}.jpg", 20, progressive=True, **options)
        assert (tmp_path / f"{name}.jpg").read_bytes().count(b"\xff\xda") > MAX_SCANS
        assert read_image(tmp_path / f"{name}.jpg").shape == (16, 16, 3)
    jpeg_of_scans(tmp_path / "most.jpg", MAX_SCANS, progressive=True)
    assert read_image(tmp_path / "most.jpg").shape == (16, 16, 3)


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "TIFF", "PNG"])
def test_of_many_pictures_in_a_file_the_first_alone_is_decoded(tmp_path, kind):
    first, *others = [Image.new("RGB", (32, 32), (i, 0, 200)) for i in range(5)]
    whole = tmp_path / f"whole.{kind.lower()}"
    first.save(whole, kind, save_all=True, append_images=others, **({"lossless": True} if kind == "WEBP" else {}))
    np.testing.assert_array_equal(read_image(whole), np.asarray(first))


def test_text_that_unpacks_to_far_more_than_the_file_is_refused(tmp_path):
    chunk = b"zTXta\0\0" + zlib.compress(bytes(10**6))
    file = io.BytesIO()
    Image.fromarray(RGB).save(file, "PNG")
    data = file.getvalue()  # the text stands after its header of 33 bytes
    text = struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk))
    (tmp_path / "a.png").write_bytes(data[:33] + 100 * text + data[33:])
    with pytest.raises(UnreadableFile, match=r"a\.png cannot be read as an image .*text chunks"):
        read_image(tmp_path / "a.png")


@pytest.mark.parametrize("read", [read_image, read_labels, image_io.picture_size])
def test_a_pipe_is_not_waited_for(tmp_path, read):
    os.mkfifo(tmp_path / "a.jpg")
    with pytest.raises(UnreadableFile, match=r"a\.jpg: not a regular file"):
        read(tmp_path / "a.jpg")
