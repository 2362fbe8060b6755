"""Templates: values are escaped, pieces are not escaped twice, and every template of the package can be read."""

from __future__ import annotations

import base64
import io
import re

import numpy as np
import pytest
from jinja2 import UndefinedError
from markupsafe import Markup
from PIL import Image

from semask_d2.utils.pages import PACKAGE, _environment, data_uri, render

TEMPLATES = sorted(path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.html"))
HOSTILE = "</ul><script>alert('1')</script>\" & {{ 7 * 7 }}"
ESCAPED = "&lt;/ul&gt;&lt;script&gt;alert(&#39;1&#39;)&lt;/script&gt;&#34; &amp; {{ 7 * 7 }}"


@pytest.mark.parametrize("name", TEMPLATES)
def test_templates_are_read_and_escape(name: str) -> None:
    template = _environment().get_template(name)
    assert template.environment.autoescape is True
    assert "| safe" not in (PACKAGE / name).read_text(encoding="utf-8")


def test_there_are_templates_in_each_folder_that_makes_pages() -> None:
    assert {name.split("/")[0] for name in TEMPLATES} == {"utils", "data", "inference", "report"}
    pattern = re.search(r'"(\S*/assets/\S*)"', (PACKAGE.parent / "setup.py").read_text(encoding="utf-8"))
    assert pattern
    assert {*PACKAGE.glob(pattern[1])} >= {PACKAGE / name for name in TEMPLATES}  # they are in the wheel


def test_names_of_strangers_are_escaped_once() -> None:
    chip = {"name": HOSTILE, "color": (1, 2, 3), "share": 0.5}
    html = render("inference/assets/result.html", classes=[chip], panels=Markup("<p>made before</p>"))
    assert f'style="background:rgb(1,2,3)"></span> {ESCAPED} 50.0 %</li>' in html
    assert "<p>made before</p>" in html
    assert "<script>" not in html
    problems = render("report/assets/gallery.html", groups=[(HOSTILE, [])], problems=[HOSTILE])
    assert problems.count(ESCAPED) == 2


def test_a_value_that_a_template_lacks_is_an_error() -> None:
    with pytest.raises(UndefinedError):
        render("report/assets/tiles.html", metrics=[])


def test_an_image_is_in_its_address() -> None:
    picture = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    kind, data = data_uri(picture, "PNG").split(",")
    assert kind == "data:image/png;base64"
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(base64.b64decode(data)))), picture)
