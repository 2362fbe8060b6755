"""Lists of pairs, as written by programs, by check and by init-data, and the lists that are refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from semask_d2.__main__ import main
from semask_d2.data.datasets.lists import list_line, listed_pairs
from semask_d2.data.datasets.pairing import find_pairs
from semask_d2.utils.errors import UserError
from tests.helpers import label_tools
from tests.helpers.folders import IDS, follow, labels, photograph

PAIRS = [("a/0.jpg", "b/0.png"), ("a/1.jpg", "b/1.png")]


def read(folder: Path, text: str, encoding: str = "utf-8") -> list[tuple[str, str]]:
    (folder / "list.txt").write_bytes(text.encode(encoding))
    pairs = listed_pairs(folder / "list.txt", folder, "mine")
    return [(str(x.relative_to(folder)), str(y.relative_to(folder))) for x, y in pairs]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("line", ["{}\t{}", '"{}"\t"{}"', " {} \t {} "])
def test_line_ends_quotes_and_comments(end: str, line: str, tmp_path: Path) -> None:
    text = end.join(["# image\tlabel", *(line.format(*pair) for pair in PAIRS), "", "# end"])
    assert read(tmp_path, text) == PAIRS


@pytest.mark.parametrize("name", ["a\tb", "a\nb\r", " a ", "#a", '"a"', "a\\b", "é", "a", "\u2028"])
def test_any_name_can_be_written_and_read(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"")
    line = list_line((tmp_path / name, tmp_path / "b.png"), tmp_path)
    assert line.count("\t") == line.count("\n") == 1
    assert read(tmp_path, line) == [(name, "b.png")]


@pytest.mark.parametrize(
    ("text", "encoding", "message"),
    [
        ("a.jpg b.png", "utf-8", "line 1: expected an image, a tab and its label file, got 'a.jpg b.png'"),
        ("a.jpg\tb.png\tc", "utf-8", "line 1: expected an image, a tab"),
        ("a.jpg\tb.png", "utf-16-le", "line 1 holds null characters: save it as text in UTF-8"),
        ("é.jpg\tb.png", "latin-1", "expected text in UTF-8"),
        ("# nothing", "utf-8", "lists no pairs"),
    ],
)
def test_what_is_no_list(text: str, encoding: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"list\.txt") as caught:
        read(tmp_path, text, encoding)
    assert message in str(caught.value)


def test_one_image_with_two_label_files_gets_a_word(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("a.jpg\t1.png\na.jpg\t2.png\nb.jpg\t2.png\na.jpg\t1.png")
    problems = find_pairs(["list.txt"], [], tmp_path, "mine").problems
    assert [x.text for x in problems] == [
        f"mine: the list gives {tmp_path}/a.jpg several label files",
        f"mine: the list gives {tmp_path}/2.png several images",
    ]


def test_the_list_of_names_with_tabs_is_a_good_data_set(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    for number in range(4):
        photograph(tmp_path / f"data/images/a\t{number}.jpg", number)
        labels(tmp_path / f"data/masks/a\t{number}.png", IDS)
    content = follow(tmp_path / "data", tmp_path, [])
    assert main(["check", str(tmp_path / "new.yaml"), "--workers", "0", "--list", str(tmp_path / "good.txt")]) == 0
    content |= {split: str(tmp_path / f"good_{split}.txt") for split in ("train", "val")}
    (tmp_path / "again.yaml").write_text(yaml.safe_dump(content))
    assert main(["check", str(tmp_path / "again.yaml"), "--workers", "0"]) == 0
    assert "3 pairs of train, 1 pairs of val read: 0 fault(s)" in capsys.readouterr().out


@pytest.mark.parametrize("kind", ["coco", "masks"])
def test_splits_of_one_folder_of_images_become_lists(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    for number in range(5):
        photograph(tmp_path / f"data/images/{number}.jpg", number)
    for split, numbers in (("train", (0, 1)), ("val", (2,)), ("test", (3,))):
        if kind == "masks":
            for number in numbers:
                labels(tmp_path / f"data/masks/{split}/{number}.png", IDS)
        else:
            content = label_tools.coco({"a": f"{numbers[0]}.jpg", "b": f"{numbers[-1]}.jpg"})
            content["images"] = [{**x, "width": 50, "height": 40} for x in content["images"]][: len(numbers)]
            content["annotations"] = content["annotations"][: len(numbers)]
            label_tools.write_json(tmp_path / f"data/{split}.json", content)
    content = follow(tmp_path / "data", tmp_path, [])
    assert content["train"] == str(tmp_path / "new_train.txt")
    assert (tmp_path / "new_val.txt").read_text() == (
        "images/2.jpg\tmasks/val/2.png\n" if kind == "masks" else "images/2.jpg\tval.json\n"
    )
    out = capsys.readouterr().out
    assert "2 pairs of train, 1 pairs of val read: 0 fault(s)" in out
    assert "left out: 1 files of images/*.jpg, which have no labels" in out
    (tmp_path / "new.yaml").unlink()
    assert main(["init-data", str(tmp_path / "data"), "--output", str(tmp_path / "new.yaml")]) == 1
    assert "new_train.txt already exists" in capsys.readouterr().err


def test_coco_files_of_parts_of_a_folder_are_taken_together(tmp_path: Path) -> None:
    for name in label_tools.SQUARES:
        label_tools.save(tmp_path / f"data/images/{name}.jpg", label_tools.photograph(name))
        label_tools.write_json(tmp_path / f"data/part_{name}.json", label_tools.coco({name: f"{name}.jpg"}))
    content = follow(tmp_path / "data", tmp_path, [])
    assert content["train"] == str(tmp_path / "new_train.txt")
    assert (tmp_path / "new_train.txt").read_text() == "images/a.jpg\tpart_a.json\nimages/b.jpg\tpart_b.json\n"
    assert content["val"] == 0.1


def test_one_coco_file_of_both_splits(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """Files in the list of one split are not missing in the other; files in neither list are."""
    for name, split in (("a", "train"), ("b", "val")):
        label_tools.save(tmp_path / f"data/{split}/{name}.jpg", label_tools.photograph(name))
    content = label_tools.coco({name: f"{name}.jpg" for name in label_tools.SQUARES})
    label_tools.write_json(tmp_path / "data/all.json", content)
    assert follow(tmp_path / "data", tmp_path, [])["train"] == {"images": "train/*.jpg", "labels": "all.json"}
    content["images"].append({**content["images"][0], "id": 9, "file_name": "c.jpg"})
    (tmp_path / "data/all.json").write_text(json.dumps(content))
    capsys.readouterr()
    assert main(["check", str(tmp_path / "new.yaml"), "--workers", "0"]) == 1
    assert "all.json: c.jpg (train) has no image" in capsys.readouterr().out


def test_a_coco_file_may_be_named_as_windows_does(tmp_path: Path) -> None:
    label_tools.cvat_coco(tmp_path)
    (tmp_path / "mine.yaml").write_text(
        'train: {images: images, labels: "annotations\\\\instances_default.json"}\nnames: [background, cat]\n'
    )
    assert main(["check", str(tmp_path / "mine.yaml"), "--workers", "0"]) == 0
