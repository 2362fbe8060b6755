"""`semask export` and its files: predictions, drawings, metadata, messages."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from semask_d2 import Predictor
from semask_d2.__main__ import main
from semask_d2.data.datasets.toy_scenes import TOY_SCENES
from semask_d2.export import exporting, running
from semask_d2.export.running import open_exported
from semask_d2.utils.errors import UserError
from tests.helpers.commands import ROOT

onnx = pytest.importorskip("onnx", reason="onnx is not installed")
pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
pytest.importorskip("openvino", reason="openvino is not installed")


def random_image(height: int, width: int, seed: int = 0) -> np.ndarray:
    small = np.random.default_rng(seed).integers(0, 256, (height // 8, width // 8, 3), np.uint8)
    return cv2.resize(small, (width, height))


@pytest.fixture(scope="module")
def exported(tiny_run: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Export the tiny run's model with labels, scores and logits, and with resizing."""
    folder = tmp_path_factory.mktemp("exported")
    files = {
        "labels": (folder / "labels.onnx", ["--outputs", "labels"]),
        "scores": (folder / "scores.xml", ["--format", "openvino", "--outputs", "scores"]),
        "logits": (folder / "logits.onnx", ["--outputs", "logits"]),
        "resized": (folder / "resized.onnx", ["--resize"]),
    }
    for file, words in files.values():
        assert main(["export", "--weights", str(tiny_run), "--output", str(file), *words]) == 0
    return {name: file for name, (file, _) in files.items()}


@pytest.mark.slow
def test_predictions_equal_those_of_the_model(exported: dict[str, Path], tiny_run: Path) -> None:
    model = Predictor.from_run(tiny_run)
    for outputs in ("scores", "logits"):
        predictor = Predictor.from_export(exported[outputs])
        for image in (random_image(64, 96), random_image(100, 72, seed=1), random_image(40, 160, seed=2)):
            actual, expected = predictor(image, scores=True), model(image, scores=True)
            np.testing.assert_allclose(actual.scores, expected.scores, atol=1e-4)
            assert (actual.labels == expected.labels).mean() > 0.999
    labels = Predictor.from_export(exported["labels"])
    same_size, doubled = random_image(64, 96), random_image(128, 192, seed=1)  # 64 is the shorter side of the size rule
    assert (labels(same_size).labels == model(same_size).labels).mean() > 0.999
    assert labels(doubled).labels.shape == (128, 192)
    assert (labels(doubled).labels == model(doubled).labels).mean() > 0.9
    resized = Predictor.from_export(exported["resized"])
    for image in (same_size, doubled, random_image(100, 72, seed=2), random_image(48, 200, seed=3)):
        assert resized(image).labels.shape == image.shape[:2]
        assert (resized(image).labels == model(image).labels).mean() > 0.999


@pytest.mark.slow
def test_it_contains_classes_and_colors(exported: dict[str, Path]) -> None:
    predictor = Predictor.from_export(exported["scores"])
    assert predictor.class_names == list(TOY_SCENES.classes.names)
    assert predictor.class_colors.tolist() == [list(color) for color in TOY_SCENES.classes.colors]
    assert predictor.ignore_label == 255
    with pytest.raises(UserError, match="an exported file has no semantic maps"):
        predictor(random_image(64, 64), priors=True)
    with pytest.raises(UserError, match="outputs labels only; export it with --outputs scores or logits"):
        Predictor.from_export(exported["labels"])(random_image(64, 64), scores=True)


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "size"), [("labels", (64, 96)), ("resized", (100, 150)), ("scores", (100, 150))])
def test_it_draws_the_same_image_as_the_demo(
    kind: str, size: tuple[int, int], exported: dict[str, Path], tiny_run: Path, tmp_path: Path
) -> None:
    cv2.imwrite(str(tmp_path / "in.png"), random_image(*size))
    for name, weights in (("run", tiny_run), ("file", exported[kind])):
        words = ["--input", tmp_path / "in.png", "--output", tmp_path / f"{name}.png", "--weights", weights]
        assert main(["predict", *map(str, words)]) == 0
    assert np.array_equal(cv2.imread(str(tmp_path / "run.png")), cv2.imread(str(tmp_path / "file.png")))


@pytest.mark.slow
def test_the_documented_example_gives_the_models_labels(
    exported: dict[str, Path], tiny_run: Path, tmp_path: Path, capfd: pytest.CaptureFixture
) -> None:
    (example,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs/deployment.md").read_text(), re.DOTALL)
    (tmp_path / "example.py").write_text(example)
    for name, size in (("same", (64, 96)), ("larger", (100, 150))):
        image = random_image(*size)
        cv2.imwrite(str(tmp_path / f"{name}.png"), image[:, :, ::-1])
        files = [exported["labels"], tmp_path / f"{name}.png", tmp_path / f"{name}_out.png"]
        subprocess.run([sys.executable, tmp_path / "example.py", *files], check=True, timeout=120)
        expected = Predictor.from_export(exported["labels"])
        random_draws = cv2.imread(str(tmp_path / f"{name}_out.png"))[:, :, ::-1]
        assert (random_draws == expected.class_colors[expected(image).labels]).mean() > 0.99
    assert capfd.readouterr().out.splitlines()[-1].split("%  ")[1] in TOY_SCENES.classes.names


@pytest.mark.slow
def test_given_images_are_compared(tiny_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    cv2.imwrite(str(tmp_path / "in.png"), random_image(128, 160))  # 64 x 80 after resizing
    words = ["--weights", tiny_run, "--output", tmp_path / "x.onnx", "--images", tmp_path / "in.png"]
    assert main(["export", *map(str, words)]) == 0
    out = capsys.readouterr().out
    assert "1 x 64 x 80: maximal error" in out
    assert "equal labels 100.0000 %" in out
    assert main(["export", *map(str, words), "--size", "64", "64"]) == 1
    assert "it is 64 x 80 after resizing" in capsys.readouterr().err
    assert main(["export", *map(str, words), "--resize"]) == 0
    assert "1 x 128 x 160: maximal error" in capsys.readouterr().out
    assert main(["export", *map(str, words), "--resize", "--size", "64", "80"]) == 1
    assert "it is 128 x 160, but --size is 64 x 80" in capsys.readouterr().err


@pytest.mark.slow
def test_a_file_with_different_results_is_removed(
    tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    target = tmp_path / "model.onnx"
    target.write_bytes(b"older")

    class Wrong(running.OnnxModel):
        def __call__(self, image: np.ndarray) -> list[np.ndarray]:
            return [(labels + 1) % 12 for labels in super().__call__(image)]

    monkeypatch.setitem(exporting.RUNNERS, "onnx", Wrong)
    assert main(["export", "--weights", str(tiny_run), "--output", str(target)]) == 1
    assert "not written, because the results of file and model differ" in capsys.readouterr().err
    assert target.read_bytes() == b"older"
    assert list(tmp_path.iterdir()) == [target]


def test_other_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nothing\.onnx: no such file"):
        open_exported(tmp_path / "nothing.onnx")
    (tmp_path / "a.bin").touch()
    for name in ("a.onnx", "a.xml"):
        (tmp_path / name).write_bytes(b"damaged")
        with pytest.raises(UserError, match=rf"{name}: cannot be run"):
            open_exported(tmp_path / name)
    (tmp_path / "a.pt2").touch()
    with pytest.raises(UserError, match=r"expected an exported file, \.onnx or \.xml; other formats could run code"):
        open_exported(tmp_path / "a.pt2")
    ends = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1]) for name in ("x", "y")]
    graph = onnx.helper.make_graph([onnx.helper.make_node("Relu", ["x"], ["y"])], "relu", ends[:1], ends[1:])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, tmp_path / "b.onnx")
    with pytest.raises(UserError, match=r"b\.onnx: has no metadata of this project"):
        open_exported(tmp_path / "b.onnx")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--batch", "two"], "--batch two: expected a whole number of at least 1, or any"),
        (["--batch", "0"], "--batch 0: expected at least 1, or any"),
        (["--size", "0", "8"], "--size 0 8: expected height and width of at least 1"),
        (["--format", "torch_export"], "--dynamic: torch_export supports a fixed size only"),
        (["--format", "torch_export", "--size", "8", "8", "--fp16"], "--fp16: expected --format onnx or openvino"),
        (["--no-normalize"], "--no-normalize: add --input float"),
        (["--resize", "--no-normalize", "--input", "float"], "--resize: remove --no-normalize"),
        (["--resize", "--outputs", "logits"], "--resize: expected --outputs labels or scores"),
        ([], "model.bin: expected a name ending in .onnx for --format onnx"),
        (["--images", "*.mp4"], "*.mp4: matches no image"),
    ],
)
def test_invalid_settings_are_one_line(
    words: list[str], message: str, tiny_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    assert main(["export", "--weights", str(tiny_run), "--output", str(tmp_path / "model.bin"), *words]) == 1
    assert message in capsys.readouterr().err


def test_a_missing_library_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"onnx is not installed.*pip install onnx onnxruntime openvino$"):
        running.require_library("onnx")


def test_an_exported_file_takes_no_config(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    cv2.imwrite(str(tmp_path / "in.png"), random_image(16, 16))
    words = ["--input", tmp_path / "in.png", "--output", tmp_path / "out", "--weights", tmp_path / "m.onnx"]
    assert main(["predict", *map(str, words), "--opts", "SEED", "1"]) == 1
    assert "an exported file has its own settings" in capsys.readouterr().err
