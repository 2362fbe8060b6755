#!/usr/bin/env python3
"""Benchmark of scaling: seconds and peak memory by image size, batch, classes and queries.

    python benchmarks/growth.py [--config-file FILE] [--sizes 256 384 512 640 768] [--batches 1 2 4]
                                [--classes 19 50 150 300] [--queries 50 100 200] [--base 256 1 150 100]
                                [--task inference training] [--plot growth.png] [--repeats N] [--json FILE]

One of the four quantities varies at a time, and the others have the values of `--base`, in the order above. Each point
is measured in a separate process, for inference and for a training step. The last three columns show the value (for
sizes, the number of pixels), the time and the memory relative to the first row. A cost that is linear in the number of
pixels grows no faster than they do.
"""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path
from typing import NamedTuple

from inference import fast_paths
from processes import measure
from timing import Cost, keep, machine, parser
from training_step import training_step

TASKS = {"inference": fast_paths, "training": training_step}


class Point(NamedTuple):
    """One measured point: image side in pixels, batch size, numbers of classes and queries."""

    size: int
    batch: int
    classes: int
    queries: int


def cost(task: str, point: Point, arguments: argparse.Namespace) -> Cost:
    """Measure one task at one point."""
    options = ["MODEL.SEM_SEG_HEAD.NUM_CLASSES", str(point.classes)]
    options += ["MODEL.MASK_FORMER.NUM_OBJECT_QUERIES", str(point.queries)]
    make = partial(TASKS[task], arguments.config_file, options, point.size, point.batch)
    seconds, peaks = measure({task: make}, arguments.repeats)
    return Cost(seconds[task], peaks[task])


def quantity(name: str, value: int) -> int:
    """Return the quantity that the cost is compared with: the number of pixels for a size, else the value."""
    return value**2 if name == "size" else value


def table(name: str, task: str, costs: dict[int, Cost]) -> None:
    """Print the costs for all values of one quantity."""
    print(f"\n{task} by {name} ({machine()})\n")
    print(f"| {name} | median, ms | lowest | highest | peak MB | times the value | times the time | times the memory |")
    print("|---|---|---|---|---|---|---|---|")
    least, base = next(iter(costs.items()))
    for value, at in costs.items():
        milliseconds = " | ".join(f"{1000 * x:.0f}" for x in (at.median, min(at.seconds), max(at.seconds)))
        growth = (quantity(name, value) / quantity(name, least), at.median / base.median, at.peak / max(base.peak, 1))
        print(f"| {value} | {milliseconds} | {at.peak:.0f} | " + " | ".join(f"{x:.2f}" for x in growth) + " |")


def plot(costs: dict[str, dict[str, dict[int, Cost]]], path: Path) -> None:
    """Plot `costs[name][task]`, with a column for each quantity, and time above memory."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(2, len(costs), figsize=(4 * len(costs), 7), squeeze=False)
    for column, (name, task_costs) in enumerate(costs.items()):
        time_axis, memory_axis = axes[:, column]
        for task, points in task_costs.items():
            x = [quantity(name, value) for value in points]
            time_axis.plot(x, [at.median for at in points.values()], "o-", label=task)
            memory_axis.plot(x, [at.peak for at in points.values()], "o-", label=task)
        for axis, label in ((time_axis, "seconds"), (memory_axis, "peak memory, MB")):
            axis.set(xlabel="pixels of an image" if name == "size" else name, ylabel=label)
            axis.set_xlim(left=0)
            axis.set_ylim(bottom=0)
            axis.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=120)


def main() -> None:
    command_line = parser(__doc__)
    command_line.add_argument("--config-file", default="ade20k/semask_swin_t_msfapn_m2f.yaml")
    command_line.add_argument("--sizes", type=int, nargs="*", default=[256, 384, 512, 640, 768])
    command_line.add_argument("--batches", type=int, nargs="*", default=[1, 2, 4])
    command_line.add_argument("--classes", type=int, nargs="*", default=[19, 50, 150, 300])
    command_line.add_argument("--queries", type=int, nargs="*", default=[50, 100, 200])
    command_line.add_argument("--base", type=int, nargs=4, default=[256, 1, 150, 100], metavar="N")
    command_line.add_argument("--task", nargs="+", choices=TASKS, default=list(TASKS))
    command_line.add_argument("--plot", type=Path, metavar="PNG", help="plot the growth to this file")
    arguments = command_line.parse_args()
    base = Point(*arguments.base)
    values = {
        "size": arguments.sizes,
        "batch": arguments.batches,
        "classes": arguments.classes,
        "queries": arguments.queries,
    }
    known: dict[tuple[str, Point], Cost] = {}
    costs: dict[str, dict[str, dict[int, Cost]]] = {}
    for name in (name for name, requested in values.items() if requested):
        costs[name] = {}
        for task in arguments.task:
            points = {value: base._replace(**{name: value}) for value in values[name]}
            for point in points.values():
                if (task, point) not in known:
                    known[task, point] = cost(task, point, arguments)
            costs[name][task] = {value: known[task, point] for value, point in points.items()}
            table(name, task, costs[name][task])
            figures = {value: at._asdict() for value, at in costs[name][task].items()}
            keep(f"growth of {task} by {name}", {"machine": machine(), "costs": figures}, arguments.json)
    if arguments.plot:
        plot(costs, arguments.plot)


if __name__ == "__main__":
    main()
