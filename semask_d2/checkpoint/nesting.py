"""How deep the tuples of a pickle lie within each other, told from its steps alone.

Python hashes a tuple that is a key in depth, and beyond about a hundred thousand tuples within tuples that overflows
the stack and ends the process. torch's reader takes any key, so its files are looked through first.
"""

from __future__ import annotations

import io
import pickle
import pickletools
from typing import IO

MAX_DEPTH = 1000
TUPLES = ("TUPLE", "TUPLE1", "TUPLE2", "TUPLE3")
DEEPENING = (b"t", b"\x85", b"\x86", b"\x87")  # their codes
LEGACY_PICKLES = 5  # a legacy torch file is a number, a version, a dict of sizes, what was saved, and a list


def check_nesting(file: IO[bytes]) -> None:
    """Raise `pickle.UnpicklingError` where the pickle that starts here has tuples more than `MAX_DEPTH` deep."""
    mark = -1
    stack: list[int] = []  # of each object the depth of tuples in it
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
            stack.append(memo.get(argument, 0))
        elif step.name == "DUP":
            stack += taken * 2
        elif step.name == "MARK":
            stack.append(mark)
        elif step.stack_after:
            stack.append(1 + max(taken, default=0) if step.name in TUPLES else 0)
            if stack[-1] > MAX_DEPTH:
                raise pickle.UnpicklingError(f"it has tuples more than {MAX_DEPTH} deep")


def check_pickle(content: bytes) -> None:
    """As `check_nesting`, quick where there are few tuples at all."""
    if sum(content.count(code) for code in DEEPENING) > MAX_DEPTH:
        attempt(io.BytesIO(content), 1)


def check_legacy(file: IO[bytes]) -> None:
    """As `check_nesting`, for the pickles at the start of a torch file that is no zip."""
    attempt(file, LEGACY_PICKLES)


def attempt(file: IO[bytes], pickles: int) -> None:
    """As `check_nesting` for some pickles in a row; what is none is left for the reader to refuse."""
    try:
        for _ in range(pickles):
            check_nesting(file)
    except (ValueError, LookupError):
        return
