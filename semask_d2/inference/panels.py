"""An image, its ground truth, prediction, error and semantic maps as HTML: the photograph once, colors as layers on it.

The layers are transparent pictures over one background, so that their opacity is a matter of the page's style
(`panels.css`, custom property --opacity), and a page holds the photograph once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup

from semask_d2.data.label_checks import count_ids
from semask_d2.utils.classes import Classes
from semask_d2.utils.pages import asset, data_uri, render
from semask_d2.utils.visualization import WRONG, error_share, resize, resize_ids, short, spread_maps

LONGER_SIDE = 640  # of the pictures in a page
JPEG_QUALITY = 82
MAIN_CLASSES = 3  # that a picture's alternative text names
OPAQUE = 255


@dataclass(frozen=True)
class Example:
    """An RGB image (H, W, 3) with its class ids (H, W), and where they are there its ground truth (H, W) and priors.

    Segments have numbers in the place of class ids, below 0 what is in none.
    """

    title: str
    image: np.ndarray
    labels: np.ndarray
    truth: np.ndarray | None = None
    priors: Mapping[str, np.ndarray] | None = None


def panels_css() -> str:
    """The style sheet that the panels need."""
    return asset("inference/assets/panels.css")


def panels_html(example: Example, classes: Classes) -> Markup:
    """An element with a figure for each of image, ground truth, prediction, error and semantic map that is there."""
    scale = min(1.0, LONGER_SIDE / max(example.image.shape[:2]))
    size = (max(1, round(example.image.shape[1] * scale)), max(1, round(example.image.shape[0] * scale)))
    labels, title = resize_ids(example.labels, size), example.title

    def colored(caption: str, ids: np.ndarray) -> dict[str, str | None]:
        layer = _color_layer(ids, classes.color_table)
        return _panel(caption, layer, f"{caption} of {title}: {main_classes(ids, classes)}")

    panels = [_panel("image", None, title)]
    if example.truth is not None:
        panels.append(colored("ground truth", resize_ids(example.truth, size)))
    panels.append(colored("prediction", labels))
    if example.truth is not None:
        share = f"{100 * error_share(example.labels, example.truth, classes.ignore_label):.1f} %"
        layer = _error_layer(labels, resize_ids(example.truth, size), classes.ignore_label)
        panels.append(_panel(f"error {share}", layer, f"wrong pixels of {title}, {share}", "frame error"))
    panels += [colored(caption, ids) for caption, ids in spread_maps(example.priors or {}, size)]
    photo = data_uri(resize(example.image, size), "JPEG", quality=JPEG_QUALITY)
    return render("inference/assets/panels.html", photo=photo, width=size[0], height=size[1], panels=panels)


def class_shares(labels: np.ndarray, classes: Classes) -> dict[int, float]:
    """The share of the image of each class that is in it, the largest first."""
    counts = {int(i): int(count) for i, count in zip(*count_ids(labels), strict=True)}
    shares = {i: count / labels.size for i, count in counts.items() if 0 <= i < len(classes)}
    return dict(sorted(shares.items(), key=lambda item: -item[1]))


def main_classes(labels: np.ndarray, classes: Classes) -> str:
    """The largest classes of an image in words."""
    largest = list(class_shares(labels, classes).items())[:MAIN_CLASSES]
    return ", ".join(f"{short(classes.names[i])} {100 * share:.0f} %" for i, share in largest) or "no class"


def _panel(caption: str, layer: str | None, text: str, frame: str = "frame") -> dict[str, str | None]:
    """One panel; `layer` is the picture over the photograph, `text` what the panel shows to those who cannot see it."""
    return {"caption": caption, "layer": layer, "text": text, "frame": frame}


def _color_layer(labels: np.ndarray, colors: np.ndarray) -> str:
    """Classes in their colors; ignored pixels, and whatever else has no color, stay transparent."""
    known = (labels >= 0) & (labels < len(colors))
    layer = np.zeros((*labels.shape, 4), np.uint8)
    layer[known, :3] = colors[labels[known]]
    layer[known, 3] = OPAQUE
    return data_uri(layer, "PNG", optimize=True)


def _error_layer(labels: np.ndarray, truth: np.ndarray, ignore_label: int) -> str:
    """Wrong pixels red, ignored ones black, the others transparent."""
    ignored = truth == ignore_label
    layer = np.zeros((*labels.shape, 4), np.uint8)
    layer[labels != truth] = (*WRONG, OPAQUE)
    layer[ignored] = (0, 0, 0, OPAQUE)
    return data_uri(layer, "PNG", optimize=True)
