"""The seam between the project and Detectron2: the only names of it that the project uses.

Where Detectron2 is installed these are Detectron2's own objects, else small native ones that do the same in all that
the project asks of them; what only other code would ask for is left out.
`SEMASK_D2_BACKEND=native` or `=detectron2` forces one; `BACKEND` and `BACKEND_VERSION` say which is in use.
Everything else in the project imports from here.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import warnings
from types import ModuleType

from semask_d2.utils.errors import UserError

_VARIABLE = "SEMASK_D2_BACKEND"

# fmt: off
__all__ = [  # noqa: RUF022 - grouped by what they are for
    "BACKEND", "BACKEND_VERSION",
    "CfgNode", "get_cfg", "configurable",
    "Backbone", "ShapeSpec", "ImageList", "BACKBONE_REGISTRY", "SEM_SEG_HEADS_REGISTRY", "META_ARCH_REGISTRY",
    "build_backbone", "build_sem_seg_head", "build_model",
    "DatasetCatalog", "MetadataCatalog",
    "DatasetEvaluator", "DatasetEvaluators", "inference_on_dataset", "print_csv_format", "verify_results",
    "EventStorage", "get_event_storage", "EventWriter", "JSONWriter", "TensorboardXWriter",
    "TrainerBase", "DefaultTrainer", "HookBase", "hooks",
    "default_argument_parser", "launch",
    "comm",
    "setup_logger", "collect_env_info", "PathManager", "seed_all_rng",
]
# fmt: on


def _choose() -> ModuleType:
    """Return the module that holds the chosen side's objects.

    Raises UserError if the environment variable has another value, or asks for a Detectron2 that cannot be imported.
    """
    wanted = os.environ.get(_VARIABLE, "")
    if wanted not in ("", "native", "detectron2"):
        raise UserError(
            f"{_VARIABLE}={wanted!r}: expected native or detectron2; unset it to choose by what is installed."
        )
    if wanted == "native":
        return importlib.import_module(".native", __name__)
    if not wanted and importlib.util.find_spec("detectron2") is None:
        return importlib.import_module(".native", __name__)
    try:
        return importlib.import_module(".real", __name__)
    except Exception as error:  # an old or half-built Detectron2 fails in many ways, not only with ImportError
        reason = f"Detectron2 cannot be imported ({type(error).__name__}: {error})"
        if wanted:
            raise UserError(
                f"{_VARIABLE}=detectron2, but {reason}. Install it, or unset {_VARIABLE} to use the native side."
            ) from error
        warnings.warn(f"{reason}; the native side is used instead.", stacklevel=2)
        return importlib.import_module(".native", __name__)


_side = _choose()
globals().update({name: getattr(_side, name) for name in __all__})
