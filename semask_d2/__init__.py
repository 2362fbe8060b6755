"""SeMask: semantically masked transformers for semantic segmentation (arXiv 2112.12782), a Detectron2 project.

The import itself is light. The first use of a name below imports the library and registers its backbones, heads,
meta-architectures and data sets.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from semask_d2.version import __version__

if TYPE_CHECKING:
    from semask_d2.checkpoint import load_weights
    from semask_d2.config import add_semask_config, get_cfg
    from semask_d2.data import read_image, register_custom
    from semask_d2.engine import Trainer, train
    from semask_d2.factory import create_model, from_pretrained, list_models
    from semask_d2.inference.exporting import export_model
    from semask_d2.inference.prediction import Prediction
    from semask_d2.inference.predictor import Predictor
    from semask_d2.modeling import postprocessing
    from semask_d2.modeling.meta_arch import build_model
    from semask_d2.utils.errors import UserError

__all__ = [
    "Prediction",
    "Predictor",
    "Trainer",
    "UserError",
    "__version__",
    "add_semask_config",
    "build_model",
    "create_model",
    "export_model",
    "from_pretrained",
    "get_cfg",
    "list_models",
    "load_weights",
    "postprocessing",
    "read_image",
    "register_custom",
    "train",
]
MODULES = {  # that define the names above
    "semask_d2.checkpoint": ("load_weights",),
    "semask_d2.config": ("add_semask_config", "get_cfg"),
    "semask_d2.data": ("read_image", "register_custom"),
    "semask_d2.engine": ("Trainer", "train"),
    "semask_d2.factory": ("create_model", "from_pretrained", "list_models"),
    "semask_d2.inference.exporting": ("export_model",),
    "semask_d2.inference.prediction": ("Prediction",),
    "semask_d2.inference.predictor": ("Predictor",),
    "semask_d2.modeling": ("postprocessing",),
    "semask_d2.modeling.meta_arch": ("build_model",),
    "semask_d2.utils.errors": ("UserError",),
}
REGISTERING = ("semask_d2.data", "semask_d2.modeling.backbones", "semask_d2.modeling.heads")


def __getattr__(name: str) -> Any:
    """Import the library, which registers its components, and return one of its names."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    for module in REGISTERING:
        import_module(module)
    for module, names in MODULES.items():
        globals().update({each: import_name(module, each) for each in names})
    return globals()[name]


def import_name(module: str, name: str) -> Any:
    """Return `name` of a module, which may be a submodule."""
    home = import_module(module)
    return getattr(home, name) if hasattr(home, name) else import_module(f"{module}.{name}")


def __dir__() -> list[str]:
    return sorted(__all__)
