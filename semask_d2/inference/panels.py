"""HTML panels of an image: ground truth, prediction, error and semantic maps.

The colors are transparent layers over one background. So the page embeds the photograph only once, and its style
sets the opacity (`panels.css`, custom property --opacity).
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

LONGER_SIDE = 640  # of an image in a page, at most
JPEG_QUALITY = 82
MAIN_CLASSES = 3  # number of classes named in an image's alternative text
OPAQUE = 255


@dataclass(frozen=True)
class Example:
    """RGB image (H, W, 3) with its class ids (H, W) and, if available, its ground truth (H, W) and priors.

    For segments, the ids are segment numbers; pixels outside all segments are negative.
    """

    title: str
    image: np.ndarray
    labels: np.ndarray
    truth: np.ndarray | None = None
    priors: Mapping[str, np.ndarray] | None = None


def panels_css() -> str:
    """Return the style sheet of the panels."""
    return asset("inference/assets/panels.css")


def panels_html(example: Example, classes: Classes) -> Markup:
    """Return an element with one figure per available panel: image, ground truth, prediction, error, semantic maps."""
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
    """Return the share of the image that each class in it covers, largest first."""
    counts = {int(i): int(count) for i, count in zip(*count_ids(labels), strict=True)}
    shares = {i: count / labels.size for i, count in counts.items() if 0 <= i < len(classes)}
    return dict(sorted(shares.items(), key=lambda item: -item[1]))


def main_classes(labels: np.ndarray, classes: Classes) -> str:
    """Return the largest classes of an image as text."""
    largest = list(class_shares(labels, classes).items())[:MAIN_CLASSES]
    return ", ".join(f"{short(classes.names[i])} {100 * share:.0f} %" for i, share in largest) or "no class"


def _panel(caption: str, layer: str | None, text: str, frame: str = "frame") -> dict[str, str | None]:
    """Return the values of one panel; `layer` lies over the photograph, and `text` is the alternative text."""
    return {"caption": caption, "layer": layer, "text": text, "frame": frame}


def _color_layer(labels: np.ndarray, colors: np.ndarray) -> str:
    """Return a PNG of the classes in their colors; ignored pixels and ids without a color are transparent."""
    known = (labels >= 0) & (labels < len(colors))
    layer = np.zeros((*labels.shape, 4), np.uint8)
    layer[known, :3] = colors[labels[known]]
    layer[known, 3] = OPAQUE
    return data_uri(layer, "PNG", optimize=True)


def _error_layer(labels: np.ndarray, truth: np.ndarray, ignore_label: int) -> str:
    """Return a PNG with wrong pixels in red, ignored pixels in black, and all others transparent."""
    ignored = truth == ignore_label
    layer = np.zeros((*labels.shape, 4), np.uint8)
    layer[labels != truth] = (*WRONG, OPAQUE)
    layer[ignored] = (0, 0, 0, OPAQUE)
    return data_uri(layer, "PNG", optimize=True)
