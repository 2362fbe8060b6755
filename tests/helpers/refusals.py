"""The message that a call is refused with."""

from __future__ import annotations

from collections.abc import Callable

from semask_d2.utils.errors import UserError


def refusal(call: Callable[[], object]) -> str | None:
    """The message of the user's error that a call ends in, None where it ends well; other errors pass."""
    try:
        call()
    except UserError as error:
        return str(error)
    return None
