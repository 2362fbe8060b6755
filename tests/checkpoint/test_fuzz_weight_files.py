"""Thousands of damaged and crafted weight files: each is read or refused with a UserError, and nothing else happens.

They are read in a separate process, which a memory error would kill by a signal.
"""

from __future__ import annotations

import contextlib
import inspect
import io
import pickle
import random
import subprocess
import sys
import time
import types
import warnings
from collections import Counter
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch

from semask_d2.checkpoint import read_checkpoint
from semask_d2.checkpoint.loading import tensors_of
from semask_d2.checkpoint.plain_values import NUMPY_NAMES
from semask_d2.checkpoint.unpickling import PICKLE_NAMES
from semask_d2.utils.errors import UserError
from tests.helpers.crafted_pickles import Crafter, legacy, zipped

ROOT = Path(__file__).resolve().parents[2]
MEMORY = 2**31  # bytes in addition to those of Python and torch
CALLS_OF_A_NAME = {".pkl": 60, ".pth": 6}
MUTATIONS = 150  # of each file of each kind

Case = tuple[str, str, bytes]  # label, ending, content


def torch_names() -> dict[str, Any]:
    """Return the objects that a torch file may name, by name."""
    from torch._weights_only_unpickler import _get_allowed_globals

    return {**_get_allowed_globals(), **NUMPY_NAMES}


def crafted(rng: random.Random) -> Iterator[Case]:
    """Return pickles that call each name with arbitrary arguments."""
    crafter = Crafter(rng, list(PICKLE_NAMES), for_torch=False)
    for name in PICKLE_NAMES:
        for number in range(CALLS_OF_A_NAME[".pkl"]):
            yield f"{name} {number}", ".pkl", crafter.file(name)
    names = [name for name in torch_names() if "cuda" not in name]
    crafter = Crafter(rng, names, for_torch=True)
    for name in names:
        for number in range(CALLS_OF_A_NAME[".pth"]):
            yield f"{name} {number}", ".pth", (zipped, legacy)[number % 2](crafter.file(name))


def sound_files() -> dict[str, tuple[str, bytes]]:
    """Return small valid files by kind: suffix and content."""
    arrays = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "s": np.float64(2), "b": np.ones(2, ">i4")}
    tensors = {"a": torch.arange(6.0).reshape(2, 3), "p": torch.nn.Parameter(torch.ones(2)), "i": torch.arange(3)}
    files = {f"arrays, protocol {p}": (".pkl", pickle.dumps({"model": arrays}, p)) for p in (0, 2, 4, 5)}
    files["tensors"] = (".pkl", pickle.dumps({"model": tensors}, 4))
    for name, is_zip in {"zip": True, "legacy": False}.items():
        file = io.BytesIO()
        torch.save({"model": tensors, "more": arrays}, file, _use_new_zipfile_serialization=is_zip)
        files[name] = (".pth", file.getvalue())
    state = {name: value.detach() for name, value in tensors.items()}
    files["safetensors"] = (".safetensors", safetensors.torch.save(state, {"semask_d2": '{"semantic_windows": [1]}'}))
    return files


def mutated(rng: random.Random) -> Iterator[Case]:
    """Return valid files with flipped bits, truncated, and with parts of other files inserted."""
    files = sound_files()
    steps = [code[0] for name, code in vars(pickle).items() if name.isupper() and isinstance(code, bytes)]
    for kind, (ending, content) in files.items():
        for number in range(MUTATIONS):
            changed = bytearray(content)
            at = rng.randrange(len(content))
            match number % 5:
                case 0:
                    changed[at] ^= 1 << rng.randrange(8)
                case 1:
                    del changed[at:]
                case 2:
                    changed[at] = rng.choice(steps)
                case 3:
                    changed[at:at] = [rng.choice(steps)]
                case 4:
                    other = rng.choice([x for e, x in files.values() if e == ending])
                    begin = rng.randrange(len(other))
                    changed[at:at] = other[begin : begin + rng.randrange(1, 60)]
            yield f"{kind} {number}", ending, bytes(changed)


def attributes() -> dict[str, tuple]:
    """Return the state of torch's, numpy's and our functions and classes that a file could change."""
    seen = {name: value for names in (torch_names(), PICKLE_NAMES) for name, value in names.items()}
    for module in (torch, torch._utils, torch.storage, torch.serialization, torch._tensor, np, pickle):
        seen |= {f"{module.__name__}.{name}": value for name, value in vars(module).items() if callable(value)}
    return {name: state_of(value) for name, value in seen.items()}


def state_of(value: Any) -> tuple:
    """Return the attributes of a function or class that a pickle could set."""
    if isinstance(value, types.FunctionType):
        return id(value), value.__defaults__, str(value.__kwdefaults__), id(value.__code__), sorted(vars(value))
    if inspect.isclass(value):
        return id(value), sorted(set(vars(value)) - {"__slotnames__"})  # pickling adds it
    return (id(value),)


def read(path: Path) -> str:
    """Read a file and return the outcome: "read", "refused", or a description of the failure."""
    try:
        for tensor in tensors_of(read_checkpoint(path), path).values():
            if tensor.numel() < 10**6:
                tensor.clone()  # touches all of its memory
    except UserError as error:
        return "refused" if str(path) in str(error) and "\n" not in str(error) else f"no good message: {error}"
    except BaseException as error:
        return f"{type(error).__name__}: {error}"
    return "read"


def child(folder: Path) -> None:
    """Read the files one after another; print failures, and before each file its label to stderr."""
    warnings.simplefilter("ignore")
    limit_memory()
    torch.storage._warn_typed_storage_removal()  # it stores on itself that it has warned
    before = attributes()
    ends: Counter[str] = Counter()
    for label, ending, content in chain(crafted(random.Random(0)), mutated(random.Random(1))):
        path = folder / f"case{ending}"
        path.write_bytes(content)
        print(label, file=sys.stderr, flush=True)
        started = time.perf_counter()
        end = read(path)
        seconds = time.perf_counter() - started
        ends[end] += 1
        if end not in ("read", "refused") or seconds > 5:
            print(f"{label}: {end}, {seconds:.0f} s")
    after = attributes()
    for name in before:
        if before[name] != after.get(name):
            print(f"{name} was changed: {before[name]} -> {after.get(name)}")
    print(ends["read"], ends["refused"])


def limit_memory() -> None:
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource

        pages = int(Path("/proc/self/statm").read_text().split()[0])
        limit = pages * resource.getpagesize() + MEMORY
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


@pytest.mark.slow
def test_files_are_read_or_refused_and_change_nothing(tmp_path: Path) -> None:
    arguments = [sys.executable, "-m", __name__, str(tmp_path)]
    done = subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, f"{done.stderr[-2000:]}\nended with {done.returncode}"
    *wrong, counts = done.stdout.splitlines()
    assert not wrong
    good, refused = map(int, counts.split())
    assert good > 100
    assert refused > 1000


if __name__ == "__main__":
    child(Path(sys.argv[1]))
