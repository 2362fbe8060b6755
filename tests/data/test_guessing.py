"""`semask init-data`: a folder's images, labels, splits and ids, as a file that the check accepts."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from semask_d2.__main__ import main
from semask_d2.config import get_cfg
from semask_d2.data.datasets.custom import CustomDataset
from semask_d2.data.guessing_ids import classes_of_ids
from semask_d2.data.guessing_names import NameTable
from semask_d2.data.guessing_yaml import quoted
from semask_d2.data.labels import read_sample_labels
from tests.helpers import label_tools
from tests.helpers.own_data import write_data


def photograph(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, (40, 50, 3)).astype(np.uint8)).save(path)


def labels(path: Path, values: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values.repeat(20, axis=0).repeat(10, axis=1)).save(path)


IDS = np.array([[7, 7, 8, 26, 255], [8, 8, 7, 7, 26]], np.uint8)
COLORS = np.array([[0, 0, 0], [128, 64, 128], [220, 20, 60]], np.uint8)


def described(folder: Path, tmp_path: Path) -> dict:
    assert main(["init-data", str(folder), "--output", str(tmp_path / "new.yaml")]) == 0
    return yaml.safe_load((tmp_path / "new.yaml").read_text())


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
        ("empty", "no picture in it"),
        ("photos", "found photographs in 1 place(s) and label files in 0"),
    ):
        assert main(["init-data", str(tmp_path / folder), "--output", str(tmp_path / "new.yaml")]) == 1
        assert message in capsys.readouterr().err
    file = write_data(tmp_path)
    assert main(["init-data", str(tmp_path / "photos"), "--output", str(file)]) == 1
    assert "is there already" in capsys.readouterr().err


# Ids that mean something


def with_ids(folder: Path, values: np.ndarray, suffix: str = ".png") -> None:
    """Three photographs with label files of the values, three times each."""
    for number in range(3):
        photograph(folder / f"images/{number}.jpg", number)
        (folder / "masks").mkdir(exist_ok=True)
        picture = Image.fromarray(np.resize(values, (2, 5)).repeat(20, axis=0).repeat(10, axis=1))
        picture.save(folder / f"masks/{number}{suffix}")


def painted(file: Path) -> set[int]:
    """All class ids that a data set's label files hold, as a training reads them."""
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
    assert "255 is taken for a class here, as without it one is left; `map`" in capsys.readouterr().out
    text = (tmp_path / "new.yaml").read_text()
    (tmp_path / "new.yaml").write_text(text.replace("  255: 1\n", "  255: 255\n"))
    assert painted(tmp_path / "new.yaml") == {0, 255}


# Two candidates are two


def refused(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> tuple[str, list[str]]:
    """The line with which init-data asks, and the words that it says to add."""
    assert main(["init-data", str(folder), "--output", str(tmp_path / "new.yaml")]) == 1
    message = capsys.readouterr().err
    assert len(message.splitlines()) == 1
    return message, shlex.split(message.partition("say which are meant with ")[2])


def follow(folder: Path, tmp_path: Path, words: list[str]) -> dict:
    """The file that the advice leads to, which the check takes."""
    assert main(["init-data", str(folder), "--output", str(tmp_path / "new.yaml"), *words]) == 0
    assert main(["check", str(tmp_path / "new.yaml"), "--workers", "0"]) == 0
    return yaml.safe_load((tmp_path / "new.yaml").read_text())


def mapillary(folder: Path) -> None:
    for number in range(3):
        photograph(folder / f"training/images/{number}.jpg", number)
        labels(folder / f"training/instances/{number}.png", IDS.astype(np.uint16) * 256)
        labels(folder / f"training/labels/{number}.png", IDS)


def cityscapes(folder: Path) -> None:
    for number in range(3):
        photograph(folder / f"leftImg8bit/train/a/a_{number}_leftImg8bit.png", number)
        labels(folder / f"gtFine/train/a/a_{number}_gtFine_labelIds.png", IDS)
        labels(folder / f"gtFine/train/a/a_{number}_gtFine_color.png", COLORS[IDS % 3])


def pascal(folder: Path) -> None:
    for number in range(3):
        photograph(folder / f"JPEGImages/{number}.jpg", number)
        for kind in ("Class", "Object"):
            labels(folder / f"Segmentation{kind}/{number}.png", IDS)


def masks_beside_coco(folder: Path) -> None:
    label_tools.cvat_coco(folder)
    for name in label_tools.SQUARES:
        label_tools.save(folder / f"masks/{name}.png", label_tools.ids(name))


@pytest.mark.parametrize(
    ("write", "names"),
    [
        (mapillary, ("training/instances/*.png", "training/labels/*.png")),
        (cityscapes, ("gtFine/train/a/*_gtFine_color.png", "gtFine/train/a/*_gtFine_labelIds.png")),
        (pascal, ("SegmentationClass/*.png", "SegmentationObject/*.png")),
        (masks_beside_coco, ("annotations/instances_default.json", "masks/*.png")),
    ],
)
def test_two_kinds_of_labels_are_asked_about(
    write: Callable[[Path], None], names: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    write(tmp_path / "data")
    message, words = refused(tmp_path / "data", tmp_path, capsys)
    assert all(name in message for name in names)
    assert "could both be the labels of the same images" in message
    assert words[0] == "--labels"
    assert follow(tmp_path / "data", tmp_path, words)["train"]["labels"] == words[1]
    (tmp_path / "new.yaml").unlink()
    (other,) = set(names) - {words[1]}
    assert follow(tmp_path / "data", tmp_path, ["--labels", other])["train"]["labels"] == other


def test_two_kinds_of_images_are_asked_about(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    for number in range(3):
        photograph(tmp_path / f"data/rgb/{number}.jpg", number)
        photograph(tmp_path / f"data/infrared/{number}.jpg", number + 10)
        labels(tmp_path / f"data/masks/{number}.png", IDS)
    message, words = refused(tmp_path / "data", tmp_path, capsys)
    assert "infrared/*.jpg and rgb/*.jpg could both be the images of the same labels; say" in message
    assert words == ["--images", "infrared/*.jpg"]
    assert follow(tmp_path / "data", tmp_path, ["--images", "rgb/*.jpg"])["train"]["images"] == "rgb/*.jpg"


@pytest.mark.parametrize("place", ["preview", "masks/preview"])
@pytest.mark.parametrize("opacity", [0.3, 0.7])
def test_colors_laid_over_images_are_named(
    place: str, opacity: float, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    for name in label_tools.SQUARES:
        picture = label_tools.photograph(name)
        label_tools.save(tmp_path / f"data/a_images/{name}.jpg", picture)
        label_tools.save(tmp_path / f"data/masks/{name}.png", label_tools.ids(name))
        mixed = picture * (1 - opacity) + label_tools.COLORS[label_tools.ids(name)] * opacity
        shown = np.where(label_tools.ids(name)[..., None] > 0, mixed, picture).astype(np.uint8)
        label_tools.save(tmp_path / f"data/{place}/{name}.jpg", shown)
    message, words = refused(tmp_path / "data", tmp_path, capsys)
    assert f"({place}/*.jpg looks like a_images/*.jpg with colors laid over it)" in message
    assert words == ["--images", "a_images/*.jpg"]
    assert follow(tmp_path / "data", tmp_path, words)["train"]["images"] == "a_images/*.jpg"


def test_images_of_a_split_without_labels_take_no_others(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    for number in range(3):
        for split in ("train", "test"):
            photograph(tmp_path / f"data/images/{split}/{number}.jpg", number + 10 * (split == "test"))
        labels(tmp_path / f"data/masks/train/{number}.png", IDS)
    content = described(tmp_path / "data", tmp_path)
    assert content["train"] == {"images": "images/train/*.jpg", "labels": "masks/train/*.png"}
    assert content["val"] == 0.1
    assert "left out: images/test/*.jpg, whose names are those of other images" in capsys.readouterr().out


def test_labels_farther_away_are_left_out_and_named(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    for number in range(3):
        photograph(tmp_path / f"data/new/images/{number}.jpg", number)
        labels(tmp_path / f"data/new/masks/{number}.png", IDS)
        labels(tmp_path / f"data/old/masks/{number}.png", IDS)
    assert described(tmp_path / "data", tmp_path)["train"]["labels"] == "new/masks/*.png"
    assert "left out: old/masks/*.png" in capsys.readouterr().out


def scan(seed: int) -> np.ndarray:
    """A smooth gray picture (40, 50) uint8 of a body."""
    y, x = np.mgrid[:40, :50]
    return (120 + 60 * np.sin((x + 7 * seed) / 19) + 50 * np.cos(y / 23)).astype(np.uint8) // 2 * 2


def test_smooth_scans_are_images_of_plainer_labels(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    for number in range(3):
        label_tools.save(tmp_path / f"data/scans/{number}.png", scan(number))
        labels(tmp_path / f"data/masks/{number}.png", IDS)
    content = described(tmp_path / "data", tmp_path)
    assert content["train"] == {"images": "scans/*.png", "labels": "masks/*.png"}
    for number in range(3):
        label_tools.save(tmp_path / f"alike/one/{number}.png", scan(number))
        label_tools.save(tmp_path / f"alike/two/{number}.png", scan(number)[:, ::-1])
    (tmp_path / "new.yaml").unlink()
    message, words = refused(tmp_path / "alike", tmp_path, capsys)
    assert "one/*.png and two/*.png could both be images or labels of each other" in message
    assert words == ["--images", "one/*.png"]


def test_label_files_saved_as_jpeg_are_named(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    for number in range(3):
        photograph(tmp_path / f"data/images/{number}.jpg", number)
        labels(tmp_path / f"data/masks/{number}.jpg", IDS)
        labels(tmp_path / f"data/drawn/{number}.jpeg", COLORS[IDS % 3])
    assert main(["init-data", str(tmp_path / "data"), "--output", str(tmp_path / "new.yaml")]) == 1
    assert "look like label files saved as JPEG, which changes ids at every border" in capsys.readouterr().err


def test_several_coco_files_of_one_split(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    for name in label_tools.SQUARES:
        label_tools.save(tmp_path / f"data/batch_{name}/{name}.jpg", label_tools.photograph(name))
        label_tools.write_json(tmp_path / f"data/batch_{name}/labels.JSON", label_tools.coco({name: f"{name}.jpg"}))
    assert main(["init-data", str(tmp_path / "data"), "--output", str(tmp_path / "new.yaml")]) == 1
    message = capsys.readouterr().err
    assert "batch_a/labels.JSON and batch_b/labels.JSON are COCO-format files of one split" in message
    words = shlex.split(message.partition("say which is meant with ")[2])
    content = follow(tmp_path / "data", tmp_path, words)
    assert content["train"] == {"images": "batch_a/*.jpg", "labels": "batch_a/labels.JSON"}
    assert "val" not in content  # of one image no part can be taken
    assert "one image alone has no part for a validation set" in capsys.readouterr().out


def test_one_coco_file_of_several_folders(tmp_path: Path) -> None:
    """Also of equal names, which the file tells apart by their folders."""
    files = {name: f"{folder}/0.jpg" for name, folder in (("a", "x"), ("b", "y"))}
    for name, file in files.items():
        label_tools.save(tmp_path / f"data/images/{file}", label_tools.photograph(name))
    label_tools.write_json(tmp_path / "data/labels.json", label_tools.coco(files))
    content = follow(tmp_path / "data", tmp_path, [])
    assert content["train"] == {"images": "images", "labels": "labels.json"}
    assert content["names"] == {0: "background", 1: "cat"}


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
    assert "names of files in it are not in UTF-8; rename them" in capsys.readouterr().err
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
