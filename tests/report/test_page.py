"""Report page: complete, self-contained, and safe against markup in names."""

from __future__ import annotations

import base64
import io
import json
import re
import shutil
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from semask_d2.__main__ import main
from semask_d2.report import page, write_report
from semask_d2.utils.errors import UserError
from tests.helpers.evaluation_files import write_files

VOID = {"meta", "img", "input", "br", "path", "use"}
HOSTILE = ["</script><script>alert(1)</script>", '"><img src=x onerror=alert(2)>', "$name ${name} \u202e & 'a'"]


class Page(HTMLParser):
    """Elements of a page; parsing fails if an element is not closed properly."""

    def __init__(self, text: str):
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)

    def values(self, name: str) -> list[str]:
        """Return all values of an attribute."""
        return [attributes[name] or "" for _, attributes in self.elements if name in attributes]


@pytest.fixture(scope="module")
def report(evaluated_run: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("report") / "deep/er/report.html"
    assert main(["report", "--weights", str(evaluated_run), "--output", str(path), "--images", "2"]) == 0
    return path.read_text(encoding="utf-8")


def test_the_page_is_well_formed_and_its_links_lead_somewhere(report: str) -> None:
    parsed = Page(report)
    names = parsed.values("id")
    assert len(names) == len(set(names))
    links = [link.removeprefix("#") for link in parsed.values("href") if not link.startswith("#m") and link != "#"]
    assert set(links) <= set(names)
    assert {"summary", "curves", "d0", "d0-class-0", "d0-image-0"} <= set(names)
    levels = [int(tag[1]) for tag, _ in parsed.elements if re.fullmatch(r"h[1-6]", tag)]
    assert levels[0] == 1
    assert all(below <= above + 1 for above, below in pairwise(levels))


def test_the_page_needs_no_network(report: str) -> None:
    parsed = Page(report)
    assert {address[:5] for address in parsed.values("src")} == {"data:"}
    assert {address[0] for name in ("href", "xlink:href") for address in parsed.values(name)} == {"#"}
    assert {target[:5].partition("#")[0] for target in re.findall(r"url\(([^)]*)", report)} == {"data:", ""}
    assert not {"link", "iframe", "object", "base"} & {tag for tag, _ in parsed.elements}
    assert "@import" not in report
    outside = [x for x in re.findall(r"https?://[^\s\"'<]+", report) if not x.startswith("http://www.w3.org/")]
    assert outside == []
    assert any(rule.startswith("default-src 'none'") for rule in parsed.values("content"))


def test_each_image_has_its_panels_with_words_for_each(report: str, evaluated_run: Path) -> None:
    parsed = Page(report)
    images = json.loads((evaluated_run / "inference/toy_scenes_val/images.json").read_text())
    cards = report.count('<article id="d0-image-')
    assert 4 <= cards <= len(images)
    assert len(parsed.values("alt")) == 7 * cards  # truth, prediction, error, four maps
    assert all(text.strip() for text in parsed.values("alt"))
    assert report.count("data:image/jpeg") == cards
    worst = min(images, key=lambda x: x["mIoU"])
    assert parsed.text.index(Path(worst["file_name"]).name) == min(
        parsed.text.index(Path(x["file_name"]).name) for x in images if Path(x["file_name"]).name in parsed.text
    )
    layer = base64.b64decode(re.search(r'src="data:image/png;base64,([^"]+)"', report)[1])
    assert Image.open(io.BytesIO(layer)).mode == "RGBA"


def test_markup_in_names_stays_text(evaluated_run: Path, tmp_path: Path) -> None:
    run = tmp_path / "run <b>bold</b>"
    shutil.copytree(evaluated_run, run)
    folder = run / "inference/toy_scenes_val"
    source = json.loads((folder / "images.json").read_text())[0]
    shutil.rmtree(run / "inference")
    hostile_path = tmp_path / "</style><script>alert(3)<" / "script>.jpg"
    hostile_path.parent.mkdir(parents=True)
    shutil.copy(source["file_name"], hostile_path)
    classes = [{"name": name, "color": [1, 2, 3], "IoU": 10.0, "accuracy": 20.0, "pixels": 5} for name in HOSTILE]
    ious = dict.fromkeys(HOSTILE, 5.0)
    image = {
        "file_name": str(hostile_path),
        "sem_seg_file_name": None,
        "mIoU": 1.0,
        "pixel_accuracy": 2.0,
        "classes": ious,
    }
    confusion = np.full((3, 3), 4)
    write_files(run, "made_up", {HOSTILE[0]: 3.0}, classes, confusion, [image])
    text = write_report(run).read_text(encoding="utf-8")
    parsed = Page(text)
    assert [tag for tag, _ in parsed.elements].count("script") == 1
    assert "b" not in {tag for tag, _ in parsed.elements}
    assert not [name for _, attributes in parsed.elements for name in attributes if name.startswith("on")]
    assert {address[:5] for address in parsed.values("src")} == {"data:"}
    shown = "".join(parsed.text)
    assert all(name in shown for name in HOSTILE)
    assert "run <b>bold</b>" in shown


def test_an_image_that_is_gone_is_a_line_in_the_page(evaluated_run: Path, tmp_path: Path, caplog) -> None:
    run = tmp_path / "run"
    shutil.copytree(evaluated_run, run)
    path = run / "inference/toy_scenes_val/images.json"
    images = json.loads(path.read_text())
    images[0] |= {"file_name": "gone.jpg", "mIoU": -2.0}
    images[1] |= {"sem_seg_file_name": images[1]["file_name"], "mIoU": -1.0}
    path.write_text(json.dumps(images))
    text = write_report(run, images=1).read_text(encoding="utf-8")
    assert "gone.jpg does not exist" in text
    assert "The report leaves out gone.jpg" in caplog.text
    assert "<article" in text  # the best one
    text = write_report(run, images=2).read_text(encoding="utf-8")
    assert "but a label file holds one class id per pixel" in text


def test_without_weights_the_page_has_no_images_and_says_why(evaluated_run: Path, tmp_path: Path, caplog) -> None:
    run = tmp_path / "run"
    shutil.copytree(evaluated_run, run)
    (run / "model_best.pth").unlink()
    text = write_report(run).read_text(encoding="utf-8")
    assert "no checkpoint there" in text
    assert "No images: " in text
    assert "The report has no images" in caplog.text
    Page(text)


def test_when_the_time_is_up_the_rest_is_left_out(evaluated_run: Path, tmp_path: Path) -> None:
    text = write_report(evaluated_run, tmp_path / "report.html", images=2, seconds=-1).read_text(encoding="utf-8")
    assert re.search(r"[45] more images were left out to save time", text)
    assert "<article" not in text


def test_averaged_weights_have_a_separate_section(evaluated_run: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(evaluated_run, run)
    averaged = run / "inference/ema/toy_scenes_val"
    shutil.copytree(run / "inference/toy_scenes_val", averaged)
    content = json.loads((averaged / "metrics.json").read_text())
    (averaged / "metrics.json").write_text(json.dumps({**content, "averaged": True}))
    text = write_report(run, images=1).read_text(encoding="utf-8")
    Page(text)
    assert re.findall("<h2>([^<]*)", text)[2:] == ["toy_scenes_val", "toy_scenes_val, averaged weights"]
    assert '<article id="d0-' in text
    assert '<article id="d1-' not in text  # the loaded weights are not the averaged ones


def test_a_run_without_metrics_has_no_curves(evaluated_run: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(evaluated_run, run)
    (run / "metrics.json").unlink()
    assert "The run has no metrics.json." in write_report(run, images=0).read_text(encoding="utf-8")


def test_users_mistakes_are_one_line(evaluated_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(UserError, match=r"no config\.yaml there"):
        write_report(tmp_path)
    assert main(["report", "--weights", str(evaluated_run), "--images", "-1"]) == 1
    assert capsys.readouterr().err == "error: --images -1: expected 0 or more\n"
    assert main(["report", "--weights", str(tmp_path / "nowhere")]) == 1
    missing = f"error: --weights {tmp_path}/nowhere: no such file or run folder"
    assert capsys.readouterr().err.startswith(missing)


def test_the_evaluated_weights_are_used_if_they_exist(tmp_path: Path, monkeypatch) -> None:
    used: list = []
    monkeypatch.setattr(page.Predictor, "from_run", lambda run, weights, opts: used.append(weights))
    weights, final = tmp_path / "weights.pth", tmp_path / "model_final.pth"
    weights.touch()
    page._predictor(tmp_path, str(weights))
    page._predictor(tmp_path, "deleted.pth")
    page._predictor(tmp_path, "")
    final.touch()
    page._predictor(tmp_path, "")
    assert used == [str(weights), None, None, str(final)]
