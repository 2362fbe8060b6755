"""Replacement for `detectron2.structures.Instances` and `Boxes`: the objects predicted in one image, as fields."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class Boxes:
    """Boxes (N, 4) of x0, y0, x1, y1 in pixels, as float32 in `tensor`."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor.to(torch.float32).reshape(-1, 4)

    def __len__(self) -> int:
        return len(self.tensor)

    def __getitem__(self, item: int | slice | Tensor) -> Boxes:
        return Boxes(self.tensor[item])

    def to(self, device: torch.device | str) -> Boxes:
        """Return the boxes on another device."""
        return Boxes(self.tensor.to(device))


class Instances:
    """Objects of one image of `image_size` (height, width): fields of equal length, read as attributes."""

    def __init__(self, image_size: tuple[int, int], **fields: Any) -> None:
        self._image_size = image_size
        self._fields: dict[str, Any] = {}
        for name, value in fields.items():
            self.set(name, value)

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width of the image."""
        return self._image_size

    def __setattr__(self, name: str, value: Any) -> None:
        if name.startswith("_"):
            super().__setattr__(name, value)
        else:
            self.set(name, value)

    def __getattr__(self, name: str) -> Any:
        if name == "_fields" or name not in self._fields:
            raise AttributeError(f'Instances have no field "{name}"')
        return self._fields[name]

    def set(self, name: str, value: Any) -> None:
        """Set a field, which needs as many entries as the other fields."""
        if self._fields:
            assert len(value) == len(self), f"a field of {len(value)} entries for Instances of {len(self)}"
        self._fields[name] = value

    def has(self, name: str) -> bool:
        """Return whether there is a field with this name."""
        return name in self._fields

    def get_fields(self) -> dict[str, Any]:
        """Return all fields by name."""
        return self._fields

    def __len__(self) -> int:
        for value in self._fields.values():
            return len(value)
        raise NotImplementedError("Instances without a field have no length")

    def __getitem__(self, item: int | slice | Tensor) -> Instances:
        if isinstance(item, int):
            item = slice(item, None if item == -1 else item + 1)
        return Instances(self._image_size, **{name: value[item] for name, value in self._fields.items()})

    def to(self, device: torch.device | str) -> Instances:
        """Return a copy with every field that can be moved on another device."""
        moved = {k: v.to(device) if hasattr(v, "to") else v for k, v in self._fields.items()}
        return Instances(self._image_size, **moved)
