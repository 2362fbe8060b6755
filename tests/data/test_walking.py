"""Unusual folders: links, Unicode forms, names that look like patterns, capitals, lists from Windows."""

from __future__ import annotations

import itertools
import os
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from semask_d2.data.datasets.folder import load_folder_pairs
from semask_d2.data.datasets.pairing import find_pairs
from semask_d2.data.datasets.walking import files_below, fits
from semask_d2.utils.errors import UserError

MULLER = {form: unicodedata.normalize(form, "Müller") for form in ("NFC", "NFD")}


def touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.zeros((2, 2), np.uint8)).save(path, format="PNG")


def pairs(root: Path, images: str | list[str], labels: str | list[str]) -> list[tuple[str, str]]:
    """Return the pairs below `root`, after checking that there is nothing else."""
    words = [[x] if isinstance(x, str) else x for x in (images, labels)]
    pairing = find_pairs(*words, root, "mine")
    assert [*pairing.unlabeled, *pairing.imageless, *pairing.problems] == []
    return [(os.path.relpath(image, root), os.path.relpath(label, root)) for image, label in pairing.pairs]


@pytest.mark.parametrize(
    "words", [("images", "labels"), ("images/**/*.png", "labels/**/*.png"), ("images/*/*.png", "labels/*/*.png")]
)
def test_linked_folders_are_followed_in_every_spelling(tmp_path: Path, words: tuple[str, str]) -> None:
    for kind in ("images", "labels"):
        touch(tmp_path / f"all/{kind}/a/0.png", tmp_path / f"other/{kind}/1.png")
        (tmp_path / f"all/{kind}/b").symlink_to(tmp_path / f"other/{kind}")
    expected = [("images/a/0.png", "labels/a/0.png"), ("images/b/1.png", "labels/b/1.png")]
    assert pairs(tmp_path / "all", *words) == expected


def test_each_real_folder_is_taken_once(tmp_path: Path) -> None:
    touch(tmp_path / "home/z/0.png", tmp_path / "home/1.png", tmp_path / "2.png")
    (tmp_path / "home/a").symlink_to(tmp_path / "home/z")  # comes first, but z is the folder's real path
    (tmp_path / "home/z/circle").symlink_to(tmp_path / "home")
    (tmp_path / "home/up").symlink_to(tmp_path)
    (tmp_path / "home/gone").symlink_to(tmp_path / "nothing")
    (tmp_path / "home/linked.png").symlink_to(tmp_path / "2.png")
    names = [path.relative_to(tmp_path / "home").as_posix() for path in files_below(tmp_path / "home")]
    assert names == ["1.png", "linked.png", "z/0.png"]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no pipes among its files")
def test_only_regular_files_are_pictures(tmp_path: Path) -> None:
    touch(tmp_path / "images/0.png", tmp_path / "labels/0.png")
    os.mkfifo(tmp_path / "images/1.png")
    assert pairs(tmp_path, "images", "labels") == [("images/0.png", "labels/0.png")]
    with pytest.raises(UserError, match=r"1\.png: not a regular file"):
        find_pairs(["images/1.png"], ["labels/0.png"], tmp_path, "mine")
    os.mkfifo(tmp_path / "list.txt")
    with pytest.raises(UserError, match=r"list\.txt: not a regular file"):
        find_pairs(["list.txt"], [], tmp_path, "mine")


def test_names_are_compared_in_one_unicode_form(tmp_path: Path) -> None:
    touch(tmp_path / f"images/{MULLER['NFD']}.png", tmp_path / f"labels/{MULLER['NFC']}.png")
    expected = [(f"images/{MULLER['NFD']}.png", f"labels/{MULLER['NFC']}.png")]
    assert pairs(tmp_path, "images", "labels") == expected
    assert pairs(tmp_path, f"images/{MULLER['NFC'][:3]}*.png", f"labels/{MULLER['NFD'][:3]}*.png") == expected
    (sample,) = load_folder_pairs(tmp_path / "images", tmp_path / "labels")
    assert sample["sem_seg_file_name"] == str(tmp_path / expected[0][1])


def test_folders_are_found_in_another_unicode_form(tmp_path: Path) -> None:
    touch(tmp_path / f"{MULLER['NFD']}/images/0.png", tmp_path / f"{MULLER['NFD']}/labels/0.png")
    expected = [(f"{MULLER['NFD']}/images/0.png", f"{MULLER['NFD']}/labels/0.png")]
    assert pairs(tmp_path, f"{MULLER['NFC']}/images", f"{MULLER['NFC']}/labels/*.png") == expected
    (tmp_path / "list.txt").write_text("\t".join(f"{MULLER['NFC']}/{x}/0.png" for x in ("images", "labels")))
    assert [(os.path.relpath(x, tmp_path), os.path.relpath(y, tmp_path)) for x, y in
            find_pairs(["list.txt"], [], tmp_path, "mine").pairs] == expected  # fmt: skip


@pytest.mark.parametrize("name", ["field [2023]", "all*", "what?", "[a-z]", "~", "**"])
def test_folders_whose_names_look_like_patterns(tmp_path: Path, name: str) -> None:
    root = tmp_path / name
    touch(root / name / "images/0.png", root / name / "labels/0_mask.png", tmp_path / "field 2/images/9.png")
    expected = [(f"{name}/images/0.png", f"{name}/labels/0_mask.png")]
    assert pairs(root, f"{name}/images/*.png", f"{name}/labels/*_mask.png") == expected


def test_capital_suffixes(tmp_path: Path) -> None:
    touch(tmp_path / "IMAGES/A.JPG", tmp_path / "IMAGES/b.jpg", tmp_path / "L/A_ids.PNG", tmp_path / "L/b_ids.png")
    expected = [("IMAGES/A.JPG", "L/A_ids.PNG"), ("IMAGES/b.jpg", "L/b_ids.png")]
    assert pairs(tmp_path, "IMAGES/*.jpg", "L/*_ids.png") == expected
    assert pairs(tmp_path, "IMAGES/*.JPG", "L/*_ids.PNG") == expected


def test_labels_that_keep_the_images_suffix(tmp_path: Path) -> None:
    touch(tmp_path / "img/a.jpg", tmp_path / "img/b.v2.jpg", tmp_path / "m/a.jpg.png", tmp_path / "m/b.v2.jpg.png")
    expected = [("img/a.jpg", "m/a.jpg.png"), ("img/b.v2.jpg", "m/b.v2.jpg.png")]
    assert pairs(tmp_path, "img", "m") == expected


def test_labels_of_images_of_two_suffixes(tmp_path: Path) -> None:
    """Each image gets the labels of its full name, but a label file without the image's suffix takes precedence."""
    touch(*(tmp_path / name for name in ("img/a.jpg", "img/b.png", "m/a.jpg.png", "m/b.png", "m/b.png.png")))
    pairing = find_pairs(["img"], ["m"], tmp_path, "mine")
    assert [(x.name, y.name) for x, y in pairing.pairs] == [("a.jpg", "a.jpg.png"), ("b.png", "b.png")]
    assert [path.name for path in pairing.imageless] == ["b.png.png"]


def test_patterns_that_share_one_side_are_paired_together(tmp_path: Path) -> None:
    touch(tmp_path / "i/a.jpg", tmp_path / "i/b.png", tmp_path / "l/a.png", tmp_path / "l/b.png")
    expected = [("i/a.jpg", "l/a.png"), ("i/b.png", "l/b.png")]
    assert pairs(tmp_path, ["i/*.jpg", "i/*.png"], ["l/*.png", "l/*.png"]) == expected
    touch(tmp_path / "m/a.tif", tmp_path / "m/b.png")
    expected = [("i/a.jpg", "m/a.tif"), ("i/b.png", "m/b.png")]
    assert pairs(tmp_path, ["i", "i"], ["m/*.tif", "m/*.png"]) == expected


def test_masks_beside_images_of_the_same_suffix(tmp_path: Path) -> None:
    touch(tmp_path / "a.png", tmp_path / "a_mask.png", tmp_path / "b.png", tmp_path / "b_mask.png")
    assert pairs(tmp_path, "*.png", "*_mask.png") == [("a.png", "a_mask.png"), ("b.png", "b_mask.png")]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_lists_of_pairs_as_windows_writes_them(tmp_path: Path, encoding: str) -> None:
    touch(tmp_path / "images/ä.png", tmp_path / "labels/ä.png")
    (tmp_path / "LIST.TXT").write_bytes("images\\ä.png\tlabels\\ä.png\r\n\r\n".encode(encoding))
    (pair,) = find_pairs(["LIST.TXT"], [], tmp_path, "mine").pairs
    assert pair == (tmp_path / "images/ä.png", tmp_path / "labels/ä.png")
    assert pairs(tmp_path, "images\\*.png", ".\\labels") == [("images/ä.png", "labels/ä.png")]


def test_a_pattern_fits_as_a_plain_recursion_says() -> None:
    """Check all paths of up to three folders, and patterns of up to four parts, over few letters."""

    def plain(parts: tuple[str, ...], pattern: tuple[str, ...]) -> bool:
        if not pattern:
            return not parts
        if pattern[0] == "**":
            return plain(parts, pattern[1:]) or (bool(parts) and plain(parts[1:], pattern))
        return bool(parts) and (pattern[0] in ("*", parts[0])) and plain(parts[1:], pattern[1:])

    paths = [x for n in (1, 2, 3) for x in itertools.product("ab", repeat=n)]
    patterns = [x for n in (1, 2, 3, 4) for x in itertools.product(("a", "*", "**"), repeat=n)]
    for parts, pattern in itertools.product(paths, patterns):
        assert fits(parts, pattern) == plain(parts, pattern), (parts, pattern)
