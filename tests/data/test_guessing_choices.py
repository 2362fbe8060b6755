"""`semask init-data` with ambiguous folders, and with images that are easily mistaken for labels."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from semask_d2.__main__ import main
from tests.helpers import label_tools
from tests.helpers.folders import COLORS, IDS, described, follow, labels, photograph


def refused(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> tuple[str, list[str]]:
    """Return the line with which init-data asks, and the words that it advises to add."""
    assert main(["init-data", str(folder), "--output", str(tmp_path / "new.yaml")]) == 1
    message = capsys.readouterr().err
    assert len(message.splitlines()) == 1
    return message, shlex.split(message.partition("choose with ")[2])


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
    assert "infrared/*.jpg and rgb/*.jpg could both be the images of the same labels; choose" in message
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
    assert "left out: images/test/*.jpg, which has no labels" in capsys.readouterr().out


def test_images_beside_their_labels_go_before_others(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    for number in range(3):
        photograph(tmp_path / f"data/x/{number}.jpg", number)
        photograph(tmp_path / f"data/y/{number}.jpg", number + 10)
        labels(tmp_path / f"data/x/{number}.png", IDS)
    assert described(tmp_path / "data", tmp_path)["train"] == {"images": "x/*.jpg", "labels": "x/*.png"}
    assert "left out: y/*.jpg, as x/*.png belongs to other images with these names" in capsys.readouterr().out


def test_a_choice_is_one_for_all_splits(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    for place, split in enumerate(("training", "validation")):
        for number in range(3):
            photograph(tmp_path / f"data/{split}/images/{number}.jpg", number + 10 * place)
            for kind in ("instances", "labels", "panoptic"):
                labels(tmp_path / f"data/{split}/{kind}/{number}.png", IDS)
    photograph(tmp_path / "data/testing/images/0.jpg", 99)
    message, words = refused(tmp_path / "data", tmp_path, capsys)
    assert "training/instances/*.png, training/labels/*.png and training/panoptic/*.png could all be" in message
    assert words == ["--labels", "*/labels/*.png"]
    content = follow(tmp_path / "data", tmp_path, words)
    assert content["val"] == {"images": "validation/images/*.jpg", "labels": "validation/labels/*.png"}


def test_a_damaged_file_among_the_probed_ones(tmp_path: Path) -> None:
    for number in range(3):
        photograph(tmp_path / f"data/images/{number}.jpg", number)
        labels(tmp_path / f"data/masks/{number}.png", IDS)
    for path in (tmp_path / "data/images/2.jpg", tmp_path / "data/masks/1.png"):
        path.write_bytes(path.read_bytes()[:40])
    assert described(tmp_path / "data", tmp_path)["train"] == {"images": "images/*.jpg", "labels": "masks/*.png"}


def test_labels_farther_away_are_left_out_and_named(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    for number in range(3):
        photograph(tmp_path / f"data/new/images/{number}.jpg", number)
        labels(tmp_path / f"data/new/masks/{number}.png", IDS)
        labels(tmp_path / f"data/old/masks/{number}.png", IDS)
    assert described(tmp_path / "data", tmp_path)["train"]["labels"] == "new/masks/*.png"
    assert "left out: old/masks/*.png, farther from the images" in capsys.readouterr().out
    for number in range(3, 6):
        photograph(tmp_path / f"data/new/images/{number}.jpg", number)
        labels(tmp_path / f"data/new/masks/{number}.png", IDS)
    labels(tmp_path / "data/new/reviewed/0.png", IDS)
    (tmp_path / "new.yaml").unlink()
    assert described(tmp_path / "data", tmp_path)["train"]["labels"] == "new/masks/*.png"
    assert "left out: new/reviewed/*.png, labels of fewer of the images" in capsys.readouterr().out


def scan(seed: int) -> np.ndarray:
    """Return a smooth gray image (40, 50) uint8 of a body."""
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
    assert "one/*.png and two/*.png could both be images or labels" in message
    assert words == ["--images", "one/*.png"]


@pytest.mark.parametrize(
    ("scale", "dtype", "expected"),
    [(1 / 255, np.float32, None), (1, np.float32, [0, 255]), (16, np.int32, [0, 4095]), (257, np.int32, None)],
)
def test_images_of_more_than_8_bits(
    scale: float, dtype: type, expected: list | None, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    for number in range(3):
        gray = np.random.default_rng(number).integers(0, 256, (40, 50))
        gray[0, :2] = 0, 255
        label_tools.save(tmp_path / f"data/images/{number}.tif", (gray * scale).astype(dtype))
        labels(tmp_path / f"data/masks/{number}.png", IDS)
    assert follow(tmp_path / "data", tmp_path, []).get("value_range") == expected
    assert "0 fault(s), 0 warning(s)" in capsys.readouterr().out


def test_scans_beside_their_masks(tmp_path: Path) -> None:
    for number in range(3):
        label_tools.save(tmp_path / f"data/p{number}.png", scan(number))
        labels(tmp_path / f"data/p{number}_mask.png", IDS)
    assert follow(tmp_path / "data", tmp_path, [])["train"] == {"images": "*.png", "labels": "*_mask.png"}


@pytest.mark.parametrize("name", ["masks/{}.jpg", "images/{}_mask.jpg"])
def test_masks_of_two_values_saved_as_jpeg(name: str, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    for number in range(3):
        photograph(tmp_path / f"data/images/{number}.jpg", number)
        (tmp_path / "data/masks").mkdir(exist_ok=True)
        picture = Image.fromarray(label_tools.ids("a") * 255)
        picture.save(tmp_path / "data" / name.format(number))
    assert main(["init-data", str(tmp_path / "data"), "--output", str(tmp_path / "new.yaml")]) == 1
    assert "look like label files saved as JPEG" in capsys.readouterr().err


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
    assert "batch_a/labels.JSON and batch_b/labels.JSON are COCO-format files of the same split" in message
    words = shlex.split(message.partition("or choose one with ")[2])
    content = follow(tmp_path / "data", tmp_path, words)
    assert content["train"] == {"images": "batch_a/*.jpg", "labels": "batch_a/labels.JSON"}
    assert "val" not in content  # of one image no part can be taken
    assert "a single image cannot be split into training and validation" in capsys.readouterr().out


def test_one_coco_file_of_several_folders(tmp_path: Path) -> None:
    """Handle equal names, too, which the file distinguishes by their folders."""
    files = {name: f"{folder}/0.jpg" for name, folder in (("a", "x"), ("b", "y"))}
    for name, file in files.items():
        label_tools.save(tmp_path / f"data/images/{file}", label_tools.photograph(name))
    label_tools.write_json(tmp_path / "data/labels.json", label_tools.coco(files))
    content = follow(tmp_path / "data", tmp_path, [])
    assert content["train"] == {"images": "images", "labels": "labels.json"}
    assert content["names"] == {0: "background", 1: "cat"}
