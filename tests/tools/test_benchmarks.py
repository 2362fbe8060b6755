"""The benchmarks run, on sizes too small to tell anything; no time is asserted."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.helpers.commands import ROOT


@pytest.mark.slow
def test_labels_from_scores() -> None:
    command = [sys.executable, "benchmarks/labels_from_scores.py", "--size", "16", "32", "--queries", "3"]
    done = subprocess.run(
        [*command, "--classes", "4", "--repeats", "1"], cwd=ROOT, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert "| whole maps |" in done.stdout
    assert "| bands |" in done.stdout
    assert done.stdout.splitlines()[-1] == "The labels are the same."


def run(script: str, *arguments: str) -> str:
    command = [sys.executable, f"benchmarks/{script}.py", "--repeats", "1", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_inference(tmp_path) -> None:
    config = ("--config-file", "toy_scenes/semask_swin_mini_msfapn_m2f.yaml", "--size", "64")
    out = run("inference", *config, "--json", str(tmp_path / "figures.json"))
    assert "| standard operators |" in out
    assert "| fast paths |" in out
    (figures,) = json.loads((tmp_path / "figures.json").read_text()).values()
    assert [len(values) for values in figures["seconds"].values()] == [1, 1]


@pytest.mark.slow
def test_training_step() -> None:
    config = ("--config-file", "toy_scenes/semask_swin_mini_m2f.yaml", "--size", "64")
    out = run("training_step", *config)
    assert "| standard operators |" in out
    assert "| this project |" in out


@pytest.mark.slow
def test_mapper(tmp_path) -> None:
    small = ("--size", "40", "60", "--crop", "24", "--images", "2", "--json", str(tmp_path / "figures.json"))
    out = run("mapper", *small)
    assert "mapper, 8 images of 40 x 60, crop 24" in out
    mapper, loader = json.loads((tmp_path / "figures.json").read_text()).values()
    assert list(mapper["seconds"]) == ["whole image", "this project"]
    assert len(loader["seconds"]) == 6
