"""Learning curves as pixels and as SVG."""

from __future__ import annotations

from html.parser import HTMLParser

import numpy as np

from semask_d2.utils.curves import MAX_POINTS, curves_as_svg, draw_curves

RECORDS = {i: {"total_loss": 9.0 - i / 1000, "loss_ce_0": 1.0, "lr": 0.1} for i in range(5000)}


def test_curves_show_the_recorded_values() -> None:
    curves = draw_curves({1: {"total_loss": 2.0}, 2: {"total_loss": 1.0}})
    assert curves.shape == (400, 700, 3)
    assert np.ptp(curves) > 200  # not an empty panel


def test_svg_holds_the_plots_names_and_no_address_that_a_browser_would_ask() -> None:
    svg = curves_as_svg(RECORDS)
    assert svg == curves_as_svg(RECORDS)
    texts: list[str] = []
    reader = HTMLParser()
    reader.handle_data = texts.append
    reader.feed(svg)
    assert {"loss", "learning rate"} <= {text.strip() for text in texts}
    assert "mIoU, %" not in svg
    addresses = svg.count("http")
    assert addresses == svg.count('xmlns="http://www.w3.org') + svg.count('xmlns:xlink="http://www.w3.org')


def test_a_long_run_fills_no_page() -> None:
    records = {i: {"lr": float(np.sin(i))} for i in range(20 * MAX_POINTS)}
    assert len(curves_as_svg(records)) < 100_000
