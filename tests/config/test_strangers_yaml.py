"""Config files that would exhaust the machine or block forever: each is refused at once with one line."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from semask_d2.config import get_cfg, yaml_files
from semask_d2.config.sources import config_with_sources
from semask_d2.utils.errors import UserError

LAUGHS = "a0: &a0 [1, 1]\n" + "".join(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]\n" for n in range(1, 30))
CHAIN = "a0: &a0 [1]\n" + "".join(f"a{n}: &a{n} [*a{n - 1}]\n" for n in range(1, 3000))

TOO_MUCH = {
    "lists within lists": ("A: " + "[" * 5000 + "]" * 5000, "50 deep"),
    "lists that never end": ("[" * 10**6, "50 deep"),
    "sections within sections": ("A: " + "{a: " * 5000 + "1" + "}" * 5000, "50 deep"),
    "sections in lines": ("\n".join(" " * n + "a:" for n in range(1000)), "50 deep"),
    "lists in a line": ("- " * 5000 + "1", "50 deep"),
    "billion laughs": (LAUGHS, "20000 values"),
    "billion laughs by merging": (
        LAUGHS.replace("[1, 1]", "{a: 1}").replace("[*", "{<<: [*").replace("]", "]}"),
        "20000 values",
    ),
    "a chain of aliases": (CHAIN, "50 deep"),
    "an anchor within itself": ("A: &a [1, *a]\n", "&a holds itself"),
    "a section within itself": ("A: &a {b: {c: *a}}\n", "&a holds itself"),
    "many values": ("A: [" + "1," * 400_000 + "]", "20000 values"),
    "a large file": ("# " + "x" * 2**20, "larger than"),
    "a long value": ("A: '" + "x" * 500_000 + "'", "50000 characters"),
    "a number in base 60": ("A: " + "1:" * 400_000 + "1", "50000 characters"),
    "a number of many digits": ("A: " + "1" * 15_000, "a.yaml"),
}


def refusal(path: Path) -> str:
    """Return the one line with which a file is refused immediately."""
    started = time.perf_counter()
    with pytest.raises(UserError) as caught:
        get_cfg(path)
    assert time.perf_counter() - started < 5
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 1000 + len(str(path))
    return str(caught.value)


@pytest.mark.parametrize(("text", "reason"), TOO_MUCH.values(), ids=TOO_MUCH.keys())
def test_more_than_a_config_has(tmp_path: Path, text: str, reason: str) -> None:
    (tmp_path / "a.yaml").write_text(text)
    message = refusal(tmp_path / "a.yaml")
    assert str(tmp_path / "a.yaml") in message
    assert reason in message


@pytest.mark.parametrize(
    "text", ["D: 2024-13-45", "N: 0b_", 'T: "\\UFFFFFFFF"', "N: " + "1:" * 400 + "1.5", "? {a: b}"]
)
def test_values_that_cannot_be_read(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.yaml").write_text(text)
    assert str(tmp_path / "a.yaml") in refusal(tmp_path / "a.yaml")


def test_an_alias_is_no_offence(tmp_path: Path) -> None:
    text = "SOLVER: &s {MAX_ITER: 7}\nINPUT: {MIN_SIZE_TRAIN: &sizes [480, 512], MIN_SIZE_TEST: 5}\n"
    (tmp_path / "a.yaml").write_text(text + "MODEL: {SWIN: {DEPTHS: *sizes}}\n")
    assert get_cfg(tmp_path / "a.yaml").MODEL.SWIN.DEPTHS == [480, 512]


# Bases


def test_a_diamond_reads_each_file_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each level names the next one twice, which gives 2 ** 25 paths to the last."""
    read = []
    real = yaml_files.read_text
    monkeypatch.setattr(yaml_files, "read_text", lambda path: read.append(path) or real(path))
    for level in range(25):
        base = f"_BASE_: [{level + 1}.yaml, {level + 1}.yaml]\nSOLVER: {{MAX_ITER: {level + 1}}}\n"
        (tmp_path / f"{level}.yaml").write_text(base)
    (tmp_path / "25.yaml").write_text("SOLVER: {BASE_LR: 0.5, MAX_ITER: 99}\n")
    solver = get_cfg(tmp_path / "0.yaml").SOLVER
    assert (solver.BASE_LR, solver.MAX_ITER) == (0.5, 1)
    assert len(read) == len(set(read)) == 26


def test_sources_of_bases_in_a_diamond_are_named(tmp_path: Path) -> None:
    """Each level has two files, both of which name both files of the next level as bases."""
    for level in range(25):
        for side in "ab":
            base = f"_BASE_: [{level + 1}a.yaml, {level + 1}b.yaml]\nSOLVER: {{WARMUP_ITERS: {level}}}\n"
            (tmp_path / f"{level}{side}.yaml").write_text(base)
    (tmp_path / "25a.yaml").write_text("SOLVER: {BASE_LR: 0.5, MAX_ITER: 99}\n")
    (tmp_path / "25b.yaml").write_text("SOLVER: {MAX_ITER: 98}\n")
    (tmp_path / "top.yaml").write_text("_BASE_: [0a.yaml, 0b.yaml]\n")
    cfg, sources = config_with_sources(tmp_path / "top.yaml")
    for key, file, value in (("BASE_LR", "25a", 0.5), ("MAX_ITER", "25b", 98), ("WARMUP_ITERS", "0b", 0)):
        assert sources[f"SOLVER.{key}"] == str(tmp_path / f"{file}.yaml")
        assert cfg.SOLVER[key] == value


def test_the_source_of_a_file_that_lies_there_twice_is_the_topmost(tmp_path: Path) -> None:
    (tmp_path / "one.yaml").write_text("SOLVER: {MAX_ITER: 1, IMS_PER_BATCH: 1}\n")
    (tmp_path / "two.yaml").write_text("_BASE_: one.yaml\nSOLVER: {MAX_ITER: 2}\n")
    for names, expected in {"one, two": ("two", "one"), "two, one": ("one", "one")}.items():
        listed = ", ".join(f"{name.strip()}.yaml" for name in names.split(","))
        (tmp_path / "a.yaml").write_text(f"_BASE_: [{listed}]\n")
        _, sources = config_with_sources(tmp_path / "a.yaml")
        files = [Path(sources[f"SOLVER.{key}"]).stem for key in ("MAX_ITER", "IMS_PER_BATCH")]
        assert tuple(files) == expected


def test_later_bases_win_also_where_a_file_is_named_again(tmp_path: Path) -> None:
    (tmp_path / "one.yaml").write_text("SOLVER: {MAX_ITER: 1, IMS_PER_BATCH: 1}\n")
    (tmp_path / "two.yaml").write_text("SOLVER: {MAX_ITER: 2}\n")
    for names, expected in {"one, two": (2, 1), "two, one": (1, 1), "one, two, one": (1, 1)}.items():
        listed = ", ".join(f"{name.strip()}.yaml" for name in names.split(","))
        (tmp_path / "a.yaml").write_text(f"_BASE_: [{listed}]\n")
        solver = get_cfg(tmp_path / "a.yaml").SOLVER
        assert expected == (solver.MAX_ITER, solver.IMS_PER_BATCH)


def test_too_many_files(tmp_path: Path) -> None:
    (tmp_path / "one.yaml").write_text("SOLVER: {MAX_ITER: 1}\n")
    (tmp_path / "a.yaml").write_text("_BASE_: [" + "one.yaml, " * 1000 + "]\n")
    assert "more than 200 files" in refusal(tmp_path / "a.yaml")
    for number in range(201):
        (tmp_path / f"b{number}.yaml").write_text("SOLVER: {MAX_ITER: 1}\n")
    (tmp_path / "a.yaml").write_text("_BASE_: [" + ", ".join(f"b{number}.yaml" for number in range(201)) + "]\n")
    assert "more than 200 files" in refusal(tmp_path / "a.yaml")
    for number in range(500):
        (tmp_path / f"{number}.yaml").write_text(f"_BASE_: {number + 1}.yaml\n")
    assert "50 in a row" in refusal(tmp_path / "0.yaml")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no pipes among its files")
def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.yaml")
    (tmp_path / "a.yaml").write_text("_BASE_: pipe.yaml\n")
    for path in (tmp_path / "a.yaml", tmp_path / "pipe.yaml"):
        message = refusal(path)
        assert "pipe.yaml: not a regular file" in message


@pytest.mark.parametrize("name", ["x" * 300 + ".yaml", '"a\\0b.yaml"', '"\\uD800.yaml"', "loop.yaml", "a.yaml/b.yaml"])
def test_a_base_that_cannot_be_a_file(tmp_path: Path, name: str) -> None:
    (tmp_path / "loop.yaml").symlink_to("loop.yaml")
    (tmp_path / "a.yaml").write_text(f"_BASE_: {name}\n")
    assert str(tmp_path / "a.yaml") in refusal(tmp_path / "a.yaml")


# Duplicate keys


@pytest.mark.parametrize(
    ("text", "key", "lines"),
    [
        ("SOLVER: {MAX_ITER: 1}\nINPUT: {}\nSOLVER: {BASE_LR: 1.0}\n", "SOLVER", (3, 1)),
        ("SOLVER:\n  MAX_ITER: 1\n  BASE_LR: 1.0\n  MAX_ITER: 2\n", "MAX_ITER", (4, 2)),
        ("A: [{b: 1}, {b: 2, c: [1, {d: 1}], b: 3}]\n", "b", (1, 1)),
        ("A: &x {b: 1}\nB: *x\n'A': 3\n", "A", (3, 1)),
    ],
)
def test_a_key_twice_is_refused_with_its_lines(tmp_path: Path, text: str, key: str, lines: tuple[int, int]) -> None:
    (tmp_path / "a.yaml").write_text(text)
    assert f"line {lines[0]}: the key '{key}' is already in line {lines[1]}" in refusal(tmp_path / "a.yaml")


def test_equal_keys_of_other_sections_and_values_are_no_offence(tmp_path: Path) -> None:
    text = "SOLVER: &s {MAX_ITER: 7}\nTEST: {EVAL_PERIOD: 7}\nMODEL: {SWIN: {DEPTHS: [2, 2]}, MIT: {DEPTHS: [2, 2]}}\n"
    (tmp_path / "a.yaml").write_text(text + "INPUT: {FORMAT: FORMAT, MIN_SIZE_TRAIN: [1, 1, {a: a}, {a: a}]}\n")
    assert yaml_files.read_yaml(tmp_path / "a.yaml", ())["INPUT"]["MIN_SIZE_TRAIN"] == [1, 1, {"a": "a"}, {"a": "a"}]
    (tmp_path / "b.yaml").write_text("a: &a {x: 1}\nb: &b {y: 2}\nc:\n  <<: *a\n  <<: *b\n")
    assert yaml_files.read_yaml(tmp_path / "b.yaml", ())["c"] == {"x": 1, "y": 2}
