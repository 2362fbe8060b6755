"""The seam between the project and Detectron2: every Detectron2 name that the project uses.

Where Detectron2 is installed, these are Detectron2's objects. Otherwise they are the small replacements in
`semask_d2.d2.native`, which behave the same wherever the project uses them. `SEMASK_D2_BACKEND=native` or
`=detectron2` forces a backend; `BACKEND` and `BACKEND_VERSION` name the one in use. The rest of the project imports
these names from here.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import warnings
from typing import TYPE_CHECKING

from semask_d2.utils.errors import UserError

_VARIABLE = "SEMASK_D2_BACKEND"


class BackendError(UserError, SystemExit):
    """Error for a requested backend that is unknown or not available.

    It is raised while the package is imported, before any command can catch it. As a `SystemExit` it ends the program
    with its message and no traceback.
    """

    def __init__(self, message: str):
        super().__init__(message)
        self.code = f"error: {message}"


def _use_detectron2() -> bool:
    """Return whether to use Detectron2: as the environment variable says, by default if it can be imported.

    Raises `BackendError` if the variable has an unknown value, or requests a Detectron2 that cannot be imported.
    """
    requested = os.environ.get(_VARIABLE, "")
    if requested not in ("", "native", "detectron2"):
        raise BackendError(
            f"{_VARIABLE}={requested!r}: expected native or detectron2; unset it to use whichever is installed."
        )
    if requested == "native" or (not requested and importlib.util.find_spec("detectron2") is None):
        return False
    try:
        importlib.import_module("semask_d2.d2.real")
    except Exception as error:  # an old or half-installed Detectron2 fails in many ways, not only with ImportError
        reason = f"Detectron2 cannot be imported ({type(error).__name__}: {error})"
        if requested:
            raise BackendError(
                f"{_VARIABLE}=detectron2, but {reason}. Install it, or unset {_VARIABLE} to use the native backend."
            ) from error
        warnings.warn(f"{reason}; the native backend is used instead.", stacklevel=3)
        return False
    return True


# type checkers and editors read the native backend, which has exactly the names that the project may use
if TYPE_CHECKING or not _use_detectron2():
    from semask_d2.d2.native import *  # noqa: F403
    from semask_d2.d2.native import __all__ as __all__
else:
    from semask_d2.d2.real import *  # noqa: F403
    from semask_d2.d2.real import __all__ as __all__
