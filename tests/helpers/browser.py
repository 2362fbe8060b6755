"""A headless Chromium for tests of pages; tests are skipped if it is not installed."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

WINDOW = (1280, 1000)
PATIENCE = 60  # seconds


@contextmanager
def open_browser(*, script: bool = True) -> Iterator[Any]:
    """A selenium driver that records the URLs it requests; `script` False disables JavaScript."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    binary, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if binary is None or driver is None:
        pytest.skip("no chromium with its driver")
    options = webdriver.ChromeOptions()
    options.binary_location = binary
    size = f"--window-size={WINDOW[0]},{WINDOW[1]}"
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", size):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
    if not script:
        options.add_experimental_option("prefs", {"profile.managed_default_content_settings.javascript": 2})
    browser = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    try:
        yield browser
    finally:
        browser.quit()


def asked_addresses(browser: Any) -> set[str]:
    """Return the URLs that pages have requested since the last call, without embedded data."""
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    sent = [event["params"]["request"]["url"] for event in events if event["method"] == "Network.requestWillBeSent"]
    return {address for address in sent if not address.startswith(("data:", "blob:"))}


def wait_for(condition: Callable[[], Any]) -> Any:
    """Return the first true result of `condition`; raises `AssertionError` after PATIENCE seconds."""
    start = time.monotonic()
    while not (result := condition()):
        assert time.monotonic() - start < PATIENCE, "it does not come"
        time.sleep(0.1)
    return result
