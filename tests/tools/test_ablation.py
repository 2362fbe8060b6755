"""The ablation's runner with a fake trainer: resuming, damaged files, results of other experiments, reports."""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import cv2
import pytest

from semask_d2.utils.errors import UserError
from tests.helpers.commands import ROOT, TINY, TOY_CONFIG

sys.path.append(str(ROOT / "benchmarks"))  # the scripts import each other
ablation, ablation_experiment, ablation_results, ablation_report = map(
    importlib.import_module, ("ablation", "ablation_experiment", "ablation_results", "ablation_report")
)

FILE = """
config: {config}
iterations: 7
seeds: [1, 2, 3]
baseline: plain
settings: {settings}
variants:
  plain: {{MODEL.SWIN.NUM_SEM_BLOCKS: 0}}
  live: {{}}
"""
OFFSETS = {"plain": 0.0, "live": 1.5}


def write_experiment(folder: Path, **replaced: str) -> Path:
    """Write `toy.yaml`, an experiment with two variants; `replaced` are replacement lines by key."""
    settings = json.dumps(dict(zip(TINY[::2], TINY[1::2], strict=True)))
    lines = FILE.format(config=TOY_CONFIG, settings=settings).strip().splitlines()
    lines = [f"{key}: {replaced[key]}" if (key := line.partition(":")[0]) in replaced else line for line in lines]
    path = folder / "toy.yaml"
    path.write_text("\n".join(lines) + "\n")
    return path


def fake_train(experiment, run, folder: Path) -> dict:
    """Return a result that depends only on variant and seed; seeds change both variants and slightly the difference."""
    miou = 40 + 10 * run.seed + OFFSETS[run.variant] + (0.25 * run.seed if run.variant == "live" else 0)
    maps = {} if run.variant == "plain" else dict.fromkeys(("sem2", "sem3", "sem4", "sem5", "sum"), 20.0 + run.seed)
    gates = [] if run.variant == "plain" else [0.001, 0.02]
    cost = {"gates": gates, "seconds": 10.0, "cpu_seconds": 900.0, "peak_mb": 100, "step_cpu_seconds": 0.5}
    return {"mIoU": miou, "maps": maps, "curve": {"4": miou - 5, "7": miou}, **cost}


def run_all(path: Path, *words: str, train=fake_train) -> list[str]:
    """Run an experiment and return the lines of its results file."""
    results = path.parent / "results"
    given = [str(path), "--results", str(results), "--output", str(path.parent / "runs"), *words]
    ablation.main(ablation.argument_parser().parse_args(given), train=train)
    return (results / "toy.jsonl").read_text().splitlines()


def refusal(path: Path, *words: str) -> str:
    """Return the one line with which a run is refused."""
    with pytest.raises(UserError) as caught:
        run_all(path, *words)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_all_runs_seed_by_seed_and_none_twice(toy_data: Path, tmp_path: Path, capsys) -> None:
    path = write_experiment(tmp_path)
    lines = [json.loads(line) for line in run_all(path)]
    assert [(x["variant"], x["seed"]) for x in lines] == [(v, s) for s in (1, 2, 3) for v in ("plain", "live")]
    assert lines[1].keys() >= {"experiment", "commit", "protocol", "data", "iterations", "finished", "seconds", "mIoU"}
    assert lines[0]["settings"] == {"MODEL.SWIN.NUM_SEM_BLOCKS": "0"}
    out = capsys.readouterr().out
    # means of 50, 60, 70, plus 1.5 and a quarter of the seed: 2 on average, with standard error 0.25 / sqrt(3)
    assert "| plain | 1, 2, 3 | 60.00 | 10.00 |" in out
    assert "| live | 1, 2, 3 | 62.00 | 10.25 | +2.00 | +1.38 to +2.62 |" in out
    assert "| live | 22.00 | 22.00 | 22.00 | 22.00 | 22.00 | 0.020 |" in out
    assert "| live | 57.00 (+2.00) | 62.00 (+2.00) |" in out
    assert "6 runs, 1.5 core-hours" in out
    assert len(run_all(path, train=None)) == 6


def test_a_run_that_fails_loses_no_other_and_is_done_again(toy_data: Path, tmp_path: Path, capsys) -> None:
    path = write_experiment(tmp_path)

    def fails(experiment, run, folder: Path) -> dict:
        if run == ("plain", 2):
            raise UserError("the machine is full")
        return fake_train(experiment, run, folder)

    with pytest.raises(UserError, match="1 of 6 runs failed"):
        run_all(path, train=fails)
    assert capsys.readouterr().err == "toy: the machine is full\n"
    before = (tmp_path / "results/toy.jsonl").read_text()
    assert len(before.splitlines()) == 5
    assert len(run_all(path)) == 6
    assert (tmp_path / "results/toy.jsonl").read_text().startswith(before)


def test_some_variants_and_seeds(toy_data: Path, tmp_path: Path) -> None:
    path = write_experiment(tmp_path)
    lines = run_all(path, "--variants", "live", "--seeds", "2", "3", "--jobs", "2")
    assert {(x["variant"], x["seed"]) for x in map(json.loads, lines)} == {("live", 2), ("live", 3)}
    assert refusal(path, "--variants", "lively") == f"--variants lively: {path} has plain, live"
    assert refusal(path, "--seeds", "4").endswith("has 1, 2, 3")
    assert refusal(path, "--jobs", "0") == "--jobs: expected at least 1, got 0"


KILLED = """
import sys, time
sys.path[:0] = [{root!r}, {benchmarks!r}]
from tests.tools.test_ablation import ablation, fake_train
def train(experiment, run, folder):
    if run.seed == 2:
        print("waiting", flush=True)
        time.sleep(600)
    return fake_train(experiment, run, folder)
ablation.main(ablation.argument_parser().parse_args(sys.argv[1:]), train=train)
"""


def test_a_kill_loses_the_run_at_hand_alone(toy_data: Path, tmp_path: Path) -> None:
    path = write_experiment(tmp_path)
    program = KILLED.format(root=str(ROOT), benchmarks=str(ROOT / "benchmarks"))
    words = [str(path), "--results", str(tmp_path / "results"), "--output", str(tmp_path / "runs")]
    process = subprocess.Popen([sys.executable, "-c", program, *words], stdout=subprocess.PIPE, text=True)
    while "waiting" not in process.stdout.readline():
        assert process.poll() is None
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert len((tmp_path / "results/toy.jsonl").read_text().splitlines()) == 2
    assert len(run_all(path)) == 6


def test_an_incomplete_line_is_reported_and_kept(toy_data: Path, tmp_path: Path, capsys) -> None:
    path = write_experiment(tmp_path)
    run_all(path)
    results = tmp_path / "results/toy.jsonl"
    damaged = results.read_bytes()[:-100]
    results.write_bytes(damaged)
    capsys.readouterr()
    lines = run_all(path)
    message = f"{results}: line 6 is incomplete, as after a kill: it is ignored and its run is repeated"
    assert capsys.readouterr().err.splitlines()[0] == message
    assert results.read_bytes().startswith(damaged + b"\n")
    assert json.loads(lines[6])["variant"] == "live"
    assert len(run_all(path, train=None)) == 7


def test_results_of_another_protocol_are_refused(toy_data: Path, tmp_path: Path) -> None:
    path = write_experiment(tmp_path)
    run_all(path)
    before = (tmp_path / "results/toy.jsonl").read_bytes()
    path = write_experiment(tmp_path, iterations="8")
    assert "line 1: a result of toy, protocol " in refusal(path)
    assert ", 7 iterations; " in refusal(path, "--no-runs")
    path = write_experiment(tmp_path, settings="{SOLVER.BASE_LR: 0.5}")
    assert "undo the change, or give the experiment another file name" in refusal(path)
    assert (tmp_path / "results/toy.jsonl").read_bytes() == before


def test_results_of_another_variant_of_that_name_are_refused(toy_data: Path, tmp_path: Path) -> None:
    path = write_experiment(tmp_path)
    run_all(path)
    path.write_text(path.read_text().replace("live: {}", "live: {MODEL.SWIN.SEM_INIT: released}"))
    assert "line 2: live was run with {}" in refusal(path)
    path.write_text(path.read_text().replace("live: {MODEL", "woken: {MODEL"))
    OFFSETS["woken"] = 3.0
    assert len(run_all(path)) == 9  # results of removed variants are kept and reported


def test_results_of_other_data_are_refused(toy_data: Path, tmp_path: Path, monkeypatch) -> None:
    path = write_experiment(tmp_path)
    run_all(path, "--seeds", "1")
    monkeypatch.setattr(ablation_experiment.Experiment, "data_fingerprint", lambda self: "0123456789ab")
    assert "of other data (fingerprint " in refusal(path)
    run_all(path, "--no-runs", train=None)  # a report needs no data


@pytest.mark.parametrize("line", ["<<<<<<< HEAD", '["variant"]', '{"variant": "live", "seed": "1"}'])
def test_a_foreign_line_is_refused(line: str, toy_data: Path, tmp_path: Path) -> None:
    path = write_experiment(tmp_path)
    (tmp_path / "results").mkdir()
    (tmp_path / "results/toy.jsonl").write_text(line + "\n")
    assert f"{tmp_path}/results/toy.jsonl: line 1" in refusal(path)


@pytest.mark.parametrize(
    ("replaced", "message"),
    [
        ({"iterations": "0"}, "iterations: expected a whole number"),
        ({"iterations": "7\nvariant: {}"}, 'unknown key "variant". Did you mean "variants"'),
        ({"seeds": "[1, 1]"}, "seeds: expected at least one seed and no duplicates"),
        ({"seeds": "[]"}, "seeds: expected at least one seed and no duplicates"),
        ({"baseline": "dead"}, "baseline: expected 'plain' or 'live'"),
        ({"config": "none.yaml"}, "none.yaml"),
        ({"settings": "{SOLVER.MAX_ITERS: 3}"}, 'settings: settings: unknown config key "SOLVER.MAX_ITERS"'),
        ({"  live": "{MODEL.SWIN.SEM_INITS: live}"}, 'live: settings: unknown config key "MODEL.SWIN.SEM_INITS"'),
    ],
)
def test_a_wrong_experiment_ends_in_one_line(replaced: dict[str, str], message: str, toy_data, tmp_path: Path) -> None:
    assert message in refusal(write_experiment(tmp_path, **replaced))


def test_the_protocol_covers_shared_settings_but_not_the_machine(tmp_path: Path) -> None:
    protocols = [
        ablation_experiment.read_experiment(write_experiment(tmp_path, **replaced)).protocol()
        for replaced in ({}, {"seeds": "[5]"}, {"  live": "{SOLVER.BASE_LR: 1}"}, {"settings": "{SOLVER.BASE_LR: 1}"})
    ]
    assert protocols[0] == protocols[1] == protocols[2] != protocols[3]


def test_the_report_goes_between_its_markers(toy_data: Path, tmp_path: Path) -> None:
    path, page = write_experiment(tmp_path), tmp_path / "page.md"
    page.write_text("# Page\n")
    assert "the lines <!-- begin toy --> and <!-- end toy --> are missing" in refusal(
        path, "--report", "--page", str(page)
    )
    assert page.read_text() == "# Page\n"
    page.write_text("before\n<!-- begin toy -->\nold\n<!-- end toy -->\nafter\n")
    for _ in range(2):
        run_all(path, "--report", "--page", str(page), train=None)
        text = page.read_text()
        assert text.startswith("before\n<!-- begin toy -->\n\n| variant |")
        assert text.endswith("\n\n<!-- end toy -->\nafter\n")
        assert "old" not in text
    assert "(page_toy.png)" in text
    assert cv2.imread(str(tmp_path / "page_toy.png")).std() > 0


def test_a_run_ends_with_the_one_who_started_it(tmp_path: Path) -> None:
    program = "import ablation_run, time; ablation_run.end_with_parent(); print('ready', flush=True); time.sleep(600)"
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "benchmarks"), *sys.path])}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    process = subprocess.Popen([sys.executable, "-c", program], env=env, **pipes)
    assert process.stdout.readline() == b"ready\n"
    assert process.poll() is None
    process.stdin.close()
    assert process.wait(timeout=60) == 1
