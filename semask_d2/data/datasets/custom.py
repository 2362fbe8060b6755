"""Custom datasets: listing and registering the dataset that the config section DATASETS.CUSTOM describes."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from semask_d2.config.custom_data import check_section, rgb_of, split_names
from semask_d2.d2 import CfgNode, DatasetCatalog, MetadataCatalog
from semask_d2.data.datasets.coco_files import read_coco
from semask_d2.data.datasets.coco_labels import Matching, coco_labels, match_images
from semask_d2.data.datasets.pairing import Pairing, Problem, expand, find_pairs, merged
from semask_d2.data.datasets.walking import existing_part
from semask_d2.data.labels import CocoLabels, LabelFormat
from semask_d2.data.picture import RGB
from semask_d2.utils.classes import Classes
from semask_d2.utils.errors import UserError

HASH_RANGE = 2**64
JSON = ".json"
_registered: dict[str, CustomDataset] = {}  # by the registered names of splits


@dataclass(frozen=True)
class CustomDataset:
    """A dataset with the splits "train" and "val"; its fields are those of the config section, and INPUT.CHANNELS."""

    name: str
    root: Path
    images: dict[str, tuple[str, ...]]
    labels: dict[str, tuple[str, ...]]
    val_fraction: float
    classes: Classes
    label_format: LabelFormat
    channels: int = RGB

    @classmethod
    def from_section(cls, custom: CfgNode, channels: int = RGB) -> CustomDataset:
        """Return the dataset described by a section DATASETS.CUSTOM; raises `UserError` if the section is invalid."""
        check_section(custom, "DATASETS.CUSTOM")
        splits = {"train": custom.TRAIN, "val": custom.VAL}
        colors = [rgb_of(color, "DATASETS.CUSTOM.COLORS") for color in custom.COLORS]
        return cls(
            custom.NAME,
            Path(custom.ROOT),
            {split: tuple(section.IMAGES) for split, section in splits.items()},
            {split: tuple(section.LABELS) for split, section in splits.items()},
            custom.VAL_FRACTION,
            Classes.of(custom.NAMES, colors, custom.IGNORE),
            LabelFormat(
                custom.IGNORE,
                tuple((left, right) for left, right in custom.MAP),
                tuple((int(left[1:], 16), right) for left, right in custom.RGB),
                custom.REDUCE_ZERO_LABEL,
            ),
            channels,
        )

    def splits(self) -> list[str]:
        """Return the splits that the dataset has."""
        has_val = bool(self.images["val"] or self.val_fraction)
        return ["train"] * bool(self.images["train"]) + ["val"] * has_val

    def load(self, split: str) -> list[dict[str, Any]]:
        """List a split's images with their labels; raises `UserError` if some have no partner."""
        dicts, pairing = self.list_split(split)
        pairing.require_whole(f"{self.name}: {split}")
        return dicts

    def list_split(self, split: str) -> tuple[list[dict[str, Any]], Pairing]:
        """Return a split's dicts, and the pairing they come from, which includes files without a partner.

        Raises `UserError` if a pattern matches nothing.
        """
        source = "train" if split == "val" and self.val_fraction else split
        dicts, pairing = self._list_files(source)
        if not self.val_fraction:
            return dicts, pairing
        chosen = self._chosen([Path(sample["file_name"]) for sample in dicts])
        kept = [i for i in range(len(dicts)) if (i in chosen) == (split == "val")]
        if split == "val":  # files without a partner are reported only for the training split
            pairing.unlabeled, pairing.imageless, pairing.problems = [], [], []
        if dicts and not kept:
            raise UserError(
                f"{self.name}: val: {self.val_fraction:g} of {len(dicts)} image(s) leaves none for {split}: add more "
                "images, or name the images of val"
            )
        pairing.pairs = [pairing.pairs[i] for i in kept]
        return [dicts[i] for i in kept], pairing

    def _chosen(self, paths: list[Path]) -> set[int]:
        """Return the indices of the validation fraction, chosen by path hashes so that new files move no old ones."""
        places = [Path(os.path.relpath(path, self.root)).as_posix() for path in paths]
        hashes = [int.from_bytes(hashlib.sha256(os.fsencode(place)).digest()[:8], "big") for place in places]
        chosen = {i for i, value in enumerate(hashes) if value < self.val_fraction * HASH_RANGE}
        if chosen or not hashes:
            return chosen
        return {hashes.index(min(hashes))}  # at least one, even of a few images

    def _list_files(self, split: str) -> tuple[list[dict[str, Any]], Pairing]:
        images, labels = self.images[split], self.labels[split]
        if not images:
            raise UserError(f"{self.name}: it has no {split} images; add `{split}` to the dataset's file")
        if any(word.lower().endswith(JSON) for word in labels):
            return self._list_coco(split)
        pairing = find_pairs(images, labels, self.root, f"{self.name}: {split}")
        if any(label.suffix.lower() == JSON for _, label in pairing.pairs):
            return self._list_coco_pairs(pairing)
        extra = {} if self.label_format == LabelFormat(self.label_format.ignore_label) else {
            "label_format": self.label_format
        }  # fmt: skip
        return [{"file_name": str(i), "sem_seg_file_name": str(x), **extra} for i, x in pairing.pairs], pairing

    def _list_coco(self, split: str) -> tuple[list[dict[str, Any]], Pairing]:
        source = f"{self.name}: {split}"
        if len(self.labels[split]) > 1:
            raise UserError(f"{source}: labels: expected one .json file, or files of label maps")
        base, missing = existing_part(self.labels[split][0], self.root)
        path = base.joinpath(*missing)
        images = merged([expand(word, self.root, f"{source}: images") for word in self.images[split]], source)
        matching, problems = self._match_coco(path, images)
        other = "val" if split == "train" else "train"
        missing = matching.missing
        if missing and self.labels[other] == self.labels[split]:  # one file for both splits
            words = self.images[other]
            others = merged([expand(word, self.root, f"{self.name}: {other}: images") for word in words], source)
            missing_there = set(self._match_coco(path, others)[0].missing)
            missing = [name for name in missing if name in missing_there]
        keys = sorted(matching.labels)
        pairing = Pairing(
            [(images[key], path) for key in keys],
            [images[key] for key in sorted(images.keys() - matching.labels.keys() - matching.unclear)],
            [Path(f"{path}: {name}") for name in missing],
            [*problems, *matching.problems],
        )
        return [self._coco_dict(images[key], path, matching.labels[key]) for key in keys], pairing

    def _list_coco_pairs(self, listed: Pairing) -> tuple[list[dict[str, Any]], Pairing]:
        """Return the pairs of a list that names COCO files as labels, without the problems of images not listed."""
        result = Pairing()
        labels: dict[Path, CocoLabels] = {}
        for path in dict.fromkeys(label for _, label in listed.pairs):
            if path.suffix.lower() != JSON:
                raise UserError(f"{path}: a list of pairs holds either .json files or label maps; write two datasets")
            images = {image.relative_to(image.anchor).with_suffix("").as_posix(): image for image, x in listed.pairs
                      if x == path}  # fmt: skip
            matching, problems = self._match_coco(path, images)
            labels |= {images[key]: x for key, x in matching.labels.items()}
            listed_sources = {x.source for x in matching.labels.values()}
            result.problems += [x for x in problems if listed_sources.intersection(x.sources)]
            result.problems += matching.problems
            result.unlabeled += [images[key] for key in images.keys() - matching.labels.keys() - matching.unclear]
        result.pairs = [(image, path) for image, path in listed.pairs if image in labels]
        return [self._coco_dict(image, path, labels[image]) for image, path in result.pairs], result

    def _match_coco(self, path: Path, images: dict[str, Path]) -> tuple[Matching, list[Problem]]:
        """Return the labels in a COCO file, matched with images, and the file's problems."""
        file = read_coco(path)
        id_map, ignore_label = dict(self.label_format.id_map), self.label_format.ignore_label
        by_name = coco_labels(file, names=self.classes.names, id_map=id_map, ignore_label=ignore_label)
        return match_images(images, by_name, str(path)), file.problems

    def _coco_dict(self, image: Path, path: Path, labels: CocoLabels) -> dict[str, Any]:
        """Return the dict of an image whose labels are in the COCO file at `path`, painted at the image's size."""
        sample = {"file_name": str(image), "sem_seg_file_name": str(path), "coco_labels": labels}
        return sample if self.channels == RGB else sample | {"channels": self.channels}


def register_custom(cfg: CfgNode) -> CustomDataset | None:
    """Register the splits of the dataset in DATASETS.CUSTOM, if it describes one; safe to repeat.

    A changed description replaces an earlier one of the same name. Raises `UserError` if other code registered the
    name.
    """
    custom = cfg.DATASETS.get("CUSTOM")
    if custom is None or not custom.NAME:
        return None
    dataset = CustomDataset.from_section(custom, cfg.INPUT.CHANNELS)
    for split, names in zip(("train", "val"), split_names(custom), strict=True):
        for name in names:
            _register(name, split, dataset)
    return dataset


def _register(name: str, split: str, dataset: CustomDataset) -> None:
    taken = name in DatasetCatalog.list()
    if taken and _registered.get(name) == dataset:
        return
    if taken:
        if name not in _registered:
            raise UserError(
                f'the dataset "{dataset.name}" would be registered as "{name}", which is already taken: give it '
                "another name (`name:` in its file)"
            )
        DatasetCatalog.remove(name)
    if name in MetadataCatalog.list():
        MetadataCatalog.remove(name)
    DatasetCatalog.register(name, lambda: dataset.load(split))
    MetadataCatalog.get(name).set(**dataset.classes.as_metadata("stuff"), evaluator_type="sem_seg")
    _registered[name] = dataset
