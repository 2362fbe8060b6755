"""The benchmarks run on sizes too small to be meaningful; no times are asserted."""

from __future__ import annotations

import importlib
import json
import sys
from importlib.util import find_spec
from pathlib import Path

import cv2
import pytest
import torch

from tests.helpers.commands import ROOT, write_tiny_run

sys.path.append(str(ROOT / "benchmarks"))  # the scripts import each other
run_all = importlib.import_module("run_all")
pytestmark = pytest.mark.slow
PEERS_INSTALLED = all(find_spec(name) for name in ("transformers", "openvino"))
EXPORTS_INSTALLED = all(find_spec(name) for name in ("onnx", "onnxruntime", "openvino"))


@pytest.fixture
def start(run):
    """Return a function that runs a benchmark and returns (exit code, standard output, standard error)."""
    return lambda script, *arguments: run(f"benchmarks/{script}.py", "--repeats", "1", *arguments)


QUICK = [run for run in run_all.RUNS if run.quick is not None and run.script != "export"]  # that of a run is tested
BACKBONES = ("--train", "full", "frozen", "lora") if find_spec("peft") else ("--train", "full", "frozen")
# what the output of a script holds, with the libraries of its peers and of exported files
EXPECTED = {
    "startup": ["start-up"],
    "layers": ["linear layer", "deformable attention", "feature alignment", "window attention", "3x3 convolution"],
    "criterion": ["criterion"],
    "postprocessing": ["labels", "| transformers |"],
    "panoptic": ["panoptic map", "| transformers |"],
    "mapper": ["mapper", "loader"],
    "inference": [
        "| standard operators |",
        "| fast paths, fp32 |",
        "| fast paths, bf16 |",
        "| transformers' Mask2Former |",
        "| OpenVINO, fp32 |",
    ],
    "export": [
        "exported files",
        "| torch.export |",
        "| onnxruntime, fp32 |",
        "| onnxruntime, int8 |",
        "| OpenVINO, fp32 |",
        "| OpenVINO, int8 |",
    ],
    "training_step": [
        "training step",
        "| transformers' Mask2Former |",
        *(f"| this project, fp32, {train} backbone |" for train in BACKBONES[2:]),
    ],
    "growth": ["inference by size"],
    "throughput": ["an image of an evaluation", "| forks |"],
    "folder_growth": ["| listing | 4 |", "| check | 4 |", "| inputs | 4 |"],
}
FOREIGN = ("transformers", "OpenVINO", "onnxruntime")


@pytest.mark.parametrize("quick", QUICK, ids=[quick.script for quick in QUICK])
def test_each_of_them(quick, start, tmp_path: Path) -> None:
    figures, plot = tmp_path / "figures.json", tmp_path / "figures.png"
    words = quick.command(quick=True, peers=PEERS_INSTALLED)[2:]
    plots = ["--plot", plot] if quick.script == "growth" else []
    words += BACKBONES if quick.script == "training_step" else ()
    code, out, err = start(quick.script, *words, *plots, "--json", figures)
    assert code == 0, err
    installed = PEERS_INSTALLED and EXPORTS_INSTALLED
    for words_of_result in EXPECTED[quick.script]:
        if installed or not any(name in words_of_result for name in FOREIGN):
            assert words_of_result in out
    for title, figure in json.loads(figures.read_text()).items():
        assert title.startswith("growth") or all(len(values) == 1 for values in figure["seconds"].values()), title
    if plots:
        assert cv2.imread(str(plot)).std() > 0


def test_all_are_run_in_turn_and_summarized(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
) -> None:
    figures = tmp_path / "figures.json"
    small = ("--classes", "3", "--layers", "2", "--queries", "5", "--size", "64", "--points", "64")
    monkeypatch.setattr(run_all, "RUNS", (run_all.Run("criterion", quick=small), run_all.Run("inference", quick=None)))
    monkeypatch.setattr(sys, "argv", ["run_all.py", "--quick", "--json", str(figures)])
    run_all.main()
    out = capfd.readouterr().out
    (title,) = json.loads(figures.read_text())
    assert f"| {title} | " in out.partition("## Summary")[2]
    monkeypatch.setattr(run_all, "RUNS", (run_all.Run("criterion", quick=small), run_all.Run("missing", quick=())))
    with pytest.raises(SystemExit, match="failed: missing"):
        run_all.main()


@pytest.mark.skipif(not EXPORTS_INSTALLED, reason="no library for exported files")
def test_exported_files_of_a_run_have_an_accuracy(start, toy_data: Path, tmp_path: Path) -> None:
    run = write_tiny_run(tmp_path / "run", ROOT / "configs/toy_scenes/semask_swin_mini_fpn.yaml")  # exported quickly
    code, out, err = start("export", "--run", run, "--size", "64", "--json", tmp_path / "figures.json")
    assert code == 0, err
    assert all(words in out for words in EXPECTED["export"])
    ((title, figures),) = json.loads((tmp_path / "figures.json").read_text()).items()
    assert title == f"exported files, {run}/config.yaml, 64 x 64"
    assert figures["mIoU"]["onnxruntime, fp32"] == pytest.approx(figures["mIoU"]["the model"], abs=0.1)
    assert figures["mIoU"].keys() == figures["seconds"].keys() - {"torch.export"}
    sizes = figures["file MB"]
    for library in ("onnxruntime", "OpenVINO"):
        assert sizes[f"{library}, int8"] < sizes[f"{library}, fp32"]


def test_agreement_of_bf16(start, tiny_run: Path, toy_data: Path, tmp_path: Path) -> None:
    data = toy_data / "toy_scenes"
    folders = ("--images", str(data / "images/validation"), "--labels", str(data / "annotations/validation"))
    figures = tmp_path / "figures.json"
    code, _, err = start("agreement", "--weights", tiny_run, *folders, "--count", "2", "--json", figures)
    assert code == 0, err
    ((title, result),) = json.loads(figures.read_text()).items()
    assert "on 2 images" in title
    assert all(90 < row["equal labels, %"] <= 100 for row in result["figures"].values())
    assert {"bf16", "class scores in fp32"} <= result["figures"].keys()


def test_a_way_that_fails_is_named(start) -> None:
    code, _, err = start("postprocessing", "--size", "1", "1")
    assert code == 1
    assert "RuntimeError" in err
    assert err.splitlines()[-1] == "whole maps: its process has ended; the reason is above"


def test_what_a_gpu_would_show(start, tmp_path: Path) -> None:
    code, out, err = start("gpu", "--quick", "--json", tmp_path / "figures.json")
    assert code == 0, out + err
    for part in ("training", "inference", "profile", "operators"):
        assert f"## {part}" in out
    assert "% of that peak" in out
    assert "| toy_scenes/semask_swin_mini_fpn.yaml | 2 images of 64, float32, " in out
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert figures["training of every config"]["figures"].keys() == {
        "toy_scenes/semask_swin_mini_fpn.yaml",
        "toy_scenes/semask_swin_mini_msfapn_m2f.yaml",
    }
    assert all(x["images per second"] > 0 for x in figures["inference"]["figures"].values())


def test_without_a_gpu_it_says_so(start) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    code, out, err = start("gpu")
    assert (code, out) == (1, "")
    # libraries may print warnings above it
    assert err.splitlines()[-1] == "torch finds no GPU; --quick runs a small check on a CPU"
    assert "Traceback" not in err
