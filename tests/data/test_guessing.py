"""`semask init-data`: a folder's images, labels, splits and ids, as a file that the check accepts."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

from semask_d2.__main__ import main
from semask_d2.config import get_cfg
from semask_d2.data.datasets.custom import CustomDataset
from semask_d2.data.guessing.ids import classes_of_ids
from semask_d2.data.guessing.names import NameTable
from semask_d2.data.guessing.text import quoted
from semask_d2.data.labels import read_sample_labels
from tests.helpers import label_tools
from tests.helpers.folders import COLORS, IDS, described, follow, labels, photograph, with_ids
from tests.helpers.own_data import write_data


def test_folders_of_splits_and_ids_with_gaps(tmp_path: Path) -> None:
    for split in ("train", "val"):
        for number in range(4):
            photograph(tmp_path / f"data/images/{split}/{number}.jpg", number + 10 * (split == "val"))
            labels(tmp_path / f"data/masks/{split}/{number}.png", IDS)
    content = described(tmp_path / "data", tmp_path)
    assert content["train"] == {"images": "images/train/*.jpg", "labels": "masks/train/*.png"}
    assert content["val"] == {"images": "images/val/*.jpg", "labels": "masks/val/*.png"}
    assert content["names"] == {0: "class_0", 1: "class_1", 2: "class_2"}
    assert content["map"] == {7: 0, 8: 1, 26: 2}
    assert main(["check", str(tmp_path / "new.yaml"), "--workers", "0"]) == 0


def test_endings_several_folders_colors_and_no_split(tmp_path: Path) -> None:
    for place in ("x", "y"):
        for number in range(8):
            photograph(tmp_path / f"data/pictures/{place}/{number}_left.jpg", number + 10 * (place == "y"))
            colored = COLORS[np.arange(10).reshape(2, 5) % 3]
            labels(tmp_path / f"data/drawn/{place}/{number}_ids.png", colored)
    content = described(tmp_path / "data", tmp_path)
    assert content["train"]["images"] == ["pictures/x/*_left.jpg", "pictures/y/*_left.jpg"]
    assert content["train"]["labels"] == ["drawn/x/*_ids.png", "drawn/y/*_ids.png"]
    assert content["val"] == 0.1
    assert content["rgb"] == {"#000000": 0, "#804080": 1, "#dc143c": 2}
    assert main(["check", str(tmp_path / "new.yaml"), "--workers", "0"]) == 0


def test_images_and_labels_in_one_folder(tmp_path: Path) -> None:
    for number in range(3):
        photograph(tmp_path / f"data/{number}.jpg", number)
        labels(tmp_path / f"data/{number}.png", IDS % 7)
    assert described(tmp_path / "data", tmp_path)["train"] == {"images": "*.jpg", "labels": "*.png"}


def test_folders_that_tell_nothing(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / "empty").mkdir()
    photograph(tmp_path / "photos/a.jpg", 0)
    for folder, message in (
        ("gone", "there is no such folder"),
        ("empty", "no image files in it"),
        ("photos", "found photographs in 1 place(s) and label files in 0"),
    ):
        assert main(["init-data", str(tmp_path / folder), "--output", str(tmp_path / "new.yaml")]) == 1
        assert message in capsys.readouterr().err
    file = write_data(tmp_path)
    assert main(["init-data", str(tmp_path / "photos"), "--output", str(file)]) == 1
    assert "already exists" in capsys.readouterr().err


# Ids that mean something


def painted(file: Path) -> set[int]:
    """Return all class ids in a dataset's label files, as training reads them."""
    dataset = CustomDataset.from_section(get_cfg(data=file).DATASETS.CUSTOM)
    return {int(i) for split in dataset.splits() for x in dataset.load(split) for i in np.unique(read_sample_labels(x))}


@pytest.mark.parametrize(
    ("ids", "names", "id_map", "ignore", "seen"),
    [
        ((0, 1), 2, None, 255, {0, 1}),
        ((0, 1, 255), 2, None, 255, {0, 1, 255}),
        ((0, 255), 2, {0: 0, 255: 1}, 255, {0, 1}),
        ((1, 2), 2, {1: 0, 2: 1}, 255, {0, 1}),
        ((7, 255), 2, {7: 0, 255: 1}, 255, {0, 1}),
        ((0, 1, -1), 2, {0: 0, 1: 1, -1: 255}, 255, {0, 1, 255}),
        ((0, 3, -9999), 2, {0: 0, 3: 1, -9999: 255}, 255, {0, 1, 255}),
        ((0, 1, 65535), 2, {0: 0, 1: 1, 65535: 255}, 255, {0, 1, 255}),
        ((0, -9999, 255), 2, {0: 0, 255: 1, -9999: 255}, 255, {0, 1, 255}),
    ],
)
def test_ids_become_classes_or_are_ignored(
    tmp_path: Path, ids: tuple[int, ...], names: int, id_map: dict | None, ignore: int, seen: set[int]
) -> None:
    narrow = min(ids) >= 0 and max(ids) < 256
    with_ids(tmp_path / "data", np.array(ids, np.uint8 if narrow else np.int32), ".png" if narrow else ".tif")
    content = described(tmp_path / "data", tmp_path)
    assert len(content["names"]) == names
    assert content.get("map") == id_map
    assert content["ignore"] == ignore
    assert main(["check", str(tmp_path / "new.yaml"), "--workers", "0"]) == 0
    assert painted(tmp_path / "new.yaml") == seen


@pytest.mark.parametrize("ids", [(255,), (7,), (0, -9999), (-1,)])
def test_one_class_is_said_loudly(tmp_path: Path, ids: tuple[int, ...], capsys: pytest.CaptureFixture) -> None:
    with_ids(tmp_path / "data", np.array(ids, np.int32), ".tif")
    main(["init-data", str(tmp_path / "data"), "--output", str(tmp_path / "new.yaml")])
    out, err = capsys.readouterr()
    assert "there is nothing to learn" in out + err


def test_a_color_alone_is_said_loudly(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    for number in range(3):
        photograph(tmp_path / f"data/images/{number}.jpg", number)
        labels(tmp_path / f"data/masks/{number}.png", COLORS[np.ones((2, 5), int)])
    assert described(tmp_path / "data", tmp_path)["rgb"] == {"#804080": 0}
    assert "the label files hold one color, #804080" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("ids", "count", "ignore", "ignored"),
    [
        (range(300), 300, 65535, []),
        ([*range(255), 256, 255, 299], 258, 65535, []),
        ([*range(200), 255], 200, 255, [255]),
        ([0, 100, 255, 300], 3, 255, [255]),
        ([*range(254), 255, *range(256, 300)], 298, 65535, [255]),
        (range(256), 255, 255, [255]),
        ([*range(255), 255, 65535], 255, 255, [255, 65535]),
    ],
)
def test_many_ids_and_the_one_ignored(ids: list[int], count: int, ignore: int, ignored: list[int]) -> None:
    classes = classes_of_ids(sorted(ids), NameTable())
    assert (len(classes.names), classes.ignore) == (count, ignore)
    targets = {i: classes.id_map.get(i, i if i == ignore or not classes.id_map else None) for i in ids}
    assert [i for i in ids if targets[i] == ignore] == ignored
    assert {targets[i] for i in ids if i not in ignored} == set(range(count))


def test_three_hundred_classes_are_accepted_by_the_check(tmp_path: Path) -> None:
    values = np.arange(300, dtype=np.uint16).reshape(20, 15).repeat(6, axis=0).repeat(8, axis=1)
    for number in range(3):
        label_tools.save(tmp_path / f"data/masks/{number}.png", np.roll(values, number))
        noise = np.random.default_rng(number).integers(0, 255, (*values.shape, 3)).astype(np.uint8)
        label_tools.save(tmp_path / f"data/images/{number}.jpg", noise)
    content = described(tmp_path / "data", tmp_path)
    assert (len(content["names"]), content["ignore"]) == (300, 65535)
    assert main(["check", str(tmp_path / "new.yaml"), "--workers", "0"]) == 0


def test_the_remark_on_255_can_be_followed(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    with_ids(tmp_path / "data", np.array((0, 255), np.uint8))
    described(tmp_path / "data", tmp_path)
    assert (
        "255 is taken for a class here, as only one would be left without it; `255: 255` in `map` ignores it"
        in capsys.readouterr().out
    )
    text = (tmp_path / "new.yaml").read_text()
    (tmp_path / "new.yaml").write_text(text.replace("  255: 1\n", "  255: 255\n"))
    assert painted(tmp_path / "new.yaml") == {0, 255}


# Names of files and folders


FOLDERS = (
    "field [2023]",
    "a*b",
    "it's",
    'say "hi"',
    "back\\slash",
    "two\nlines",
    "~",
    "#1: x",
    "ä ö",
    "x" * 201,
    "camvid",
)


@pytest.mark.parametrize("name", FOLDERS)
def test_folders_of_any_name(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / name
    for number in range(3):
        photograph(folder / name / f"images/{number}.jpg", number)
        labels(folder / name / f"masks/{number}_[x].png", IDS)
    assert main(["init-data", f"./{name}"]) == 0
    (file,) = tmp_path.glob("*.yaml")
    assert main(["check", file.name, "--workers", "0"]) == 0
    custom = get_cfg(data=file).DATASETS.CUSTOM
    assert (file.stem == custom.NAME) == (name != "coco_2017")


def test_a_text_is_quoted_as_yaml_reads_it() -> None:
    text = "".join(map(chr, [*range(1, 700), 0x2028, 0x2029, 0xFEFF, 0xFFFD, 0x1F600, 0x10FFFF]))
    assert yaml.safe_load(quoted(text)) == text


@pytest.mark.skipif(sys.platform != "linux", reason="other systems keep names in Unicode")
def test_names_that_are_no_unicode(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/data/\xff"))
    with_ids(folder, IDS)
    assert main(["init-data", str(tmp_path / "data"), "--output", str(tmp_path / "new.yaml")]) == 1
    assert "it holds file names that are not UTF-8; rename them" in capsys.readouterr().err
    folder.rename(tmp_path / "data/renamed")
    follow(tmp_path / "data", tmp_path, [])


def test_mixed_suffixes(tmp_path: Path) -> None:
    for number, suffix in enumerate((".jpg", ".JPG", ".png", ".jpeg")):
        photograph(tmp_path / f"data/images/{number}{suffix}", number)
        labels(tmp_path / f"data/masks/{number}{'.png' if number % 2 else '.tif'}", IDS)
    described(tmp_path / "data", tmp_path)
    assert main(["check", str(tmp_path / "new.yaml"), "--workers", "0"]) == 0
    dataset = CustomDataset.from_section(get_cfg(data=tmp_path / "new.yaml").DATASETS.CUSTOM)
    assert sum(len(dataset.load(split)) for split in dataset.splits()) == 4


def test_masks_beside_their_images(tmp_path: Path) -> None:
    for number in range(3):
        photograph(tmp_path / f"data/p_{number}.png", number)
        labels(tmp_path / f"data/p_{number}_mask.png", IDS)
    assert described(tmp_path / "data", tmp_path)["train"] == {"images": "*.png", "labels": "*_mask.png"}
    assert main(["check", str(tmp_path / "new.yaml"), "--workers", "0"]) == 0


def test_the_users_patterns_are_taken(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    for number in range(3):
        photograph(tmp_path / f"data/images/a{number}.jpg", number)
        photograph(tmp_path / f"data/images/b{number}.jpg", number)
        labels(tmp_path / f"data/masks/a{number}.png", IDS)
    content = follow(tmp_path / "data", tmp_path, ["--images", "images/a*.jpg", "--labels", "masks"])
    assert content["train"] == {"images": "images/a*.jpg", "labels": "masks/*.png"}
    for option in ("--images", "--labels"):
        words = ["init-data", str(tmp_path / "data"), "--output", str(tmp_path / "x.yaml"), option, "no/*.png"]
        capsys.readouterr()
        assert main(words) == 1
        assert f"{option}: {tmp_path}/data/no/*.png matches no file" in capsys.readouterr().err
