"""Writing the text of a dataset's YAML file from the guessed content of its folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from semask_d2.data.guessing.folders import Guess
from semask_d2.data.picture import RGB

VAL_FRACTION = 0.1


def as_yaml(guess: Guess, root: Path, name: str = "", lists: Mapping[str, Path] | None = None) -> str:
    """Return the text of a dataset's YAML file, with comments on what to complete by hand.

    `lists` maps splits to their files of pairs, if they have one.
    """
    lists = lists or {}
    classes = guess.classes
    lines = ["# A dataset for --data; `semask check` reads every file and lists all problems."]
    if name:
        lines.append(f"name: {quoted(name)}")
    lines.append(f"root: {quoted(str(root.resolve()))}  # relative paths start here; without it, at this file")
    for split, where in guess.splits.items():
        if split in lists:
            lines.append(f"{split}: {quoted(str(lists[split].resolve()))}  # one image and its label file per line")
            continue
        lines.append(f"{split}: {{images: {listed(where.images)}, labels: {listed(where.labels)}}}")
    if "val" not in guess.splits and guess.is_divisible:
        lines.append(
            f"val: {VAL_FRACTION}  # this fraction of the images, by a hash of their names; or name other files"
        )
    advice = "as in the folder's files" if classes.are_named else "replace these"
    lines.append(f"names:  # class names: {advice}")
    entries = [f"  {number}: {quoted_name(text)}" for number, text in enumerate(classes.names)]
    if guess.has_background:
        entries[0] += "  # pixels in no segment; without this class they are ignored"
    lines += entries
    if classes.colors:
        lines.append(f"rgb:  # the colors of the label files and their classes; {classes.ignore} ignores a color")
        lines += [f'  "#{color:06x}": {number}' for color, number in classes.colors.items()]
    if classes.id_map:
        lines.append(f"map:  # the ids of the label files and their classes; {classes.ignore} ignores an id")
        lines += [f"  {value}: {number}" for value, number in classes.id_map.items()]
    lines.append(f"ignore: {classes.ignore}  # pixels with this id are ignored; it is above all class ids")
    channels = guess.channels
    if channels.value_range is not None:
        low, high = channels.value_range
        lines.append(
            f"value_range: [{low:.12g}, {high:.12g}]  # the values of black and white in images of more than 8 bits"
        )
    if channels.number != RGB:
        lines.append(f"channels: {channels.number}  # of the images, in the order of the files")
    if channels.mean:
        lines.append(f"mean: [{numbers(channels.mean)}]  # of each channel, after scaling values to 0..255")
        lines.append(f"std: [{numbers(channels.std)}]")
    return "\n".join(lines) + "\n"


def numbers(values: Sequence[float]) -> str:
    """Return numbers as the content of a YAML list."""
    return ", ".join(f"{value:.12g}" for value in values)


def listed(patterns: Sequence[str]) -> str:
    """Return one pattern, or a list of patterns, as YAML."""
    texts = [quoted(pattern) for pattern in patterns]
    return texts[0] if len(texts) == 1 else f"[{', '.join(texts)}]"


def quoted_name(name: str) -> str:
    """Return a class name as YAML, without quotes if it needs none."""
    return name if name.startswith("class_") and name.replace("_", "").isalnum() and name.isascii() else quoted(name)


def quoted(text: str) -> str:
    """Return any text as a quoted YAML string."""
    return '"' + "".join(escaped(letter) for letter in text) + '"'


def escaped(letter: str) -> str:
    """Return a character as written between YAML's double quotes."""
    if letter in '\\"':
        return f"\\{letter}"
    is_surrogate = "\ud800" <= letter <= "\udfff"  # from a name that is not valid Unicode, which UTF-8 cannot encode
    if (letter.isprintable() and letter != "\ufeff") or is_surrogate:
        return letter
    return f"\\x{ord(letter):02x}" if ord(letter) < 256 else f"\\U{ord(letter):08x}"
