"""Label files without sharp ids: intermediate ids at borders, transparency instead of ids, lossy formats."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from semask_d2.__main__ import main
from semask_d2.data.guessing.ids import classes_of_ids
from semask_d2.data.guessing.names import NameTable
from semask_d2.data.image_io import lossy_format
from semask_d2.data.soft_borders import border_counts, soft_values
from tests.helpers.folders import photograph

DISK = (np.hypot(*np.mgrid[-80:80, -100:100]) < 60).astype(np.uint8)
GRAY, COLOR = DISK * 255, np.array([[0, 0, 0], [255, 60, 0]], np.uint8)[DISK]


def write(folder: Path, picture: Image.Image, suffix: str = ".png", **options: object) -> None:
    for number in range(3):
        photograph(folder / f"images/{number}.jpg", number)
        (folder / "masks").mkdir(exist_ok=True)
        picture.save(folder / f"masks/{number}{suffix}", **options)


def proposed(folder: Path, tmp_path: Path) -> dict:
    assert main(["init-data", str(folder), "--output", str(tmp_path / "new.yaml")]) == 0
    return yaml.safe_load((tmp_path / "new.yaml").read_text())


@pytest.mark.parametrize("resampling", [Image.Resampling.BILINEAR, Image.Resampling.LANCZOS, Image.Resampling.BOX])
@pytest.mark.parametrize("values", [GRAY, COLOR], ids=["ids", "colors"])
def test_ids_between_two_classes_are_ignored(
    values: np.ndarray, resampling: Image.Resampling, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    write(tmp_path / "data", Image.fromarray(values).resize((150, 120), resampling))
    for path in (tmp_path / "data/images").iterdir():
        Image.open(path).resize((150, 120)).save(path)
    content = proposed(tmp_path / "data", tmp_path)
    assert len(content["names"]) == 2
    table = content.get("map") or content["rgb"]
    assert {x: number for x, number in table.items() if number != 255} == (
        {0: 0, 255: 1} if values.ndim == 2 else {"#000000": 0, "#ff3c00": 1}
    )
    assert "WARNING: the label files have soft borders, as from antialiasing" in capsys.readouterr().out
    assert main(["check", str(tmp_path / "new.yaml"), "--workers", "0"]) == 0
    assert "0 fault(s), 0 warning(s)" in capsys.readouterr().out


def test_check_says_so_where_they_are_classes(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    write(tmp_path / "data", Image.fromarray(GRAY).resize((50, 40), Image.Resampling.BILINEAR))
    names = ", ".join(f"c{number}" for number in range(256))
    file = tmp_path / "mine.yaml"
    file.write_text(f"train: {{images: data/images, labels: data/masks}}\nnames: [{names}]\nignore: 999\n")
    assert main(["check", str(file), "--workers", "0"]) == 0
    assert "3 of 3 label file(s) of train have intermediate ids at borders" in capsys.readouterr().out


def test_regions_are_no_soft_borders() -> None:
    rng = np.random.default_rng(0)
    regions = rng.integers(0, 40, (8, 10)).repeat(6, axis=0).repeat(6, axis=1)
    assert soft_values(border_counts(regions)) == []
    assert soft_values(border_counts(rng.integers(0, 4, (40, 50)))) == []
    assert soft_values(border_counts(np.mgrid[:40, :50][1])) == []  # a ramp: all pixels lie between neighbors


@pytest.mark.parametrize(
    ("ids", "classes"), [([0, 128, 255], 3), ([0, 85, 170, 255], 4), ([0, 1, 2, 255], 3), ([0, 1, 255], 2)]
)
def test_255_is_a_class_as_the_last_of_equal_steps(ids: list[int], classes: int) -> None:
    result = classes_of_ids(ids, NameTable())
    assert len(result.names) == classes
    assert any(remark.startswith("255") for remark in result.remarks)


def test_masks_of_transparency_are_named(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    picture = Image.new("RGB", (50, 40), (255, 0, 0))
    picture.putalpha(Image.fromarray(GRAY).resize((50, 40), Image.Resampling.NEAREST))
    write(tmp_path / "data", picture)
    proposed(tmp_path / "data", tmp_path)
    out = capsys.readouterr().out
    assert "WARNING: there is nothing to learn: the label files hold one color, #ff0000" in out
    assert "they differ only in transparency, which is not read" in out


@pytest.mark.parametrize("options", [{}, {"exif": Image.Exif().tobytes()}])
def test_lossy_webp_is_told_from_lossless(options: dict, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    picture = Image.fromarray(COLOR)
    write(tmp_path / "lossy", picture, ".webp", **options)
    assert lossy_format(tmp_path / "lossy/masks/0.webp") == "lossy WebP"
    assert main(["init-data", str(tmp_path / "lossy"), "--output", str(tmp_path / "new.yaml")]) == 1
    assert "look like label files saved as lossy WebP" in capsys.readouterr().err
    write(tmp_path / "data", picture, ".webp", lossless=True, **options)
    assert len(proposed(tmp_path / "data", tmp_path)["rgb"]) == 2


def test_where_every_pixel_is_ignored_there_is_nothing_to_learn(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    write(tmp_path, Image.fromarray(DISK).resize((50, 40), Image.Resampling.NEAREST))
    file = tmp_path / "mine.yaml"
    file.write_text("train: {images: images, labels: masks}\nnames: [a, b]\nmap: {0: 255, 1: 255}\n")
    assert main(["check", str(file), "--workers", "0"]) == 1
    out = capsys.readouterr().out
    assert "FAULT: NOTHING TO LEARN" in out
    assert "every pixel of train is 255, ignored" in out
