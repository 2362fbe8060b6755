"""Registration next to Detectron2's, and the function that returns a dataset, with its messages."""

from pathlib import Path

import pytest
from PIL import Image

from semask_d2.d2 import DatasetCatalog, MetadataCatalog
from semask_d2.data import datasets, get_dataset_dicts, register_all
from semask_d2.data.datasets.ade20k import ADE20K
from semask_d2.data.datasets.camvid import CAMVID
from semask_d2.data.datasets.coco_stuff10k import COCO_STUFF_10K, TRAIN_ID_OF_RELEASED
from semask_d2.data.datasets.folder import FolderDataset, datasets_root
from semask_d2.data.datasets.toy_scenes import TOY_SCENES
from semask_d2.utils.classes import Classes
from semask_d2.utils.errors import UserError


def write_pair(root: Path, images: str, labels: str, stem: str) -> None:
    for folder, suffix in ((images, ".jpg"), (labels, ".png")):
        (root / folder).mkdir(parents=True, exist_ok=True)
        Image.new("L", (4, 4)).save(root / folder / (stem + suffix))


@pytest.fixture
def camvid(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    for stem in ("b", "a", "c"):
        write_pair(tmp_path / "camvid", "images/val", "annotations/val", stem)
    return tmp_path / "camvid"


@pytest.fixture
def foreign():
    """Register a dataset as another project would."""
    DatasetCatalog.register("foreign_val", lambda: [{"file_name": "theirs"}])
    yield MetadataCatalog.get("foreign_val")
    DatasetCatalog.remove("foreign_val")
    MetadataCatalog.remove("foreign_val")


@pytest.mark.parametrize(("dataset", "classes"), [(TOY_SCENES, 12), (CAMVID, 11), (ADE20K, 150)])
def test_names_and_colors_are_distinct(dataset, classes):
    assert (
        len(dataset.classes) == len(set(dataset.classes.names)) or dataset is ADE20K
    )  # ADE20K has two called "screen"
    assert len(dataset.classes) == classes == len(dataset.classes.colors)
    # the usual palette of ADE20K, as other projects register it, gives two classes one gray
    assert len(set(dataset.classes.colors)) == classes - (dataset is ADE20K)
    assert all(name == name.strip() for name in dataset.classes.names)
    assert all(len(color) == 3 and 0 <= min(color) <= max(color) <= 255 for color in dataset.classes.colors)


def test_ade20k_order():
    picked = {0: "wall", 6: "road, route", 8: "window", 20: "car", 136: "traffic light", 149: "flag"}
    assert {i: ADE20K.classes.names[i] for i in picked} == picked
    assert (ADE20K.classes.colors[2], ADE20K.classes.colors[149]) == ((6, 230, 230), (92, 0, 255))


def test_registration_fills_in_the_metadata_and_can_be_repeated():
    register_all()
    register_all()
    for name, count in {"toy_scenes_train": 12, "camvid_sem_seg_val": 11, "ade20k_sem_seg_train": 150}.items():
        metadata = MetadataCatalog.get(name)
        assert name in DatasetCatalog.list()
        assert len(metadata.stuff_classes) == len(metadata.stuff_colors) == count
        assert (metadata.ignore_label, metadata.evaluator_type) == (255, "sem_seg")


def test_a_name_that_is_registered_is_reused(foreign, monkeypatch):
    foreign.set(stuff_classes=["their name "])
    ours = FolderDataset("foreign", "f", "a", {"val": "v"}, Classes(("our name",), ((1, 2, 3),)), "how")
    monkeypatch.setattr(datasets, "DATASETS", (ours,))
    register_all()
    assert DatasetCatalog.get("foreign_val") == [{"file_name": "theirs"}]
    assert foreign.stuff_classes == ["their name "]
    assert foreign.stuff_colors == [[1, 2, 3]]


def test_pairs_are_listed_in_order(camvid):
    assert get_dataset_dicts("camvid_sem_seg_val") == [
        {
            "file_name": str(camvid / f"images/val/{stem}.jpg"),
            "sem_seg_file_name": str(camvid / f"annotations/val/{stem}.png"),
        }
        for stem in "abc"
    ]


def test_stray_files_are_left_alone(camvid):
    for stray in ("Thumbs.db", ".a.jpg.x.tmp", ".hidden.jpg"):
        (camvid / "images/val" / stray).touch()
    assert len(get_dataset_dicts("camvid_sem_seg_val")) == 3


def test_an_unknown_name():
    with pytest.raises(UserError, match=r'"camvid_semseg_val".* is not registered: did you mean "camvid_sem_seg_val"'):
        get_dataset_dicts("camvid_semseg_val")
    with pytest.raises(UserError, match=r'"zzz".* not registered: known are .*toy_scenes_train'):
        get_dataset_dicts("zzz")


def test_a_missing_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    message = rf"camvid_sem_seg_train.*no folder {tmp_path}/camvid/images/train \(DETECTRON2_DATASETS is {tmp_path}\)"
    with pytest.raises(UserError, match=message + r".*prepare_camvid\.py"):
        get_dataset_dicts("camvid_sem_seg_train")
    monkeypatch.delenv("DETECTRON2_DATASETS")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=rf"no folder {tmp_path}/datasets/camvid.*unset, means \./datasets"):
        get_dataset_dicts("camvid_sem_seg_train")


def test_an_empty_root_is_the_default_one(tmp_path, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", "")
    assert datasets_root() == Path("datasets")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=rf"no folder {tmp_path}/datasets/camvid.*unset, means \./datasets"):
        get_dataset_dicts("camvid_sem_seg_train")


def test_an_image_without_its_label_and_the_reverse(camvid):
    for stem in ("p", "q", "r", "s"):
        Image.new("L", (4, 4)).save(camvid / f"images/val/{stem}.jpg")
    with pytest.raises(
        UserError, match=r"no label file in \S+annotations/val for image p\.jpg, q\.jpg, r\.jpg and 1 more"
    ):
        get_dataset_dicts("camvid_sem_seg_val")
    for stem in ("p", "q", "r", "s", "a"):
        (camvid / f"images/val/{stem}.jpg").unlink()
    with pytest.raises(UserError, match=r"no image in \S+images/val for label file a\.png"):
        get_dataset_dicts("camvid_sem_seg_val")


def test_an_empty_folder_and_a_doubled_stem(camvid):
    Image.new("L", (4, 4)).save(camvid / "images/val/a.png")
    with pytest.raises(UserError, match=r"a\.jpg and \S+a\.png have the same name; names must differ in their stems"):
        get_dataset_dicts("camvid_sem_seg_val")
    for path in (camvid / "images/val").iterdir():
        path.unlink()
    with pytest.raises(UserError, match=r"images/val holds no images"):
        get_dataset_dicts("camvid_sem_seg_val")


@pytest.mark.parametrize("keys", [("image_root", "sem_seg_root"), ("image_dir", "gt_dir")])
def test_somebody_elses_data_set_is_checked_by_its_own_folders(foreign, tmp_path, keys):
    assert get_dataset_dicts("foreign_val") == [{"file_name": "theirs"}]
    foreign.set(**{keys[0]: str(tmp_path), keys[1]: str(tmp_path / "gone")})
    with pytest.raises(UserError, match=rf'"foreign_val" is not there: no folder {tmp_path}/gone'):
        get_dataset_dicts("foreign_val")


def a_function_of(package: str):
    """Return a dataset function as `package` would register it; it drops files without a partner."""

    def load() -> list[dict]:
        return [{"file_name": "theirs"}]

    load.__module__ = f"{package}.data.datasets.builtin"
    return load


@pytest.mark.parametrize(("package", "is_used"), [("detectron2", False), ("somebody", True)])
def test_of_detectron2s_data_sets_files_are_listed_as_everywhere(tmp_path, monkeypatch, package, is_used) -> None:
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    monkeypatch.setitem(DatasetCatalog.data, "camvid_sem_seg_val", a_function_of(package))
    for stem in ("b", "a"):
        write_pair(tmp_path / "camvid", "images/val", "annotations/val", stem)
    names = [Path(x["file_name"]).name for x in get_dataset_dicts("camvid_sem_seg_val")]
    assert names == (["theirs"] if is_used else ["a.jpg", "b.jpg"])
    (tmp_path / "camvid/annotations/val/a.png").unlink()
    if not is_used:
        with pytest.raises(UserError, match=r"no label file in \S+ for image a\.jpg"):
            get_dataset_dicts("camvid_sem_seg_val")


def test_somebody_elses_function_that_fails():
    DatasetCatalog.register("failing_val", lambda: Path("gone/images").iterdir().__next__())
    try:
        with pytest.raises(UserError, match=r'"failing_val" cannot be listed: FileNotFoundError.*gone/images'):
            get_dataset_dicts("failing_val")
    finally:
        DatasetCatalog.remove("failing_val")


def test_somebody_elses_empty_data_set():
    DatasetCatalog.register("empty_val", list)
    try:
        with pytest.raises(UserError, match=r'"empty_val" is empty'):
            get_dataset_dicts("empty_val")
    finally:
        DatasetCatalog.remove("empty_val")


def test_cityscapes_pairs_images_with_training_ids_in_their_cities(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    cities = ("zurich", "aachen", "ulm", "bonn", "jena")  # a folder lists them in any order
    for city in cities:
        files = (
            f"leftImg8bit/val/{city}/{city}_1_leftImg8bit.png",
            f"gtFine/val/{city}/{city}_1_gtFine_labelTrainIds.png",
        )
        for file in (*files, f"gtFine/val/{city}/{city}_1_gtFine_color.png", "leftImg8bit/val/.DS_Store"):
            (tmp_path / "cityscapes" / file).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "cityscapes" / file).touch()
    pairs = get_dataset_dicts("cityscapes_fine_sem_seg_val")
    assert [pair["file_name"].rsplit("/", 1)[1] for pair in pairs] == [f"{c}_1_leftImg8bit.png" for c in sorted(cities)]
    assert pairs[1]["sem_seg_file_name"].endswith("bonn/bonn_1_gtFine_labelTrainIds.png")
    (tmp_path / "cityscapes/gtFine/val/bonn/bonn_1_gtFine_labelTrainIds.png").unlink()
    with pytest.raises(UserError, match="bonn_1_leftImg8bit"):
        get_dataset_dicts("cityscapes_fine_sem_seg_val")


def test_coco_stuff_has_171_classes_in_the_released_order() -> None:
    assert len(COCO_STUFF_10K.classes) == len(set(COCO_STUFF_10K.classes.colors)) == len(TRAIN_ID_OF_RELEASED) == 171
    assert sorted(TRAIN_ID_OF_RELEASED.values()) == list(range(171))
    for released, name in ((1, "person"), (13, "stop sign"), (92, "banner"), (182, "wood")):
        assert COCO_STUFF_10K.classes.names[TRAIN_ID_OF_RELEASED[released]] == name
