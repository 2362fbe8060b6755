"""SeMask: semantically masked transformers for semantic segmentation (arXiv 2112.12782), a Detectron2 project.

Importing it registers its backbones, heads, meta-architectures and data sets, and does nothing else.
"""

from semask_d2 import data  # noqa: F401 - registers the data sets
from semask_d2.checkpoint import load_weights
from semask_d2.config import add_semask_config, get_cfg
from semask_d2.data import read_image, register_custom
from semask_d2.engine import Trainer, train
from semask_d2.factory import create_model, from_pretrained, list_models
from semask_d2.inference.exporting import export_model
from semask_d2.inference.prediction import Prediction
from semask_d2.inference.predictor import Predictor
from semask_d2.modeling import backbones, heads, postprocessing  # noqa: F401 - backbones and heads register themselves
from semask_d2.modeling.meta_arch import build_model
from semask_d2.utils.errors import UserError
from semask_d2.version import __version__

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
