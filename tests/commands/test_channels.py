"""Images of four channels of 16 bits and of five channels of floats, from a folder to an exported model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import tifffile
import torch
import yaml
from PIL import Image

from semask_d2 import Predictor, get_cfg, read_image
from semask_d2.__main__ import main
from semask_d2.config.transformers_config import config_for_transformers
from semask_d2.data import get_dataset_dicts, register_custom
from semask_d2.data.labels import read_sample_labels
from semask_d2.data.quick_check import quick_check
from semask_d2.export.running import open_exported
from semask_d2.inference.sources import choose_config
from semask_d2.inference.web_page import result_html
from semask_d2.utils.errors import UserError
from tests.helpers.commands import TINY, TOY_CONFIG
from tests.helpers.loggers import restored_loggers

TINY_RUN = (*TINY, "SOLVER.MAX_ITER", "2", "SOLVER.IMS_PER_BATCH", "2", "TEST.EVAL_PERIOD", "0", "TEST.PICTURES", "1")
SIZE = (64, 80)


class Kind(NamedTuple):
    channels: int
    dtype: type
    top: float  # largest value
    planar: bool


KINDS = {"uint16": Kind(4, np.uint16, 4095, False), "float32": Kind(5, np.float32, 0.8, True)}


def write_folder(folder: Path, kind: Kind, count: int = 6) -> None:
    """Write images whose two classes differ in the last channel only, and their label files."""
    rng = np.random.default_rng(0)
    for name in ("images", "labels"):
        (folder / name).mkdir(parents=True)
    for number in range(count):
        labels = np.zeros(SIZE, np.uint8)
        labels[:, 20 + 4 * number :] = 1
        values = rng.uniform(0, 0.5, (*SIZE, kind.channels))
        values[:, :, -1] += 0.5 * labels
        values = (values * kind.top).astype(kind.dtype)
        layout = {"planarconfig": "separate" if kind.planar else "contig", "photometric": "minisblack"}
        tifffile.imwrite(
            folder / f"images/{number}.tif", values.transpose(2, 0, 1) if kind.planar else values, **layout
        )
        Image.fromarray(labels).save(folder / f"labels/{number}.png")


def semask(*words: object) -> int:
    with restored_loggers():
        return main([str(word) for word in words])


def write_yaml(folder: Path, kind: Kind) -> Path:
    """Write the folder `data` and the dataset's file that `init-data` drafts, with names for its classes."""
    write_folder(folder / "data", kind)
    assert semask("init-data", folder / "data", "--output", folder / "mine.yaml") == 0
    return folder / "mine.yaml"


@pytest.mark.parametrize("name", KINDS)
def test_init_data_measures_and_check_is_content(name: str, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    kind = KINDS[name]
    file = write_yaml(tmp_path, kind)
    content = yaml.safe_load(file.read_text())
    value_range = content.get("value_range", ())
    assert value_range == ([0, 4095] if name == "uint16" else ())
    pixels = [
        read_image(path, value_range=value_range, channels=kind.channels)
        for path in sorted((tmp_path / "data/images").iterdir())
    ]
    assert content["channels"] == kind.channels
    np.testing.assert_allclose(content["mean"], np.mean(pixels, axis=(0, 1, 2)), atol=1e-3)
    np.testing.assert_allclose(content["std"], np.std(pixels, axis=(0, 1, 2)), atol=1e-3)
    capsys.readouterr()
    assert semask("check", file, "--workers", 0, "--html", tmp_path / "page.html") == 0
    assert "0 fault(s), 0 warning(s)" in capsys.readouterr().out
    assert "data:image/jpeg" in (tmp_path / "page.html").read_text()
    cfg = get_cfg(TOY_CONFIG, data=file)
    assert cfg.INPUT.CHANNELS == len(cfg.MODEL.PIXEL_MEAN) == len(cfg.MODEL.PIXEL_STD) == kind.channels


def test_init_data_measures_one_channel_if_asked(tmp_path: Path) -> None:
    """Gray images stay RGB, with the pretrained model's numbers, unless the user says otherwise."""
    rng = np.random.default_rng(0)
    for name in ("images", "labels"):
        (tmp_path / "data" / name).mkdir(parents=True)
    images = rng.integers(0, 100, (3, *SIZE)).astype(np.uint8)
    for number, image in enumerate(images):
        Image.fromarray(image).save(tmp_path / f"data/images/{number}.png")
        Image.fromarray((image > 50).astype(np.uint8)).save(tmp_path / f"data/labels/{number}.png")
    assert semask("init-data", tmp_path / "data", "--images", "images", "--labels", "labels", "--output",
                  tmp_path / "rgb.yaml") == 0  # fmt: skip
    assert not {"channels", "mean", "std"} & yaml.safe_load((tmp_path / "rgb.yaml").read_text()).keys()
    assert semask("init-data", tmp_path / "data", "--images", "images", "--labels", "labels", "--output",
                  tmp_path / "gray.yaml", "--channels", 1) == 0  # fmt: skip
    content = yaml.safe_load((tmp_path / "gray.yaml").read_text())
    assert content["channels"] == 1
    np.testing.assert_allclose([*content["mean"], *content["std"]], [images.mean(), images.std()], atol=1e-3)
    assert semask("init-data", tmp_path / "data", "--output", tmp_path / "x.yaml", "--channels", 0) == 1


def test_check_names_every_image_of_other_channels(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    file = write_yaml(tmp_path, KINDS["uint16"])
    tifffile.imwrite(tmp_path / "data/images/3.tif", np.zeros((*SIZE, 6), np.uint16), photometric="minisblack",
                     planarconfig="contig")  # fmt: skip
    Image.fromarray(np.zeros((*SIZE, 3), np.uint8)).save(tmp_path / "data/images/4.tif")
    assert semask("check", file, "--workers", 0) == 1
    out = capsys.readouterr().out
    assert "3.tif has 6 channel(s), but 4 are expected (INPUT.CHANNELS)" in out
    assert "4.tif has 3 channel(s), but 4 are expected (INPUT.CHANNELS)" in out
    assert "missing or unreadable (2)" in out


def test_annotations_of_coco_are_painted_at_the_size_of_the_image(tmp_path: Path) -> None:
    """Pillow takes an array (H, W, C) that was written without a word for H pages of W x C pixels."""
    (tmp_path / "img").mkdir()
    tifffile.imwrite(tmp_path / "img/0.tif", np.zeros((*SIZE, 4), np.uint8), photometric="minisblack")
    annotation = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [0, 0, 9, 9], "area": 81, "iscrowd": 0,
                  "segmentation": [[0, 0, 9, 0, 9, 9, 0, 9]]}  # fmt: skip
    coco = {
        "images": [{"id": 1, "file_name": "0.tif", "height": SIZE[0], "width": SIZE[1]}],
        "annotations": [annotation],
        "categories": [{"id": 1, "name": "car"}],
    }
    (tmp_path / "a.json").write_text(json.dumps(coco))
    (tmp_path / "mine.yaml").write_text(
        "val: {images: img, labels: a.json}\nnames: [background, car]\n"
        "channels: 4\nmean: [1, 2, 3, 4]\nstd: [1, 1, 1, 1]"
    )
    register_custom(get_cfg(data=tmp_path / "mine.yaml"))
    (sample,) = get_dataset_dicts("mine_val")
    labels = read_sample_labels(sample)
    assert labels.shape == SIZE
    assert (labels == 1).sum() == 81
    quick_check(get_cfg(data=tmp_path / "mine.yaml"))


def test_transformers_has_no_such_models() -> None:
    cfg = get_cfg("ade20k/swin_t_m2f.yaml", ["INPUT.CHANNELS", "4"])
    with pytest.raises(UserError, match=r"INPUT\.CHANNELS: transformers does not support 4, only 3"):
        config_for_transformers(cfg)


@pytest.fixture(scope="module", params=KINDS)
def trained(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Kind]:
    """Train on a dataset; return the folder with the dataset and the run."""
    folder = tmp_path_factory.mktemp("channels")
    file = write_yaml(folder, KINDS[request.param])
    settings = (*TINY_RUN, "INPUT.DISPLAY_CHANNELS", "[3, 1, 0]", "OUTPUT_DIR", folder / "run")
    assert semask("train", "--config-file", TOY_CONFIG, "--data", file, *settings) == 0
    return folder, KINDS[request.param]


@pytest.mark.slow
def test_a_training_logs_and_leaves_pictures(trained: tuple[Path, Kind]) -> None:
    folder, kind = trained
    log = (folder / "run/log.txt").read_text()
    assert f"No effect on images of {kind.channels} channel(s): INPUT.COLOR_AUG_SSD True" in log
    assert "No pictures" not in log
    assert "No report" not in log
    assert list((folder / "run/pictures").glob("*_*.png"))
    assert (folder / "run/report.html").is_file()


@pytest.mark.slow
def test_a_run_is_evaluated_also_at_several_scales(trained: tuple[Path, Kind], tmp_path: Path, capsys) -> None:
    folder, _ = trained
    for settings in ((), ("TEST.AUG.ENABLED", "True", "TEST.AUG.MIN_SIZES", "[48, 64]"),
                     ("TEST.SLIDING.ENABLED", "True", "TEST.SLIDING.SIZE", "[48, 48]")):  # fmt: skip
        assert semask("eval", "--weights", folder / "run", "OUTPUT_DIR", tmp_path, *settings) == 0
        assert "mine_val mIoU" in capsys.readouterr().out


@pytest.mark.slow
def test_images_are_drawn_by_the_channels_chosen(trained: tuple[Path, Kind], tmp_path: Path) -> None:
    folder, kind = trained
    source = folder / "data/images/0.tif"
    words = ("--weights", folder / "run", "--input", source, "--output", tmp_path, "--labels", "--opacity", 0)
    assert semask("predict", *words) == 0
    predictor = Predictor(folder / "run")
    pixels = predictor.read_image(source)
    assert pixels.shape == (*SIZE, kind.channels)
    prediction = predictor(source)
    np.testing.assert_array_equal(prediction.image, pixels[:, :, [3, 1, 0]])
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "labels/0.png")), prediction.labels)
    for other in (pixels, torch.from_numpy(pixels).permute(2, 0, 1)):
        np.testing.assert_array_equal(predictor(other).labels, prediction.labels)
    assert "data:image/jpeg" in result_html(predictor, source)  # of `semask web`
    for wrong in (pixels[:, :, :3], torch.zeros(3, 8, 8, dtype=torch.uint8), Image.new("RGB", (8, 8))):
        with pytest.raises(UserError, match=rf"{kind.channels}.*got"):
            predictor(wrong)
    assert semask("report", "--weights", folder / "run", "--output", tmp_path / "report.html") == 0


@pytest.mark.slow
def test_a_video_is_refused_in_one_line(trained: tuple[Path, Kind], tmp_path: Path, capsys) -> None:
    folder, kind = trained
    (tmp_path / "a.mp4").write_bytes(b"x")
    words = ("--weights", folder / "run", "--input", tmp_path / "a.mp4", "--output", tmp_path / "out")
    assert semask("predict", *words) == 1
    assert f"a.mp4: a video has 3 channels, the model takes {kind.channels} (INPUT.CHANNELS)" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize(
    ("trained", "name"), [("uint16", "model.onnx"), ("float32", "model.xml")], indirect=["trained"]
)
def test_an_exported_file_records_its_channels(name: str, trained: tuple[Path, Kind], tmp_path: Path) -> None:
    folder, kind = trained
    words = ("--weights", folder / "run", "--output", tmp_path / name, "--resize")
    images = ("--images", folder / "data/images/1.tif")
    assert semask("export", *words, *images, "--format", "onnx" if name.endswith("onnx") else "openvino") == 0
    exported = open_exported(tmp_path / name)
    assert exported.metadata.channels == exported.shape[1] == len(exported.metadata.pixel_mean) == kind.channels
    source = folder / "data/images/0.tif"
    prediction, expected = Predictor(tmp_path / name)(source), Predictor(folder / "run")(source)
    np.testing.assert_array_equal(prediction.image, expected.image)
    assert (prediction.labels == expected.labels).mean() > 0.999
    with pytest.raises(UserError, match=rf"expected a uint8 image \(H, W, {kind.channels}\)"):
        Predictor(tmp_path / name)(np.zeros((64, 64, 3), np.uint8))


@pytest.mark.slow
def test_another_datasets_file_keeps_the_trained_numbers(trained: tuple[Path, Kind], tmp_path: Path, capsys) -> None:
    """The mean of other images must not replace the mean that the model was trained with."""
    folder, kind = trained
    content = yaml.safe_load((folder / "mine.yaml").read_text())
    other = content | {"name": "other", "mean": [7.0] * kind.channels}
    (tmp_path / "other.yaml").write_text(json.dumps(other))
    run = folder / "run"
    expected = get_cfg(run / "config.yaml").MODEL.PIXEL_MEAN
    configs = [
        choose_config(None, str(run), data=str(tmp_path / "other.yaml")),
        choose_config(str(run / "config.yaml"), None, data=str(tmp_path / "other.yaml")),
        get_cfg(TOY_CONFIG, data=tmp_path / "other.yaml"),  # a training to come
    ]
    assert [cfg.MODEL.PIXEL_MEAN for cfg in configs] == [expected, expected, other["mean"]]
    assert {cfg.DATASETS.TEST for cfg in configs} == {("other_val",)}
    assert semask("eval", "--weights", run, "--data", tmp_path / "other.yaml", "OUTPUT_DIR", tmp_path / "out") == 0
    less = content | {"channels": 2, "mean": [7.0, 7.0], "std": [1.0, 1.0]}
    (tmp_path / "less.yaml").write_text(json.dumps(less))
    assert semask("eval", "--weights", folder / "run", "--data", tmp_path / "less.yaml") == 1
    assert f"less.yaml: channels: the trained model takes {kind.channels}, got 2" in capsys.readouterr().err
