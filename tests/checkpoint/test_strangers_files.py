"""Malicious and damaged weight files are refused with one line, or read correctly."""

from __future__ import annotations

import errno
import os
import pickle
import random
import re
import struct
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

from semask_d2.checkpoint import read_checkpoint
from semask_d2.checkpoint.loading import tensors_of
from semask_d2.checkpoint.saving import write_safetensors
from semask_d2.checkpoint.unpickling import PICKLE_NAMES
from semask_d2.utils.errors import UserError
from tests.helpers.crafted_pickles import RECONSTRUCT, integer, legacy, named, octets, text, tuple_of, zipped

ROOT = Path(__file__).resolve().parents[2]
FORMATS = {".pkl": lambda content: content, "zip.pth": zipped, "legacy.pth": legacy}
POINTERS = octets(b"\x41" * 16)
OBJECTS = named("numpy.dtype") + tuple_of(text("O8"), b"\x89", b"\x88") + b"R"
FLOATS = named("numpy.dtype") + tuple_of(text("f8"), b"\x89", b"\x88") + b"R"


def array(dtype: bytes, content: bytes, sides: tuple[int, ...] = (2,)) -> bytes:
    """Return the opcodes of an array of this dtype over these bytes."""
    made = named(RECONSTRUCT) + tuple_of(named("numpy.ndarray"), tuple_of(b"K\x00"), octets(b"b")) + b"R"
    return made + tuple_of(b"K\x01", tuple_of(*map(integer, sides)), dtype, b"\x89", content) + b"b"


def weights(value: bytes) -> bytes:
    """Return a pickle of a checkpoint with this value."""
    return b"\x80\x02}(" + text("model") + b"}(" + text("w") + value + b"uu."


# each makes numpy treat bytes of the file as pointers, if it can reach numpy's classes
INTO_MEMORY = {
    "ndarray called": named("numpy.ndarray") + tuple_of(tuple_of(b"K\x02"), text("O"), POINTERS) + b"R",
    "ndarray made fresh": named("numpy.ndarray") + tuple_of(tuple_of(b"K\x02"), text("O"), POINTERS) + b"\x81",
    "a state of objects": array(OBJECTS, POINTERS),
    "text for a dtype": array(text("O"), POINTERS),
    "a dtype turned into objects": array(
        FLOATS + tuple_of(b"K\x03", text("|"), b"N", b"N", b"N", b"K\x08", b"K\x08", b"K\x3f") + b"b"
        + tuple_of(b"N", b"}(" + text("dtype") + text("O") + b"u") + b"b",
        POINTERS,
    ),
    "a record of objects": array(named("numpy.dtype") + tuple_of(text("f8,O"), b"\x89", b"\x88") + b"R", POINTERS),
    "scalar": named("numpy._core.multiarray.scalar") + tuple_of(OBJECTS, octets(b"A" * 8)) + b"R",
    "a buffer": named("numpy._core.numeric._frombuffer")
    + tuple_of(POINTERS, OBJECTS, tuple_of(b"K\x02"), text("C")) + b"R",
    "more than its bytes": array(FLOATS, POINTERS, (3,)),
    "a negative side": array(FLOATS, POINTERS, (-1, -2)),
    "sides whose product overflows": array(FLOATS, POINTERS, (2**32, 2**32, 2)),
    "text for sides": named(RECONSTRUCT) + b")R" + tuple_of(b"K\x01", text("ab"), FLOATS, b"\x89", POINTERS) + b"b",
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("kind", FORMATS)
def test_no_file_reaches_into_memory(tmp_path: Path, kind: str) -> None:
    """Read each file in a separate process, since a wrong pointer would kill it."""
    for number, steps in enumerate(INTO_MEMORY.values()):
        listed = named("collections.OrderedDict") + tuple_of(steps) + b"R"  # printing would follow the pointers
        (tmp_path / f"{number}{kind}").write_bytes(FORMATS[kind](weights(listed)))
        (tmp_path / f"{number}alone{kind}").write_bytes(FORMATS[kind](weights(steps)))
    program = (
        "import sys\nfrom semask_d2.checkpoint import read_checkpoint\nfrom semask_d2.utils.errors import UserError\n"
        "for path in sys.argv[1:]:\n"
        "    try:\n        str(read_checkpoint(path))\n        print(path)\n"
        "    except UserError as error:\n        assert path in str(error)\n"
    )
    files = sorted(map(str, tmp_path.iterdir()))
    done = subprocess.run(
        [sys.executable, "-c", program, *files], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr[-500:]
    taken = {re.match(r"\d+", Path(line).name)[0] for line in done.stdout.split()}
    assert not {list(INTO_MEMORY)[int(number)] for number in taken}


@pytest.mark.parametrize("kind", FORMATS)
def test_no_file_changes_a_function(tmp_path: Path, kind: str) -> None:
    """A file must not change the functions that rebuild objects, since every later file uses them, too."""
    functions = {name: value for name, value in PICKLE_NAMES.items() if hasattr(value, "__defaults__")}
    functions |= {f"torch._utils.{name}": x for name, x in vars(torch._utils).items() if hasattr(x, "__defaults__")}
    before = {name: (value.__defaults__, dict(vars(value))) for name, value in functions.items()}
    for name in PICKLE_NAMES:
        pairs = b"}(" + text("__defaults__") + tuple_of(integer(7)) + text("mark") + integer(7) + b"u"
        for state in (pairs, tuple_of(b"N", pairs)):
            steps = named(name) + state + b"b"
            (tmp_path / f"w{kind}").write_bytes(FORMATS[kind](weights(steps)))
            with pytest.raises(UserError, match="refused"):
                read_checkpoint(tmp_path / f"w{kind}")
    assert before == {name: (value.__defaults__, dict(vars(value))) for name, value in functions.items()}


STEPS = {
    "inst": b"(K\x01icollections\nOrderedDict\n.",
    "obj": b"(" + named("collections.OrderedDict") + b"o.",
    "newobj": named("collections.OrderedDict") + b")\x81.",
    "newobj_ex": named("numpy.ndarray") + b")}\x92.",
    "persistent id": b"Panything\n.",
    "binary persistent id": b"K\x01Q.",
    "extension": b"\x82\x01.",
    "buffer": b"\x97.",
    "append to an array": weights(array(FLOATS, POINTERS) + b"K\x01a"),
    "items of an array": weights(array(FLOATS, POINTERS) + b"K\x00K\x01s"),
    "a state of a list": b"]}b.",
    "a state of a number": b"K\x01}b.",
    "a key of tuples within tuples, which overflows the stack": b"})" + b"\x85" * 10**6 + b"K\x01s.",
    "a set of them": b"\x8f()" + b"\x85" * 10**6 + b"\x90.",
    "pairs of them": named("collections.OrderedDict") + b"](])" + b"\x85" * 10**6 + b"aK\x01ae\x85R.",
}


@pytest.mark.parametrize("steps", STEPS.values(), ids=STEPS.keys())
def test_steps_that_plain_data_does_not_need(tmp_path: Path, steps: bytes) -> None:
    (tmp_path / "w.pkl").write_bytes(steps)
    with pytest.raises(UserError, match=r"w\.pkl: refused"):
        read_checkpoint(tmp_path / "w.pkl")


@pytest.mark.slow
@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("link", [b"\x85", b"q\x00h\x00\x86"], ids=["nested", "from the memo"])
def test_keys_of_tuples_within_tuples(tmp_path: Path, kind: str, link: bytes) -> None:
    """Hashing such a key overflows the stack."""
    for steps in (b"})" + link * 10**6 + b"K\x01s.", b"\x80\x02})" + link * 10**6 + b"K\x01s."):
        (tmp_path / f"w{kind}").write_bytes(FORMATS[kind](steps))
        with pytest.raises(UserError, match=r"refused.*(tuples more than 1000 deep|a key is not|pickle of plain data)"):
            read_checkpoint(tmp_path / f"w{kind}")


def test_shallow_tuples_are_kept(tmp_path: Path) -> None:
    data = {"model": {"w": torch.ones(2)}, "more": {(1, (2, 3)): [(number, (number,)) for number in range(3000)]}}
    for is_zip in (True, False):
        torch.save(data, tmp_path / "w.pth", _use_new_zipfile_serialization=is_zip)
        assert read_checkpoint(tmp_path / "w.pth")["more"] == data["more"]


@pytest.mark.parametrize("offset", [0, 5, 2**40])
def test_a_tensor_stays_within_its_storage(tmp_path: Path, offset: int) -> None:
    path = tmp_path / "w.pkl"
    good = pickle.dumps({"model": {"w": torch.arange(8.0)[2:6]}}, 2)
    path.write_bytes(good)
    assert read_checkpoint(path)["model"]["w"].tolist() == [2, 3, 4, 5]
    assert good.count(b"K\x02K\x04\x85") == 1
    path.write_bytes(good.replace(b"K\x02K\x04\x85", integer(offset) + b"K\x09\x85"))
    with pytest.raises(UserError, match="reaches beyond its storage"):
        read_checkpoint(path)


ANNOUNCED = {
    "bytearray": b"\x80\x05\x96" + struct.pack("<Q", 2**40) + b"x",
    "bytes": b"\x80\x04\x8e" + struct.pack("<Q", 2**40) + b"x",
    "frame": b"\x80\x04\x95" + struct.pack("<Q", 2**40) + b"x",
    "memo": b"]r\xff\xff\xff\xff.",
}


def test_an_announced_length_takes_no_memory(tmp_path: Path) -> None:
    """Python's C unpickler allocates memory by a number in the file, such as 16 bytes per memo entry."""
    pytest.importorskip("resource")
    for name, content in ANNOUNCED.items():
        (tmp_path / f"{name}.pkl").write_bytes(content)
    program = (
        "import resource, sys\nfrom semask_d2.checkpoint import read_checkpoint\n"
        f"resource.setrlimit(resource.RLIMIT_AS, ({2**35}, {2**35}))\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)\n"
        "for path in sys.argv[1:]:\n"
        "    try:\n        read_checkpoint(path)\n    except Exception as error:\n        print(error)\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)\n"
    )
    arguments = [sys.executable, "-c", program, *(str(tmp_path / f"{name}.pkl") for name in ANNOUNCED)]
    done = subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True, timeout=120, check=True)
    before, *messages, after = done.stdout.splitlines()
    assert len(messages) == len(ANNOUNCED)
    assert all("ends too early" in message for message in messages[:-1])
    assert "got a list" in messages[-1]
    assert int(after) - int(before) < 2**18  # kilobytes


@pytest.mark.parametrize("ending", [".pkl", ".pth"])
def test_a_tensor_that_repeats_its_numbers(tmp_path: Path, ending: str) -> None:
    """A few bytes of a file may appear as a tensor of terabytes, which a copy would allocate."""
    path = tmp_path / f"w{ending}"
    for sides, fits in {(4, 4): True, (2**20, 2**20): False}.items():
        state = {"model": {"w": torch.ones(1).expand(sides)}}
        if ending == ".pkl":
            path.write_bytes(pickle.dumps(state))
        else:
            torch.save(state, path)
        if fits:
            assert tensors_of(read_checkpoint(path), path)["w"].shape == sides
            continue
        with pytest.raises(UserError, match=f"w{ending}: w repeats few numbers"):
            read_checkpoint(path)


@pytest.mark.skipif(np.dtype(np.longdouble).itemsize == 8, reason="here it is a double by another name")
def test_numbers_that_torch_does_not_have(tmp_path: Path) -> None:
    (tmp_path / "w.pkl").write_bytes(pickle.dumps({"model": {"w": np.ones(2, np.longdouble)}}))
    with pytest.raises(UserError, match=r"w\.pkl: refused"):
        read_checkpoint(tmp_path / "w.pkl")


def test_a_shared_array_and_a_circle(tmp_path: Path) -> None:
    values = np.arange(3.0)
    data = {"model": {"a": values, "b": values}, "more": [(values, 1)]}
    data["more"].append(data)
    (tmp_path / "w.pkl").write_bytes(pickle.dumps(data))
    read = read_checkpoint(tmp_path / "w.pkl")
    assert read["model"]["a"] is read["model"]["b"] is read["more"][0][0]
    assert read["more"][1] is read


def test_a_state_dict_with_the_versions_of_its_parts(tmp_path: Path) -> None:
    state = torch.nn.BatchNorm2d(2).state_dict()
    for protocol in (0, 2, 4, 5):
        (tmp_path / "w.pkl").write_bytes(pickle.dumps(state, protocol))
        assert read_checkpoint(tmp_path / "w.pkl").keys() == state.keys()


# Zip files


def test_a_compressed_zip_is_refused(tmp_path: Path) -> None:
    content = weights(array(FLOATS, octets(bytes(80)), (10,)))
    (tmp_path / "w.pth").write_bytes(zipped(content))
    assert read_checkpoint(tmp_path / "w.pth")["model"]["w"].shape == (10,)
    for method in (zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
        (tmp_path / "w.pth").write_bytes(zipped(content, method))
        with pytest.raises(UserError, match=r"w\.pth: refused: it is compressed.*torch\.save"):
            read_checkpoint(tmp_path / "w.pth")


def test_parts_of_a_zip_that_share_their_bytes_are_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "w.pth", "w") as archive:
        archive.writestr("a/data/0", bytes(10000))
        for number in range(1, 9):
            part = zipfile.ZipInfo(f"a/data/{number}")
            first = archive.infolist()[0]
            part.header_offset, part.CRC, part.file_size, part.compress_size = 0, first.CRC, 10000, 10000
            archive.filelist.append(part)
    with pytest.raises(UserError, match="its parts are larger than the file"):
        read_checkpoint(tmp_path / "w.pth")


def flips(content: bytes, number: int) -> list[bytes]:
    """Return several variants of the content, each with one bit changed."""
    rng = random.Random(0)
    variants = []
    for _ in range(number):
        changed = bytearray(content)
        changed[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
        variants.append(bytes(changed))
    return variants


@pytest.mark.parametrize("ending", [".pth", ".safetensors"])
def test_no_flipped_bit_gives_other_weights(tmp_path: Path, ending: str) -> None:
    state = {f"layer_{number}.weight": torch.randn(8, 8) for number in range(4)}
    path = tmp_path / f"w{ending}"
    if ending == ".pth":
        torch.save({"model": state}, path)
    else:
        write_safetensors(path, state, {"semantic_windows": [4, 4]})
    damaged = 0
    for content in flips(path.read_bytes(), 300):
        path.write_bytes(content)
        try:
            read = read_checkpoint(path)["model"]
        except UserError as error:
            damaged += "damaged (" in str(error)
            continue
        assert read.keys() == state.keys()
        assert all(torch.equal(read[name], state[name]) for name in state)
    assert damaged > 50


def test_a_damaged_file_is_named_in_one_line(tmp_path: Path) -> None:
    torch.save({"model": {"w": torch.arange(64.0)}}, tmp_path / "w.pth")
    write_safetensors(tmp_path / "w.safetensors", {"w": torch.arange(64.0)}, {})
    for path in (tmp_path / "w.pth", tmp_path / "w.safetensors"):
        content = path.read_bytes()
        place = content.index(np.float32([7, 8, 9]).tobytes())
        path.write_bytes(content[:place] + b"\1" + content[place + 1 :])
        with pytest.raises(UserError, match=f"^{re.escape(str(path))}: damaged .checksum.*; download or save it"):
            read_checkpoint(path)


def test_a_torch_file_without_checksums_is_read(tmp_path: Path) -> None:
    """PyTorch can be configured to write no checksums."""
    before = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(False)
    try:
        torch.save({"model": {"w": torch.ones(3)}}, tmp_path / "w.pth")
    finally:
        torch.serialization.set_crc32_options(before)
    assert read_checkpoint(tmp_path / "w.pth")["model"]["w"].tolist() == [1, 1, 1]


def test_our_safetensors_are_read_by_others_and_theirs_by_us(tmp_path: Path) -> None:
    state = {"w": torch.randn(3, 2)}
    write_safetensors(tmp_path / "ours.safetensors", state, {"semantic_windows": [4]})
    assert torch.equal(safetensors.torch.load_file(tmp_path / "ours.safetensors")["w"], state["w"])
    assert read_checkpoint(tmp_path / "ours.safetensors").keys() == {"semantic_windows", "model"}
    safetensors.torch.save_file(state, tmp_path / "theirs.safetensors", {"semask_d2": '{"semantic_windows": [4]}'})
    assert torch.equal(read_checkpoint(tmp_path / "theirs.safetensors")["model"]["w"], state["w"])
    safetensors.torch.save_file(state, tmp_path / "x.safetensors", {"semask_d2": '{"checksum": 3}'})
    with pytest.raises(UserError, match="damaged"):
        read_checkpoint(tmp_path / "x.safetensors")


# Paths


def test_a_name_that_is_too_long(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"cannot be read: .*; check MODEL\.WEIGHTS$"):
        read_checkpoint(tmp_path / ("w" * 300 + ".pth"))


@pytest.mark.parametrize("ending", [".pth", ".pkl", ".safetensors"])
def test_a_file_or_folder_without_permission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ending: str) -> None:
    path = tmp_path / f"w{ending}"
    path.write_bytes(b"x")

    def denied(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    for method in ("open", "stat"):  # of the file, and of a folder on the way
        with monkeypatch.context() as patched:
            patched.setattr(Path, method, denied)
            patched.setattr(Path, "is_file", Path.is_file if method == "open" else denied)
            with pytest.raises(UserError, match=r"cannot be read: Permission denied; check MODEL\.WEIGHTS"):
                read_checkpoint(path)
