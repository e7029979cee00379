"""A headless Chromium, skipped with a message where there is none, and a JupyterLab on this machine."""

from __future__ import annotations

import shutil

import pytest
from lab import Jupyter

FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--window-size=1280,1000",
)


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    """A Chromium, gone after its file's tests, that knows whether any page opened a dialog or wrote to the console."""
    binary = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    driver = shutil.which("chromedriver")
    if not binary or not driver:
        pytest.skip("no Chromium with chromedriver here (Debian: apt-get install chromium chromium-driver)")
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = binary
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('chromium')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    # A dialog that a page opened must fail the test that asks, not vanish.
    options.unhandled_prompt_behavior = "ignore"
    chromium = webdriver.Chrome(options=options, service=Service(driver))
    # Without a window manager no window has the focus, and JupyterLab's current widget is the one that has it.
    chromium.execute_cdp_cmd("Emulation.setFocusEmulationEnabled", {"enabled": True})
    yield chromium
    chromium.quit()


@pytest.fixture(scope="module")
def jupyter(tmp_path_factory):
    """A JupyterLab served on 127.0.0.1: `.root` is its folder, `.open(browser, name)` opens a notebook."""
    root = tmp_path_factory.mktemp("jupyter")
    with Jupyter(root) as server:
        yield server
