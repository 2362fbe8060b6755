"""Nesting depth of tuples in a pickle, found from its opcodes without building anything.

Python hashes tuples recursively. A dict key of about a hundred thousand nested tuples overflows the stack and kills
the process. torch's reader accepts any key, so its files are checked before it reads them.
"""

from __future__ import annotations

import io
import pickle
import pickletools
from typing import IO

MAX_DEPTH = 1000
TUPLES = ("TUPLE", "TUPLE1", "TUPLE2", "TUPLE3")
TUPLE_CODES = (b"t", b"\x85", b"\x86", b"\x87")
LEGACY_PICKLES = 5  # a legacy torch file is a number, a version, a dict of sizes, what was saved, and a list


def check_nesting(file: IO[bytes]) -> None:
    """Raise `pickle.UnpicklingError` if the pickle at the file's position nests tuples deeper than `MAX_DEPTH`."""
    mark = -1
    stack: list[int] = []  # for each object, the depth of tuples in it
    memo: dict[int, int] = {}
    for step, argument, _ in pickletools.genops(file):
        taken: list[int] = []
        count = len(step.stack_before)
        if pickletools.markobject in step.stack_before or (step.name == "POP" and stack[-1:] == [mark]):
            while stack and (top := stack.pop()) != mark:
                taken.append(top)
            count = step.stack_before.index(pickletools.markobject) if step.name != "POP" else 0
        for _ in range(count):
            taken.append(stack.pop() if stack else 0)
        if step.name in ("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"):
            memo[len(memo) if argument is None else argument] = stack[-1] if stack else 0
        elif step.name in ("GET", "BINGET", "LONG_BINGET"):
            stack.append(memo.get(argument or 0, 0))
        elif step.name == "DUP":
            stack += taken * 2
        elif step.name == "MARK":
            stack.append(mark)
        elif step.stack_after:
            stack.append(1 + max(taken, default=0) if step.name in TUPLES else 0)
            if stack[-1] > MAX_DEPTH:
                raise pickle.UnpicklingError(f"it has tuples more than {MAX_DEPTH} deep")


def check_pickle(content: bytes) -> None:
    """Check a pickle's content with `check_nesting`; fast if it has few tuples."""
    if sum(content.count(code) for code in TUPLE_CODES) > MAX_DEPTH:
        check_sequence(io.BytesIO(content), 1)


def check_legacy(file: IO[bytes]) -> None:
    """Check with `check_nesting` the pickles at the start of a torch file in the legacy format, which is not a zip."""
    check_sequence(file, LEGACY_PICKLES)


def check_sequence(file: IO[bytes], pickles: int) -> None:
    """Check several consecutive pickles with `check_nesting`; ignores malformed ones, which the reader will refuse."""
    try:
        for _ in range(pickles):
            check_nesting(file)
    except (ValueError, LookupError):
        return
