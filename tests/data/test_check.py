"""The check of a dataset: all planted faults are reported with their files; statistics, page, lists."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from semask_d2.__main__ import main
from semask_d2.config import get_cfg
from semask_d2.data.checking import check_data
from semask_d2.data.datasets.custom import CustomDataset
from semask_d2.data.label_checks import describe_wrong_ids
from tests.helpers.own_data import TEXT, write_data, write_file, write_pair


@pytest.fixture
def planted(tmp_path: Path) -> Path:
    """A dataset with ten different faults."""
    file = write_data(tmp_path, TEXT.replace("[sky, road, car]", "[sky, road, car, boat]"), count=12, size=(60, 90))
    images, labels = tmp_path / "img/a", tmp_path / "lab/a"
    ids = np.zeros((60, 90), np.uint8)
    (images / "0.png").write_bytes((images / "0.png").read_bytes()[:200])  # truncated
    write_pair(tmp_path, "a", "1", ids[:, :-2], np.zeros((60, 90, 3), np.uint8))  # of another size
    ids[3, 4:7] = 77
    write_pair(tmp_path, "a", "2", ids)  # an id outside the classes
    Image.new("RGB", (90, 60)).save(labels / "3.png")  # colors instead of ids
    Image.fromarray(np.full((60, 90), 0.5, np.float32)).save(labels / "4.tif")  # 32 bits
    (labels / "4.png").write_bytes((labels / "4.tif").read_bytes())
    (labels / "4.tif").unlink()
    (labels / "5.png").unlink()  # an image without labels
    (images / "6.png").unlink()  # labels without an image
    (tmp_path / "img/b/7.png").write_bytes((images / "7.png").read_bytes())  # in both splits
    near = np.asarray(Image.open(images / "8.png")).copy()
    near[0, 0] ^= 1
    Image.fromarray(near).save(tmp_path / "img/b/8.png")  # nearly the same
    jpeg = Image.open(images / "9.png")
    jpeg.save(images / "9.jpg", exif=b"Exif\0\0II*\0\xff\xff\xff\xff")
    (images / "9.png").write_bytes((images / "9.jpg").read_bytes())  # broken EXIF
    (images / "9.jpg").unlink()
    return file


FAULTS = (
    r"unreadable \(1\)\n  \S+/img/a/0\.png cannot be read",
    r"different sizes \(1\)\n  \S+/img/a/1\.png is 90 x 60 but its label file \S+/lab/a/1\.png is 88 x 60",
    r"/lab/a/2\.png: ids outside 0\.\.3 and not 255: 77 \(3 pixels, first at x 4, y 3\)",
    r"/lab/a/3\.png is an RGB file, but a label file holds one class id per pixel",
    r"/lab/a/4\.png holds floats, but a label file holds one class id",
    r"/img/a/5\.png \(train\) has no label file",
    r"/lab/a/6\.png \(train\) has no image",
    r"/img/b/7\.png \(val\) equals \S+/img/a/7\.png \(train\), pixel by pixel",
    r"/img/b/8\.png \(val\) looks like \S+/img/a/8\.png \(train\)",
    r"/img/a/9\.png: its EXIF data cannot be read",
    r'absent|3 "boat" has no pixel in train\n  3 "boat" has no pixel in val',
)


@pytest.mark.parametrize("workers", [0, 2])
def test_ten_planted_faults_are_all_reported(
    planted: Path, workers: int, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    words = ["check", planted, "--workers", workers, "--html", tmp_path / "page.html", "--list", tmp_path / "good.txt"]
    assert main([str(word) for word in words]) == 1
    out, err = capsys.readouterr()
    for fault in FAULTS:
        assert re.search(fault, out), fault
    assert "10 pairs of train, 12 pairs of val read: 8 fault(s), 4 warning(s)" in out
    assert err.startswith(f"error: {planted}: 8 fault(s), listed above")
    assert "traceback" not in err.lower()
    page = (tmp_path / "page.html").read_text()
    assert "ids outside 0..3" in page
    assert page.count("<figure>") == page.count("data:image/jpeg;base64,") == 5 + 8
    assert not re.search("https?:", page)  # it opens from disk
    assert (tmp_path / "good_train.txt").read_text().splitlines() == [
        f"img/a/{number}.png\tlab/a/{number}.png" for number in (10, 11, 7, 8, 9)
    ]
    assert "img/b/7.png" not in (tmp_path / "good_val.txt").read_text()


def test_the_lists_of_good_pairs_make_a_good_data_set(planted: Path, tmp_path: Path) -> None:
    main(["check", str(planted), "--workers", "0", "--list", str(tmp_path / "good.txt")])
    good = write_file(tmp_path, "train: good_train.txt\nval: good_val.txt\nnames: [sky, road, car, boat]\n")
    assert main(["check", str(good), "--workers", "0"]) == 0


@pytest.mark.parametrize("target", [".", "/", ""])
def test_a_list_needs_a_name(tmp_path: Path, capsys: pytest.CaptureFixture, target: str) -> None:
    file = write_data(tmp_path)
    assert main(["check", str(file), "--workers", "0", "--list", target]) == 1
    assert re.fullmatch(r"error: --list [./]: expected a file name such as good.txt\n", capsys.readouterr().err)
    assert main(["check", str(file), "--workers", "0", "--html", target]) == 1
    assert "there is a folder with this name" in capsys.readouterr().err


def test_a_list_is_written_to_a_device_itself(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    file = write_data(tmp_path)
    (tmp_path / "link").symlink_to("/dev/null")
    before = {path.name for path in tmp_path.iterdir()}
    assert main(["check", str(file), "--workers", "0", "--list", str(tmp_path / "link")]) == 0
    assert "link, 4 pairs" in capsys.readouterr().out
    assert {path.name for path in tmp_path.iterdir()} == before
    assert (tmp_path / "link").is_symlink()


def test_a_good_data_set_has_no_fault_and_files_stay_as_they_are(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    file = write_data(tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert main(["check", str(file), "--workers", "0"]) == 0
    assert "4 pairs of train, 4 pairs of val read: 0 fault(s), 0 warning(s)" in capsys.readouterr().out
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_patterns_that_find_nothing_hide_no_other_fault(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    file = write_data(tmp_path, TEXT.replace("lab/a/*.png", "lab/z/*.png"))
    write_pair(tmp_path, "b", "0", np.full((12, 16), 9, np.uint8))
    assert main(["check", str(file), "--workers", "0"]) == 1
    out = capsys.readouterr().out
    assert "lab/z/*.png matches no file" in out
    assert "0.png: ids outside 0..2" in out


def test_class_pixels_and_hardly_seen_classes(tmp_path: Path) -> None:
    file = write_data(tmp_path, "train: {images: img/a, labels: lab/a}\nnames: [sky, road, car]\n", count=1)
    labels = np.zeros((150, 150), np.uint8)
    labels[0, 0], labels[1, :10] = 1, 255
    write_pair(tmp_path, "a", "0", labels)
    check = check_data(CustomDataset.from_section(get_cfg(data=file).DATASETS.CUSTOM), workers=0)
    assert check.facts["train"].pixels.tolist() == [150 * 150 - 11, 1, 0]
    assert [finding.text for finding in check.warnings] == [
        f'1 "road" has 1 of 22490 pixels in train, in 1 image(s): {tmp_path}/lab/a/0.png',
        '2 "car" has no pixel in train',
    ]


def test_a_picture_that_a_split_holds_twice(tmp_path: Path) -> None:
    file = write_data(tmp_path)
    images = tmp_path / "img/a"
    for copy in ("copy", "other"):
        (images / f"{copy}.png").write_bytes((images / "1.png").read_bytes())
        (tmp_path / f"lab/a/{copy}.png").write_bytes((tmp_path / "lab/a/0.png").read_bytes())
    check = check_data(CustomDataset.from_section(get_cfg(data=file).DATASETS.CUSTOM), workers=0)
    paths = ", ".join(str(images / name) for name in ("1.png", "copy.png", "other.png"))
    assert [finding.text for finding in check.findings] == [f"{paths} (train) are identical images, pixel by pixel"]
    assert check.findings == check.warnings


def test_lossy_empty_and_stretched_label_files(tmp_path: Path) -> None:
    file = write_data(tmp_path, "train: {images: img/a, labels: lab/a}\nnames: [sky, road, car]\n", count=3)
    Image.new("L", (16, 12)).save(tmp_path / "lab/a/0.jpg")
    (tmp_path / "lab/a/0.png").unlink()
    write_pair(tmp_path, "a", "1", np.full((12, 16), 255, np.uint8))
    write_pair(tmp_path, "a", "2", np.full((12, 16), 514, np.uint16), np.zeros((12, 16, 3), np.uint8))
    check = check_data(CustomDataset.from_section(get_cfg(data=file).DATASETS.CUSTOM), workers=0)
    texts = "\n".join(finding.text for finding in check.findings)
    assert "0.jpg is a JPEG file; lossy compression changes ids" in texts
    assert "1.png: every pixel is ignored (255)" in texts
    assert "514 (192 pixels, first at x 0, y 0); 8-bit ids stretched to 16 bits" in texts


@pytest.mark.parametrize(
    ("text", "message", "code"),
    [
        ("names: [a]\nmap: {0: 0, 1: 255, 2: 255}\n", '`names` has only one class, "a": add a second class', 1),
        ("names: [a, b]\nmap: {0: 0, 1: 255, 2: 255}\n", '0 "a" covers each of the', 1),
        ("names: [a, b]\nmap: {0: 255, 1: 1, 2: 1}\n", '1 "b" covers each of the', 1),
        ("names: [a, b]\nmap: {0: 0, 1: 1, 2: 255}\n", "0 fault(s)", 0),
    ],
)
def test_data_of_one_class_is_a_fault(
    tmp_path: Path, text: str, message: str, code: int, capsys: pytest.CaptureFixture
) -> None:
    file = write_data(tmp_path, TEXT.replace("names: [sky, road, car]\n", text))
    assert main(["check", str(file), "--workers", "0"]) == code
    out = capsys.readouterr().out
    assert message in out
    assert ("NOTHING TO LEARN" in out) == bool(code)
    if "covers" in message:  # in val it is a warning
        assert re.search(r"covers each of the \d+ labeled pixels of train; \d+ % of all are 255, ignored", out)
        assert re.search(r"warning: one class is everywhere.*\n.*labeled pixels of val", out)


def test_wrong_ids_are_those_of_a_loop() -> None:
    rng = np.random.default_rng(0)
    labels = rng.choice([-3, 0, 1, 2, 3, 9, 255, 300], (6, 7))
    text = describe_wrong_ids(labels, 3, 255)
    for wrong in (-3, 3, 9, 300):
        places = [(y, x) for y in range(6) for x in range(7) if labels[y, x] == wrong]
        assert f"{wrong} ({len(places)} pixels, first at x {places[0][1]}, y {places[0][0]})" in text
    assert text.count("pixels") == 4
    assert describe_wrong_ids(np.array([[0, 255]], np.uint8), 3, 255) == ""


def test_workers_below_none_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["check", str(write_data(tmp_path)), "--workers", "-1"]) == 1
    assert "--workers -1: expected 0" in capsys.readouterr().err
