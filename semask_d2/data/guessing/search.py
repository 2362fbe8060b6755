"""The search for images and labels that belong together, among the files of a folder.

If two places could be the images of the same labels, or the labels of the same images, none is chosen: the error names
both, and the user decides.
"""

from __future__ import annotations

import glob
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from itertools import permutations
from pathlib import Path

from semask_d2.data.datasets.coco_files import CocoFile
from semask_d2.data.datasets.coco_labels import match_images
from semask_d2.data.datasets.pairing import expand
from semask_d2.data.datasets.walking import composed, existing_part, matching_files
from semask_d2.data.guessing.exports import require_whole_labels, unsupported_files
from semask_d2.data.guessing.looks import is_in_color, is_lossy_label, is_overlay, is_whole_floats, looks, median_looks
from semask_d2.data.guessing.places import (
    JsonFiles,
    Place,
    image_places,
    is_image_file,
    is_split,
    json_places,
    nearness,
    option_words,
    split_named,
)
from semask_d2.data.image_io import lossy_format
from semask_d2.data.labels import CocoLabels
from semask_d2.utils.errors import UserError
from semask_d2.utils.excerpts import evenly, few

# words in the names of places that are unlikely choices among several that fit
UNLIKELY = re.compile("instance|object|panoptic|color|human|vis|overlay|preview|thumb|depth|dispar|normal|contour|edge")
PROBED = 3  # image files of a folder that are read to recognize labels
RIVAL = 0.5  # labels are rivals of the best match if they share at least this fraction of its names with the images


class Search:
    """The search for images and labels that belong together among the `files` of a `folder`."""

    def __init__(self, folder: Path, files: Sequence[Path], images: str, labels: str):
        self.folder = folder
        self.image_files = [path for path in files if is_image_file(path)]
        self.files = files
        self.images, self.labels = images, labels
        self.json: JsonFiles | None = None
        self.remarks: list[str] = []
        self.sides: tuple[list[Place], list[Place]] = ([], [])
        self.splits: dict[Place, str] = {}

    def partners(self, *, by_kind: bool = False, by_looks: bool = False) -> list[tuple[Place, Place]]:
        """Return pairs of image places and label places; `by_kind` separates files of one folder by their endings.

        `by_looks` also pairs places that all look like labels, such as scans and their labels.
        """
        self.remarks = []
        if not self.images and not self.labels:
            require_whole_labels(self.folder, self.files)
        images, labels = self.sides = self.candidates(by_kind)
        if by_looks and self.images and self.labels:
            return []
        return self.unrivaled(self.related(images, labels) if by_looks else self.claims(images, labels))

    def candidates(self, by_kind: bool) -> tuple[list[Place], list[Place]]:
        """Return the candidate places of images and of labels, named by the user or recognized by their looks."""
        images = self.named("images", self.images, by_kind) if self.images else None
        labels = self.named("labels", self.labels, by_kind) if self.labels else None
        taken = {path for place in (*(images or ()), *(labels or ())) for path in place.files}
        rest = image_places([path for path in self.image_files if path not in taken], by_kind=by_kind)
        drawn = {place: looks_drawn(place) for place in rest} if images is None or labels is None else {}
        if images is None:
            images = [place for place in rest if not drawn[place]]
        if labels is None:
            json_files = self.json_files()
            labels = [place for place in rest if drawn[place]] + json_files.places
            segment_maps = [place for place in labels if self.holds_segments(place)]
            labels = [place for place in labels if place not in segment_maps]
            self.remarks += [
                f"left out: {place.below(self.folder)}, whose colors are segments of a panoptic file, not classes"
                for place in segment_maps
            ]
        return images, labels

    def named(self, option: str, pattern: str, by_kind: bool) -> list[Place]:
        """Return the places that match the pattern given with an option."""
        source = f"--{option}"
        base, rest = existing_part(pattern, self.folder)
        if not base.joinpath(*rest).is_relative_to(self.folder):
            raise UserError(
                f"{source} {pattern}: not inside {self.folder}; name a folder that holds both images and labels"
            )
        if option == "labels" and pattern.lower().endswith(".json"):
            places = [x for x in self.json_files().places if x.pattern == base.joinpath(*rest)]
            if not places:
                known = next((x for x in self.json_files().others if pattern in x), "no COCO-format file there")
                raise UserError(f"{source} {pattern}: {known}")
            return places
        files = sorted(expand(pattern, self.folder, source).values())
        by_name = Path(pattern.replace("\\", "/")).name
        places = image_places(files, by_kind=by_kind)
        chosen = set(files)
        is_whole = all(set(expand(str(x.pattern), self.folder, source).values()) <= chosen for x in places)
        return places if is_whole else image_places(files, by_name)

    def json_files(self) -> JsonFiles:
        """Return the JSON files of the folder, which are read only once."""
        if self.json is None:
            self.json = json_places(self.files)
        return self.json

    def holds_segments(self, place: Place) -> bool:
        """Return whether the files of a place are the colored segment maps that a panoptic file names."""
        names = {composed(path.name) for path in place.files}
        return place.coco is None and names <= self.json_files().panoptic and is_in_color(place.files[0])

    def claims(self, images: Sequence[Place], labels: Sequence[Place]) -> list[tuple[Place, Place]]:
        """Pair each image place with the labels that share the most names with it, preferring the nearest.

        Labels in a folder of the same name (images/val, labels/val) come first. Other labels in the chosen folder, for
        example with another suffix, are also used if they belong to other images. Raises `UserError` if two choices are
        equally good.
        """
        by_name: dict[str, list[Place]] = defaultdict(list)
        by_folder: dict[Path, list[Place]] = defaultdict(list)
        for label in labels:
            by_name[label.pattern.parent.name].append(label)
            by_folder[label.pattern.parent] += [label] if label.coco is None else []
        partners, unlabeled = [], []
        for image in (part for place in images for part in self.divided(place, labels)):
            # with many pairs of equally named folders, comparing only those is faster
            fitting = self.fitting(image, by_name[image.pattern.parent.name], RIVAL * len(image.names))
            fitting = fitting or self.fitting(image, labels)
            if not fitting:
                unlabeled.append(image)
                continue
            best = max(fitting, key=lambda x: (nearness(image, x), len(image.names & x.names)))
            equal = [x for x in fitting if x is not best and nearness(image, x) == nearness(image, best)]
            if rivals := [x for x in equal if image.names & x.names & best.names]:
                raise self.choice("labels", [best, *rivals])
            partners.append((image, best))
            others = [x for x in by_folder[best.pattern.parent] if x is not best and best.coco is None]
            partners += [(image, x) for x in others if x.names & image.names and not x.names & image.names & best.names]
        self.remarks += [f"left out: {x.below(self.folder)}, which has no labels" for x in unlabeled]
        self.remarks += self.unused(partners, labels)
        return partners

    def divided(self, image: Place, labels: Sequence[Place]) -> list[Place]:
        """Divide an image place whose labels are in several COCO-format files, or in places of different splits.

        A place is not divided if two of these label places share a name.
        """
        several = [x for x in labels if x.names & image.names]
        are_splits = len({self.split_of(x) for x in several} - {""}) == len(several)
        if self.split_of(image) or len(several) < 2 or not (are_splits or all(x.coco for x in several)):
            return [image]
        names = [x.names & image.names for x in several]
        if sum(map(len, names)) > len(frozenset().union(*names)):
            return [image]
        by_name = image.by_name()
        parts = [
            replace(image, files=tuple(by_name[x] for x in sorted(group)), names=group, is_part=True) for group in names
        ]
        if left_out := len(image.names) - sum(map(len, names)):
            self.remarks.append(f"left out: {left_out} files of {image.below(self.folder)}, which have no labels")
        return parts

    def fitting(self, image: Place, labels: Sequence[Place], least: float = 1) -> list[Place]:
        """Return the labels of the image's split with at least half of the most shared names, if those are `least`."""
        split = self.split_of(image)
        same_split = [x for x in labels if len({split, self.split_of(x)} - {""}) < 2]
        shared = {x: len(image.names & x.names) for x in same_split}
        most = max(shared.values(), default=0)
        return [x for x, count in shared.items() if count >= max(RIVAL * most, 1)] if most >= max(least, 1) else []

    def split_of(self, place: Place) -> str:
        """Return the split named by the folders of a place, or by the name of a COCO-format file; "" for none."""
        if place not in self.splits:
            self.splits[place] = split_named(place.pattern.relative_to(self.folder).with_suffix("").parts)
        return self.splits[place]

    def unused(self, partners: Sequence[tuple[Place, Place]], labels: Sequence[Place]) -> list[str]:
        """Return remarks about label places that are not used, though they match images of `partners`."""
        used = {place for pair in partners for place in pair}
        remarks = []
        for label in (x for x in labels if x not in used):
            image, best = next(((x, y) for x, y in partners if x.names & label.names), (None, None))
            if image is None or best is None:
                continue
            if image.names & label.names & best.names:
                is_near = nearness(image, label) >= nearness(image, best)
                why = "labels of fewer of the images" if is_near else "farther from the images than their labels"
            else:
                advice = "give the images of each split their own folder, or write lists of pairs"
                why = f"the labels of other images in {image.below(self.folder)}; {advice}"
            remarks.append(f"left out: {label.below(self.folder)}, {why}")
        return remarks

    def related(self, images: Sequence[Place], labels: Sequence[Place]) -> list[tuple[Place, Place]]:
        """Return pairs of places that look alike, such as scans and their labels, and of which one is far plainer."""
        known: dict[Place, bool] = {}
        pairs = []
        image_candidates = images if self.images else labels
        for image in (x for x in image_candidates if x.coco is None):
            for label in (x for x in labels if x is not image and x.coco is None and x.names & image.names):
                left, right = (median_looks(evenly(x.files, PROBED)) for x in (image, label))
                if left is None or right is None:
                    continue
                if right.is_plainer(left):
                    known[image] = True
                elif not left.is_plainer(right) and not self.images:
                    pairs.append((image, label))
        scans = [place for place in image_candidates if place in known]
        if not scans and pairs:
            raise self.choice("images", pairs[0])
        return self.claims(scans, [label for label in labels if label not in known])

    def unrivaled(self, partners: Sequence[tuple[Place, Place]]) -> list[tuple[Place, Place]]:
        """Return the pairs without images whose labels fit other images better; equal folder names decide.

        Raises `UserError` if several images fit the same labels equally well.
        """
        kept = list(partners)
        images_by_label: dict[Place, list[Place]] = defaultdict(list)
        for image, label in partners:
            images_by_label[label].append(image)
        for image, label in partners:
            rivals = [
                other
                for other in images_by_label[label]
                if other is not image and image.names & other.names & label.names
                if label.coco is None or not are_distinguished(label.coco, [image, other], self.folder)
            ]
            alike = nearness(image, label)[0]
            if equal := [other for other in rivals if nearness(other, label)[0] == alike]:
                raise self.choice("images", [image, *equal], label)
            if rivals and not alike:
                kept.remove((image, label))
                why = f"as {label.below(self.folder)} belongs to other images with these names"
                self.remarks.append(f"left out: {image.below(self.folder)}, {why}")
        return kept

    def choice(self, option: str, places: Sequence[Place], label: Place | None = None) -> UserError:
        """Return the error that names the places from which the user has to choose."""
        names = [place.below(self.folder) for place in places]
        likely = sorted(places, key=lambda x: bool(UNLIKELY.search(x.below(self.folder).lower())))
        overlaid = ""
        if label is not None and label.coco is None:
            for one, two in permutations(places, 2):
                if not overlaid and holds_overlays(one, two, label):
                    overlaid = (
                        f" ({one.below(self.folder)} looks like {two.below(self.folder)} with colors laid over it)"
                    )
                    likely = [two]
        if label is None and option == "images":
            role = "images or labels, as they look alike"
        else:
            role = f"the {option} of the same {'labels' if option == 'images' else 'images'}"
        listed = f"{', '.join(names[:-1])} and {names[-1]}"
        all_of_them = "all" if len(names) > 2 else "both"
        if option == "labels" and not any(place.coco for place in places) and all(map(is_binary, places)):
            overlaid = " (each holds two values: if each is for one class, first merge them into one file per image)"
        return UserError(
            f"{self.folder}: {listed} could {all_of_them} be {role}{overlaid}; choose with "
            f"{option_words(option, self.pattern_for_all_splits(likely[0]))}"
        )

    def pattern_for_all_splits(self, place: Place) -> str:
        """Return the pattern of a place, with * for its split's folder if other splits have the same structure."""
        parts = place.pattern.relative_to(self.folder).parts
        wide = [glob.escape(x) if not is_split(x) else "*" for x in parts[:-1]] + [parts[-1]]
        if place.coco is not None or wide[:-1].count("*") != 1:
            return "/".join(parts)
        files = matching_files(self.folder, wide)
        others = {path.relative_to(self.folder).parts[wide.index("*")] for path in files} - set(parts)
        return "/".join(wide) if others and all(map(is_split, others)) else "/".join(parts)

    def nothing_found(self) -> UserError:
        """Return the error for a folder without matching images and labels, with the reason if it is known."""
        images, labels = self.sides
        if not labels and not self.labels and self.json_files().broken:
            return UserError(self.json_files().broken[0])
        lossy = [place for place in images if all(map(is_lossy_label, evenly(place.files, PROBED)))]
        image_files = [place for place in images if place not in lossy]
        if not lossy:
            image_files = self.candidates(by_kind=True)[0]
            lossy = [place for place in image_files if all(map(is_lossy_label, evenly(place.files, PROBED)))]
        for place in lossy:
            if any(place.names & other.names for other in image_files if other is not place):
                return UserError(
                    f"{self.folder}: {place.below(self.folder)} look like label files saved as "
                    f"{lossy_format(place.files[0])}, which changes ids at every border "
                    "and cannot be undone: export them as PNG"
                )
        others = self.json_files().others if not self.labels else []
        others = [*others, *unsupported_files(self.files)]
        for place in images:
            if any(place.names & other.names for other in images if other is not place) and holds_whole_floats(place):
                others.append(f"{place.below(self.folder)} hold ids as floats; save them as integers")
        known = f". {few(others, '; ')}" if others else ""
        places = [place.below(self.folder) for place in (*images, *labels)]
        return UserError(
            f"{self.folder}: found photographs in {len(images)} place(s) and label files in {len(labels)} "
            f"({few(places)}), but none that belong together: label files have the names of their images "
            f"and hold one id, or one of few colors, for each pixel{known}"
        )


def looks_drawn(place: Place) -> bool:
    """Return whether all probed, readable image files of a place look like label files."""
    known = [x for path in evenly(place.files, PROBED) if (x := looks(path)) is not None]
    return bool(known) and all(x.is_label() for x in known)


def holds_whole_floats(place: Place) -> bool:
    """Return whether the probed image files of a place hold only floats that are whole numbers."""
    return all(map(is_whole_floats, evenly(place.files, PROBED)))


def is_binary(place: Place) -> bool:
    """Return whether all probed, readable image files of a place hold at most two values."""
    known = [x for path in evenly(place.files, PROBED) if (x := looks(path)) is not None]
    return bool(known) and all(x.values <= 2 for x in known)


def holds_overlays(overlay: Place, image: Place, label: Place) -> bool:
    """Return whether `overlay` holds the images of the place `image`, overlaid with the colors of their labels."""
    names = evenly(sorted(overlay.names & image.names & label.names), PROBED)
    by_name = [place.by_name() for place in (overlay, image, label)]
    return bool(names) and all(is_overlay(*(files[name] for files in by_name)) for name in names)


def are_distinguished(file: CocoFile, places: Sequence[Place], folder: Path) -> bool:
    """Return whether the folders in a COCO-format file's names distinguish the images of several places."""
    images = {path.relative_to(folder).with_suffix("").as_posix(): path for place in places for path in place.files}
    labels = {image.file_name: CocoLabels("", None, None, 0, ()) for image in file.images}
    matching = match_images(images, labels, "")
    matched = {images[key] for key in matching.labels}
    return not any(x.refused for x in matching.problems) and all(matched & set(place.files) for place in places)
