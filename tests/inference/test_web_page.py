"""Page of `semask web`: its parts, its messages, and the whole page in a browser."""

from __future__ import annotations

import shutil
import socket
import sys
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from semask_d2 import Predictor
from semask_d2.__main__ import main
from semask_d2.commands.web import choose_sources
from semask_d2.inference.web_guard import MAX_UPLOAD, POLICY
from semask_d2.inference.web_page import build_page, current_predictor, result_html, serve
from semask_d2.utils.errors import UserError
from tests.helpers.browser import asked_addresses, open_browser, wait_for


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture
def image_path(toy_root: Path) -> Path:
    return toy_root / "toy_scenes/images/validation/0000.jpg"


@pytest.fixture
def served(tiny_run: Path, tmp_path: Path) -> Iterator[tuple[str, list[Path]]]:
    pytest.importorskip("gradio", reason="gradio is not installed")
    other = tmp_path / "other"
    shutil.copytree(tiny_run, other)
    config = (other / "config.yaml").read_text()
    (other / "config.yaml").write_text(
        config.replace("MIN_SIZE_TEST: 64", "MIN_SIZE_TEST: 96")
    )  # so that its results differ
    runs = [tiny_run, other]
    page = build_page(runs)
    yield serve(page, "127.0.0.1", free_port()), runs
    page.close(verbose=False)


def test_the_result_names_the_classes_by_share_and_has_the_four_maps(tiny_run: Path, image_path: Path) -> None:
    predictor = Predictor.from_run(tiny_run)
    names = tuple(f"<b>{name}</b>" for name in predictor.classes.names)
    predictor.classes = replace(predictor.classes, names=names)
    html = result_html(predictor, image_path)
    labels = predictor(np.asarray(Image.open(image_path))).labels
    ids, counts = np.unique(labels, return_counts=True)
    largest = int(counts.argmax())
    name = names[ids[largest]].replace("<", "&lt;").replace(">", "&gt;")
    assert f"</span> {name} {100 * counts[largest] / labels.size:.1f} %</li>" in html
    assert html.count("<li>") == len(ids)
    assert html.count("semantic map, stride") == 2 * 4  # in the caption and in the alternative text
    assert "<b>" not in html


def test_without_gradio_the_extra_is_named(tiny_run: Path, monkeypatch, capsys: pytest.CaptureFixture) -> None:
    monkeypatch.setitem(sys.modules, "gradio", None)
    assert main(["web", "--weights", str(tiny_run)]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: the page needs gradio (")
    assert error.endswith("): pip install gradio\n")


def test_mistakes_are_one_line(tmp_path: Path, monkeypatch, capsys: pytest.CaptureFixture) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["web"]) == 1
    assert f"no trained run under {tmp_path}/output: name one with --weights DIR" in capsys.readouterr().err
    assert main(["web", "--weights", "nowhere"]) == 1
    assert "error: --weights nowhere: no such file or run folder" in capsys.readouterr().err
    assert main(["web", "--port", "99999"]) == 1
    assert "--port 99999: expected a number from 1 to 65535" in capsys.readouterr().err


def test_the_run_that_is_named_comes_first_and_the_others_after_it(tiny_run: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a", "b"):
        shutil.copytree(tiny_run, tmp_path / "output" / name)
    assert choose_sources("output/a") == [Path("output/a"), Path("output/b")]
    assert set(choose_sources(None)) == {Path("output/a"), Path("output/b")}
    assert choose_sources(str(tiny_run))[0] == tiny_run


def test_rewritten_weights_are_reloaded(tiny_run: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(tiny_run, run)
    first = current_predictor(run)
    assert current_predictor(run) is first
    state = torch.load(run / "model_best.pth")
    torch.save({"model": {name: value + 1 for name, value in state["model"].items()}}, run / "newer.pth")
    (run / "newer.pth").replace(run / "model_best.pth")  # as training writes it
    second = current_predictor(run)
    assert second is not first
    before, after = (next(iter(x.model.parameters())) for x in (first, second))
    assert not torch.equal(before, after)
    (run / "model_best.pth").replace(run / "model_final.pth")  # now the best checkpoint has another name
    assert current_predictor(run).cfg.MODEL.WEIGHTS.endswith("model_final.pth")
    (run / "model_final.pth").unlink()
    with pytest.raises(UserError, match="no checkpoint there"):
        current_predictor(run)


@pytest.mark.slow
def test_other_pages_large_uploads_and_damaged_images_are_refused(
    served: tuple[str, list[Path]], tmp_path: Path, image_path: Path, capfd: pytest.CaptureFixture
) -> None:
    import gradio_client  # comes with gradio
    import httpx

    address, runs = served
    form = {"files": ("x.jpg", b"\xff" * 1000)}
    upload = f"{address}gradio_api/upload"
    assert httpx.get(address, headers={"Host": "rebound.example"}).status_code == 403
    assert httpx.post(upload, files=form, headers={"Origin": "http://other.example"}).status_code == 403
    assert httpx.post(upload, files={"files": ("x.jpg", bytes(MAX_UPLOAD + 2**17))}).status_code == 413
    assert httpx.post(upload, files=form).status_code == 200
    client = gradio_client.Client(address, verbose=False)
    (tmp_path / "broken.jpg").write_bytes(image_path.read_bytes()[:2000])
    (tmp_path / "text.png").write_text("not an image")
    for file in ("broken.jpg", "text.png"):
        with pytest.raises(gradio_client.exceptions.AppError, match=rf"{file} cannot be read as an image \(.*\): .*"):
            client.predict(gradio_client.handle_file(tmp_path / file), str(runs[0]), api_name="/segment")
    assert "chips" in client.predict(gradio_client.handle_file(image_path), str(runs[0]), api_name="/segment")
    out, err = capfd.readouterr()
    assert "Traceback" not in out + err


@pytest.mark.slow
def test_the_server_is_local_and_its_page_loads_nothing_else(served: tuple[str, list[Path]]) -> None:
    address, _ = served
    assert address.startswith("http://127.0.0.1:")
    with urllib.request.urlopen(address) as answer:
        assert answer.headers["Content-Security-Policy"].encode() == POLICY
    page = build_page(served[1])
    port = int(address.rstrip("/").rsplit(":", 1)[1])
    with pytest.raises(UserError, match=rf"--port {port}: cannot serve a page there .*; choose another"):
        serve(page, "127.0.0.1", port)


@pytest.mark.slow
def test_a_dropped_image_is_segmented_in_a_browser(
    served: tuple[str, list[Path]], image_path: Path, tmp_path: Path
) -> None:
    address, runs = served
    with open_browser() as browser:

        def find(selector: str) -> list[Any]:
            return browser.find_elements("css selector", selector)

        browser.get(address)
        upload = wait_for(lambda: find("#image input[type=file]"))[0]
        assert "Drop an image" in find("#result")[0].text
        upload.send_keys(str(image_path))
        wait_for(lambda: len(find("#result .panel")) == 6)
        captions = [element.text for element in find("#result figcaption")]
        assert captions == ["image", "prediction", *(f"semantic map, stride {stride}" for stride in (4, 8, 16, 32))]
        assert "%" in find("#result .chips li")[0].text
        script = "arguments[0].value = 90; arguments[0].dispatchEvent(new Event('input', {bubbles: true}))"
        browser.execute_script(script, find("#opacity input[type=range]")[0])
        opacity = "return getComputedStyle(document.querySelector('#result .frame img')).opacity"
        wait_for(lambda: browser.execute_script(opacity) == "0.9")

        find("#run input")[0].click()

        def choices() -> dict[str, Any]:  # by text, which is empty until the list is visible
            return {element.text.removeprefix("✓").strip(): element for element in find("[role=option]")}

        wait_for(lambda: set(choices()) == {str(run) for run in runs})
        old = find("#result")[0].get_attribute("innerHTML")
        choices()[str(runs[1])].click()
        wait_for(lambda: find("#result .panels") and find("#result")[0].get_attribute("innerHTML") != old)

        (tmp_path / "broken.jpg").write_bytes(image_path.read_bytes()[:2000])
        find("#image button[aria-label*=Clear], #image button[aria-label*=Remove]")[0].click()
        wait_for(lambda: "Drop an image" in find("#result")[0].text)
        wait_for(lambda: find("#image input[type=file]"))[0].send_keys(str(tmp_path / "broken.jpg"))
        wait_for(lambda: "cannot be read as an image" in find("body")[0].text)
        assert all(url.startswith(address) for url in asked_addresses(browser))
