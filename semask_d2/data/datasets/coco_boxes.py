"""Boxes of COCO's annotations beside their polygons: coordinates that are no pixels of the image are told by them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from semask_d2.data.annotations import UnusableAnnotation
from semask_d2.utils import foreign
from semask_d2.utils.excerpts import few

Extent = tuple[float, float, float, float]  # the left, top, right and bottom of polygons

NEAR = 1.5  # pixels, by which a box may differ from its polygons
SHARED = 0.5  # of the area of both, below which a box and polygons are not of one object
PERCENT = 100.0
LARGE, MANY = 200, 4  # sides of images, and annotations, from which on coordinates up to 100 are suspicious


def box_of(annotation: dict[str, Any]) -> list[float] | None:
    """Return the box [x, y, width, height] of an annotation; None where it has none with an area."""
    box = annotation.get("bbox")
    if not isinstance(box, list) or len(box) != 4 or not all(type(x) in (int, float) for x in box):
        return None
    return box if abs(sum(box)) < foreign.MAX_NUMBER and foreign.is_positive(min(box[2:])) else None


def require_pixels(extent: Extent, annotation: dict[str, Any], size: tuple[int, int], source: str) -> None:
    """Raise `UnusableAnnotation` where the box of an annotation shows that its polygons are not in pixels of the image.

    `size` is the image's (width, height).
    """
    box = box_of(annotation)
    if box is None:
        return
    corners = box[0], box[1], box[0] + box[2], box[1] + box[3]
    if is_near(extent, corners):
        return
    scales = [side / PERCENT for side in (*size, *size)]
    if is_near([x * scale for x, scale in zip(extent, scales, strict=True)], corners):
        raise UnusableAnnotation(
            f"{source}: its coordinates are percent of the image's sides, by its box in pixels; multiply them by width "
            "and height and divide by 100"
        )
    if is_near(extent, (0, 0, box[2], box[3])):
        raise UnusableAnnotation(
            f"{source}: its coordinates start at the corner of its box, as those of a crop do; add the box's "
            f"{box[0]:g} and {box[1]:g}"
        )


def is_near(one: Sequence[float], two: Sequence[float]) -> bool:
    """Return whether corners are those of one object."""
    return all(abs(x - y) <= NEAR for x, y in zip(one, two, strict=True))


@dataclass
class Boxes:
    """Facts about all polygons of a file: which lie elsewhere than their boxes, and how far they reach."""

    apart: list[Any] = field(default_factory=list)
    count: int = 0
    farthest: float = 0.0
    shortest_side: int = foreign.MAX_INTEGER

    def add(self, extent: Extent, annotation: dict[str, Any], size: tuple[int, int]) -> None:
        """Add an annotation with the `extent` of its polygons in an image of a `size` (width, height)."""
        self.count += 1
        self.farthest = max(self.farthest, extent[2], extent[3])
        self.shortest_side = min(self.shortest_side, *size)
        box = box_of(annotation)
        if box is not None and shared_part(extent, box) < SHARED:
            self.apart.append(annotation.get("id"))

    def remarks(self) -> list[str]:
        """Return what is to be told of the file."""
        remarks = []
        if self.apart:
            remarks.append(
                f"{len(self.apart)} annotations have polygons elsewhere than their boxes, of which one is wrong: "
                f"{few(self.apart)}"
            )
        if self.count >= MANY and PERCENT / 2 < self.farthest <= PERCENT and self.shortest_side >= LARGE:
            remarks.append(
                f"no coordinate is above {self.farthest:g}, in images of at least {self.shortest_side} pixels a side: "
                "are they percent, as Label Studio has them? Multiply them by width and height and divide by 100"
            )
        return remarks


def shared_part(extent: Extent, box: Sequence[float]) -> float:
    """Return the area that polygons' corners and a box, each a pixel wider, share, of what they cover together.

    A box of the right and bottom corners in the place of its width and height, as some tools write it, is read as such.
    """
    left, top, right, bottom = extent[0] - 1, extent[1] - 1, extent[2] + 1, extent[3] + 1
    shares = []
    for corner in ((box[0] + box[2], box[1] + box[3]), (box[2], box[3])):
        width = min(right, corner[0] + 1) - max(left, box[0] - 1)
        height = min(bottom, corner[1] + 1) - max(top, box[1] - 1)
        shared = max(width, 0.0) * max(height, 0.0)
        area = max(corner[0] - box[0] + 2, 0.0) * max(corner[1] - box[1] + 2, 0.0)
        shares.append(shared / ((right - left) * (bottom - top) + area - shared))
    return max(shares)
