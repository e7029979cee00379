"""Takes the screenshots in notebooks/figures/ from a real smoke run in JupyterLab: a few minutes.

    python tests/browser/take_screenshots.py [--folder WORK]

Notebook 03 is opened, Restart & Run All is pressed, training is caught half-way, then the coloured words and the
viewer's filter are shown; notebook 04 evaluates and writes report.html and samples.html, which are opened from files.
"""

from __future__ import annotations

import argparse
import io
import shutil
import sys
import tempfile
import time
from pathlib import Path

from lab import Jupyter, wait_for
from PIL import Image
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.support.select import Select

REPOSITORY = Path(__file__).resolve().parents[2]
FIGURES = REPOSITORY / "notebooks" / "figures"
MINUTES = 60


def chromium(folder: Path):
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or shutil.which("google-chrome")
    for flag in (
        "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
        "--disable-background-networking", "--disable-component-update",
        "--disable-sync", "--hide-scrollbars", "--window-size=1180,960",
        f"--user-data-dir={folder / 'chromium'}",
    ):  # fmt: skip
        options.add_argument(flag)
    return webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))


def save(png: bytes, name: str) -> None:
    """128 colours: text and drawings look the same at a third of the bytes."""
    FIGURES.mkdir(exist_ok=True)
    image = Image.open(io.BytesIO(png)).convert("RGB").quantize(128, dither=Image.Dither.NONE)
    image.save(FIGURES / name, optimize=True)
    print(f"{name}: {image.size[0]} x {image.size[1]}, {(FIGURES / name).stat().st_size / 1000:.0f} kB", flush=True)


def show(browser, selector: str) -> None:
    browser.execute_script(
        "const at = document.querySelector(arguments[0]); at.style.scrollMarginTop = '12px';"
        "at.scrollIntoView({block: 'start'})",
        selector,
    )
    time.sleep(1)


def finished(browser, jupyter, minutes: float = MINUTES) -> None:
    """Waits until the notebook has run; a cell that failed ends it."""
    end = time.monotonic() + 60 * minutes
    while time.monotonic() < end:
        prompts = [prompt.text for prompt in browser.find_elements(By.CSS_SELECTOR, ".jp-CodeCell .jp-InputPrompt")]
        if browser.find_elements(By.CSS_SELECTOR, ".jp-RenderedText[data-mime-type='application/vnd.jupyter.error']"):
            raise SystemExit("a cell failed; look at the notebook in " + str(jupyter.root))
        if prompts and not any("*" in prompt or prompt == "[ ]:" for prompt in prompts):
            return
        time.sleep(1)
    raise SystemExit(f"not done after {minutes} minutes")


def take(folder: Path) -> None:
    run = folder / "outputs" / "smoke"
    for notebook in (REPOSITORY / "notebooks").glob("*.ipynb"):
        # The checkout's own outputs/smoke is somebody's run.
        text = notebook.read_text(encoding="utf-8").replace("output_dir: str = None ", f"output_dir: str = '{run}' ")
        (folder / notebook.name).write_text(text, encoding="utf-8")
    browser = chromium(folder)
    try:
        with Jupyter(folder) as jupyter:
            jupyter.open(browser, "03_grpo_training.ipynb")
            browser.execute_script("window.jupyterapp.commands.execute('application:toggle-left-area')")
            jupyter.restart_and_run_all(browser)
            headline = "document.querySelector('.nbh .live .top b')?.textContent"
            wait_for(browser, f"return Number({headline}.match(/step (\\d+)/)?.[1] ?? 0) >= 12", 60 * MINUTES)
            show(browser, ".nbh .live")
            save(browser.get_screenshot_as_png(), "live_view.png")
            finished(browser, jupyter)
            show(browser, ".nbh .words")
            save(browser.get_screenshot_as_png(), "words.png")
            use_the_viewer(browser)
            jupyter.open(browser, "04_evaluation.ipynb")
            jupyter.restart_and_run_all(browser)
            finished(browser, jupyter)
        scheme(browser, "dark")
        browser.get((run / "report.html").as_uri())
        wait_for(browser, "return document.readyState === 'complete'")
        save(browser.get_screenshot_as_png(), "report_dark.png")
        browser.get((run / "samples.html").as_uri() + "#role=probe")
        wait_for(browser, "return document.querySelectorAll('.group').length > 0")
        save(browser.get_screenshot_as_png(), "probes_dark.png")
        scheme(browser, "light")
        browser.get("about:blank")  # another address in the same page would be no new page
        browser.get((run / "samples.html").as_uri() + "#role=evaluation&show=fixed")
        wait_for(browser, "return document.querySelectorAll('.group').length > 0")
        browser.find_element(By.TAG_NAME, "body").send_keys("d")
        time.sleep(1)
        save(browser.get_screenshot_as_png(), "pairs.png")
    finally:
        browser.quit()


def scheme(browser, name: str) -> None:
    features = [{"name": "prefers-color-scheme", "value": name}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})


def use_the_viewer(browser) -> None:
    inside = "//label[starts-with(normalize-space(.), 'show')]//select"
    Select(browser.find_element(By.XPATH, inside)).select_by_visible_text("right and wrong together")
    time.sleep(2)
    show(browser, ".nbh.reader")
    save(browser.get_screenshot_as_png(), "sample_viewer.png")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="where to run; kept afterwards (default: a temporary folder)")
    chosen = parser.parse_args().folder
    if chosen is not None:
        chosen.mkdir(parents=True, exist_ok=True)
        take(chosen)
    else:
        with tempfile.TemporaryDirectory() as temporary:
            take(Path(temporary))
    sys.exit(0)
