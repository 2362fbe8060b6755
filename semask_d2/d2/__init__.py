"""The seam between the project and Detectron2: the only names of it that the project uses.

Where Detectron2 is installed these are Detectron2's own objects, else the native stand-ins of `semask_d2.d2.native`,
which does the same in all that the project asks of it. `SEMASK_D2_BACKEND=native` or `=detectron2` forces one;
`BACKEND` and `BACKEND_VERSION` say which is in use. Everything else in the project imports from here.
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
    """A backend that is asked for and is not there.

    It is raised while the package is imported, where no command can catch it yet: as a `SystemExit` it ends a program
    with its line and no traceback.
    """

    def __init__(self, message: str):
        super().__init__(message)
        self.code = f"error: {message}"


def _use_detectron2() -> bool:
    """Whether Detectron2 is to be used: by the environment variable, else where it can be imported.

    Raises `BackendError` if the variable has another value, or asks for a Detectron2 that cannot be imported.
    """
    wanted = os.environ.get(_VARIABLE, "")
    if wanted not in ("", "native", "detectron2"):
        raise BackendError(
            f"{_VARIABLE}={wanted!r}: expected native or detectron2; unset it to choose by what is installed."
        )
    if wanted == "native" or (not wanted and importlib.util.find_spec("detectron2") is None):
        return False
    try:
        importlib.import_module("semask_d2.d2.real")
    except Exception as error:  # an old or half-installed Detectron2 fails in many ways, not only with ImportError
        reason = f"Detectron2 cannot be imported ({type(error).__name__}: {error})"
        if wanted:
            raise BackendError(
                f"{_VARIABLE}=detectron2, but {reason}. Install it, or unset {_VARIABLE} to use the native backend."
            ) from error
        warnings.warn(f"{reason}; the native backend is used instead.", stacklevel=3)
        return False
    return True


# type checkers and editors read the native backend, whose names are all that the project may use
if TYPE_CHECKING or not _use_detectron2():
    from semask_d2.d2.native import *  # noqa: F403
    from semask_d2.d2.native import __all__ as __all__
else:
    from semask_d2.d2.real import *  # noqa: F403
    from semask_d2.d2.real import __all__ as __all__
