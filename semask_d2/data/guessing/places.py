"""Places of files in a user's folder: the image files of one folder, ending and suffix, or a COCO-format file."""

from __future__ import annotations

import glob
import os
import re
import shlex
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from semask_d2.data.datasets.coco_files import CocoFile, coco_file
from semask_d2.data.datasets.coco_labels import endings
from semask_d2.data.datasets.json_formats import other_format, read_json
from semask_d2.data.datasets.walking import SUFFIXES, composed, stem_of
from semask_d2.utils.errors import UserError
from semask_d2.utils.excerpts import FEW, evenly

SPLIT_WORDS = {"val": ("val", "valid", "validation"), "test": ("test", "testing"), "train": ("train", "training")}
MANY = 10  # more JSON files than this in a folder are taken for one per image


@dataclass(frozen=True, eq=False)
class Place:
    """Files of one kind: their pattern, or the path of a COCO-format file, and the `names` to pair them by.

    `ending` follows these names in the file stems. If `is_part`, the place holds only some of the pattern's files, and
    a list of pairs has to name them.
    """

    pattern: Path
    files: tuple[Path, ...]
    names: frozenset[str]
    ending: str = ""
    coco: CocoFile | None = None
    is_part: bool = False

    def by_name(self) -> dict[str, Path]:
        """Return the files by name; a COCO-format file has the names of all its images."""
        if self.coco is not None:
            return dict.fromkeys(self.names, self.pattern)
        return {paired_name(path, self.ending): path for path in self.files}

    def below(self, folder: Path) -> str:
        """Return the pattern relative to `folder`, as written in a dataset's YAML file."""
        return self.pattern.relative_to(folder).as_posix()


@dataclass
class JsonFiles:
    """The JSON files in a folder: places in COCO format, and one line about each other file.

    `broken` repeats the lines about files that are meant to be in COCO format but are damaged. `panoptic` holds the
    names of segment maps that panoptic files refer to.
    """

    places: list[Place] = field(default_factory=list)
    others: list[str] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)
    panoptic: set[str] = field(default_factory=set)


def image_places(files: Iterable[Path], pattern: str = "", *, by_kind: bool = False) -> list[Place]:
    """Group image files into places: files of one folder with one suffix, in any letter case, form a place.

    `by_kind` also separates endings that follow the same beginnings, such as "" and "_mask" in a.png and a_mask.png.
    `pattern` is the last part of the pattern that matched all files, if any.
    """
    files = list(files)
    beginnings: dict[str, set[str]] = defaultdict(set)  # endings by the rest of the name
    for stem in {composed(path.stem) for path in files} if by_kind else ():
        for ending in ("", *endings_of(stem)):
            beginnings[stem.removesuffix(ending)].add(ending)
    by_suffix: dict[tuple[Path, str], list[Path]] = defaultdict(list)
    for path in files:
        by_suffix[path.parent, path.suffix.lower()].append(path)
    places = []
    for (folder, _), group in by_suffix.items():
        stems = [composed(path.stem) for path in group]
        kinds = endings_by_kind(group, beginnings) if by_kind else {common_ending(stems): group}
        for ending, paths in kinds.items():
            name = pattern if pattern else f"*{glob.escape(ending)}{paths[0].suffix}"
            names = frozenset(paired_name(path, ending) for path in paths)
            places.append(Place(folder / name, tuple(paths), names, ending))
    return places


def paired_name(path: Path, ending: str) -> str:
    """Return the name to pair a file by, without `ending` and image suffixes, such as "a" for a.jpg_mask.png."""
    return stem_of(stem_of(path.name).removesuffix(ending))


def common_ending(stems: Sequence[str]) -> str:
    """Return the longest ending that all stems share, starting at "_" or "-", such as "_mask"; "" if there is none."""
    endings = endings_of(stems[0]) if len(stems) > 1 else []
    return next((ending for ending in endings if all(stem.endswith(ending) for stem in stems)), "")


def endings_of(stem: str) -> list[str]:
    """Return the endings of a stem that start at a "_" or "-", the longest first."""
    return [stem[at:] for at, letter in enumerate(stem) if at and letter in "_-"]


def endings_by_kind(files: Sequence[Path], beginnings: Mapping[str, set[str]]) -> dict[str, list[Path]]:
    """Group the files of a folder by the commonest, then longest, of their endings that distinguishes kinds of files.

    Such an ending contains letters, and most names that have it also occur with another ending or with none.
    `beginnings` maps the names of all image files without endings to their endings.
    """
    stems = {path: composed(path.stem) for path in files}
    counts = Counter(ending for stem in stems.values() for ending in endings_of(stem))
    distinguishing = {
        ending
        for ending, count in counts.items()
        if any(letter.isalpha() for letter in ending)
        and 2 * sum(len(beginnings[x.removesuffix(ending)]) > 1 for x in stems.values() if x.endswith(ending)) > count
    }
    result = defaultdict(list)
    for path, stem in stems.items():
        known = [ending for ending in endings_of(stem) if ending in distinguishing]
        result[max(known, key=lambda x: counts[x], default="")].append(path)
    return dict(result)


def json_places(files: Sequence[Path]) -> JsonFiles:
    """Read the JSON files among `files`; of a folder with many, which has one per image, read only a few."""
    by_folder: dict[Path, list[Path]] = defaultdict(list)
    for path in files:
        if path.suffix.lower() == ".json":
            by_folder[path.parent].append(path)
    result = JsonFiles()
    for some in by_folder.values():
        for path in some if len(some) <= MANY else evenly(some, FEW):
            content = None
            try:
                content = read_json(path)
                known = other_format(content)
                if maps := panoptic_maps(content):
                    result.panoptic |= maps
                    result.others.append(f"{path} is a panoptic file, whose maps hold segment ids; write class maps")
                elif is_coco(content):
                    result.places.append(coco_place(path, content))
                elif known:
                    result.others.append(f"{path} is {known}")
            except UserError as error:
                result.others.append(str(error))
                result.broken += [str(error)] * is_coco(content)
    return result


def is_coco(content: Any) -> bool:
    """Return whether the content of a JSON file has the structure of the COCO format."""
    return isinstance(content, dict) and all(isinstance(content.get(x), list) for x in ("images", "annotations"))


def panoptic_maps(content: Any) -> set[str]:
    """Return the names of the segment maps that a panoptic JSON file refers to; an empty set for other files."""
    annotations = content["annotations"] if is_coco(content) else []
    names = [x["file_name"] for x in annotations if isinstance(x, dict) and "segments_info" in x and "file_name" in x]
    return {composed(x.replace("\\", "/").rpartition("/")[2]) for x in names if isinstance(x, str)}


def coco_place(path: Path, content: Any) -> Place:
    """Return the place of a COCO-format file; raises `UserError` if its content is not in COCO format."""
    file = coco_file(content, path)
    names = frozenset(stem_of(x) for image in file.images for x in endings(image.file_name) if "/" not in x)
    return Place(path, (path,), names, coco=file)


def is_image_file(path: Path) -> bool:
    """Return whether a file has the suffix of an image."""
    return path.suffix.lower() in SUFFIXES


def nearness(image: Place, label: Place) -> tuple[bool, int]:
    """Return whether two places have equal folder names (images/val, labels/val), and their common path's length."""
    alike = image.pattern.parent.name == label.pattern.parent.name
    return alike, len(os.path.commonpath([image.pattern.parent, label.pattern.parent]))


def split_named(parts: Iterable[str]) -> str:
    """Return the split that a path's `parts` name, from the last part to the first; "" if none does."""
    for part in list(parts)[::-1]:
        for words in ({part.lower()}, set(re.findall("[a-z]+", part.lower()))):
            if split := next((split for split, known in SPLIT_WORDS.items() if words & set(known)), ""):
                return split
    return ""


def option_words(option: str, value: str) -> str:
    """Return a command-line option with its value, which may begin with a dash."""
    return f"--{option}{'=' if value.startswith('-') else ' '}{shlex.quote(value)}"


def is_split(name: str) -> bool:
    """Return whether `name` is the name of a split."""
    return any(name.lower() in words for words in SPLIT_WORDS.values())
