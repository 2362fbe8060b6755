"""Comparison of COCO boxes with their polygons, which reveals coordinates that are not pixels of the image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from semask_d2.data.annotations import UnusableAnnotation
from semask_d2.utils import foreign
from semask_d2.utils.excerpts import few

Extent = tuple[float, float, float, float]  # left, top, right and bottom of polygons

NEAR = 1.5  # pixels by which a box may differ from its polygons
SHARED = 0.5  # intersection over union below which a box and polygons belong to different objects
PERCENT = 100.0
LARGE, MANY = 200, 4  # image side and number of annotations above which coordinates up to 100 are suspicious


def box_of(annotation: dict[str, Any]) -> list[float] | None:
    """Return the box [x, y, width, height] of an annotation; None if it has no box with an area."""
    box = annotation.get("bbox")
    if not isinstance(box, list) or len(box) != 4 or not all(type(x) in (int, float) for x in box):
        return None
    return box if abs(sum(box)) < foreign.MAX_NUMBER and foreign.is_positive(min(box[2:])) else None


def require_pixels(extent: Extent, annotation: dict[str, Any], size: tuple[int, int], source: str) -> None:
    """Raise `UnusableAnnotation` if an annotation's box shows that its polygons are not in pixels of the image.

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
            f"{source}: its coordinates are percentages of the image size, as its box in pixels shows; multiply them "
            "by width and height and divide by 100"
        )
    if is_near(extent, (0, 0, box[2], box[3])):
        raise UnusableAnnotation(
            f"{source}: its coordinates start at the corner of its box, as in a crop; add the box's {box[0]:g} and "
            f"{box[1]:g}"
        )


def is_near(one: Sequence[float], two: Sequence[float]) -> bool:
    """Return whether the corners of two boxes agree within `NEAR` pixels."""
    return all(abs(x - y) <= NEAR for x, y in zip(one, two, strict=True))


@dataclass
class Boxes:
    """Statistics of all polygons in a file: those that do not overlap their boxes, and the largest coordinate."""

    apart: list[Any] = field(default_factory=list)
    count: int = 0
    farthest: float = 0.0
    shortest_side: int = foreign.MAX_INTEGER

    def add(self, extent: Extent, annotation: dict[str, Any], size: tuple[int, int]) -> None:
        """Add an annotation with the `extent` of its polygons in an image of `size` (width, height)."""
        self.count += 1
        self.farthest = max(self.farthest, extent[2], extent[3])
        self.shortest_side = min(self.shortest_side, *size)
        box = box_of(annotation)
        if box is not None and shared_part(extent, box) < SHARED:
            self.apart.append(annotation.get("id"))

    def remarks(self) -> list[str]:
        """Return remarks about the file for the user."""
        remarks = []
        if self.apart:
            remarks.append(
                f"{len(self.apart)} annotations have polygons that do not overlap their boxes, so one of the two is "
                f"wrong: {few(self.apart)}"
            )
        if self.count >= MANY and PERCENT / 2 < self.farthest <= PERCENT and self.shortest_side >= LARGE:
            remarks.append(
                f"no coordinate is above {self.farthest:g}, in images of at least {self.shortest_side} pixels a side: "
                "are they percentages, as in Label Studio? Multiply them by width and height and divide by 100"
            )
        return remarks


def shared_part(extent: Extent, box: Sequence[float]) -> float:
    """Return the intersection over union of the polygons' extent and a box, each enlarged by one pixel.

    Some tools write the right and bottom corner instead of width and height; the better of both readings counts.
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
