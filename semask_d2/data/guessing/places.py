"""Places of files in a folder of one's own: pictures of one folder, ending and suffix, or a COCO-format file."""

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
MANY = 10  # JSON files in a folder, from which on they are one an image


@dataclass(frozen=True, eq=False)
class Place:
    """Files of one kind: their pattern, or the path of a COCO-format file; `names` are those to pair them by.

    `ending` is what their stems have behind these names. A part is some of the pattern's files, for a list.
    """

    pattern: Path
    files: tuple[Path, ...]
    names: frozenset[str]
    ending: str = ""
    coco: CocoFile | None = None
    is_part: bool = False

    def by_name(self) -> dict[str, Path]:
        """Return the files by the `names`; a COCO-format file has those of all its images."""
        if self.coco is not None:
            return dict.fromkeys(self.names, self.pattern)
        return {paired_name(path, self.ending): path for path in self.files}

    def below(self, folder: Path) -> str:
        """Return the pattern as a data set's file has it."""
        return self.pattern.relative_to(folder).as_posix()


@dataclass
class JsonFiles:
    """JSON files of a folder: those in COCO format, and what is known of the others, a line each.

    `broken` are the lines of those meant to be in COCO format, `panoptic` the names of the maps of segments of others.
    """

    places: list[Place] = field(default_factory=list)
    others: list[str] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)
    panoptic: set[str] = field(default_factory=set)


def picture_places(pictures: Iterable[Path], pattern: str = "", *, by_kind: bool = False) -> list[Place]:
    """Return the places of pictures; those of a folder that have a letter case of one suffix are in one.

    `by_kind` tells the endings apart that occur with the same beginnings, as "" and "_mask" of a.png and a_mask.png.
    A `pattern` is the last part of the one that all were found by.
    """
    pictures = list(pictures)
    beginnings: dict[str, set[str]] = defaultdict(set)  # by what is left of a name, its endings
    for stem in {composed(path.stem) for path in pictures} if by_kind else ():
        for ending in ("", *endings_of(stem)):
            beginnings[stem.removesuffix(ending)].add(ending)
    by_suffix: dict[tuple[Path, str], list[Path]] = defaultdict(list)
    for path in pictures:
        by_suffix[path.parent, path.suffix.lower()].append(path)
    places = []
    for (folder, _), files in by_suffix.items():
        stems = [composed(path.stem) for path in files]
        kinds = endings_by_kind(files, beginnings) if by_kind else {common_ending(stems): files}
        for ending, some in kinds.items():
            name = pattern if pattern else f"*{glob.escape(ending)}{some[0].suffix}"
            names = frozenset(paired_name(path, ending) for path in some)
            places.append(Place(folder / name, tuple(some), names, ending))
    return places


def paired_name(path: Path, ending: str) -> str:
    """Return the name to pair a picture by, without an `ending` and the suffix of its image, as a of a.jpg_mask.png."""
    return stem_of(stem_of(path.name).removesuffix(ending))


def common_ending(stems: Sequence[str]) -> str:
    """Return what all names end in, from a "_" or "-" on, as "_mask"; "" for nothing."""
    endings = endings_of(stems[0]) if len(stems) > 1 else []
    return next((ending for ending in endings if all(stem.endswith(ending) for stem in stems)), "")


def endings_of(stem: str) -> list[str]:
    """Return the endings of a name from each "_" or "-" on, the longest first."""
    return [stem[at:] for at, letter in enumerate(stem) if at and letter in "_-"]


def endings_by_kind(files: Sequence[Path], beginnings: Mapping[str, set[str]]) -> dict[str, list[Path]]:
    """Return the files of a folder by the commonest, longest of their endings that tells kinds of files apart.

    Such an ending has letters, and most of its names without it are also those of other files, with or without another.
    `beginnings` are names of all pictures without endings, with the endings of each.
    """
    stems = {path: composed(path.stem) for path in files}
    counts = Counter(ending for stem in stems.values() for ending in endings_of(stem))
    telling = {
        ending
        for ending, count in counts.items()
        if any(letter.isalpha() for letter in ending)
        and 2 * sum(len(beginnings[x.removesuffix(ending)]) > 1 for x in stems.values() if x.endswith(ending)) > count
    }
    result = defaultdict(list)
    for path, stem in stems.items():
        known = [ending for ending in endings_of(stem) if ending in telling]
        result[max(known, key=lambda x: counts[x], default="")].append(path)
    return dict(result)


def json_places(files: Sequence[Path]) -> JsonFiles:
    """Read the JSON files among `files`; where a folder has many, one an image, a few of them."""
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
                    result.others.append(f"{path} is a panoptic file, whose maps hold segments; write maps of classes")
                elif is_coco(content):
                    result.places.append(coco_place(path, content))
                elif known:
                    result.others.append(f"{path} is {known}")
            except UserError as error:
                result.others.append(str(error))
                result.broken += [str(error)] * is_coco(content)
    return result


def is_coco(content: Any) -> bool:
    """Return whether the content of a JSON file is meant to be in COCO format."""
    return isinstance(content, dict) and all(isinstance(content.get(x), list) for x in ("images", "annotations"))


def panoptic_maps(content: Any) -> set[str]:
    """Return the names of the files of segments that the content of a panoptic JSON file names; none of other files."""
    annotations = content["annotations"] if is_coco(content) else []
    of_maps = [x["file_name"] for x in annotations if isinstance(x, dict) and "segments_info" in x and "file_name" in x]
    return {composed(x.replace("\\", "/").rpartition("/")[2]) for x in of_maps if isinstance(x, str)}


def coco_place(path: Path, content: Any) -> Place:
    """Return the place that a COCO-format file is; `UserError` where its content cannot be read as one."""
    file = coco_file(content, path)
    names = frozenset(stem_of(x) for image in file.images for x in endings(image.file_name) if "/" not in x)
    return Place(path, (path,), names, coco=file)


def is_picture(path: Path) -> bool:
    """Return whether a file is a picture by its name."""
    return path.suffix.lower() in SUFFIXES


def nearness(image: Place, label: Place) -> tuple[bool, int]:
    """Return whether two places are in folders called alike, as of images/val and labels/val, and how near they are."""
    alike = image.pattern.parent.name == label.pattern.parent.name
    return alike, len(os.path.commonpath([image.pattern.parent, label.pattern.parent]))


def split_named(parts: Iterable[str]) -> str:
    """Return the split that the innermost of some names says, as a name or a word in it; "" where none does."""
    for part in list(parts)[::-1]:
        words = {part.lower()}, set(re.findall("[a-z]+", part.lower()))
        for some in words:
            if split := next((split for split, known in SPLIT_WORDS.items() if some & set(known)), ""):
                return split
    return ""


def option_words(option: str, value: str) -> str:
    """Return the words of a command line that give an option a value, also one that begins with a dash."""
    return f"--{option}{'=' if value.startswith('-') else ' '}{shlex.quote(value)}"


def is_split(name: str) -> bool:
    """Return whether a name is that of a split."""
    return any(name.lower() in words for words in SPLIT_WORDS.values())
