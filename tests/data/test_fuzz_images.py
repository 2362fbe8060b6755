"""Files of every format, damaged by a seeded generator: each gives an image, or a `UserError` that names it."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from semask_d2.data.image_io import read_image, read_labels
from semask_d2.utils.errors import UserError

LIMIT = 100_000
PER_FILE = 300
SIZE = (37, 23)


def whole_files() -> dict[str, bytes]:
    """Return small files of all common kinds, by name."""
    rng = np.random.default_rng(0)
    ids = Image.fromarray(rng.integers(0, 9, SIZE[::-1], dtype=np.uint8).repeat(4, 0).repeat(4, 1))
    photo = Image.fromarray(rng.integers(0, 256, (*SIZE[::-1], 3), dtype=np.uint8))
    wide = Image.fromarray(rng.integers(0, 65536, SIZE[::-1]).astype(np.uint16))
    floats = Image.fromarray(rng.random(SIZE[::-1], dtype=np.float32))
    exif = Image.Exif()
    exif[0x0112] = 6
    exif[0x010F] = "maker"
    kinds: dict[str, tuple[Image.Image, str, dict]] = {
        "rgb.png": (photo, "PNG", {"exif": exif}),
        "rgba.png": (photo.convert("RGBA"), "PNG", {}),
        "palette.png": (photo.convert("P"), "PNG", {"transparency": 3}),
        "ids.png": (ids, "PNG", {}),
        "bits.png": (ids.convert("1"), "PNG", {}),
        "wide.png": (wide, "PNG", {}),
        "photo.jpg": (photo, "JPEG", {"exif": exif}),
        "progressive.jpg": (photo, "JPEG", {"progressive": True}),
        "cmyk.jpg": (photo.convert("CMYK"), "JPEG", {}),
        "two.jpg": (photo, "MPO", {"save_all": True, "append_images": [photo]}),
        "rgb.bmp": (photo, "BMP", {}),
        "palette.bmp": (ids, "BMP", {}),
        "still.gif": (photo, "GIF", {}),
        "moving.gif": (photo, "GIF", {"save_all": True, "append_images": [photo.rotate(90)]}),
        "plain.tif": (photo, "TIFF", {"exif": exif}),
        "lzw.tif": (photo, "TIFF", {"compression": "tiff_lzw"}),
        "floats.tif": (floats, "TIFF", {}),
        "wide.tif": (wide, "TIFF", {"compression": "tiff_deflate"}),
        "lossy.webp": (photo, "WEBP", {"exif": exif}),
        "lossless.webp": (photo.convert("RGBA"), "WEBP", {"lossless": True}),
        "rgb.ppm": (photo, "PPM", {}),
        "rgb.jp2": (photo, "JPEG2000", {}),
    }
    files = {}
    for name, (image, kind, options) in kinds.items():
        buffer = io.BytesIO()
        image.save(buffer, kind, **options)
        files[name] = buffer.getvalue()
    return files


def damaged(whole: bytes, rng: np.random.Generator) -> bytes:
    """Damage a file one to three times: bytes are changed, cut, removed, repeated or inserted; often in the header."""
    data = bytearray(whole)
    for _ in range(rng.integers(1, 4)):
        end = max(1, min(len(data), 64 if rng.random() < 0.3 else len(data)))
        at, length = int(rng.integers(end)), int(rng.integers(1, 12))
        kind = rng.integers(6)
        if kind == 0:
            data[at : at + 1] = rng.bytes(1)
        elif kind == 1:
            data[at : at + length] = rng.bytes(length)
        elif kind == 2:
            data[at : at + length] = bytes([int(rng.choice([0, 127, 255]))]) * length
        elif kind == 3:
            del data[at : at + length]
        elif kind == 4:
            data[at:at] = data[at : at + length]
        else:
            del data[int(rng.integers(len(data) + 1)) :]
    return bytes(data)


def outcome_of(read: Callable, path: Path) -> str | None:
    """Return None if a file is read as an image within the size limit, else the message of its `UserError`."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow warns of damage that it can skip
        try:
            pixels = read(path)
        except UserError as error:
            return str(error)
        except Exception as error:
            pytest.fail(f"{path.name}: {error!r}")
    assert 0 < pixels.shape[0] * pixels.shape[1] <= LIMIT
    assert pixels.dtype in ((np.uint8,) if read is read_image else (np.uint8, np.int64))
    return None


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("semask_d2.data.opening.MAX_PIXELS", LIMIT)


@pytest.mark.parametrize("read", [read_image, read_labels])
def test_a_damaged_file_is_an_image_or_an_error_that_names_it(tmp_path: Path, read: Callable) -> None:
    outcomes = []
    for name, whole in whole_files().items():
        rng = np.random.default_rng(list(name.encode()))
        for number in range(PER_FILE):
            path = tmp_path / f"{number}.{name}"  # overwriting one file again and again is slow on some file systems
            path.write_bytes(damaged(whole, rng) if number else whole)
            outcome = outcome_of(read, path)
            assert outcome is None or (str(path) in outcome and "\n" not in outcome)
            outcomes.append(outcome is None)
            path.unlink()
    # the damage is neither always fatal nor harmless; half of the files are in color, which labels may not be
    assert (0.2 if read is read_image else 0.05) < np.mean(outcomes) < 0.8
