"""Images of more than 8 bits: one value range for a dataset, stated, checked and proposed."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from semask_d2 import get_cfg, read_image
from semask_d2.__main__ import main
from semask_d2.config.checks import check_evaluation
from semask_d2.data.image_io import picture_size, value_span
from semask_d2.data.mapper import SemanticMapper
from semask_d2.data.pixel_values import ValueSpan, proposed_range, span_of
from semask_d2.utils.errors import UnreadableFile, UserError

RNG = np.random.default_rng(0)
GRAY = RNG.integers(0, 256, (12, 16)).astype(np.uint8)
COLORS = RNG.integers(0, 4096, (12, 16, 3)).astype(np.uint16)


def written(path: Path, values: np.ndarray) -> Path:
    """Write with OpenCV, which keeps all bits; colors are RGB."""
    cv2.imwrite(str(path), values if values.ndim == 2 else values[:, :, ::-1])
    return path


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("values", [COLORS, COLORS[:, :, 0]], ids=["color", "gray"])
def test_a_stated_range_is_black_to_white(tmp_path: Path, values: np.ndarray, suffix: str) -> None:
    path = written(tmp_path / f"a{suffix}", values)
    expected = np.round(values.reshape(12, 16, -1) * (255 / 4095)) + np.zeros((12, 16, 3))
    np.testing.assert_array_equal(read_image(path, value_range=(0, 4095)), expected)
    by_type = np.round(values.reshape(12, 16, -1) / 257) + np.zeros((12, 16, 3))
    np.testing.assert_array_equal(read_image(path), by_type)
    inner = np.clip(np.round((values.reshape(12, 16, -1).astype(float) - 1000) * (255 / 1000)), 0, 255)
    np.testing.assert_array_equal(read_image(path, value_range=(1000, 2000)), inner + np.zeros((12, 16, 3)))
    assert value_span(path) == ValueSpan(float(values.min()), float(values.max()), 0, False)


def test_one_rule_whatever_a_file_holds(tmp_path: Path) -> None:
    """The brightest pixel of a file does not change any other pixel."""
    low, high = GRAY.astype(np.uint16), GRAY.astype(np.uint16)
    high[0, 0] = 300
    for name, values in (("low", low), ("high", high)):
        written(tmp_path / f"{name}.png", values)
    for value_range in ((), (0, 255)):
        one, other = (read_image(tmp_path / f"{name}.png", value_range=value_range) for name in ("low", "high"))
        assert one.tobytes()[3:] == other.tobytes()[3:]
    np.testing.assert_array_equal(read_image(tmp_path / "low.png", value_range=(0, 255))[:, :, 0], GRAY)


def test_floats_go_from_0_to_1(tmp_path: Path) -> None:
    Image.fromarray((GRAY / 255).astype(np.float32)).save(tmp_path / "a.tif")
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif")[:, :, 1], GRAY)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (GRAY.astype(np.float32), r"0 to 255; expected 0 to 1: .*`value_range: \[0.0, 255.0\]`"),
        (np.full((4, 4), -3, np.int32), r"-3 to -3; expected 0 to 65535"),
        (np.array([[-5, 200]], np.int32), r"`value_range: \[-5.0, 200.0\]`"),
        (np.array([[0, 70000]], np.int32), r"`value_range: \[0.0, 70000.0\]`"),
        (np.array([[0.5, np.nan]], np.float32), r"0.5 to 0.5; some are NaN"),
        (np.full((2, 2), np.inf, np.float32), r"some are NaN"),
    ],
)
def test_without_a_range_other_values_are_refused(tmp_path: Path, values: np.ndarray, message: str) -> None:
    Image.fromarray(values).save(tmp_path / "a.tif")
    with pytest.raises(UnreadableFile, match=rf"a\.tif holds values from {message}|{message}"):
        read_image(tmp_path / "a.tif")
    assert read_image(tmp_path / "a.tif", value_range=(-10, 1000)).shape == (*values.shape, 3)


def with_tags(content: bytes, changes: dict[int, int], without: int = 0) -> bytes:
    """Return a little-endian TIFF with the short values of some tags changed, and one tag removed."""
    start = int.from_bytes(content[4:8], "little")
    count = int.from_bytes(content[start : start + 2], "little")
    entries = [content[place : place + 12] for place in range(start + 2, start + 2 + 12 * count, 12)]
    by_tag = {int.from_bytes(entry[:2], "little"): entry for entry in entries}
    for tag, value in changes.items():
        by_tag[tag] = tag.to_bytes(2, "little") + b"\3\0\1\0\0\0" + value.to_bytes(2, "little") + b"\0\0"
    by_tag.pop(without, None)
    assert len(by_tag) == count
    return content[: start + 2] + b"".join(x for _, x in sorted(by_tag.items())) + content[start + 2 + 12 * count :]


def test_orientation_is_applied_once_to_deep_colors(tmp_path: Path) -> None:
    written(tmp_path / "a.tif", COLORS)
    plain = read_image(tmp_path / "a.tif", value_range=(0, 4095))
    (tmp_path / "b.tif").write_bytes(with_tags((tmp_path / "a.tif").read_bytes(), {274: 6}, without=284))
    np.testing.assert_array_equal(read_image(tmp_path / "b.tif", value_range=(0, 4095)), np.rot90(plain, -1))
    assert picture_size(tmp_path / "b.tif") == (12, 16)


@pytest.mark.parametrize(
    ("spans", "expected"),
    [
        ([], None),
        ([(0, 255, False)], (0, 255)),
        ([(3, 300, False), (0, 1000, False)], (0, 1023)),
        ([(0, 4095, False)], (0, 4095)),
        ([(0, 16000, False)], (0, 16383)),
        ([(0, 40000, False)], None),
        ([(-1000, 3000, False)], (-1000, 3000)),
        ([(0, 90000, False)], (0, 90000)),
        ([(0, 1, True)], None),
        ([(0, 0.2, True), (0.1, 250, True)], (0, 255)),
        ([(-1.0004, 1.23456, True)], (-1.01, 1.24)),
        ([(0.0, 65535, True)], (0, 65600)),
        ([(512.3, 998.2, True)], (512, 999)),
        ([(5, 5, True)], (0, 255)),
        ([(700, 700, True)], (0, 700)),
        ([(7, 7, False)], None),
    ],
)
def test_ranges_to_state(spans: list, expected: tuple | None) -> None:
    assert proposed_range([ValueSpan(low, high, 0, is_float) for low, high, is_float in spans]) == expected


def test_a_range_holds_what_stands_for_no_data_out() -> None:
    for low, dtype in ((-9999, np.float32), (-3.4e38, np.float32), (-32768, np.int16)):
        values = np.full((4, 4), low, dtype)
        values[0] = np.arange(4)
        assert span_of(values)[:3] == (0, 3, 12)
        assert proposed_range([span_of(values)]) == ((0, 255) if dtype is np.float32 or low else None)
    assert span_of(np.array([[-9999, 3, 3100]], np.float32)) == ValueSpan(3, 3100, 1, True)
    assert span_of(np.array([[-9999, -9000, 3100]], np.float32)) == ValueSpan(-9999, 3100, 0, True)
    assert span_of(np.array([[-1024, 0, 3071]], np.int16)) == ValueSpan(-1024, 3071, 0, False)
    numbers = np.array([[np.nan, 0.5, 1]], np.float32)
    assert proposed_range([span_of(numbers)]) == (0, 1)


def test_signed_bytes_and_white_as_zero(tmp_path: Path) -> None:
    """Pillow reads signed bytes as unsigned, and does not invert images with white as zero."""
    signed = np.arange(-128, 128, dtype=np.int8).reshape(16, 16)
    Image.fromarray(signed.view(np.uint8)).save(tmp_path / "a.tif", tiffinfo={339: 2})
    assert value_span(tmp_path / "a.tif") == ValueSpan(-128, 127, 0, False)
    np.testing.assert_array_equal(
        read_image(tmp_path / "a.tif", value_range=(-128, 127))[:, :, 0], signed.astype(int) + 128
    )
    content = written(tmp_path / "b.tif", GRAY.astype(np.uint16) * 257).read_bytes()
    (tmp_path / "b.tif").write_bytes(with_tags(content, {262: 0}))
    np.testing.assert_array_equal(read_image(tmp_path / "b.tif")[:, :, 0], 255 - GRAY)


def test_jpeg_2000_keeps_its_bits(tmp_path: Path) -> None:
    """Pillow reads only the upper 8 of 16 bits in color files, so that 12-bit values would be almost black."""
    values = np.tile(COLORS, (4, 4, 1))  # OpenCV does not write smaller ones
    path = tmp_path / "a.jp2"
    assert cv2.imwrite(str(path), values[:, :, ::-1], [cv2.IMWRITE_JPEG2000_COMPRESSION_X1000, 1000])
    assert value_span(path) == ValueSpan(float(COLORS.min()), float(COLORS.max()), 0, False)
    np.testing.assert_array_equal(read_image(path, value_range=(0, 4095)), np.round(values * (255 / 4095)))


def test_check_names_bands_that_are_not_read_and_kinds_that_are_mixed(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    file = write_data(tmp_path, COLORS[:, :, 0], "value_range: [0, 4095]\n")
    bands = Image.fromarray(np.dstack([COLORS // 16, GRAY]).astype(np.uint8), "RGBA")
    bands.save(tmp_path / "img/0.tif")
    (tmp_path / "img/0.tif").write_bytes(with_tags((tmp_path / "img/0.tif").read_bytes(), {338: 0}))
    assert main(["check", str(file), "--workers", "0"]) == 0
    out = capsys.readouterr().out
    assert "0.tif has 1 extra band(s), which are not read" in out
    assert "images of train: 1 hold whole numbers of more than 8 bits, 1 hold 8 bits" in out


def write_data(folder: Path, values: np.ndarray, text: str = "", count: int = 2) -> Path:
    for i in range(count):
        for kind in ("img", "lab"):
            (folder / kind).mkdir(exist_ok=True)
        written(folder / f"img/{i}.tif", np.roll(values, 5 * i, axis=0))
        Image.fromarray((GRAY > 100).astype(np.uint8)).save(folder / f"lab/{i}.png")
    path = folder / "mine.yaml"
    path.write_text(f"train: {{images: img, labels: lab}}\nnames: [a, b]\n{text}")
    return path


def test_check_says_what_to_state_and_then_is_content(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    file = write_data(tmp_path, COLORS)
    assert main(["check", str(file), "--workers", "0"]) == 0
    out = capsys.readouterr().out
    assert "2 image(s) of train of more than 8 bits hold the values" in out
    assert "state the values of black and white in the dataset's file, `value_range: [0, 4095]`" in out
    file.write_text(file.read_text() + "value_range: [0, 4095]\n")  # follows the advice
    assert main(["check", str(file), "--workers", "0", "--html", str(tmp_path / "page.html")]) == 0
    assert "2 pairs of train read: 0 fault(s), 0 warning(s)" in capsys.readouterr().out
    file.write_text(file.read_text().replace("4095", "1000"))
    assert main(["check", str(file), "--workers", "0"]) == 0
    assert "values outside `value_range` [0.0, 1000.0] are clipped" in capsys.readouterr().out


def test_init_data_proposes_what_check_asks_for(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    write_data(tmp_path, COLORS, count=8).unlink()
    assert main(["init-data", str(tmp_path), "--output", str(tmp_path / "first.yaml")]) == 0
    assert "value_range: [0, 4095]  # the values of black and white" in (tmp_path / "first.yaml").read_text()
    assert main(["check", str(tmp_path / "first.yaml"), "--workers", "0"]) == 0
    assert "of more than 8 bits" not in capsys.readouterr().out


def test_pages_and_no_numbers_get_a_word(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    file = write_data(tmp_path, (GRAY / 255).astype(np.float32), "value_range: [0, 1]\n")
    values = (GRAY / 255).astype(np.float32)
    values[0, 0] = np.nan
    Image.fromarray(values).save(tmp_path / "img/0.tif", save_all=True, append_images=[Image.fromarray(values)])
    assert main(["check", str(file), "--workers", "0"]) == 0
    out = capsys.readouterr().out
    assert "0.tif has 2 pages; only the first is read" in out
    assert "1 image(s) of train hold NaN, infinity or values that mean no data" in out


def test_training_reads_by_the_files_range(tmp_path: Path) -> None:
    cfg = get_cfg("toy_scenes/semask_swin_mini_fpn.yaml", data=write_data(tmp_path, COLORS, "value_range: [0, 4095]\n"))
    assert cfg.INPUT.VALUE_RANGE == [0, 4095]
    cfg.INPUT.MIN_SIZE_TEST = 0
    mapped = SemanticMapper(cfg, is_train=False)({"file_name": str(tmp_path / "img/0.tif")})
    expected = torch.from_numpy(np.round(COLORS * (255 / 4095))).permute(2, 0, 1)
    expected = expected if cfg.INPUT.FORMAT == "RGB" else expected.flip(0)
    assert torch.equal(mapped["image"], expected.to(torch.uint8))


@pytest.mark.parametrize("value", ["[1]", "[5, 5]", "[9, 2]", "[0, .nan]", "[0, x]", "7", "{0: 1}"])
def test_ranges_of_a_file_that_are_none(tmp_path: Path, value: str) -> None:
    with pytest.raises(UserError, match=r"mine\.yaml: value_range: expected"):
        get_cfg(data=write_data(tmp_path, COLORS, f"value_range: {value}\n"))


@pytest.mark.parametrize("value", [[1], [5, 5], [9, 2], [0, float("nan")], [0, "x"], [0, 1, 2], [0, True]])
def test_ranges_of_a_config_that_are_none(value: list) -> None:
    cfg = get_cfg(opts=["MODEL.META_ARCHITECTURE", "SemanticFPN"])
    cfg.INPUT.VALUE_RANGE = value
    with pytest.raises(
        UserError, match=r"INPUT\.VALUE_RANGE: expected (\[\], or the values of black and white|a finite number)"
    ):
        check_evaluation(cfg)
