"""The text of a data set's YAML file from what its folder seems to hold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from semask_d2.data.guessing.folders import Guess

VAL_FRACTION = 0.1


def as_yaml(guess: Guess, root: Path, name: str = "", lists: Mapping[str, Path] | None = None) -> str:
    """Return the text of a data set's file, with comments on what is to be completed by hand.

    `lists` are the files with the pairs of the splits that have such.
    """
    lists = lists or {}
    classes = guess.classes
    lines = ["# A data set for --data; `semask check` reads all of it and tells what is wrong."]
    if name:
        lines.append(f"name: {quoted(name)}")
    lines.append(f"root: {quoted(str(root.resolve()))}  # relative paths start here; without it, at this file")
    for split, where in guess.splits.items():
        if split in lists:
            lines.append(f"{split}: {quoted(str(lists[split].resolve()))}  # an image and its labels in each line")
            continue
        lines.append(f"{split}: {{images: {listed(where.images)}, labels: {listed(where.labels)}}}")
    if "val" not in guess.splits and guess.is_divisible:
        lines.append(
            f"val: {VAL_FRACTION}  # about this fraction of them, by a hash of their names; or files of their own"
        )
    advice = "as the folder's files call them" if classes.are_named else "replace these"
    lines.append(f"names:  # what the classes are called: {advice}")
    numbers = [f"  {number}: {quoted_name(text)}" for number, text in enumerate(classes.names)]
    if guess.has_background:
        numbers[0] += "  # pixels in no segment; without this class they are ignored"
    lines += numbers
    if classes.colors:
        lines.append(
            f"rgb:  # the colors of the label files and their classes; {classes.ignore} where they are to be ignored"
        )
        lines += [f'  "#{color:06x}": {number}' for color, number in classes.colors.items()]
    if classes.id_map:
        lines.append(
            f"map:  # the ids of the label files and their classes; {classes.ignore} where they are to be ignored"
        )
        lines += [f"  {value}: {number}" for value, number in classes.id_map.items()]
    lines.append(f"ignore: {classes.ignore}  # pixels of this id count nowhere; it lies above those of all classes")
    if guess.value_range is not None:
        low, high = guess.value_range
        lines.append(f"value_range: [{low:.12g}, {high:.12g}]  # what is black and white in images of more than 8 bits")
    return "\n".join(lines) + "\n"


def listed(patterns: Sequence[str]) -> str:
    """Return one pattern, or a list of them, as YAML takes them."""
    texts = [quoted(pattern) for pattern in patterns]
    return texts[0] if len(texts) == 1 else f"[{', '.join(texts)}]"


def quoted_name(name: str) -> str:
    """Return the name of a class as YAML takes it, without quotes where it needs none."""
    return name if name.startswith("class_") and name.replace("_", "").isalnum() and name.isascii() else quoted(name)


def quoted(text: str) -> str:
    """Return a text as YAML takes it, whatever is in it."""
    return '"' + "".join(escaped(letter) for letter in text) + '"'


def escaped(letter: str) -> str:
    """Return a letter as it stands between YAML's double quotes."""
    if letter in '\\"':
        return f"\\{letter}"
    is_surrogate = "\ud800" <= letter <= "\udfff"  # of a name that is no Unicode, which no file in UTF-8 can hold
    if (letter.isprintable() and letter != "\ufeff") or is_surrogate:
        return letter
    return f"\\x{ord(letter):02x}" if ord(letter) < 256 else f"\\U{ord(letter):08x}"
