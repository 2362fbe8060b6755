"""The scripts that convert public releases to our layout."""

from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from semask_d2.data import get_dataset_dicts
from semask_d2.data.image_io import read_labels
from semask_d2.utils.errors import UserError
from tests.helpers.commands import load_script


def script(name: str) -> ModuleType:
    return load_script(f"datasets/{name}.py")


def save(path: Path, ids) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.array(ids, np.uint8)).save(path)


@pytest.fixture
def release(tmp_path, monkeypatch) -> Path:
    """Write CamVid as it is published."""
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "root"))
    for split in ("train", "val"):
        for stem in ("x", "y"):
            save(tmp_path / f"CamVid/{split}/{stem}.png", [[[1, 2, 3], [4, 5, 6]]])
            save(tmp_path / f"CamVid/{split}annot/{stem}.png", [[0, 11]])
    return tmp_path / "CamVid"


def test_camvid(release, capsys):
    script("prepare_camvid").main(["--source", str(release)])
    assert "train: 2 images, 2 label files" in capsys.readouterr().out
    for name in ("camvid_sem_seg_train", "camvid_sem_seg_val"):
        dicts = get_dataset_dicts(name)
        assert [Path(d["file_name"]).name for d in dicts] == ["x.png", "y.png"]
        assert read_labels(dicts[0]["sem_seg_file_name"]).tolist() == [[0, 255]]
        assert Path(dicts[0]["file_name"]).read_bytes() == (release / "train/x.png").read_bytes()


def test_camvid_takes_the_test_split_along(release, tmp_path):
    save(release / "test/z.png", [[[1, 2, 3]]])
    save(release / "testannot/z.png", [[10]])
    script("prepare_camvid").main(["--source", str(release), "--output", str(tmp_path / "out")])
    assert read_labels(tmp_path / "out/annotations/test/z.png").tolist() == [[10]]
    assert (tmp_path / "out/images/test/z.png").exists()


def test_camvid_from_the_wrong_folder(release, tmp_path):
    with pytest.raises(UserError, match=rf"folder {tmp_path}/train cannot be listed"):
        script("prepare_camvid").main(["--source", str(tmp_path)])
    save(release / "trainannot/y.png", [[3, 12]])
    with pytest.raises(UserError, match=r"trainannot/y\.png holds ids \[12\]; expected 0\.\.11"):
        script("prepare_camvid").main(["--source", str(release)])


@pytest.fixture
def ade20k(tmp_path) -> Path:
    for split in ("training", "validation"):
        for stem, ids in (("a", [[0, 1, 150]]), ("b", [[2, 2, 2]])):
            save(tmp_path / f"ADEChallengeData2016/annotations/{split}/{stem}.png", ids)
    return tmp_path


def test_ade20k(ade20k):
    script("prepare_ade20k").main(["--root", str(ade20k)])
    written = ade20k / "ADEChallengeData2016/annotations_detectron2"
    for split in ("training", "validation"):
        assert read_labels(written / split / "a.png").tolist() == [[255, 0, 149]]
        assert read_labels(written / split / "b.png").tolist() == [[1, 1, 1]]


def test_an_interrupted_run_goes_on(ade20k, capsys):
    bad = ade20k / "ADEChallengeData2016/annotations/training/b.png"
    save(bad, [[151]])
    with pytest.raises(UserError, match=r"training/b\.png holds ids \[151\]; expected 0\.\.150"):
        script("prepare_ade20k").main(["--root", str(ade20k)])
    written = ade20k / "ADEChallengeData2016/annotations_detectron2/training"
    assert [p.name for p in written.iterdir()] == ["a.png"]
    first = (written / "a.png").stat().st_mtime_ns
    save(bad, [[7]])
    script("prepare_ade20k").main(["--root", str(ade20k)])
    assert "training: 1 label files written" in capsys.readouterr().out
    assert (written / "a.png").stat().st_mtime_ns == first
    assert read_labels(written / "b.png").tolist() == [[6]]


def test_ade20k_that_is_not_there(tmp_path):
    with pytest.raises(UserError, match=rf"no \.png label files in {tmp_path}/ADEChallengeData2016/annotations"):
        script("prepare_ade20k").main(["--root", str(tmp_path)])


def test_coco_stuff_10k(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "root"))
    release = tmp_path / "release"
    for folder in ("images", "annotations", "imageLists"):
        (release / folder).mkdir(parents=True)
    for name, split in (("a", "train"), ("b", "test")):
        (release / f"imageLists/{split}.txt").write_text(f"{name}\n")
        Image.new("RGB", (3, 1)).save(release / f"images/{name}.jpg")
        savemat(release / f"annotations/{name}.mat", {"S": np.array([[0, 1, 182]], np.uint8)})
    main = script("prepare_coco_stuff10k").main
    main(["--source", str(release)])
    main(["--source", str(release)])  # continues where it stopped
    (pair,) = get_dataset_dicts("coco_stuff10k_sem_seg_test")
    assert Path(pair["file_name"]).name == "b.jpg"
    assert read_labels(pair["sem_seg_file_name"]).tolist() == [[255, 0, 170]]

    savemat(release / "annotations/a.mat", {"S": np.array([[12]], np.uint8)})
    (tmp_path / "root/coco_stuff10k/annotations/train/a.png").unlink()
    with pytest.raises(UserError, match=r"a\.mat holds ids \[12\]"):
        main(["--source", str(release)])
