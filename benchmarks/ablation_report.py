"""Reports of experiments: Markdown tables and a plot, inserted between markers in docs/ablation.md."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from ablation_experiment import Experiment, Run
from ablation_results import Result
from ablation_statistics import Difference, Interval, mean_and_deviation, paired_difference

from semask_d2.utils.errors import UserError
from semask_d2.utils.files import atomic_write, put_in_place, temporary_beside

MAPS = {"sem2": "stride 4", "sem3": "stride 8", "sem4": "stride 16", "sem5": "stride 32", "sum": "their sum"}

BySeed = dict[int, Result]


def by_variant(experiment: Experiment, results: Mapping[Run, Result]) -> dict[str, BySeed]:
    """Return the finished runs by variant and seed, in the experiment's order, former variants last."""
    grouped: dict[str, BySeed] = {variant: {} for variant in experiment.variants}
    for run, result in sorted(results.items(), key=lambda item: item[0].seed):
        grouped.setdefault(run.variant, {})[run.seed] = result
    return {variant: runs for variant, runs in grouped.items() if runs}


def differences(experiment: Experiment, groups: Mapping[str, BySeed]) -> dict[str, Difference]:
    """Return each variant's difference from the baseline, if they have common seeds."""
    values = {variant: {seed: run["mIoU"] for seed, run in runs.items()} for variant, runs in groups.items()}
    baseline = values.get(experiment.baseline, {})
    compared = {name: paired_difference(x, baseline) for name, x in values.items() if name != experiment.baseline}
    return {name: difference for name, difference in compared.items() if difference is not None}


def tables(experiment: Experiment, results: Mapping[Run, Result]) -> str:
    """Return the tables of accuracy with intervals, of the semantic maps, of the learning curve, and of the cost."""
    groups = by_variant(experiment, results)
    compared = differences(experiment, groups)
    rows = []
    for variant, runs in groups.items():
        mean, deviation = mean_and_deviation([run["mIoU"] for run in runs.values()])
        row = [variant, seeds_in_words(runs), f"{mean:.2f}", number(deviation)]
        rows.append(row + difference_cells(compared.get(variant)))
    headers = ["variant", "seeds", "mIoU, mean", "standard deviation", f"minus {experiment.baseline}, paired"]
    parts = [table([*headers, "95 % interval (t)", "(bootstrap)", "detectable"], rows)]
    rows = [
        [variant, *(f"{mean_of(runs, 'maps', name):.2f}" for name in MAPS), largest_gate(runs)]
        for variant, runs in groups.items()
        if all(run["maps"] for run in runs.values())
    ]
    title = "mIoU of the semantic maps alone, means, and the largest gamma at the end (0: attention is off):"
    parts.append(f"{title}\n\n" + table(["variant", *MAPS.values(), "gamma"], rows))
    points = list(dict.fromkeys(point for runs in groups.values() for run in runs.values() for point in run["curve"]))
    rows = [
        [variant, *(point_cell(runs, groups.get(experiment.baseline, {}), point) for point in points)]
        for variant, runs in groups.items()
    ]
    title = f"mIoU during training, means, and minus {experiment.baseline}, paired:"
    parts.append(f"{title}\n\n" + table(["variant", *(f"iteration {point}" for point in points)], rows))
    rows = []
    for variant, runs in groups.items():
        step, peak = (
            mean_and_deviation([run[key] for run in runs.values()])[0] for key in ("step_cpu_seconds", "peak_mb")
        )
        rows.append([variant, f"{step:.3f} s", f"{peak:.0f} MB"])
    hours = sum(result["cpu_seconds"] for result in results.values()) / 3600
    cost = f"Cost: {len(results)} runs, {hours:.1f} core-hours.\n\n"
    parts.append(cost + table(["variant", "a training step, processor time", "peak memory"], rows))
    return "\n\n".join(parts)


def difference_cells(difference: Difference | None) -> list[str]:
    """Return the table cells of a difference, empty if there is none."""
    if difference is None:
        return ["", "", "", ""]
    detectable = "" if difference.detectable is None else f"{difference.detectable:.2f}"
    intervals = [interval_in_words(x) for x in (difference.t_interval, difference.bootstrap)]
    return [f"{difference.mean:+.2f}", *intervals, detectable]


def point_cell(runs: BySeed, baseline: BySeed, point: str) -> str:
    """Return the mean mIoU at a point of the curve, followed by the paired difference from the baseline's runs."""
    values, baseline_values = ({seed: run["curve"][point] for seed, run in x.items()} for x in (runs, baseline))
    difference = None if runs is baseline else paired_difference(values, baseline_values)
    return f"{mean_of(runs, 'curve', point):.2f}" + (f" ({difference.mean:+.2f})" if difference else "")


def interval_in_words(interval: Interval | None) -> str:
    """Return an interval as "-0.50 to +1.20", or "" for None."""
    return "" if interval is None else f"{interval.low:+.2f} to {interval.high:+.2f}"


def seeds_in_words(runs: BySeed) -> str:
    """Return the seeds of finished runs as "1, 2, 3"."""
    return ", ".join(map(str, runs))


def number(value: float) -> str:
    """Return a number with two decimals, "" for NaN."""
    return "" if math.isnan(value) else f"{value:.2f}"


def mean_of(runs: BySeed, part: str, name: str) -> float:
    """Return the mean of a value in a section of the runs' results; NaN if a run does not have it."""
    return mean_and_deviation([run[part].get(name, math.nan) for run in runs.values()])[0]


def largest_gate(runs: BySeed) -> str:
    """Return the largest gate of all runs' semantic attention layers; "" for old results without gates."""
    gates = [gate for run in runs.values() for gate in run.get("gates", [])]
    return f"{max(gates):.3f}" if gates else ""


def table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = [headers, ["---"] * len(headers), *rows]
    return "\n".join("|" + "".join(f" {cell} |" if cell else " |" for cell in line) for line in lines)


def plot(experiment: Experiment, results: Mapping[Run, Result], path: Path) -> None:
    """Plot every run's mIoU with the means, and the paired differences with their t intervals."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    groups = by_variant(experiment, results)
    compared = differences(experiment, groups)
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(11, 1.2 + 0.45 * len(groups)), sharey=True)
    seeds = sorted({run.seed for run in results})
    for row, (variant, runs) in enumerate(groups.items()):
        for seed, run in runs.items():
            color = f"C{seeds.index(seed) % 10}"
            left.plot(run["mIoU"], row, "o", color=color, alpha=0.7, label=f"seed {seed}")
        left.plot(mean_and_deviation([run["mIoU"] for run in runs.values()])[0], row, "k|", markersize=18)
        if (difference := compared.get(variant)) is not None:
            baseline = groups[experiment.baseline]
            for seed in runs.keys() & baseline.keys():
                color = f"C{seeds.index(seed) % 10}"
                right.plot(runs[seed]["mIoU"] - baseline[seed]["mIoU"], row, "o", color=color, alpha=0.7)
            right.plot(difference.mean, row, "k|", markersize=18)
            if difference.t_interval is not None and difference.pairs > 2:  # with two pairs it is wider than the plot
                right.plot(difference.t_interval, [row, row], "k-", linewidth=1)
    right.axvline(0, color="gray", linewidth=0.8, linestyle="--")
    left.set(yticks=range(len(groups)), yticklabels=list(groups), xlabel="mIoU, percent (bar: mean)")
    left.set_ylim(len(groups) - 0.5, -0.5)
    right.set(xlabel=f"minus {experiment.baseline}, paired by seed (line: 95 % t interval, of 3 or more)")
    handles = dict(zip(*reversed(left.get_legend_handles_labels()), strict=True))
    names = sorted(handles, key=lambda name: int(name.removeprefix("seed ")))
    figure.legend([handles[name] for name in names], names, loc="outside lower center", ncols=len(names), frameon=False)
    figure.set_layout_engine("constrained")
    with temporary_beside(path, ".png") as temporary:
        figure.savefig(temporary, dpi=120)
        put_in_place(temporary, path)
    pyplot.close(figure)


def write_report(experiment: Experiment, results: Mapping[Run, Result], page: Path) -> None:
    """Write an experiment's tables between its markers in a Markdown page, and its plot next to the page."""
    text = page.read_text(encoding="utf-8")
    start, end = (f"<!-- {word} {experiment.name} -->" for word in ("begin", "end"))
    before, opening, rest = text.partition(start)
    _, closing, after = rest.partition(end)
    if not (opening and closing):
        raise UserError(f"{page}: the lines {start} and {end} are missing: add them where the tables belong")
    plot_file = page.parent / f"{page.stem}_{experiment.name}.png"
    plot(experiment, results, plot_file)
    image = f"![Runs, means and paired differences with 95 % intervals]({plot_file.name})"
    with atomic_write(page) as file:
        file.write(f"{before}{start}\n\n{tables(experiment, results)}\n\n{image}\n\n{end}{after}")
