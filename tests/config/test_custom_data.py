"""The YAML file of a custom dataset: the config made from it, and the message for each mistake in it."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from semask_d2.config import get_cfg
from semask_d2.config.custom_data import check_section
from semask_d2.utils.errors import UserError
from semask_d2.utils.files import folder_name
from tests.helpers.own_data import TEXT, write_file


def test_classes_splits_and_ignored_id_follow_from_the_file(tmp_path: Path) -> None:
    text = TEXT + "ignore: 250\ncolors: ['#010203', [4, 5, 6], '#ffffff']\nmap: {7: 0, 8: 0, 26: 250}\nroot: data\n"
    cfg = get_cfg(data=write_file(tmp_path, text))
    assert cfg.DATASETS.TRAIN == ("mine_train",)
    assert cfg.DATASETS.TEST == ("mine_val",)
    assert cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES == 3
    assert cfg.MODEL.SEM_SEG_HEAD.IGNORE_VALUE == 250
    custom = cfg.DATASETS.CUSTOM
    assert Path(custom.ROOT) == tmp_path / "data"
    assert custom.COLORS == [[1, 2, 3], [4, 5, 6], [255, 255, 255]]
    assert custom.MAP == [[7, 0], [8, 0], [26, 250]]
    assert custom.VAL == {"IMAGES": ["img/b/*.png"], "LABELS": ["lab/b/*.png"]}


def test_a_runs_config_holds_the_whole_description(tmp_path: Path) -> None:
    text = TEXT.replace('val: {images: "img/b/*.png", labels: "lab/b/*.png"}', "val: 0.25") + 'rgb: {"#804080": 2}\n'
    cfg = get_cfg("toy_scenes/semask_swin_mini_m2f.yaml", data=write_file(tmp_path, text))
    assert cfg.DATASETS.CUSTOM.VAL_FRACTION == 0.25
    (tmp_path / "config.yaml").write_text(cfg.dump())
    assert yaml.safe_load(cfg.dump())["DATASETS"]["CUSTOM"]["RGB"] == [["#804080", 2]]
    again = get_cfg(tmp_path / "config.yaml")
    assert again.DATASETS == cfg.DATASETS
    assert again.MODEL.SEM_SEG_HEAD.NUM_CLASSES == 3


def test_settings_win_and_another_file_takes_the_place_of_the_configs(tmp_path: Path) -> None:
    (tmp_path / "first").mkdir()
    first = get_cfg(data=write_file(tmp_path / "first", TEXT + "map: {7: 0}\n"))
    (tmp_path / "config.yaml").write_text(first.dump())
    second = write_file(tmp_path, TEXT.replace("car", "car, tree") + "name: other\n")
    cfg = get_cfg(tmp_path / "config.yaml", ["MODEL.SEM_SEG_HEAD.IGNORE_VALUE", "99"], data=second)
    assert cfg.DATASETS.TEST == ("other_val",)
    assert cfg.DATASETS.CUSTOM.MAP == []
    assert (cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES, cfg.MODEL.SEM_SEG_HEAD.IGNORE_VALUE) == (4, 99)


def test_colors_of_the_label_files_are_those_of_the_classes(tmp_path: Path) -> None:
    table = 'rgb: {"#000001": 0, "#000002": 1, "#000003": 2, "#000004": 2}\n'
    assert get_cfg(data=write_file(tmp_path, TEXT + table)).DATASETS.CUSTOM.COLORS == [[0, 0, 1], [0, 0, 2], [0, 0, 3]]


NAMES = "names: [sky, road, car]"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("names:", "nmaes:", 'unknown key "nmaes". Did you mean "names"'),
        ("{images:", "{image:", 'train: unknown key "image". Did you mean "images"'),
        (NAMES, "names: [sky, road, sky]", "names: repeated: sky"),
        (NAMES, "names: {0: sky, 2: road}", "names: expected an id from 0 to 1"),
        (NAMES, "names: [sky, no]", "names: expected words, got False; put a word such as"),
        (NAMES, "names: 3", "names: expected the classes, as [sky, building]"),
        (NAMES, NAMES + "\nignore: 1", 'ignore: 1 is the id of the class "road"'),
        (NAMES, NAMES + "\nignore: none", "ignore: expected a whole number from 0 to 65535, got 'none'"),
        (NAMES, NAMES + "\nmap: {7: 3}", "map: 7 goes to 3; expected a class from 0 to 2, or 255"),
        (NAMES, NAMES + "\nmap: [7, 3]", "map: expected a table such as {7: 0"),
        (NAMES, NAMES + "\nmap: {x: 1}", "map: expected ids of label files on the left, got 'x'"),
        (NAMES, NAMES + '\nrgb: {"blue": 1}', 'rgb: expected a color as "#804080" (with its quotes)'),
        (NAMES, NAMES + '\nmap: {7: 1}\nrgb: {"#000001": 1}', "map and rgb: only one of them is allowed"),
        (NAMES, NAMES + "\ncolors: [[1, 2, 3]]", "colors: expected 3, one for each of names, got 1"),
        (NAMES, NAMES + "\ncolors: {sky: [1, 2, 3]}", "colors: expected one for each name; differing: car, road"),
        (NAMES, NAMES + "\nreduce_zero_label: 1", "reduce_zero_label: expected true or false"),
        ('val: {images: "img/b/*.png", labels: "lab/b/*.png"}', "val: 1.5", "val: expected a fraction between 0 and 1"),
        ('val: {images: "img/b/*.png", labels: "lab/b/*.png"}', "val: img/b", "val: expected {images:"),
        ('labels: "lab/b/*.png"}', "labels: []}", "val.labels is missing"),
        ('labels: "lab/b/*.png"}', "labels: 3}", "val.labels: expected names of files or folders, got 3"),
        (NAMES, NAMES + "\nname: ../../x", "name: '../../x' is not a plain name"),
        (NAMES, NAMES + "\nname: /etc", "name: '/etc' is not a plain name"),
        (NAMES, NAMES + '\nname: ".."', "name: '..' is not a plain name"),
        (NAMES, NAMES + '\nname: "a\\0b"', "name: expected at most 1000 characters and no null character"),
        (NAMES, NAMES + "\nname: [a]", "name: expected a text, got ['a']"),
        (NAMES, NAMES + "\nroot: 5", "root: expected a text, got 5"),
        (NAMES, NAMES + '\nignore: "255"', "got '255', a text: write it without quotes"),
        (NAMES, NAMES + "\nignore: -1", "ignore: expected a whole number from 0 to 65535, got -1; `map: {-1: 255}`"),
        (NAMES, NAMES + f"\nmap: {{7: {10**400}}}", "map: 7 goes to 1000"),
        (NAMES, NAMES + f"\nmap: {{{10**400}: 0}}", "map: expected ids of label files on the left, got 1000"),
        (NAMES, NAMES + '\nmap: {7: "0"}', "map: 7 goes to '0'"),
        (NAMES, NAMES + '\nmap: {7: 0, "7": 1}', "line 5: the key '7' is already in line 5"),
        (NAMES, NAMES + '\nmap: {0x7: 0, "7": 1}', "map: 7 occurs more than once"),
        (NAMES, NAMES + '\nrgb: {"#abcdef": 0, "#ABCDEF": 1}', "rgb: #abcdef occurs more than once"),
        (NAMES, NAMES + '\nrgb: {"#000001": [1]}', "rgb: #000001 goes to [1]"),
        (NAMES, NAMES + "\nnames: [a]", "line 5: the key 'names' is already in line 4"),
        (NAMES, "names: {0: a, 1: b, 1: c}", "line 4: the key '1' is already in line 4"),
        (NAMES, "names: {'0': a, '2': b}", "names: expected an id from 0 to 1"),
        (NAMES, f"names: [a, {'x' * 5000}]", "names: expected at most 200 characters"),
        (NAMES, 'names: [a, "b\\0"]', "names: expected at most 200 characters and no null character"),
        (NAMES, 'names: [a, "b\\nc"]', "names: 'b\\nc' is no valid name"),
        (NAMES, 'names: [a, "\\uD800"]', "names: expected valid Unicode"),
        (NAMES, 'names: [a, " "]', "names: ' ' is no valid name"),
        ('"img/a/*.png"', '"a\\0b/*.png"', "train.images: expected at most 1000 characters and no null character"),
        ('val: {images: "img/b/*.png", labels: "lab/b/*.png"}', 'val: "0.1"', "got '0.1', a text: write it without"),
        ('val: {images: "img/b/*.png", labels: "lab/b/*.png"}', "val: .nan", "val: expected a finite number"),
        ("train:", "_BASE_: x.yaml\ntrain:", 'unknown key "_BASE_"'),
        (NAMES, "names: !!python/object:os.system [x]", "YAML tag !!python/object:os.system is refused"),
    ],
)
def test_a_mistake_is_named_with_its_cure(tmp_path: Path, old: str, new: str, message: str) -> None:
    assert old in TEXT
    with pytest.raises(UserError) as caught:
        get_cfg(data=write_file(tmp_path, TEXT.replace(old, new, 1)))
    assert str(caught.value).startswith(f"{tmp_path / 'mine.yaml'}: ")
    assert message in str(caught.value)


def test_digits_in_quotes_are_ids_where_nothing_else_can_be_meant(tmp_path: Path) -> None:
    text = TEXT.replace(NAMES, '{"names": {"1": "road", "0": "sky", "2": "car"}}'[1:-1])
    custom = get_cfg(data=write_file(tmp_path, text + '"map": {"7": 0, "-9999": 255}\n')).DATASETS.CUSTOM
    assert custom.NAMES == ["sky", "road", "car"]
    assert custom.MAP == [[7, 0], [-9999, 255]]


def test_a_list_of_pairs_may_be_named_in_capitals(tmp_path: Path) -> None:
    custom = get_cfg(data=write_file(tmp_path, "train: LIST.TXT\nnames: [a]\n")).DATASETS.CUSTOM
    assert custom.TRAIN == {"IMAGES": ["LIST.TXT"], "LABELS": []}


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("NAME", "../../x", "name: '../../x' is not a plain name"),
        ("NAME", "a" * 195, f"name: '{'a' * 60}' is not a plain name"),  # 200 bytes including the ending of a split
        ("NAMES", [1, 2, 3], "names: expected a text, got 1"),
        ("MAP", [[7, 0, 1]], "map: expected a list of 2 values"),
        ("RGB", [[[1, 2, 3], 0]], "rgb: expected a color"),
        ("ROOT", "a\0b", "root: expected at most"),
    ],
)
def test_a_strangers_run_folder_describes_a_dataset_or_is_refused(
    tmp_path: Path, key: str, value: object, message: str
) -> None:
    custom = get_cfg(data=write_file(tmp_path, TEXT)).DATASETS.CUSTOM
    custom[key] = value
    with pytest.raises(UserError) as caught:
        check_section(custom, "DATASETS.CUSTOM")
    assert str(caught.value).startswith(f"DATASETS.CUSTOM: {message}")


def test_the_longest_name_leaves_room_for_those_of_splits(tmp_path: Path) -> None:
    cfg = get_cfg(data=write_file(tmp_path, TEXT + f"name: {'a' * 194}\n"))
    for name in (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST):
        assert folder_name(name, "DATASETS") == name


def test_neither_split(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="neither train nor val"):
        get_cfg(data=write_file(tmp_path, "names: [a]\n"))
    with pytest.raises(UserError, match="train is missing"):
        get_cfg(data=write_file(tmp_path, "names: [a]\nval: 0.5\ntrain:\n"))


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"gone\.yaml: cannot be read"):
        get_cfg(data=tmp_path / "gone.yaml")
