"""Getting the message with which a call is refused."""

from __future__ import annotations

from collections.abc import Callable

from semask_d2.utils.errors import UserError


def refusal(call: Callable[[], object]) -> str | None:
    """Return the message of the `UserError` that a call raises, None if it succeeds; other errors are not caught."""
    try:
        call()
    except UserError as error:
        return str(error)
    return None
