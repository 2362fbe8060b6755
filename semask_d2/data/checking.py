"""The full check of a dataset: reads every pair of image and labels, and reports every fault with its file."""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import compress
from typing import Any

import numpy as np

from semask_d2.data.annotations import EmptyAnnotation
from semask_d2.data.datasets.custom import CustomDataset
from semask_d2.data.datasets.pairing import Problem
from semask_d2.data.image_io import lossy_format, read_image_facts
from semask_d2.data.label_checks import describe_wrong_ids, size_mismatch
from semask_d2.data.labels import read_sample_labels
from semask_d2.data.near_duplicates import NearHashes, perceptual_hash
from semask_d2.data.parallel import map_files
from semask_d2.data.picture import RGB
from semask_d2.data.pixel_values import ValueSpan, proposed_range
from semask_d2.data.serialized import SerializedDicts
from semask_d2.data.soft_borders import has_soft_borders
from semask_d2.data.statistics import only_class, pixels_by_class
from semask_d2.utils.classes import Classes
from semask_d2.utils.errors import UnreadableFile, UserError
from semask_d2.utils.excerpts import FEW, evenly, few

RARE_SHARE = 1e-4  # of a split's labeled pixels: a class with fewer is reported as rare
DARK = 8  # images are dark if the stated value range is this many times wider than the values in use
BORDER_SAMPLES = 64  # label files per split that are checked for soft borders

# Kinds of findings. Faults must be fixed; with warnings training works, but its results may mislead.
FAULTS = {
    "pattern": "nothing found",
    "partner": "without a partner",
    "unreadable": "missing or unreadable",
    "size": "image and labels of different sizes",
    "ids": "wrong ids or colors in label files",
    "lossy": "label files that lost ids by their format",
    "duplicate": "in both splits",
    "relation": "ids and names of a COCO file that contradict each other",
    "annotation": "unusable annotations (left out in training)",
    "degenerate": "NOTHING TO LEARN: one class is everywhere, or none",
}
WARNINGS = {
    "near": "nearly the same in both splits",
    "unlabeled": "no labeled pixel",
    "repeated": "twice in one split",
    "exif": "unreadable EXIF data",
    "rare": "very rare classes",
    "absent": "classes missing from a split",
    "single": "one class is everywhere, so that the metrics of a split mean nothing",
    "values": "pixel values of images",
    "area": "annotations without an area (left out in training)",
    "form": "unusual format, read as probably intended",
    "soft": "label files with soft borders",
    "box": "polygons that contradict the box or area in their file",
}


@dataclass(frozen=True)
class Finding:
    """One problem of a dataset: its kind, a key of FAULTS or WARNINGS, and a text that names the file."""

    kind: str
    text: str


@dataclass(slots=True)
class PairFacts:
    """Facts about one pair: findings, pixel counts (K,) by class, and hashes of the image.

    `exact` is a hash of all pixels, None if the image cannot be read; `looks` is a perceptual hash of 64 bits. `span`
    is set for images of more than 8 bits.
    """

    findings: list[Finding]
    pixels: np.ndarray
    exact: bytes | None = None
    looks: int = 0
    ignored: int = 0
    span: ValueSpan | None = None


class SplitFacts:
    """Facts about the pairs of a split: sums over them, and of each only its hashes and whether it has a fault.

    `pixels` and `images` (K,) count the pixels of each class and the images that show it; `holders` are the first few
    of their label files. `faulty` holds the places of the pairs with a fault.
    """

    def __init__(self, num_classes: int):
        self.pixels, self.images = np.zeros((2, num_classes), np.int64)
        self.holders: list[list[str]] = [[] for _ in range(num_classes)]
        self.exact: list[bytes | None] = []
        self.looks = array("Q")
        self.faulty: set[int] = set()
        self.ignored = self.eight_bits = 0
        self.spans: list[ValueSpan] = []

    def add(self, label_file: str, facts: PairFacts) -> None:
        """Add the next pair."""
        if any(finding.kind in FAULTS for finding in facts.findings):
            self.faulty.add(len(self.exact))
        for number in map(int, np.flatnonzero(facts.pixels)):
            if len(self.holders[number]) < FEW:
                self.holders[number].append(label_file)
        self.pixels += facts.pixels
        self.images += facts.pixels > 0
        self.ignored += facts.ignored
        self.exact.append(facts.exact)
        self.looks.append(facts.looks)
        if facts.span is not None:
            self.spans.append(facts.span)
        elif facts.exact is not None:
            self.eight_bits += 1


@dataclass
class DataCheck:
    """The result of a check; `dicts` and `facts` are per split."""

    findings: list[Finding] = field(default_factory=list)
    dicts: dict[str, SerializedDicts] = field(default_factory=dict)
    facts: dict[str, SplitFacts] = field(default_factory=dict)

    @property
    def faults(self) -> list[Finding]:
        """The findings that must be fixed before training."""
        return [finding for finding in self.findings if finding.kind in FAULTS]

    @property
    def warnings(self) -> list[Finding]:
        """The findings that are worth knowing before training."""
        return [finding for finding in self.findings if finding.kind in WARNINGS]

    def good(self, split: str) -> list[int]:
        """Return the places of the pairs without a fault; validation images that are also in training have one."""
        return [place for place in range(len(self.dicts[split])) if place not in self.facts[split].faulty]


def check_data(
    dataset: CustomDataset,
    *,
    value_range: Sequence[float] = (),
    channels: int = RGB,
    workers: int | None = None,
) -> DataCheck:
    """Read every pair of a dataset in `workers` processes (None: one per core) and return all findings.

    `value_range` and `channels` are those of INPUT.
    """
    result = DataCheck()
    examine = partial(
        examine_pair,
        num_classes=len(dataset.classes),
        ignore_label=dataset.classes.ignore_label,
        value_range=value_range,
        channels=channels,
    )
    for split in dataset.splits():
        try:
            dicts, pairing = dataset.list_split(split)
        except UserError as error:
            result.findings.append(Finding("pattern", str(error)))
            continue
        result.findings += [Finding("partner", f"{path} ({split}) has no label file") for path in pairing.unlabeled]
        result.findings += [Finding("partner", f"{path} ({split}) has no image") for path in pairing.imageless]
        result.findings += [Finding(problem.kind, problem.text) for problem in pairing.problems]
        if dicts:
            problems = pairing.problems
            result.dicts[split] = dicts = SerializedDicts(dicts)  # little memory, which processes share
            del pairing
            result.facts[split] = kept = SplitFacts(len(dataset.classes))
            examined = map_files(examine, dicts, what=f"checking {split}", workers=workers)
            for sample, facts in zip(dicts, examined, strict=True):
                kept.add(sample["sem_seg_file_name"], facts)
                result.findings += facts.findings
            attach_faults(result, split, problems)
    result.findings = list(dict.fromkeys(result.findings))  # splits drawn from one list repeat its faults
    result.findings += repeated_images(result)
    result.findings += shared_images(result)
    result.findings += class_findings(result, dataset.classes)
    result.findings += value_findings(result, value_range)
    result.findings += soft_findings(result, dataset.classes.ignore_label, workers)
    return result


def attach_faults(check: DataCheck, split: str, problems: Sequence[Problem]) -> None:
    """Mark the images that the faults of a COCO file, which are reported once, concern."""
    sources = {source for problem in problems if problem.kind in FAULTS for source in problem.sources}
    for place, sample in enumerate(check.dicts[split] if sources else ()):
        labels = sample.get("coco_labels")
        if labels is not None and labels.source in sources:
            check.facts[split].faulty.add(place)


def examine_pair(
    sample: dict[str, Any],
    *,
    num_classes: int,
    ignore_label: int,
    value_range: Sequence[float] = (),
    channels: int = RGB,
) -> PairFacts:
    """Read one pair and return its facts, with all findings."""
    facts = PairFacts([], np.zeros(num_classes, np.int64))
    path, label_path = sample["file_name"], sample["sem_seg_file_name"]
    size = examine_image(path, facts, value_range, channels)
    if lossy := lossy_format(label_path):
        facts.findings.append(
            Finding("lossy", f"{label_path} is a {lossy} file; lossy compression changes ids: write PNG")
        )
    coco = sample.get("coco_labels")
    try:
        if coco is None:
            labels = read_sample_labels(sample)
        elif size is None or not coco.fits(size):
            if size is not None:
                text = size_mismatch(path, size, "entry", coco.source, coco.stated_size(size))
                facts.findings.append(Finding("size", text))
            return facts
        else:
            labels, problems = coco.paint(size)
            kinds = {True: "area", False: "annotation"}
            facts.findings += [Finding(kinds[isinstance(x, EmptyAnnotation)], str(x)) for x in problems]
    except UserError as error:
        kind = "unreadable" if isinstance(error, UnreadableFile) else "ids"
        facts.findings.append(Finding(kind, str(error)))
        return facts
    label_size = labels.shape[1], labels.shape[0]
    if size is not None and size != label_size:
        facts.findings.append(Finding("size", size_mismatch(path, size, "label file", label_path, label_size)))
    label_path = label_path if coco is None else coco.source
    if wrong := describe_wrong_ids(labels, num_classes, ignore_label):
        facts.findings.append(Finding("ids", f"{label_path}: {wrong}"))
    facts.pixels = pixels_by_class(labels, num_classes, ignore_label)
    facts.ignored = int((labels == ignore_label).sum())
    if not wrong and not facts.pixels.any():
        facts.findings.append(Finding("unlabeled", f"{label_path}: every pixel is ignored ({ignore_label})"))
    return facts


def examine_image(path: str, facts: PairFacts, value_range: Sequence[float], channels: int) -> tuple[int, int] | None:
    """Add the facts of an image to `facts`, and return its width and height, None if it cannot be read."""
    image = read_image_facts(path, value_range, channels)
    facts.span = image.span
    if image.pages > 1:
        facts.findings.append(Finding("values", f"{path} has {image.pages} pages; only the first is read"))
    if image.unread_bands:
        text = f"{path} has {image.unread_bands} extra band(s), which are not read"
        facts.findings.append(Finding("values", f"{text}; with `channels` in the dataset's file all are"))
    if image.problem:
        facts.findings.append(Finding("unreadable", image.problem))
    if image.pixels is not None:
        content = repr(image.size).encode() + image.pixels.tobytes()
        facts.exact = hashlib.sha1(content, usedforsecurity=False).digest()
        facts.looks = perceptual_hash(image.pixels)
        if image.has_broken_exif:
            facts.findings.append(Finding("exif", f"{path}: its EXIF data cannot be read and is ignored"))
    return image.size


def soft_findings(check: DataCheck, ignore_label: int, workers: int | None) -> list[Finding]:
    """Return a finding for each split with soft borders; only a sample of its label files is read, to save time."""
    findings = []
    for split, dicts in check.dicts.items():
        places = [place for place, sample in enumerate(dicts) if "coco_labels" not in sample]
        samples = [dicts[place] for place in evenly(places, BORDER_SAMPLES)]
        are_soft = partial(has_soft_borders, ignore_label=ignore_label)
        answers = map_files(are_soft, samples, what=f"borders of {split}", workers=workers)
        if soft := [sample["sem_seg_file_name"] for sample in compress(samples, answers)]:
            text = (
                f"{len(soft)} of {len(samples)} label file(s) of {split} have intermediate ids at borders, as "
                "antialiasing makes them: save them with sharp borders, or let `map` ignore these ids: "
                f"{few(soft)}"
            )
            findings.append(Finding("soft", text))
    return findings


def repeated_images(check: DataCheck) -> list[Finding]:
    """Return one finding for each image that a split holds several times, with all its files."""
    findings = []
    for split, facts in check.facts.items():
        first: dict[bytes, int] = {}
        places: dict[int, list[int]] = {}  # of the repetitions of an image, by its first place
        for place, exact in enumerate(facts.exact):
            if exact is not None and (earlier := first.setdefault(exact, place)) != place:
                places.setdefault(earlier, []).append(place)
        for earlier, others in sorted(places.items()):
            same = [check.dicts[split][place]["file_name"] for place in (earlier, *others)]
            findings.append(Finding("repeated", f"{', '.join(same)} ({split}) are identical images, pixel by pixel"))
    return findings


def shared_images(check: DataCheck) -> list[Finding]:
    """Return the images of the validation set that are in the training set as well, exactly or nearly."""
    if len(check.facts) < 2:
        return []
    train, val = check.facts["train"], check.facts["val"]
    readable = [place for place, exact in enumerate(train.exact) if exact is not None]
    if not readable:
        return []

    def name(split: str, place: int) -> str:
        return check.dicts[split][place]["file_name"]

    places = {train.exact[place]: place for place in readable}
    looks = NearHashes([train.looks[place] for place in readable])
    findings = []
    for place, exact in enumerate(val.exact):
        if exact is None:
            continue
        if exact in places:
            text = f"{name('val', place)} (val) equals {name('train', places[exact])} (train), pixel by pixel"
            findings.append(Finding("duplicate", text))
            val.faulty.add(place)
        elif (near := looks.nearest(val.looks[place])) is not None:
            text = f"{name('val', place)} (val) looks like {name('train', readable[near])} (train)"
            findings.append(Finding("near", text))
    return findings


def class_findings(check: DataCheck, classes: Classes) -> list[Finding]:
    """Return the classes that are absent or rare in a split, and the splits in which one class is everywhere."""
    findings, ignored_id = [], classes.ignore_label
    if len(classes) == 1:
        text = f'`names` has only one class, "{classes.names[0]}": add a second class, such as background, '
        text += "for all other pixels"
        findings.append(Finding("degenerate", text))
    for split, facts in check.facts.items():
        total = max(int(facts.pixels.sum()), 1)
        everywhere = only_class(facts.pixels)
        ignored = facts.ignored
        if ignored and not facts.pixels.any():
            text = f"every pixel of {split} is {ignored_id}, ignored: does the dataset's file ignore real classes?"
            findings.append(Finding("degenerate" if split == "train" else "single", text))
        for number, name in enumerate(classes.names):
            count, images = int(facts.pixels[number]), int(facts.images[number])
            if not count:
                findings.append(Finding("absent", f'{number} "{name}" has no pixel in {split}'))
            elif number == everywhere:
                text = f'{number} "{name}" covers each of the {total} labeled pixels of {split}'
                if ignored:
                    share = 100 * ignored / (ignored + total)
                    text += f"; {share:.0f} % of all are {ignored_id}, ignored: if that is a class, add it in `map`"
                findings.append(Finding("degenerate" if split == "train" else "single", text))
            elif count / total < RARE_SHARE:
                text = f'{number} "{name}" has {count} of {total} pixels in {split}, in {images} image(s)'
                findings.append(Finding("rare", f"{text}: {few(facts.holders[number], total=images)}"))
    return findings


def value_findings(check: DataCheck, value_range: Sequence[float]) -> list[Finding]:
    """Return findings on images of more than 8 bits: mixed types, NaN, and values that are clipped or too dark."""
    findings = []
    for split, facts in check.facts.items():
        spans = facts.spans
        if not spans:
            continue
        if len({span.is_float for span in spans}) > 1 or len(spans) < len(facts.exact):
            floats = sum(span.is_float for span in spans)
            kinds = {"floats": floats, "whole numbers of more than 8 bits": len(spans) - floats,
                     "8 bits": facts.eight_bits}  # fmt: skip
            held = [f"{count} hold {kind}" for kind, count in kinds.items() if count]
            if len(held) > 1:
                text = f"images of {split}: {', '.join(held)}; one value range hardly suits all: write them in one "
                findings.append(Finding("values", text + "format"))
        low, high = min(span.low for span in spans), max(span.high for span in spans)
        holds = f"{len(spans)} image(s) of {split} of more than 8 bits hold the values {low:g} to {high:g}"
        if not_numbers := sum(span.not_numbers > 0 for span in spans):
            findings.append(
                Finding("values", f"{not_numbers} image(s) of {split} hold NaN, infinity or values that mean no data")
            )
        if value_range and (low < value_range[0] or high > value_range[1]):
            text = f"values outside `value_range` {list(value_range)} are clipped"
            findings.append(Finding("values", f"{holds}: {text}"))
        elif not value_range and (proposed := proposed_range(spans)) is not None:
            shown = ", ".join(f"{x:g}" for x in proposed)
            text = f"state the values of black and white in the dataset's file, `value_range: [{shown}]`"
            findings.append(Finding("values", f"{holds}, which are read as {spans[0].default_range}: {text}"))
        else:
            stated = value_range or spans[0].default_range
            if high - low < (stated[1] - stated[0]) / DARK:
                findings.append(Finding("values", f"{holds}, out of {list(stated)}: they are nearly uniform gray"))
    return findings
