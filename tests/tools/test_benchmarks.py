"""The benchmarks run on sizes too small to be meaningful; no times are asserted."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import cv2
import pytest
import torch

from tests.helpers.commands import ROOT

pytestmark = pytest.mark.slow
PEERS_INSTALLED = all(find_spec(name) for name in ("transformers", "openvino"))
EXPORTS_INSTALLED = all(find_spec(name) for name in ("onnx", "onnxruntime", "openvino"))


def start(script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, f"benchmarks/{script}.py", "--repeats", "1", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)


def test_all_of_them(tmp_path: Path) -> None:
    peers = ["--peer"] if PEERS_INSTALLED else []
    done = start("run_all", "--quick", *peers, "--json", str(tmp_path / "figures.json"))
    assert done.returncode == 0, done.stderr
    out = done.stdout
    summary = out.partition("## Summary")[2]
    figures = json.loads((tmp_path / "figures.json").read_text())
    for title, figure in figures.items():
        if not title.startswith("growth"):
            assert f"| {title} | " in summary
            assert all(len(values) == 1 for values in figure["seconds"].values())
    for part in (
        "start-up",
        "criterion",
        "labels",
        "panoptic map",
        "mapper",
        "loader",
        "inference",
        "exported files",
        "training step",
        "growth of inference by size",
    ):
        assert any(title.startswith(part) for title in figures), part
    for layer in ("linear layer", "deformable attention", "feature alignment", "window attention", "3x3 convolution"):
        assert f"| {layer}" in summary
    ways = ["standard operators", "fast paths, bf16", "torch.export"]
    ways += ["onnxruntime, fp32", "onnxruntime, int8", "OpenVINO, fp32"] if EXPORTS_INSTALLED else []
    for way in [*ways, *(["transformers' Mask2Former", "transformers", "OpenVINO, fp32"] if PEERS_INSTALLED else [])]:
        assert f"| {way} |" in out
    plot = cv2.imread(str(tmp_path / "figures.png"))
    assert plot.std() > 0


@pytest.mark.skipif(not EXPORTS_INSTALLED, reason="no library for exported files")
def test_exported_files_of_a_run_have_an_accuracy(tiny_run: Path, toy_data: Path, tmp_path: Path) -> None:
    done = start("export", "--run", str(tiny_run), "--size", "64", "--json", str(tmp_path / "figures.json"))
    assert done.returncode == 0, done.stderr
    ((title, figures),) = json.loads((tmp_path / "figures.json").read_text()).items()
    assert title == f"exported files, {tiny_run}/config.yaml, 64 x 64"
    assert figures["mIoU"]["onnxruntime, fp32"] == pytest.approx(figures["mIoU"]["the model"], abs=0.1)
    assert figures["mIoU"].keys() == figures["seconds"].keys() - {"torch.export"}
    sizes = figures["file MB"]
    assert sizes["onnxruntime, int8"] < sizes["onnxruntime, fp32"]


def test_a_step_with_frozen_and_adapted_backbones() -> None:
    options = ("--train", "frozen", "lora", "--size", "64", "--batch", "1", "MODEL.SWIN.DEPTHS", "[1, 1, 1, 1]")
    done = start("training_step", "--config-file", "toy_scenes/semask_swin_mini_m2f.yaml", *options)
    assert done.returncode == 0, done.stderr
    for train in ("frozen", "lora"):
        assert f"| this project, fp32, {train} backbone |" in done.stdout


def test_a_way_that_fails_is_named() -> None:
    done = start("postprocessing", "--size", "1", "1")
    assert done.returncode == 1
    assert "RuntimeError" in done.stderr
    assert done.stderr.splitlines()[-1] == "whole maps: its process has ended; the reason is above"


def test_what_a_gpu_would_show(tmp_path: Path) -> None:
    done = start("gpu", "--quick", "--json", str(tmp_path / "figures.json"))
    assert done.returncode == 0, done.stdout + done.stderr
    for part in ("training", "inference", "profile", "operators"):
        assert f"## {part}" in done.stdout
    assert "% of that peak" in done.stdout
    assert "| toy_scenes/semask_swin_mini_fpn.yaml | 2 images of 64, float32, " in done.stdout
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert figures["training of every config"]["figures"].keys() == {
        "toy_scenes/semask_swin_mini_fpn.yaml",
        "toy_scenes/semask_swin_mini_msfapn_m2f.yaml",
    }
    assert all(x["images per second"] > 0 for x in figures["inference"]["figures"].values())


def test_without_a_gpu_it_says_so() -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    done = start("gpu")
    assert (done.returncode, done.stdout) == (1, "")
    # libraries may print warnings above it
    assert done.stderr.splitlines()[-1] == "torch finds no GPU; --quick runs a small check on a CPU"
    assert "Traceback" not in done.stderr
