"""Report in a browser: opened from disk, with and without its script."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from semask_d2.report import write_report
from tests.helpers.browser import asked_addresses, open_browser

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def address(evaluated_run: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("report") / "report.html"
    return write_report(evaluated_run, path, images=1).as_uri()


@pytest.fixture(scope="module")
def browser(address: str):
    with open_browser() as driver:
        driver.get(address)
        yield driver


def find(browser, selector: str) -> list:
    return browser.find_elements("css selector", selector)


def test_it_opens_from_disk_and_asks_for_nothing_else(browser, address: str) -> None:
    assert asked_addresses(browser) == {address}
    assert browser.get_log("browser") == []
    sizes = browser.execute_script("return [...document.images].map((image) => image.naturalWidth)")
    assert sizes
    assert min(sizes) > 0


def test_the_table_of_classes_sorts_by_click(browser) -> None:
    def column(number: int) -> list[str]:
        script = "return [...document.querySelectorAll('.classes tbody tr')].map((row) => row.cells[arguments[0]]"
        return browser.execute_script(script + ".dataset.value)", number)

    before = column(1)
    button = find(browser, ".classes th button")[1]
    for direction, name in ((1, "ascending"), (-1, "descending")):
        browser.execute_script("arguments[0].click()", button)
        values = [float(value) for value in column(1) if value]
        assert values == sorted(map(float, filter(None, before)), key=lambda value: direction * value)
        assert find(browser, ".classes th")[1].get_attribute("aria-sort") == name
        assert column(1)[len(values) :] == [""] * (len(before) - len(values))  # classes without a value come last
    browser.execute_script("arguments[0].click()", find(browser, ".classes th button")[0])
    assert column(0) == sorted(column(0))
    assert find(browser, ".classes th")[1].get_attribute("aria-sort") is None


def test_the_slider_sets_the_opacity_of_the_colors_and_not_of_errors(browser) -> None:
    slider = find(browser, "#opacity")[0]
    assert slider.is_displayed()
    script = "arguments[0].value = 25; arguments[0].dispatchEvent(new Event('input'))"
    browser.execute_script(script, slider)
    script = "return getComputedStyle(arguments[0]).opacity"
    frames = (".frame:not(.error) img", ".frame.error img")
    shown = [browser.execute_script(script, find(browser, frame)[0]) for frame in frames]
    assert shown == ["0.25", "0.85"]
    assert find(browser, "output")[0].text == "25 %"


def test_panels_grow_by_key_and_by_click(browser) -> None:
    panel = find(browser, ".panel")[1]
    width = panel.size["width"]
    browser.execute_script("arguments[0].focus()", panel)
    panel.send_keys("\n")
    assert panel.size["width"] > 2 * width
    browser.execute_script("arguments[0].click()", panel)
    assert panel.size["width"] == width


def test_a_cell_of_the_matrix_is_read_out(browser) -> None:
    cell = find(browser, ".confusion tbody td")[1]
    browser.execute_script("arguments[0].dispatchEvent(new MouseEvent('mouseover', {bubbles: true}))", cell)
    assert re.fullmatch(r".* predicted as .*: [\d.]+ %, [\d,]+ pixels", find(browser, ".readout")[0].text)


def test_a_narrow_window_scrolls_tables_and_not_the_page(browser) -> None:
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride", {"width": 420, "height": 800, "deviceScaleFactor": 1, "mobile": False}
    )
    assert browser.execute_script("return document.documentElement.scrollWidth") <= 420
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_without_scripts_all_but_the_slider_is_there(address: str) -> None:
    with open_browser(script=False) as browser:
        browser.get(address)
        assert not find(browser, "#opacity")[0].is_displayed()
        assert find(browser, ".classes th button") == []
        assert find(browser, ".classes tbody tr")[0].is_displayed()
        assert find(browser, ".frame img")[0].is_displayed()
