"""An image and its labels are of one size."""

from __future__ import annotations

import os

from semask_d2.utils.errors import UserError

Name = str | os.PathLike
Size = tuple[int, int]  # width, height


def size_mismatch(image: Name, size: Size, kind: str, file: Name, file_size: Size) -> str:
    """Return what is wrong where an image and its file of labels, of a `kind`, are of different sizes."""
    is_turned = size == file_size[::-1]
    hint = " (does its EXIF tag turn the picture, or did the annotation tool ignore it?)" if is_turned else ""
    return (
        f"{image} is {size[0]} x {size[1]} but its {kind} {file} is {file_size[0]} x {file_size[1]}: they must be of "
        f"one size{hint}"
    )


def require_one_size(image: Name, shape: tuple[int, ...], kind: str, file: Name, file_shape: tuple[int, ...]) -> None:
    """Raise `UserError` where the shapes (H, W) of an image and of its file of labels, of a `kind`, differ."""
    if shape != file_shape:
        raise UserError(size_mismatch(image, (shape[1], shape[0]), kind, file, (file_shape[1], file_shape[0])))
