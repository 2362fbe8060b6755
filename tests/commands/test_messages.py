"""Error messages of the real entry point: a user's mistake gives one clear line and a non-zero exit code."""

from __future__ import annotations

import errno
import os
import socket
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from semask_d2.modeling.meta_arch import SeMaskMaskFormer
from tests.helpers.commands import TINY, TOY_CONFIG


@pytest.fixture
def train(train_in_process):
    return train_in_process


def assert_one_line(result: tuple[int, str, str], *expected: str) -> None:
    code, out, err = result
    assert code not in (0, None)
    lines = [line for line in err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, err
    for text in expected:
        assert text in lines[0]
    assert "Traceback" not in out + err


def test_missing_dataset(train, tmp_path: Path) -> None:
    result = train("DATASETS.TRAIN", "('camvid_sem_seg_train',)", "OUTPUT_DIR", tmp_path / "out",
                   "MODEL.SEM_SEG_HEAD.NUM_CLASSES", "11", env={"DETECTRON2_DATASETS": str(tmp_path)})  # fmt: skip
    assert_one_line(result, "camvid_sem_seg_train", str(tmp_path), "DETECTRON2_DATASETS")


def test_unknown_dataset_names_the_nearest(train, tmp_path: Path) -> None:
    result = train("DATASETS.TRAIN", "('toy_scenes_trian',)", "OUTPUT_DIR", tmp_path)
    assert_one_line(result, "toy_scenes_trian", "toy_scenes_train")


def test_a_missing_config(in_process, tmp_path: Path) -> None:
    assert_one_line(in_process("train_net.py"), "--config-file")
    assert_one_line(in_process("train_net.py", "--config-file", tmp_path / "gone.yaml"), "gone.yaml", "No such file")


def test_unknown_key_names_the_nearest(train, tmp_path: Path) -> None:
    result = train("SOLVER.BASE_LRR", "1.0", "OUTPUT_DIR", tmp_path)
    assert_one_line(result, "SOLVER.BASE_LRR", 'Did you mean "SOLVER.BASE_LR"?')


def test_yaml_tags_are_not_executed(in_process, tmp_path: Path) -> None:
    proof = tmp_path / "executed"
    config = tmp_path / "tags.yaml"
    config.write_text(f'INPUT:\n  MIN_SIZE_TRAIN: !!python/object/apply:os.mkdir ["{proof}"]\n')
    assert_one_line(in_process("train_net.py", "--config-file", config), str(config), "MIN_SIZE_TRAIN", "tag")
    assert not proof.exists()


@pytest.mark.parametrize("workers", [0, 1])
def test_label_out_of_range(train, tmp_path: Path, workers: int) -> None:
    for split in ("training", "validation"):
        for kind in ("images", "annotations"):
            (tmp_path / "toy_scenes" / kind / split).mkdir(parents=True)
        Image.fromarray(np.zeros((64, 64, 3), np.uint8)).save(tmp_path / f"toy_scenes/images/{split}/a.jpg")
        Image.fromarray(np.full((64, 64), 77, np.uint8)).save(tmp_path / f"toy_scenes/annotations/{split}/a.png")
    options = ("OUTPUT_DIR", tmp_path / "out", "DATALOADER.NUM_WORKERS", str(workers))
    result = train(*options, env={"DETECTRON2_DATASETS": str(tmp_path)})
    assert_one_line(result, "annotations/training/a.png", "77", "NUM_CLASSES")


def test_evaluation_without_weights(train, tmp_path: Path) -> None:
    assert_one_line(train("OUTPUT_DIR", tmp_path, flags=("--eval-only",)), "MODEL.WEIGHTS", "--resume")


def test_missing_weights(train, tmp_path: Path) -> None:
    result = train("MODEL.WEIGHTS", tmp_path / "nowhere.pth", "OUTPUT_DIR", tmp_path, flags=("--eval-only",))
    assert_one_line(result, "nowhere.pth", "MODEL.WEIGHTS")


def test_weights_of_another_model(train, tmp_path: Path) -> None:
    torch.save({"model": {"backbone.norm0.weight": torch.zeros(3)}}, tmp_path / "other.pth")
    result = train("MODEL.WEIGHTS", tmp_path / "other.pth", "OUTPUT_DIR", tmp_path, flags=("--eval-only",))
    assert_one_line(result, "other.pth", "missing", "backbone.norm0.weight (3,)")


def test_non_finite_loss(train, tmp_path: Path) -> None:
    options = ("SOLVER.BASE_LR", "1e30", "SOLVER.WARMUP_ITERS", "0", "SOLVER.MAX_ITER", "20", "DATASETS.TEST", "()")
    result = train(*options, "OUTPUT_DIR", tmp_path)
    assert_one_line(
        result, "not finite at iteration", "images", ".jpg", "loss_", str(tmp_path / "non_finite_batch.pth")
    )
    kept = torch.load(tmp_path / "non_finite_batch.pth", weights_only=True)
    assert [len(batch) for batch in kept["batches"]] == [4]
    assert kept["batches"][0][0]["image"].shape == (3, 64, 64)
    assert not (tmp_path / "model_final.pth").exists()


def test_the_output_folder_cannot_be_written(train, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    assert_one_line(train("OUTPUT_DIR", tmp_path / "file/out"), "OUTPUT_DIR")


def test_a_batch_that_does_not_divide(train, tmp_path: Path) -> None:
    result = train("SOLVER.GRADIENT_ACCUMULATION_STEPS", "3", "OUTPUT_DIR", tmp_path)
    assert_one_line(result, "SOLVER.IMS_PER_BATCH", "SOLVER.GRADIENT_ACCUMULATION_STEPS")


def test_class_count_against_the_dataset(train, tmp_path: Path) -> None:
    result = train("MODEL.SEM_SEG_HEAD.NUM_CLASSES", "11", "OUTPUT_DIR", tmp_path)
    assert_one_line(result, "NUM_CLASSES", "11", "12")


def test_debug_shows_the_traceback(in_process) -> None:
    code, _, err = in_process("train_net.py", "--config-file", TOY_CONFIG, "--debug", "SOLVER.NOTHING", "1")
    assert code == 1
    assert "Traceback" in err


@pytest.mark.slow
def test_an_error_in_one_of_two_processes(run, tmp_path: Path) -> None:
    options = ("SOLVER.BASE_LR", "1e30", "SOLVER.WARMUP_ITERS", "0", "SOLVER.MAX_ITER", "20", "DATASETS.TEST", "()")
    flags = ("--config-file", TOY_CONFIG, "--num-gpus", "2", "--dist-url", "auto")
    code, out, err = run("train_net.py", *flags, *TINY, *options, "OUTPUT_DIR", tmp_path)
    assert code == 1
    assert "error: the loss is not finite" in err
    assert (tmp_path / "non_finite_batch_rank1.pth").exists()
    assert "Traceback" not in out + err


def make_pairs(root: Path, *, labels: np.ndarray | Image.Image | None = None) -> Path:
    """Write a toy_scenes with one 64 x 64 image a.jpg per split and its labels; return the dataset's folder."""
    home = root / "toy_scenes"
    if labels is None:
        labels = np.repeat(np.arange(4, dtype=np.uint8), 16)[None].repeat(64, axis=0)
    for split in ("training", "validation"):
        for kind in ("images", "annotations"):
            (home / kind / split).mkdir(parents=True)
        Image.fromarray(np.full((64, 64, 3), 90, np.uint8)).save(home / f"images/{split}/a.jpg")
        labels = labels if isinstance(labels, Image.Image) else Image.fromarray(labels)
        labels.save(home / f"annotations/{split}/a.png")
    return home


def test_an_image_without_labels_and_the_reverse(train, tmp_path: Path) -> None:
    home = make_pairs(tmp_path)
    (home / "annotations/training/a.png").rename(home / "annotations/training/b.png")
    options = ("OUTPUT_DIR", tmp_path / "out")
    env = {"DETECTRON2_DATASETS": str(tmp_path)}
    assert_one_line(train(*options, env=env), "no label file", "annotations/training", "a.jpg")
    (home / "annotations/training/a.png").write_bytes((home / "annotations/training/b.png").read_bytes())
    assert_one_line(train(*options, env=env), "no image", "images/training", "b.png")


def test_a_label_file_in_colors(train, tmp_path: Path) -> None:
    make_pairs(tmp_path, labels=np.zeros((64, 64, 3), np.uint8))
    result = train("OUTPUT_DIR", tmp_path / "out", env={"DETECTRON2_DATASETS": str(tmp_path)})
    assert_one_line(result, "annotations/training/a.png", "RGB", "ids")


def test_a_palette_label_file_is_read_as_its_indices(train, tmp_path: Path) -> None:
    labels = Image.fromarray(np.full((64, 64), 99, np.uint8), mode="P")
    labels.putpalette([3, 3, 3] * 256)  # colors that would be valid ids
    make_pairs(tmp_path, labels=labels)
    result = train("OUTPUT_DIR", tmp_path / "out", env={"DETECTRON2_DATASETS": str(tmp_path)})
    assert_one_line(result, "annotations/training/a.png", "99", "NUM_CLASSES")


def test_labels_of_another_size(train, tiny_run: Path, tmp_path: Path) -> None:
    make_pairs(tmp_path, labels=np.zeros((64, 32), np.uint8))
    env = {"DETECTRON2_DATASETS": str(tmp_path)}
    assert_one_line(train("OUTPUT_DIR", tmp_path / "out", env=env), "a.jpg", "a.png", "64 x 64", "32 x 64")
    evaluation = ("OUTPUT_DIR", tmp_path / "out", "MODEL.WEIGHTS", tiny_run / "model_best.pth")
    result = train(*evaluation, flags=("--eval-only",), env=env)
    assert_one_line(result, "validation/a.jpg", "validation/a.png", "64 x 64", "32 x 64")


def test_an_unreadable_image_stops_training_but_not_evaluation(train, tiny_run: Path, tmp_path: Path) -> None:
    home = make_pairs(tmp_path)
    (home / "images/training/a.jpg").write_bytes((home / "images/training/a.jpg").read_bytes()[:300])
    (home / "images/validation/b.jpg").write_bytes(b"not an image")
    (home / "annotations/validation/b.png").write_bytes((home / "annotations/validation/a.png").read_bytes())
    env = {"DETECTRON2_DATASETS": str(tmp_path)}
    assert_one_line(train("OUTPUT_DIR", tmp_path / "out", env=env), "training/a.jpg", "cannot be read")
    evaluation = ("OUTPUT_DIR", tmp_path / "out", "MODEL.WEIGHTS", tiny_run / "model_best.pth")
    code, out, err = train(*evaluation, flags=("--eval-only",), env=env)
    assert code == 0, err
    assert "1 unreadable image(s) skipped" in out
    assert "validation/b.jpg" in out
    assert "1 images, each class" in out

    (home / "images/validation/a.jpg").write_bytes(b"not an image")
    assert_one_line(train(*evaluation, flags=("--eval-only",), env=env), "toy_scenes_val", "no labeled pixel")


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "truncated or not a weight file"),
        (b"PK\x03\x04 cut off", "damaged (its end is missing)"),
        (b"<html>not found</html>", "refused"),
        (b"\x80\x04cbuiltins\nprint\n(Vhello\ntR.", "refused"),
    ],
)
def test_files_without_weights(train, tmp_path: Path, content: bytes, expected: str) -> None:
    path = tmp_path / "weights.pth"
    path.write_bytes(content)
    result = train("MODEL.WEIGHTS", path, "OUTPUT_DIR", tmp_path, flags=("--eval-only",))
    assert_one_line(result, str(path), expected)


def test_truncated_weights(train, tiny_run: Path, tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    path.write_bytes((tiny_run / "model_best.pth").read_bytes()[:20000])
    result = train("MODEL.WEIGHTS", path, "OUTPUT_DIR", tmp_path, flags=("--eval-only",))
    assert_one_line(result, str(path), "truncated")


def test_weights_of_another_shape(train, tiny_run: Path, tmp_path: Path) -> None:
    options = ("MODEL.MASK_FORMER.NUM_OBJECT_QUERIES", "15", "MODEL.WEIGHTS", tiny_run / "model_best.pth")
    result = train(*options, "OUTPUT_DIR", tmp_path, flags=("--eval-only",))
    assert_one_line(result, "model_best.pth", "misshaped", "(14, 32)", "(15, 32)")


def test_more_processes_than_gpus(train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    result = train("OUTPUT_DIR", tmp_path, flags=("--num-gpus", "3"))
    assert_one_line(result, "--num-gpus 3", "2 GPUs")


def test_a_port_in_use(train, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        url = f"tcp://127.0.0.1:{taken.getsockname()[1]}"
        result = train("OUTPUT_DIR", tmp_path, flags=("--num-gpus", "2", "--dist-url", url))
    assert_one_line(result, url, "in use", "auto")
    result = train("OUTPUT_DIR", tmp_path, flags=("--num-gpus", "2", "--dist-url", "tcp://nowhere"))
    assert_one_line(result, "tcp://nowhere", "tcp://HOST:PORT")


def fill_the_disk(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Make writing fail as on a full disk for files whose name contains `name`."""
    sync = os.fsync

    def refuse(descriptor: int) -> None:
        if name in os.readlink(f"/proc/self/fd/{descriptor}"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", refuse)


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="finds the file of a descriptor in /proc")
def test_a_full_disk(train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill_the_disk(monkeypatch, ".writable")
    assert_one_line(train("OUTPUT_DIR", tmp_path / "a"), f"OUTPUT_DIR {tmp_path / 'a'}", "disk is full")
    monkeypatch.undo()


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="finds the file of a descriptor in /proc")
def test_a_disk_that_fills_up_in_training(train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill_the_disk(monkeypatch, "model_final.pth")
    result = train("OUTPUT_DIR", tmp_path, "SOLVER.MAX_ITER", "1", "DATASETS.TEST", "()")
    assert_one_line(result, str(tmp_path / "model_final.pth"), "disk is full")
    assert not list(tmp_path.glob("*model_final*"))


def test_no_permission_to_write(train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**_: object) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(tempfile, "mkstemp", refuse)  # patched, because tests may run as root, who may write anywhere
    assert_one_line(train("OUTPUT_DIR", tmp_path / "out"), "OUTPUT_DIR", "Permission denied")


@pytest.mark.parametrize(
    "error",
    [
        torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:127] . DefaultCPUAllocator: can't allocate memory: you tried"),
        RuntimeError("could not create a primitive"),
        MemoryError(),
    ],
)
def test_out_of_memory(train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def refuse(*_: object) -> None:
        raise error

    monkeypatch.setattr(SeMaskMaskFormer, "forward", refuse)
    result = train("OUTPUT_DIR", tmp_path, "DATASETS.TEST", "()")
    assert_one_line(
        result,
        *("memory", "SOLVER.IMS_PER_BATCH", "SOLVER.GRADIENT_ACCUMULATION_STEPS", "INPUT.CROP.SIZE"),
        "MODEL.ACTIVATION_CHECKPOINTING",
    )


def test_a_bug_keeps_its_traceback(train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(SeMaskMaskFormer, "forward", fail)
    with pytest.raises(ZeroDivisionError, match="a bug"):
        train("OUTPUT_DIR", tmp_path, "DATASETS.TEST", "()")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("SOLVER.OPTIMIZER", "ADAMM"),
        ("SOLVER.LR_SCHEDULER_NAME", "Warmup"),
        ("MODEL.META_ARCHITECTURE", "SeMaskMaskFormr"),
        ("MODEL.BACKBONE.NAME", "Swin"),
        ("MODEL.SEM_SEG_HEAD.NAME", "Head"),
        ("MODEL.SEM_SEG_HEAD.PIXEL_DECODER_NAME", "Decoder"),
        ("MODEL.MASK_FORMER.TRANSFORMER_DECODER_NAME", "Decoder"),
        ("INPUT.DATASET_MAPPER_NAME", "mapper"),
        ("INPUT.FORMAT", "GBR"),
        ("SOLVER.BASE_LR", "fast"),
        ("SOLVER.MAX_ITER", "0.5"),
        ("SOLVER.IMS_PER_BATCH", "0"),
        ("MODEL.DEVICE", "gpu"),
    ],
)
def test_invalid_values(train, tmp_path: Path, key: str, value: str) -> None:
    assert_one_line(train("OUTPUT_DIR", tmp_path, key, value), key, value)
