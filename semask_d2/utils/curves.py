"""Learning curves of a run: losses, metrics and learning rate over the iterations, as pixels or as SVG."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PICTURE_PLOT, PAGE_PLOT = (7, 4), (4.4, 3)  # inches of one plot; a page has smaller ones
AXES_MARGINS = 0.75, 0.5, 0.15, 0.35  # inches of a plot at the left, the bottom, the right and the top of its axes
MARKED_POINTS = 30  # shorter series get a marker at each point
MAX_POINTS = 1000  # of a series; more cannot be distinguished in a plot, and bloat a page
Records = Mapping[int, Mapping[str, float]]


def draw_curves(records: Records) -> np.ndarray:
    """Draw the last layer's losses, the metrics and the learning rate over the iterations: RGB uint8 (H, W, 3)."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(_figure(records, PICTURE_PLOT))
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[:, :, :3].copy()


def curves_as_svg(records: Records) -> str:
    """Return the curves as an `<svg>` element for a page: transparent, with real text, and reproducible."""
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    no_metadata = dict.fromkeys(("Creator", "Date", "Format", "Type"))  # each would add the URL of its definition
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "curves"}):
        figure, file = _figure(records, PAGE_PLOT), io.StringIO()
        FigureCanvasSVG(figure).print_svg(file, metadata=no_metadata)
    text = file.getvalue()
    return text[text.index("<svg") :]


def _figure(records: Records, plot_size: tuple[float, float]) -> Figure:
    from matplotlib.figure import Figure  # slow to import, and only rank 0 needs it
    from matplotlib.ticker import LogLocator, NullLocator

    names = sorted({name for record in records.values() for name in record})
    losses = [name for name in names if "loss" in name and not name.rsplit("_", 1)[-1].isdigit()]
    plots = {
        "loss": losses,
        "mIoU, %": [name for name in names if name.endswith("sem_seg/mIoU")],
        "PQ, %": [name for name in names if name.endswith("panoptic_seg/PQ")],
        "AP, %": [name for name in names if name.endswith("segm/AP")],
        "learning rate": [name for name in names if name == "lr"],
    }
    plots = {title: series for title, series in plots.items() if series}
    margin = 0.03 * max(1, max(records) - min(records))
    width, height = plot_size
    figure = Figure(figsize=(width * max(1, len(plots)), height))
    left, bottom, right, top = AXES_MARGINS  # fixed: a layout engine would take most of the time of drawing
    figure.subplots_adjust(
        left / figure.get_figwidth(),
        bottom / height,
        1 - right / figure.get_figwidth(),
        1 - top / height,
        wspace=(left + right) / (width - left - right),
    )
    for number, (title, series) in enumerate(plots.items(), start=1):
        axes = figure.add_subplot(1, len(plots), number)
        has_positive = False
        for name in series:
            points = [(iteration, record[name]) for iteration, record in records.items() if name in record]
            points = points[:: math.ceil(len(points) / MAX_POINTS)]
            marker = "o" if len(points) < MARKED_POINTS else None
            label = name.replace("$", r"\$")  # $ would start a formula
            axes.plot(*zip(*points, strict=True), label=label, marker=marker, markersize=3)
            has_positive |= any(value > 0 for _, value in points)
        axes.set_xlim(min(records) - margin, max(records) + margin)  # equal for all plots
        axes.set(title=title, xlabel="iteration")
        if title == "loss" and has_positive:
            axes.set_yscale("log")
            axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axes.yaxis.set_major_formatter("{x:g}")  # not powers of ten, which are slow formulas
            axes.yaxis.set_minor_locator(NullLocator())
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
        if len(series) > 1:
            axes.legend(fontsize="small")
    return figure
