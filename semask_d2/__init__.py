"""SeMask: semantically masked transformers for semantic segmentation (arXiv 2112.12782), a Detectron2 project.

Importing it registers the backbones, heads and meta-architectures, and nothing else.
"""

from semask_d2 import backbones, heads, meta_arch  # registers
from semask_d2.config import add_semask_config, get_cfg
from semask_d2.d2 import build_model

__all__ = ["add_semask_config", "build_model", "get_cfg"]
