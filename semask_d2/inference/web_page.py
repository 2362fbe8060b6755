"""Page of `semask web`, which segments an uploaded image with a chosen run; it needs the optional gradio."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import lru_cache
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from semask_d2.inference.panels import Example, class_shares, panels_css, panels_html
from semask_d2.inference.predictor import Predictor
from semask_d2.inference.sources import choose_config
from semask_d2.inference.web_guard import MAX_UPLOAD, PageGuard
from semask_d2.utils.errors import UserError, printable
from semask_d2.utils.extras import install_command
from semask_d2.utils.memory import out_of_memory
from semask_d2.utils.pages import asset, render

if TYPE_CHECKING:
    from gradio import Blocks

HINT = '<p class="hint">Drop an image on the left, or click there to choose one.</p>'
OPACITY = 60  # percent, initially
SET_OPACITY = "(percent) => { document.documentElement.style.setProperty('--opacity', percent / 100); return []; }"


def import_gradio() -> Any:
    """Import gradio with its analytics off; raise `UserError` that names the extra if it is not installed."""
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
    try:
        import gradio
    except ImportError as error:
        raise UserError(f"the page needs gradio ({error}): {install_command('web')}") from error
    return gradio


def build_page(sources: Sequence[Path], opts: Sequence[str] = ()) -> Blocks:
    """Return the page for some models (`find_source`), with the first one selected; `opts` are settings for all.

    Raises `UserError` if gradio is not installed.
    """
    gradio = import_gradio()
    source_of_name = {printable(str(source)): source for source in sources}

    def segment(path: str | None, name: str) -> str:
        if path is None:
            return HINT
        try:
            return result_html(current_predictor(source_of_name[name], tuple(opts)), path)
        except Exception as error:
            if not isinstance(error, UserError) and not out_of_memory(error):
                raise
            message = str(error) if isinstance(error, UserError) else "out of memory; use a smaller image"
            raise gradio.Error(escape(printable(message)), print_exception=False) from error

    with gradio.Blocks(title="semask", analytics_enabled=False, delete_cache=(3600, 3600), fill_width=True) as page:
        gradio.HTML("<h1>Semantic segmentation</h1>")
        with gradio.Row():
            with gradio.Column(scale=1, min_width=280):
                run = gradio.Dropdown(
                    list(source_of_name), value=next(iter(source_of_name)), label="Run", elem_id="run"
                )
                image = gradio.Image(
                    type="filepath",
                    image_mode=None,
                    sources=["upload", "clipboard"],
                    label="Image",
                    elem_id="image",
                )
                image.preprocess = uploaded_path
                opacity = gradio.Slider(0, 100, OPACITY, step=1, label="Opacity of the colors, %", elem_id="opacity")
            with gradio.Column(scale=3):
                result = gradio.HTML(HINT, elem_id="result")
        for event in (image.change, run.change):
            event(segment, [image, run], result)
        opacity.change(None, [opacity], [], js=SET_OPACITY)
    return page


def uploaded_path(upload: Any) -> str | None:
    """Return the path of an uploaded file; gradio's own preprocessing would open it, and fail if it is damaged."""
    return None if upload is None else upload.path


def serve(page: Blocks, host: str, port: int) -> str:
    """Start the page's server in background threads and return its address; raise `UserError` if the port is taken."""
    gradio = import_gradio()
    from starlette.middleware import Middleware  # comes with gradio

    css = panels_css() + asset("inference/assets/web_page.css")
    local_fonts = {"font": ["system-ui", "sans-serif"], "font_mono": ["ui-monospace", "monospace"]}  # not Google's
    try:
        _, address, _ = page.launch(
            server_name=host,
            server_port=port,
            share=False,
            quiet=True,
            show_error=True,
            prevent_thread_lock=True,
            ssr_mode=False,
            footer_links=[],
            theme=gradio.themes.Default(**local_fonts),
            css=css,
            max_file_size=MAX_UPLOAD,
            app_kwargs={"middleware": [Middleware(PageGuard, host=host)]},
        )
    except OSError as error:
        raise UserError(f"--host {host} --port {port}: cannot serve a page there ({error}); choose another") from error
    return address


def current_predictor(source: Path, opts: tuple[str, ...] = (), *, option: str = "") -> Predictor:
    """Return the predictor of a model's current config and weights; errors as in `choose_config`.

    The two most recently used predictors stay loaded until their files change.
    """
    cfg = choose_config(None, str(source), opts, option=option)
    return _predictor(source, opts, cfg.dump(), cfg.MODEL.WEIGHTS, _version(Path(cfg.MODEL.WEIGHTS)))


@lru_cache(maxsize=2)
def _predictor(source: Path, opts: tuple[str, ...], *_: object) -> Predictor:
    return Predictor(choose_config(None, str(source), opts, option=""))


def _version(path: Path) -> tuple[int, int]:
    """Return values that change when a file is rewritten."""
    status = path.stat()
    return status.st_mtime_ns, status.st_ino


def result_html(predictor: Predictor, path: str | os.PathLike) -> str:
    """Return the result for an image file: its classes with their shares, and its panels."""
    image = predictor.read_image(path)
    prediction = predictor(image, priors=predictor.has_priors)
    classes = predictor.classes
    shares = class_shares(prediction.labels, classes)
    example = Example(Path(path).name, predictor.shown(image), prediction.labels, priors=prediction.priors)
    return render(
        "inference/assets/result.html",
        classes=[{"name": classes.names[i], "color": classes.colors[i], "share": share} for i, share in shares.items()],
        panels=panels_html(example, classes),
    )
