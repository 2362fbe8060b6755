"""Datasets in COCO's segment formats: panoptic PNG and JSON files, and JSON files of instances."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from semask_d2.data.datasets.coco_files import read_coco
from semask_d2.data.datasets.folder import datasets_root, require_folder
from semask_d2.data.datasets.pairing import require_sound
from semask_d2.data.serialized import SerializedDicts
from semask_d2.utils.classes import Classes
from semask_d2.utils.errors import UserError

LISTED = 2  # number of splits that are cached, as bytes
_listed: dict[tuple[str, str, int, int], SerializedDicts] = {}


class Category(NamedTuple):
    """A category of a COCO-format file; things are countable objects."""

    id: int
    name: str
    is_thing: bool
    color: tuple[int, int, int]


class SegmentFiles(NamedTuple):
    """Paths of a split below the root of all datasets; `maps` is the folder of panoptic PNGs, "" for instances."""

    images: str
    annotations: str
    maps: str = ""


@dataclass(frozen=True)
class SegmentDataset:
    """A dataset with splits by registered name, all panoptic or all for instances; instance classes are things only.

    `how_to_get` is the advice for the user if a file is missing. `prepare` may create files on first use.
    """

    splits: Mapping[str, SegmentFiles]
    categories: tuple[Category, ...]
    how_to_get: str
    ignore_label: int = 255
    prepare: Callable[[Path], None] | None = None

    @property
    def is_panoptic(self) -> bool:
        """Return whether the dataset has panoptic maps, in which every pixel belongs to at most one segment."""
        return all(files.maps for files in self.splits.values())

    @property
    def class_categories(self) -> tuple[Category, ...]:
        """Return the categories in the order of the classes."""
        return tuple(x for x in self.categories if x.is_thing or self.is_panoptic)

    @property
    def classes(self) -> Classes:
        """The classes."""
        categories = self.class_categories
        things = [i for i, x in enumerate(categories) if x.is_thing]
        return Classes.of([x.name for x in categories], [x.color for x in categories], self.ignore_label, things)

    def class_of_category(self) -> dict[int, int]:
        """Return the class of each category's id."""
        return {x.id: i for i, x in enumerate(self.class_categories)}

    def names(self) -> dict[str, str]:
        """Return the registered names of the splits, each mapped to its split, which has the same name."""
        return {name: name for name in self.splits}

    def metadata(self, split: str) -> dict[str, Any]:
        """Return a split's metadata for Detectron2's catalog: names, colors, and the class of each category id."""
        number, classes = self.class_of_category(), self.classes
        things = {x.id: number[x.id] for x in self.class_categories if x.is_thing}
        facts = classes.as_metadata("thing") | {"thing_dataset_id_to_contiguous_id": things, "evaluator_type": "coco"}
        if self.is_panoptic:
            stuff = {x.id: number[x.id] for x in self.class_categories if not x.is_thing}
            facts |= classes.as_metadata("stuff") | {"stuff_dataset_id_to_contiguous_id": stuff}
            facts["evaluator_type"] = "coco_panoptic_seg"
        return facts

    def load(self, split: str) -> list[dict[str, Any]]:
        """Return the split's images ordered by name, as Detectron2's dicts with classes instead of category ids.

        Panoptic dicts have `pan_seg_file_name` and `segments_info`, others `annotations`, `height` and `width`. Raises
        `UserError` for a missing folder or file, for JSON of another kind, and for an unknown category.
        """
        if self.prepare:
            self.prepare(datasets_root())
        files, root = self.splits[split], datasets_root()
        for folder in filter(None, (files.images, files.maps)):
            require_folder(split, root / folder, self.how_to_get)
        path = root / files.annotations
        if not path.is_file():
            raise UserError(f'dataset "{split}" is not there: no file {path}; {self.how_to_get}')
        status = path.stat()
        state = (split, str(path), status.st_mtime_ns, status.st_size)
        if state not in _listed:  # reading COCO takes half a minute, and training lists its datasets several times
            while len(_listed) >= LISTED:
                del _listed[next(iter(_listed))]
            _listed[state] = SerializedDicts(self._list(files, path))
        return list(_listed[state])

    def _list(self, files: SegmentFiles, path: Path) -> list[dict[str, Any]]:
        root = datasets_root()
        file = read_coco(path, "segments_info" if files.maps else "segmentation")
        require_sound(file.problems)
        classes = self.class_of_category()
        dicts = []
        for image in sorted(file.images, key=lambda x: x.file_name):
            sample = {"file_name": str(root / files.images / image.file_name), "image_id": image.id}
            if files.maps:
                if len(image.annotations) != 1:
                    count = len(image.annotations)
                    raise UserError(f"{path}: {image.file_name} has {count} annotations; expected 1 in a panoptic file")
                (panoptic,) = image.annotations
                sample["pan_seg_file_name"] = str(root / files.maps / panoptic["file_name"])
                sample["segments_info"] = [with_class(x, classes, path) for x in panoptic["segments_info"]]
            else:
                sizes = {"height": image.height, "width": image.width}
                sample |= {key: side for key, side in sizes.items() if side is not None}
                sample["annotations"] = [with_class(x, classes, path) for x in image.annotations]
            dicts.append(sample)
        return dicts


def with_class(segment: dict[str, Any], classes: Mapping[int, int], path: Path) -> dict[str, Any]:
    """Return a segment of a COCO-format file with its class as `category_id`, and with `iscrowd`, 0 by default."""
    number: Any = segment.get("category_id")
    if number not in classes:
        raise UserError(
            f"{path}: a segment has the category {number}, which the dataset does not have; expected "
            f"{', '.join(map(str, list(classes)[:20]))}{' ...' if len(classes) > 20 else ''}"
        )
    return {"iscrowd": 0, **segment, "category_id": classes[number]}
