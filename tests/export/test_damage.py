"""Exported files that are damaged, of older versions or inconsistent: one-line errors that name the file."""

from __future__ import annotations

import json
import logging
import os
import random
import re
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from semask_d2 import Predictor
from semask_d2.__main__ import main
from semask_d2.export import exporting, running, writing
from semask_d2.export.checksum import seal, sealed_archive, verify_archive
from semask_d2.export.interface import Port, check_graph, check_results
from semask_d2.export.metadata import KEY
from semask_d2.export.running import ARCHIVED, files_of, open_exported
from semask_d2.utils.errors import UserError
from semask_d2.utils.files import TEMPORARY
from tests.helpers.commands import ROOT
from tests.helpers.exported_files import METADATA, brightest_channel, save_exported
from tests.helpers.refusals import refusal

onnx = pytest.importorskip("onnx", reason="onnx is not installed")
pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
openvino = pytest.importorskip("openvino", reason="openvino is not installed")

FLIPS = 60
PICTURE = np.random.default_rng(0).integers(0, 256, (16, 24, 3), np.uint8)


def flipped(data: bytes, generator: random.Random, start: int = 0) -> bytes:
    """Flip one random bit at or after `start`."""
    changed = bytearray(data)
    changed[generator.randrange(start, len(data))] ^= 1 << generator.randrange(8)
    return bytes(changed)


def save_openvino(folder: Path) -> Path:
    """Save the small model as the two files of OpenVINO."""
    onnx.save(brightest_channel(), folder / "plain.onnx")
    model = openvino.Core().read_model(folder / "plain.onnx")
    model.set_rt_info(METADATA.as_text(), [KEY])
    openvino.save_model(model, folder / "model.xml", compress_to_fp16=False)
    seal(files_of(folder / "model.xml"))
    return folder / "model.xml"


def test_undamaged_files_are_run(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for path in (save_exported(tmp_path / "a.onnx", brightest_channel()), save_openvino(tmp_path)):
        assert np.array_equal(Predictor.from_export(path)(PICTURE).labels, PICTURE.argmax(2))
    assert not caplog.records


def test_no_flipped_byte_of_an_onnx_file_is_run(tmp_path: Path) -> None:
    """Bytes are flipped in the full file, and in the metadata with the checksum at its end."""
    path = save_exported(tmp_path / "a.onnx", brightest_channel())
    whole, generator = path.read_bytes(), random.Random(0)
    starts = [0] * FLIPS + [whole.index(METADATA.version.encode(), whole.index(KEY.encode()))] * FLIPS
    for start in starts + [whole.index(b"sha256") - 2] * FLIPS:
        path.write_bytes(flipped(whole, generator, start))
        with pytest.raises(UserError, match=rf"^{path}: [^\n]*semask export$"):
            Predictor.from_export(path)


def test_no_flipped_byte_of_openvinos_files_is_run(tmp_path: Path) -> None:
    path = save_openvino(tmp_path)
    generator = random.Random(0)
    for part in files_of(path):
        whole = part.read_bytes()
        for _ in range(FLIPS):
            part.write_bytes(flipped(whole, generator))
            with pytest.raises(UserError, match=rf"^{path}: [^\n]*semask export$"):
                Predictor.from_export(path)
        part.write_bytes(whole)
    path.with_suffix(".bin").unlink()
    with pytest.raises(UserError, match=r"model\.xml: its weights are missing: expected model\.bin beside it"):
        Predictor.from_export(path)


@pytest.mark.slow
def test_a_real_file_is_sealed_and_no_flipped_byte_of_it_is_run(tiny_run: Path, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    assert main(["export", "--weights", str(tiny_run), "--output", str(path), "--size", "64", "96"]) == 0
    Predictor.from_export(path)
    whole, generator = path.read_bytes(), random.Random(1)
    for _ in range(FLIPS):
        path.write_bytes(flipped(whole, generator))
        with pytest.raises(UserError, match=r"model\.onnx: damaged \(wrong checksum\)"):
            Predictor.from_export(path)


@pytest.mark.slow
def test_a_program_of_torch_export_is_sealed(tmp_path: Path) -> None:
    program = torch.export.export(torch.nn.Conv2d(3, 3, 1), (torch.zeros(1, 3, 8, 8),))
    torch.export.save(program, tmp_path / "plain.pt2", extra_files={KEY: METADATA.as_text()})
    path = tmp_path / "model.pt2"
    path.write_bytes(sealed_archive((tmp_path / "plain.pt2").read_bytes(), ARCHIVED))
    assert running.TorchModel(path).metadata == METADATA
    whole, generator = path.read_bytes(), random.Random(0)
    contents = archived(path)
    refused = 0
    for _ in range(FLIPS):
        path.write_bytes(flipped(whole, generator))
        message = refusal(lambda: verify_archive(path, ARCHIVED))
        if message is None:
            assert archived(path) == contents  # such as a date
        else:
            assert message.startswith(f"{path}: ")
            refused += 1
    assert refused > FLIPS / 2
    with zipfile.ZipFile(path, "w") as archive:  # valid by the checksums of the archive
        for name, content in contents.items():
            archive.writestr(name, content.replace(b"sky", b"Sky"))
    with pytest.raises(UserError, match=r"model\.pt2: damaged \(wrong checksum\)"):
        running.TorchModel(path)


def archived(path: Path) -> dict[str, bytes]:
    """Return the contents of a zip archive by name."""
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def test_older_files_without_a_checksum_are_run_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = save_exported(tmp_path / "a.onnx", brightest_channel(), json.dumps(METADATA.as_dict()))
    with caplog.at_level(logging.WARNING):
        assert np.array_equal(Predictor.from_export(path)(PICTURE).labels, PICTURE.argmax(2))
    assert [record.getMessage() for record in caplog.records] == [
        f"{path} is of an older version without a checksum: damage cannot be detected; export it again"
    ]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"inputs": ("picture",)}, r"inputs \['picture'\]; expected one, image"),
        ({"inputs": ("image", "mask")}, r"inputs \['image', 'mask'\]; expected one, image"),
        ({"input_type": "INT8"}, "image of type int8; expected uint8"),
        ({"input_type": "FLOAT"}, "image of type float32; expected uint8"),
        ({"input_shape": (1, 4, "h", "w")}, "image of shape 1 x 4 x any x any; expected any x 3 x any x any"),
        ({"input_shape": (1, 3, "h")}, "image of shape 1 x 3 x any; expected"),
        ({"input_shape": (1, 3, 0, 8)}, "image of shape 1 x 3 x 0 x 8; expected"),
        ({"output": "classes"}, r"outputs \['classes'\]; expected labels among them"),
        ({"output_type": "INT32"}, "labels of type int32; expected int64"),
    ],
)
def test_graphs_that_contradict_the_metadata(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    path = save_exported(tmp_path / "a.onnx", brightest_channel(**change))
    with pytest.raises(UserError, match=rf"^{path}: (its graph has {message}[^\n]*|cannot be run .*)$"):
        open_exported(path)


@pytest.mark.parametrize(
    ("outputs", "shapes", "message"),
    [
        (["labels"], [(1, 1, None, None)], "labels of shape 1 x 1 x any x any; expected any x any x any"),
        (["scores"], [(1, 4, None, None)], "scores of shape 1 x 4 x any x any; expected any x 3 x any x any"),
        (["logits"], [(1, 2, 8, 8)], "logits of shape 1 x 2 x 8 x 8; expected any x 3 x any x any"),
        (["class_logits", "mask_logits"], [(1, 9, 3), (1, 9, 8, 8)], "class_logits of shape 1 x 9 x 3; expected"),
        (["class_logits", "mask_logits"], [(1, 9, 4), (1, 9, 8)], "mask_logits of shape 1 x 9 x 8; expected"),
    ],
)
def test_outputs_of_a_wrong_shape_or_number_of_classes(outputs: list[str], shapes: list, message: str) -> None:
    kinds = ["int64" if name == "labels" else "float32" for name in outputs]
    ports = [Port(*port) for port in zip(outputs, kinds, shapes, strict=True)]
    image = Port("image", "uint8", (1, 3, None, None))
    with pytest.raises(UserError, match=rf"^a\.onnx: its graph has {message}"):
        check_graph(replace(METADATA, outputs=outputs), [image], ports, Path("a.onnx"))


def test_different_numbers_of_queries() -> None:
    metadata = replace(METADATA, outputs=["class_logits", "mask_logits"])
    results = [np.zeros((1, 9, 4)), np.zeros((1, 8, 4, 4))]
    with pytest.raises(UserError, match="class_logits and mask_logits of 9 and 8 queries; expected equal numbers"):
        check_results(metadata, results, (1, 3, 16, 16), Path("a.onnx"))


def test_results_that_contradict_the_metadata(tmp_path: Path) -> None:
    path = save_exported(tmp_path / "a.onnx", brightest_channel(offset=1))
    with pytest.raises(
        UserError, match=r"a\.onnx: its graph has labels from 1 to 3; expected at most 2, for 3 classes"
    ):
        Predictor.from_export(path)(PICTURE)
    predictor = Predictor.from_export(save_exported(tmp_path / "b.onnx", brightest_channel()))
    exported: Any = predictor.model.exported
    exported.run = lambda image: [np.zeros((1, 8, 8), np.int64)]
    with pytest.raises(
        UserError, match=r"b\.onnx: its graph has labels of shape \(1, 8, 8\); expected 1 x 16 x 24 for"
    ):
        predictor(PICTURE)

    def refuse(image: np.ndarray) -> list[np.ndarray]:
        raise ValueError("first\nsecond")

    exported.run = refuse
    with pytest.raises(UserError, match=r"b\.onnx: cannot be run \(it failed on images .*: second\)"):
        predictor(PICTURE)


@pytest.mark.parametrize("text", [b"sky", b"labels", b"brightest", b"ArgMax", KEY.encode()])
def test_invalid_text_is_one_line(tmp_path: Path, text: bytes) -> None:
    path = save_exported(tmp_path / "a.onnx", brightest_channel(), json.dumps(METADATA.as_dict()))
    path.write_bytes(path.read_bytes().replace(text, b"\xff\xfe" + text[2:]))
    message = refusal(lambda: Predictor.from_export(path)(PICTURE))
    # "brightest" is the name of an internal value that nothing refers to
    assert text == b"brightest" if message is None else re.fullmatch(rf"{path}: [^\n]+", message)


@pytest.mark.slow
def test_temporary_files_of_an_export_can_be_removed_later(
    tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    seen: list[str] = []
    prove, trace = exporting.prove, writing.trace

    def looking(function):
        def look(*words, **named):
            result = function(*words, **named)
            seen.extend(path.name for path in tmp_path.iterdir())
            return result

        return look

    monkeypatch.setattr(writing, "trace", looking(trace))
    monkeypatch.setattr(exporting, "prove", looking(prove))
    left = tmp_path / ".model.xml.killed.semask-tmp.bin"
    left.touch()
    os.utime(left, (0, 0))
    words = ["--weights", tiny_run, "--format", "openvino", "--output", tmp_path / "model.xml", "--size", "64", "64"]
    assert main(["export", *map(str, words)]) == 0
    assert {Path(name).suffix for name in seen} == {".onnx", ".xml", ".bin"}
    assert all(TEMPORARY.fullmatch(name) for name in seen)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.bin", "model.xml"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("folder", r"folder: this is a folder; name a file in it, such as .*/folder/model\.onnx"),
        ("folder/", r"folder: this is a folder; name a file in it"),
        ("a.onnx", r"a\.onnx: this is a folder; name a file in it"),
        ("x" * 251 + ".onnx", r"\.onnx: cannot be written: File name too long; choose another name"),
        ("\xe9" * 126 + ".onnx", r"\.onnx: cannot be written: File name too long; choose another name"),
        ("a\0.onnx", "invalid file name: embedded null byte"),
    ],
)
def test_unwritable_names_are_refused_at_once(
    name: str, message: str, tiny_run: Path, tmp_path: Path, monkeypatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(exporting, "SegmentationGraph", None)
    for folder in ("folder", "a.onnx"):
        (tmp_path / folder).mkdir()
    assert main(["export", "--weights", str(tiny_run), "--output", f"{tmp_path}/{name}"]) == 1
    error = capsys.readouterr().err
    assert re.search(rf"^error: --output .*{message}", error)
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (OSError(28, "No space left on device"), r"model\.onnx: not written, the disk is full; make room"),
        (OSError(27, "File too large"), r"model\.onnx: cannot be written: File too large"),
        (MemoryError(), r"model\.onnx: not written, out of memory; choose a smaller --size"),
        (RuntimeError("could not create a primitive"), r"model\.onnx: not written, out of memory"),
        (
            RuntimeError("first\nno such operator"),
            r"model\.onnx: not written, because onnx cannot run it \(no such operator",
        ),
    ],
)
def test_system_errors_during_export_are_one_line(
    error: Exception, message: str, tiny_run: Path, tmp_path: Path, monkeypatch, capsys: pytest.CaptureFixture
) -> None:
    def refuse(*_: object) -> None:
        raise error

    (tmp_path / "model.onnx").write_bytes(b"older")
    monkeypatch.setitem(exporting.WRITERS, "onnx", refuse)
    assert main(["export", "--weights", str(tiny_run), "--output", str(tmp_path / "model.onnx")]) == 1
    text = capsys.readouterr().err
    assert re.fullmatch(rf"error: [^\n]*{message}[^\n]*\n", text)
    assert "resume" not in text
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"older"]


def test_a_missing_run_names_the_option(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["export", "--weights", str(tmp_path / "gone"), "--output", str(tmp_path / "a.onnx")]) == 1
    assert f"error: --weights {tmp_path / 'gone'}: no such file or run folder" in capsys.readouterr().err


def test_damaged_older_files_give_labels_or_one_line(tmp_path: Path) -> None:
    """Without a checksum, a flipped byte may give wrong labels or a one-line error, but no other error."""
    path = save_exported(tmp_path / "a.onnx", brightest_channel(), json.dumps(METADATA.as_dict()))
    whole, generator = path.read_bytes(), random.Random(0)
    ran = 0
    for _ in range(300):
        path.write_bytes(flipped(whole, generator))
        message = refusal(lambda: Predictor.from_export(path)(PICTURE))
        assert message is None or re.fullmatch(rf"{path}: [^\n]+", message)
        ran += message is None
    assert 0 < ran < 300


FULL_DISK = """
import resource, sys
from semask_d2.__main__ import main
resource.setrlimit(resource.RLIMIT_FSIZE, (1_200_000, 1_200_000))
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="limits of a process's files are POSIX's")
@pytest.mark.parametrize("kind", ["torch_export", "openvino"])
def test_a_full_disk_ends_in_one_line(kind: str, tiny_run: Path, tmp_path: Path) -> None:
    """Compiled libraries, which would abort the process, do not write to a full disk."""
    file = tmp_path / f"model{writing.EXPORT_SUFFIXES[kind]}"
    words = ["export", "--weights", tiny_run, "--format", kind, "--size", "64", "64", "--output", file]
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, *words], capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert done.returncode == 1, done.stderr
    assert re.search(rf"^error: {file}: cannot be written: File too large", done.stderr, re.MULTILINE)
    assert not list(tmp_path.iterdir())
