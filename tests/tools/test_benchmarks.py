"""The benchmarks run, on sizes too small to tell anything; no time is asserted."""

from __future__ import annotations

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
