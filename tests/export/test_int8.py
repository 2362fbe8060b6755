"""`semask export --int8`: files with 8-bit products, their calibration and comparison, and its messages."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from semask_d2 import Predictor, create_model, export_model
from semask_d2.__main__ import main
from semask_d2.export import exporting, running
from semask_d2.export.exporting import split
from semask_d2.export.proof import LIMITS, Agreement, Limits
from semask_d2.export.running import open_exported
from semask_d2.export.writing import size_of
from semask_d2.utils.errors import UserError
from tests.helpers.commands import TINY_MODEL, TINY_TRAINING
from tests.helpers.tiny_model import randomize

onnx = pytest.importorskip("onnx", reason="onnx is not installed")
pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return the folder of a tiny model whose classes differ clearly, which those of a random Mask2Former do not."""
    torch.manual_seed(0)
    names = ["a", "b", "c", "d"]
    model = create_model("toy_scenes/semask_swin_mini_fpn", class_names=names, **TINY_MODEL, **TINY_TRAINING)
    folder = tmp_path_factory.mktemp("saved") / "model"
    randomize(model).save_pretrained(folder)
    return str(folder)


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Return a folder of seven smooth images of two sizes."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for i in range(7):
        coarse = np.random.default_rng(i).integers(0, 256, (8, 12 if i % 2 else 10, 3), np.uint8)
        cv2.imwrite(str(folder / f"{i}.png"), cv2.resize(coarse, (8 * coarse.shape[1], 64)))
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("name", ["model.onnx", "model.xml"])
def test_the_file_is_smaller_and_agrees(
    name: str, saved: str, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    kind = pytest.importorskip("openvino", reason="openvino is not installed") and "openvino"
    kind = "onnx" if name.endswith(".onnx") else kind
    words = ["export", "--weights", saved, "--format", kind, "--images", pictures, "--output"]
    assert main([*map(str, words), str(tmp_path / name), "--int8"]) == 0
    out = capsys.readouterr().out
    assert out.count("equal labels") == 1  # of the fifth image; the others calibrate
    assert "1 x 64 x 80: maximal error" in out
    assert main([*map(str, words), str(tmp_path / f"fp32{name}")]) == 0
    assert size_of(tmp_path / name) < 0.7 * size_of(tmp_path / f"fp32{name}")
    metadata = open_exported(tmp_path / name).metadata
    assert (metadata.precision, metadata.calibration_images) == ("int8", 6)
    plain = open_exported(tmp_path / f"fp32{name}").metadata
    assert (plain.precision, plain.calibration_images) == ("fp32", 0)
    predict, expected = Predictor(tmp_path / name), Predictor(saved)
    shares = [(predict(x).labels == expected(x).labels).mean() for x in sorted(pictures.iterdir())]
    assert np.mean(shares) > 0.98
    if kind == "onnx":
        kinds = [node.op_type for node in onnx.load(tmp_path / name).graph.node]
        products = sum(kind in ("MatMul", "Conv") for kind in kinds)
        assert products / 3 < kinds.count("QuantizeLinear") < products
        assert "QuantizeLinear" not in [node.op_type for node in onnx.load(tmp_path / f"fp32{name}").graph.node]


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [{"outputs": "logits"}, {"resize": True}, {"normalize": False, "input_type": "float"}, {"batch": 2}],
    ids=str,
)
def test_other_settings(options: dict, saved: str, pictures: Path, tmp_path: Path) -> None:
    images = [str(path) for path in sorted(pictures.iterdir())]
    (agreement,) = export_model(saved, tmp_path / "x.onnx", int8=True, images=images, **options)
    assert agreement.equal > 0.98
    assert agreement.error > 0


@pytest.mark.slow
def test_a_file_with_too_many_other_labels_is_removed(
    saved: str, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "out").mkdir()
    target = tmp_path / "out" / "model.onnx"
    target.write_bytes(b"older")

    class Wrong(running.OnnxModel):
        def __call__(self, image: np.ndarray) -> list[np.ndarray]:
            (labels,) = super().__call__(image)
            labels[..., :8] = (labels[..., :8] + 1) % 4
            return [labels]

    monkeypatch.setitem(exporting.RUNNERS, "onnx", Wrong)
    message = (
        r"differ \(equal labels 8\d\.\d\d %; at least 98 % is required\); calibrate with more images, or remove --int8"
    )
    with pytest.raises(UserError, match=message):
        export_model(saved, target, int8=True, images=[str(x) for x in sorted(pictures.iterdir())])
    assert target.read_bytes() == b"older"
    assert list(target.parent.iterdir()) == [target]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--int8"], "--int8: expected at least 2 images in --images, got 0"),
        (["--int8", "--images", "{folder}/0.png"], "--int8: expected at least 2 images in --images, got 1"),
        (["--int8", "--images", "{folder}", "--fp16"], "--int8: remove --fp16; a file has one precision"),
        (
            ["--int8", "--images", "{folder}", "--format", "torch_export", "--size", "64", "96"],
            "--int8: expected --format onnx or openvino; torch_export keeps fp32 weights",
        ),
        (["--int8", "--images", "{folder}", "--format", "folder"], "--format folder: leave the options of files out"),
        (["--int8", "--images", "{folder}", "--size", "8", "8"], "0.png: it is 64 x 80 after resizing by INPUT"),
        (["--int8", "--images", "{folder}/0.png", "{folder}/missing.png"], "missing.png"),
        (["--int8", "--images", "{folder}/0.png", "{folder}/../broken.png"], "broken.png"),
    ],
)
def test_invalid_settings_are_one_line(
    words: list[str], message: str, saved: str, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    (tmp_path / "broken.png").write_bytes(b"\x89PNG broken")
    words = [word.format(folder=pictures) for word in words]
    suffix = {"torch_export": "pt2"}.get(words[words.index("--format") + 1] if "--format" in words else "", "onnx")
    output = tmp_path / f"model.{suffix}"
    assert main(["export", "--weights", saved, "--output", str(output), *words]) == 1
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not output.exists()


def test_a_missing_library_is_named_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running, "find_spec", lambda name: None if name == "onnxruntime" else True)
    image = np.zeros((64, 64, 3), np.uint8)
    with pytest.raises(UserError, match=r"^onnxruntime is not installed, which exported files need; pip install"):
        export_model(None, "x.xml", int8=True, images=[image, image])


def test_every_fifth_image_is_kept_apart() -> None:
    images = [np.array(i) for i in range(12)]
    for count, apart in ((2, [1]), (4, [3]), (5, [4]), (6, [4]), (12, [4, 9])):
        calibrating, compared = split(images[:count])
        assert [int(x) for x in compared] == apart
        assert [int(x) for x in calibrating] == [i for i in range(count) if i not in apart]


def test_limits_of_each_batch_and_of_all() -> None:
    good, bad = Agreement((1, 3, 8, 8), 1e-4, 1.0), Agreement((1, 3, 8, 24), 0.5, 0.9)
    each, of_all = Limits(1e-3, 0.999), Limits(1.0, 0.93, of_all=True)
    assert each.refusal([good, good]) == ""
    assert each.refusal([good, bad]).startswith("1 x 8 x 24: maximal error 0.5, equal labels 90.0000 %; up to 0.001")
    assert each.refusal([good._replace(error=float("nan"))])
    assert each.refusal([good._replace(equal=0.9)])
    assert of_all.refusal([good, good, good, good, bad]) == ""
    assert (
        of_all.refusal([good, bad]) == "equal labels 92.50 %; at least 93 % is required"
    )  # of 256 pixels, 192 are in bad
    assert LIMITS.keys() == {"fp32", "fp16", "int8"}
