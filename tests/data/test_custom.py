"""Custom datasets: pairing, validation fraction, registration, COCO files, and each documented message."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import semask_d2
from semask_d2.config import get_cfg
from semask_d2.d2 import DatasetCatalog, MetadataCatalog
from semask_d2.data import build_mapper, get_dataset_dicts, read_image, register_custom
from semask_d2.data.datasets import config_classes, custom
from semask_d2.data.labels import read_sample_labels
from semask_d2.data.quick_check import quick_check
from semask_d2.evaluation import SemanticEvaluator
from semask_d2.utils.colors import distinct_colors
from semask_d2.utils.errors import UserError
from tests.helpers.own_data import NAMES, TEXT, write_data, write_file, write_pair


@pytest.fixture(autouse=True)
def catalogs() -> Iterator[None]:
    """Restore the catalogs after each test."""
    yield
    for name in list(custom._registered):
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)
        del custom._registered[name]


def pairs(file: Path, name: str = "mine_train") -> list[tuple[str, str]]:
    register_custom(get_cfg(data=file))
    dicts = get_dataset_dicts(name)
    root = file.parent
    return [tuple(str(Path(x[key]).relative_to(root)) for key in ("file_name", "sem_seg_file_name")) for x in dicts]


def test_both_splits_are_registered_with_their_metadata(tmp_path: Path) -> None:
    cfg = get_cfg(data=write_data(tmp_path))
    for _ in range(2):
        register_custom(cfg)
    metadata = MetadataCatalog.get("mine_val")
    assert metadata.stuff_classes == list(NAMES)
    assert metadata.stuff_colors == [list(color) for color in distinct_colors(3)]
    assert (metadata.ignore_label, metadata.evaluator_type) == (255, "sem_seg")
    assert [len(get_dataset_dicts(name)) for name in ("mine_train", "mine_val")] == [4, 4]
    assert config_classes(cfg).names == tuple(NAMES)


def test_another_description_takes_the_place_of_the_first(tmp_path: Path) -> None:
    register_custom(get_cfg(data=write_data(tmp_path)))
    register_custom(get_cfg(data=write_file(tmp_path, TEXT.replace("car", "bus").replace("/b/", "/a/"))))
    assert MetadataCatalog.get("mine_val").stuff_classes == ["sky", "road", "bus"]
    assert "img/a" in get_dataset_dicts("mine_val")[0]["file_name"]


def test_a_name_of_somebody_else_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r'registered as "toy_scenes_train", which is already taken'):
        register_custom(get_cfg(data=write_data(tmp_path, TEXT + "name: toy_scenes\n")))


def test_a_config_without_one_registers_nothing() -> None:
    assert register_custom(get_cfg()) is None


@pytest.mark.parametrize(
    ("images", "labels"),
    [
        ('"img/**/*.png"', '"lab/**/*.png"'),
        ("img", "lab"),
        ("[img/a, img/b]", "[lab/a, lab/b]"),
        ("[img/a/0.png, img/b/0.png]", "[lab/a/0.png, lab/b/0.png]"),
    ],
)
def test_equal_names_in_two_folders_are_paired_each_with_its_own(tmp_path: Path, images: str, labels: str) -> None:
    write_data(tmp_path, count=1)
    text = f"train: {{images: {images}, labels: {labels}}}\nnames: [a, b, c]\n"
    expected = [("img/a/0.png", "lab/a/0.png"), ("img/b/0.png", "lab/b/0.png")]
    assert pairs(write_file(tmp_path, text)) == expected


def test_endings_of_patterns_are_no_part_of_a_name(tmp_path: Path) -> None:
    for city in ("x", "y"):
        write_pair(tmp_path, city, "0", np.zeros((2, 2), np.uint8))
        (tmp_path / f"img/{city}/0.png").rename(tmp_path / f"img/{city}/0_image.png")
        (tmp_path / f"lab/{city}/0.png").rename(tmp_path / f"lab/{city}/0_ids.png")
    text = 'train: {images: "img/*/*_image.png", labels: "lab/*/*_ids.png"}\nnames: [a]\n'
    assert pairs(write_file(tmp_path, text)) == [
        ("img/x/0_image.png", "lab/x/0_ids.png"),
        ("img/y/0_image.png", "lab/y/0_ids.png"),
    ]


def test_a_text_file_of_pairs(tmp_path: Path) -> None:
    write_data(tmp_path)
    (tmp_path / "good.txt").write_text("img/a/2.png\tlab/a/1.png\n\nimg/b/0.png\tlab/b/0.png\n")
    file = write_file(tmp_path, "train: good.txt\nnames: [a, b, c]\n")
    assert pairs(file) == [("img/a/2.png", "lab/a/1.png"), ("img/b/0.png", "lab/b/0.png")]
    (tmp_path / "good.txt").write_text("img/a/2.png lab/a/1.png\n")
    with pytest.raises(UserError, match=r"good\.txt, line 1: expected an image, a tab and its label file"):
        pairs(file)


def test_a_fraction_does_not_depend_on_other_files(tmp_path: Path) -> None:
    text = "train: {images: img/a, labels: lab/a}\nval: 0.3\nnames: [a, b, c]\n"
    file = write_data(tmp_path, text, count=40)
    before = {split: {image for image, _ in pairs(file, f"mine_{split}")} for split in ("train", "val")}
    assert not before["train"] & before["val"]
    assert len(before["train"] | before["val"]) == 40
    assert 6 <= len(before["val"]) <= 18
    for number in range(100, 120):
        write_pair(tmp_path, "a", str(number), np.zeros((2, 2), np.uint8))
    for split, images in before.items():
        after = {image for image, _ in pairs(file, f"mine_{split}")}
        assert {image for image in after if len(Path(image).stem) < 3} == images


def test_a_fraction_of_few_images_is_one(tmp_path: Path) -> None:
    text = "train: {images: img/a, labels: lab/a}\nval: 0.0001\nnames: [a, b, c]\n"
    file = write_data(tmp_path, text)
    assert (len(pairs(file)), len(pairs(file, "mine_val"))) == (3, 1)


def test_files_without_a_partner_are_named(tmp_path: Path) -> None:
    file = write_data(tmp_path)
    (tmp_path / "lab/a/2.png").unlink()
    (tmp_path / "img/a/3.png").unlink()
    with pytest.raises(UserError) as caught:
        pairs(file)
    assert f"mine: train: 1 image(s) without a label file: {tmp_path}/img/a/2.png" in str(caught.value)
    assert f"1 label file(s) without an image: {tmp_path}/lab/a/3.png" in str(caught.value)


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("img/a/*.jpg", "matches no file"),
        ("img/a/*.txt", r"matches 1 file\(s\) of other kinds \(.txt\), but no image file"),
        ("img/z", "img/z does not exist: expected a file, a folder, or a pattern"),
        ("img/a", r"0\.jpg and .*0\.png have the same name"),
    ],
)
def test_patterns_that_find_nothing_to_use(tmp_path: Path, pattern: str, message: str) -> None:
    file = write_data(tmp_path, TEXT.replace("img/a/*.png", pattern))
    (tmp_path / "img/a/notes.txt").touch()
    if pattern == "img/a":
        (tmp_path / "img/a/0.jpg").touch()
    with pytest.raises(UserError, match=f"mine: train: images: .*{message}"):
        pairs(file)


def test_every_reader_goes_through_the_table(tmp_path: Path) -> None:
    """Check mapper and evaluator, with and without a label file in the sample."""
    write_pair(tmp_path, "a", "0", np.array([[7, 9], [9, 7]], np.uint8))
    file = write_file(tmp_path, 'train: {images: img, labels: lab}\nval: {images: img, labels: lab}\n'
                                "names: [x, y]\nmap: {7: 1, 9: 0}\n")  # fmt: skip
    cfg = get_cfg("toy_scenes/semask_swin_mini_m2f.yaml", ["INPUT.CROP.ENABLED", "False"], data=file)
    register_custom(cfg)
    (sample,) = get_dataset_dicts("mine_val")
    assert read_sample_labels(sample).tolist() == [[1, 0], [0, 1]]
    mapped = build_mapper(cfg, is_train=True)(sample, rng=np.random.default_rng(0))
    assert set(mapped["sem_seg"].unique().tolist()) <= {0, 1, 255}
    evaluator = SemanticEvaluator("mine_val")
    output = [{"sem_seg": torch.tensor([[1, 0], [0, 1]])}]
    evaluator.process([sample], output)
    evaluator.process([{"file_name": sample["file_name"]}], output)
    assert evaluator.confusion.counts.tolist() == [[4, 0], [0, 4]]


def coco(tmp_path: Path, names: str, **changes: object) -> Path:
    for name in ("0", "sub/1", "2"):
        write_pair(tmp_path, "a", name, np.zeros((6, 8), np.uint8))
    content = {
        "images": [
            {"id": 5, "file_name": "0.png", "height": 6, "width": 8},
            {"id": 6, "file_name": "sub/1.png", "height": 6, "width": 8},
        ],
        "categories": [{"id": 11, "name": "road"}, {"id": 12, "name": "car"}],
        "annotations": [
            {"id": 1, "image_id": 5, "category_id": 12, "area": 4, "segmentation": [[1, 1, 3, 1, 3, 3, 1, 3]]},
            {"id": 2, "image_id": 5, "category_id": 11, "area": 16, "segmentation": [[0, 0, 4, 0, 4, 4, 0, 4]]},
        ],
    }
    (tmp_path / "labels.json").write_text(json.dumps(content | changes))
    return write_file(tmp_path, f"train: {{images: img/a, labels: labels.json}}\nnames: {names}\n")


@pytest.mark.parametrize(
    "file_name", ["0.PNG", "img\\a\\0.png", "../x/0.png", "/data/upload/1/0a1b2c3d-0.png", "./img/a/0.png"]
)
def test_coco_files_name_images_as_tools_do(tmp_path: Path, file_name: str) -> None:
    file = coco(tmp_path, "[car, road]", images=[{"id": 5, "file_name": file_name, "height": 6, "width": 8}])
    for name in ("2", "sub/1"):
        (tmp_path / f"img/a/{name}.png").unlink()
    assert pairs(file) == [("img/a/0.png", "labels.json")]


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_coco_files_in_encodings_of_windows(tmp_path: Path, encoding: str) -> None:
    file = coco(tmp_path, "[car, road]")
    (tmp_path / "img/a/2.png").unlink()
    (tmp_path / "labels.json").write_bytes((tmp_path / "labels.json").read_text().encode(encoding))
    assert [image for image, _ in pairs(file)] == ["img/a/0.png", "img/a/sub/1.png"]


def test_labelmes_background_and_ignored_category(tmp_path: Path) -> None:
    file = coco(tmp_path, "[background, car]", categories=[{"id": 11, "name": "__ignore__"}, {"id": 12, "name": "car"}])
    register_custom(get_cfg(data=file))
    expected = np.zeros((6, 8))
    expected[:4, :4] = 255
    expected[1:3, 1:3] = 1
    with pytest.raises(UserError):
        get_dataset_dicts("mine_train")  # an image has no entry
    (tmp_path / "img/a/2.png").unlink()
    np.testing.assert_array_equal(read_sample_labels(get_dataset_dicts("mine_train")[0]), expected)
    categories = [{"id": 11, "name": "_background_"}, {"id": 12, "name": "car"}]
    register_custom(get_cfg(data=coco(tmp_path, "[car, Background]", categories=categories)))
    (tmp_path / "img/a/2.png").unlink()
    assert set(np.unique(read_sample_labels(get_dataset_dicts("mine_train")[0]))) == {0, 1}


@pytest.mark.parametrize(("names", "empty"), [("[car, road]", 255), ("[background, car, road]", 0)])
def test_coco_files_are_label_maps(tmp_path: Path, names: str, empty: int) -> None:
    file = coco(tmp_path, names)
    (tmp_path / "img/a/2.png").unlink()
    register_custom(get_cfg(data=file))
    first, second = get_dataset_dicts("mine_train")
    expected = np.full((6, 8), empty)
    expected[:4, :4] = 1 + (empty == 0)
    expected[1:3, 1:3] = empty == 0  # car, the smaller, on top
    np.testing.assert_array_equal(read_sample_labels(first), expected)
    assert (read_sample_labels(second) == empty).all()
    quick_check(get_cfg(data=file))


def test_categories_may_be_mapped_by_their_ids(tmp_path: Path) -> None:
    file = coco(tmp_path, "[a]\nmap: {11: 0, 12: 255}")
    (tmp_path / "img/a/2.png").unlink()
    register_custom(get_cfg(data=file))
    assert np.unique(read_sample_labels(get_dataset_dicts("mine_train")[0])).tolist() == [0, 255]


@pytest.mark.parametrize(
    ("names", "changes", "message"),
    [
        ("[car, raod]", {}, 'category "road" (id 11) is not in `names`. Did you mean "raod"'),
        ("[a]\nmap: {11: 0}", {}, "`map` of the dataset is missing the categories 12 (car)"),
        ("[car, road]", {}, "1 image(s) without a label file"),
        ("[car, road]", {"images": []}, "3 image(s) without a label file"),
        ("[car, road]", {"annotations": 3}, "is not in COCO format"),
        ("[car, road]", {"categories": []}, "annotation 1 (0.png): an annotation with unknown category id 12"),
    ],
)
def test_what_is_wrong_with_a_coco_file(tmp_path: Path, names: str, changes: dict, message: str) -> None:
    register_custom(get_cfg(data=coco(tmp_path, names, **changes)))
    if "categories" in changes:
        (tmp_path / "img/a/2.png").unlink()
    with pytest.raises(UserError) as caught:
        get_dataset_dicts("mine_train")
    assert message in str(caught.value)


def test_the_quick_check_tells_faults_and_overlaps(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    file = write_data(tmp_path, TEXT.replace("/b/", "/a/"))
    cfg = get_cfg(data=file)
    register_custom(cfg)
    quick_check(cfg)
    assert "mine_train: 4 pairs; checked the sizes of 4 and the ids of 4" in caplog.text
    assert "4 image(s) are in both a training set and a test set" in caplog.text
    write_pair(tmp_path, "a", "2", np.full((3, 3), 9, np.uint8), np.zeros((3, 4, 3), np.uint8))
    with pytest.raises(UserError) as caught:
        quick_check(cfg)
    assert "2.png is 4 x 3 but its label file" in str(caught.value)
    assert "2.png holds label id 9" in str(caught.value)


def test_the_quick_check_leaves_unreadable_files_to_their_readers(tmp_path: Path) -> None:
    cfg = get_cfg(data=write_data(tmp_path))
    register_custom(cfg)
    (tmp_path / "img/a/0.png").write_bytes(b"")
    (tmp_path / "lab/a/1.png").write_bytes(b"")
    quick_check(cfg)


def test_one_class_everywhere_is_said_loudly(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = write_data(tmp_path, TEXT.replace("[sky, road, car]", "[sky, road]") + "map: {0: 0, 1: 255, 2: 255}\n")
    cfg = get_cfg(data=file)
    register_custom(cfg)
    quick_check(cfg)
    for split in ("train", "val"):
        message = f"mine_{split}: ONE CLASS IS EVERYWHERE: every labeled pixel of 4 label files"
        assert caplog.text.count(message) == 1
    assert 'has class 0 "sky"' in caplog.text
    caplog.clear()
    evaluator = SemanticEvaluator("mine_val")
    sample = get_dataset_dicts("mine_val")[0]
    evaluator.process([sample], [{"sem_seg": torch.zeros(read_sample_labels(sample).shape, dtype=torch.long)}])
    assert evaluator.evaluate()["sem_seg"]["mIoU"] == 100
    assert "mine_val: ONE CLASS IS EVERYWHERE: every labeled pixel of 1 images" in caplog.text


def test_no_class_at_all_is_said_loudly(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    cfg = get_cfg(data=write_data(tmp_path, TEXT + "map: {0: 255, 1: 255, 2: 255}\n"))
    register_custom(cfg)
    quick_check(cfg)
    assert "mine_train: NO PIXEL HAS A CLASS: every pixel of 4 label files is 255, which is ignored" in caplog.text


def test_a_fraction_that_leaves_no_training_image_is_refused(tmp_path: Path) -> None:
    register_custom(
        get_cfg(data=write_data(tmp_path, "train: {images: img/a, labels: lab/a}\nval: 0.99\nnames: [a, b, c]\n"))
    )
    with pytest.raises(UserError, match=r"val: 0\.99 of 4 image\(s\) leaves none for train: add more images"):
        get_dataset_dicts("mine_train")


def test_the_public_reader_turns_pictures_upright(tmp_path: Path) -> None:
    image = Image.new("RGB", (4, 2))
    exif = image.getexif()
    exif[0x0112] = 6
    image.save(tmp_path / "x.jpg", exif=exif)
    assert semask_d2.read_image is read_image
    assert semask_d2.read_image(tmp_path / "x.jpg").shape == (4, 2, 3)
