"""HTML pages from Jinja2 templates, the `assets/*.html` in the package's folders.

Every value is escaped (autoescape), except the output of templates and values that are marked as `Markup`.
"""

from __future__ import annotations

import base64
import io
from functools import lru_cache
from pathlib import Path

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from PIL import Image

PACKAGE = Path(__file__).resolve().parents[1]


def render(template: str, **values: object) -> Markup:
    """Return the HTML of a template, named by its path in the package, such as "report/assets/page.html"."""
    return Markup(_environment().get_template(template).render(values))


def asset(name: str) -> Markup:
    """Return the text of a style sheet or script, named by its path in the package."""
    return Markup((PACKAGE / name).read_text(encoding="utf-8"))


def data_uri(image: np.ndarray, image_format: str, **options: object) -> str:
    """Return an RGB or RGBA image (H, W, C) as a data URI for `img`; `options` are Pillow's options of the format."""
    file = io.BytesIO()
    Image.fromarray(image).save(file, image_format, **options)
    return f"data:image/{image_format.lower()};base64,{base64.b64encode(file.getvalue()).decode('ascii')}"


@lru_cache(maxsize=1)
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(PACKAGE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals["asset"] = asset
    return environment
