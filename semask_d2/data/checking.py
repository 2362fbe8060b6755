"""The full check of a dataset: reads every pair of image and labels, and reports every fault with its file."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import compress
from typing import Any

import cv2
import numpy as np

from semask_d2.data.annotations import EmptyAnnotation
from semask_d2.data.datasets.custom import CustomDataset
from semask_d2.data.datasets.pairing import Problem
from semask_d2.data.image_io import lossy_format, read_image_facts
from semask_d2.data.label_checks import describe_wrong_ids, size_mismatch
from semask_d2.data.labels import read_sample_labels
from semask_d2.data.parallel import map_files
from semask_d2.data.picture import RGB
from semask_d2.data.pixel_values import ValueSpan, proposed_range
from semask_d2.data.soft_borders import has_soft_borders
from semask_d2.data.statistics import only_class, pixels_by_class
from semask_d2.utils.classes import Classes
from semask_d2.utils.errors import UnreadableFile, UserError
from semask_d2.utils.excerpts import evenly, few

NEAR_BITS = 3  # of 64: the hashes of near duplicates differ by at most this many
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


@dataclass
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


@dataclass
class DataCheck:
    """The result of a check; `dicts`, `facts` and `pixels` (images, K) are per split."""

    findings: list[Finding] = field(default_factory=list)
    dicts: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    facts: dict[str, list[PairFacts]] = field(default_factory=dict)

    @property
    def faults(self) -> list[Finding]:
        """The findings that must be fixed before training."""
        return [finding for finding in self.findings if finding.kind in FAULTS]

    @property
    def warnings(self) -> list[Finding]:
        """The findings that are worth knowing before training."""
        return [finding for finding in self.findings if finding.kind in WARNINGS]

    def pixels(self, split: str) -> np.ndarray:
        """Return the pixel counts (images, K) by class of a split."""
        return np.stack([facts.pixels for facts in self.facts[split]])

    def good(self, split: str) -> list[dict[str, Any]]:
        """Return the pairs of a split without a fault; validation images that are also in training have one."""
        pairs = zip(self.dicts[split], self.facts[split], strict=True)
        return [sample for sample, facts in pairs if not any(finding.kind in FAULTS for finding in facts.findings)]


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
            result.dicts[split] = dicts
            result.facts[split] = list(map_files(examine, dicts, what=f"checking {split}", workers=workers))
            result.findings += [finding for facts in result.facts[split] for finding in facts.findings]
            attach_faults(result, split, pairing.problems)
    result.findings = list(dict.fromkeys(result.findings))  # splits drawn from one list repeat its faults
    result.findings += repeated_images(result)
    result.findings += shared_images(result)
    result.findings += class_findings(result, dataset.classes)
    result.findings += value_findings(result, value_range)
    result.findings += soft_findings(result, dataset.classes.ignore_label, workers)
    return result


def attach_faults(check: DataCheck, split: str, problems: Sequence[Problem]) -> None:
    """Attach the faults of a COCO file, which are reported once, to the images that they concern."""
    faults = {source: problem for problem in problems if problem.kind in FAULTS for source in problem.sources}
    for sample, facts in zip(check.dicts[split], check.facts[split], strict=True):
        labels = sample.get("coco_labels")
        if labels is not None and labels.source in faults:
            problem = faults[labels.source]
            facts.findings.append(Finding(problem.kind, problem.text))


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
        samples = evenly([sample for sample in dicts if "coco_labels" not in sample], BORDER_SAMPLES)
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


def perceptual_hash(pixels: np.ndarray) -> int:
    """Return 64 bits of an image (H, W, C): where, in a 9 x 8 gray copy, a pixel is brighter than its left neighbor."""
    if pixels.shape[2] == RGB:
        gray = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)
    else:
        gray = pixels.mean(2).round().astype(np.uint8)
    small = cv2.resize(gray, (9, 8), interpolation=cv2.INTER_AREA).astype(int)
    bits = small[:, 1:] > small[:, :-1]
    return int.from_bytes(np.packbits(bits).tobytes(), "big")


def repeated_images(check: DataCheck) -> list[Finding]:
    """Return one finding for each image that a split holds several times, with all its files."""
    findings = []
    for split, facts in check.facts.items():
        names: dict[bytes, list[str]] = {}
        for sample, pair_facts in zip(check.dicts[split], facts, strict=True):
            if pair_facts.exact is not None:
                names.setdefault(pair_facts.exact, []).append(sample["file_name"])
        findings += [
            Finding("repeated", f"{', '.join(same)} ({split}) are identical images, pixel by pixel")
            for same in names.values()
            if len(same) > 1
        ]
    return findings


def shared_images(check: DataCheck) -> list[Finding]:
    """Return the images of the validation set that are in the training set as well, exactly or nearly."""
    if len(check.facts) < 2:
        return []
    train = [(x["file_name"], f) for x, f in zip(check.dicts["train"], check.facts["train"], strict=True) if f.exact]
    if not train:
        return []
    exact = {facts.exact: name for name, facts in train}
    looks = np.array([facts.looks for _, facts in train], np.uint64)
    findings = []
    for sample, facts in zip(check.dicts["val"], check.facts["val"], strict=True):
        name = sample["file_name"]
        if facts.exact is None:
            continue
        if facts.exact in exact:
            findings.append(Finding("duplicate", f"{name} (val) equals {exact[facts.exact]} (train), pixel by pixel"))
            facts.findings.append(findings[-1])
            continue
        differing = np.unpackbits((looks ^ np.uint64(facts.looks)).view(np.uint8).reshape(-1, 8), axis=1).sum(1)
        nearest = int(differing.argmin())
        if differing[nearest] <= NEAR_BITS:
            findings.append(Finding("near", f"{name} (val) looks like {train[nearest][0]} (train)"))
    return findings


def class_findings(check: DataCheck, classes: Classes) -> list[Finding]:
    """Return the classes that are absent or rare in a split, and the splits in which one class is everywhere."""
    findings, ignored_id = [], classes.ignore_label
    if len(classes) == 1:
        text = f'`names` has only one class, "{classes.names[0]}": add a second class, such as background, '
        text += "for all other pixels"
        findings.append(Finding("degenerate", text))
    for split in check.facts:
        pixels = check.pixels(split)
        total = max(int(pixels.sum()), 1)
        everywhere = only_class(pixels.sum(0))
        ignored = sum(facts.ignored for facts in check.facts[split])
        if ignored and not pixels.any():
            text = f"every pixel of {split} is {ignored_id}, ignored: does the dataset's file ignore real classes?"
            findings.append(Finding("degenerate" if split == "train" else "single", text))
        for number, name in enumerate(classes.names):
            count, images = int(pixels[:, number].sum()), int((pixels[:, number] > 0).sum())
            if not count:
                findings.append(Finding("absent", f'{number} "{name}" has no pixel in {split}'))
            elif number == everywhere:
                text = f'{number} "{name}" covers each of the {total} labeled pixels of {split}'
                if ignored:
                    share = 100 * ignored / (ignored + total)
                    text += f"; {share:.0f} % of all are {ignored_id}, ignored: if that is a class, add it in `map`"
                findings.append(Finding("degenerate" if split == "train" else "single", text))
            elif count / total < RARE_SHARE:
                holders = [x["sem_seg_file_name"] for x in compress(check.dicts[split], pixels[:, number] > 0)]
                text = f'{number} "{name}" has {count} of {total} pixels in {split}, in {images} image(s)'
                findings.append(Finding("rare", f"{text}: {few(holders)}"))
    return findings


def value_findings(check: DataCheck, value_range: Sequence[float]) -> list[Finding]:
    """Return findings on images of more than 8 bits: mixed types, NaN, and values that are clipped or too dark."""
    findings = []
    for split, facts in check.facts.items():
        spans = [x.span for x in facts if x.span is not None]
        if not spans:
            continue
        if len({span.is_float for span in spans}) > 1 or len(spans) < len(facts):
            floats = sum(span.is_float for span in spans)
            kinds = {"floats": floats, "whole numbers of more than 8 bits": len(spans) - floats,
                     "8 bits": sum(x.exact is not None and x.span is None for x in facts)}  # fmt: skip
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
