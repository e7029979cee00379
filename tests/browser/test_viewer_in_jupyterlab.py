"""The viewer and the live view in a real JupyterLab."""

from __future__ import annotations

import pytest
from lab import wait_for
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.select import Select
from synthetic_run import HOSTILE, make_run

pytestmark = pytest.mark.browser

HEAD = (
    "return [...document.querySelectorAll('.nbh .group .head')]"
    ".map((head) => head.textContent.replace(/\\s+/g, ' ')).join()"
)


@pytest.fixture(scope="module")
def viewer_notebook(jupyter, browser):
    make_run(jupyter.root / "run", steps=6, prompts=8, problems=24, evaluation=8)
    jupyter.notebook("viewer.ipynb", "from nbhelpers.show import SampleViewer\nSampleViewer('run')")
    jupyter.open(browser, "viewer.ipynb")
    jupyter.run_all(browser)
    wait_for(browser, HEAD, 90)
    return browser


def head_becomes(browser, words, seconds=20):
    wait_for(browser, HEAD + f".includes({words!r})", seconds)


def slider(browser, name):
    label = f"//label[contains(@class, 'widget-label') and text()='{name}']"
    return browser.find_element(By.XPATH, f"{label}/following-sibling::*//*[contains(@class, 'noUi-handle')]")


def test_sliders_move_by_the_arrow_keys(viewer_notebook):
    head_becomes(viewer_notebook, "step 1 ")
    slider(viewer_notebook, "step").send_keys(Keys.ARROW_RIGHT, Keys.ARROW_RIGHT)
    head_becomes(viewer_notebook, "step 3 ")
    slider(viewer_notebook, "problem").send_keys(Keys.ARROW_RIGHT)
    head_becomes(viewer_notebook, "problem sum-0017")


def test_the_next_button_and_the_filter_move_on(viewer_notebook):
    viewer_notebook.find_element(By.XPATH, "//button[contains(., 'next')]").click()
    head_becomes(viewer_notebook, "problem bars-0018")
    show = Select(viewer_notebook.find_element(By.XPATH, "//label[text()='show']/following-sibling::select"))
    show.select_by_visible_text("zero variance: same reward for all")
    head_becomes(viewer_notebook, "zero variance: this group teaches nothing")
    show.select_by_visible_text("all groups")


def test_search_takes_enter(viewer_notebook):
    box = viewer_notebook.find_element(By.XPATH, "//label[text()='search']/following-sibling::input")
    box.send_keys("tallest bar", Keys.ENTER)
    head_becomes(viewer_notebook, "problem bars-")
    box.clear()
    box.send_keys(Keys.ENTER)
    head_becomes(viewer_notebook, "step 1 problem count-0000")


def test_a_picture_is_enlarged_by_a_click(viewer_notebook):
    picture = viewer_notebook.find_element(By.CSS_SELECTOR, ".nbh .problem img")
    before = picture.size["width"]
    picture.click()
    wait_for(viewer_notebook, f"return document.querySelector('.nbh .problem img').offsetWidth > {before + 200}")


def test_it_is_legible_in_both_themes(viewer_notebook, jupyter):
    measured = (
        "const card = document.querySelector('.nbh .completion'), text = card.querySelector('.segment .text');"
        "const light = (colour) => { const [r, g, b] = colour.match(/\\d+/g).map((v) => (v / 255) ** 2.2);"
        " return 0.2126 * r + 0.7152 * g + 0.0722 * b; };"
        "const pair = [light(getComputedStyle(text).color), light(getComputedStyle(card).backgroundColor)].sort();"
        "return (pair[1] + 0.05) / (pair[0] + 0.05)"
    )
    for theme in ("JupyterLab Dark", "JupyterLab Light"):
        jupyter.theme(viewer_notebook, theme)
        assert viewer_notebook.execute_script(measured) >= 4.5, theme


def test_hostile_samples_do_nothing_in_jupyterlab(jupyter, browser):
    make_run(jupyter.root / "hostile", steps=1, prompts=12, problems=12, evaluation=4, hostile=True)
    jupyter.notebook(
        "hostile.ipynb",
        "from nbhelpers.show import SampleViewer, show_samples\nshow_samples('hostile', n=12)",
        "from nbhelpers.show import changed_minds\nchanged_minds('hostile')",
        "SampleViewer('hostile')",
    )
    jupyter.open(browser, "hostile.ipynb")
    jupyter.run_all(browser)
    wait_for(browser, "return document.querySelectorAll('.widget-html .nbh .completion').length > 0", 90)
    for _ in range(len(HOSTILE)):
        browser.find_element(By.XPATH, "//button[contains(., 'next')]").click()
    head_becomes(browser, "of 4 right")
    seen = browser.execute_script("return document.body.textContent")
    assert browser.execute_script("return window.PWNED === undefined")
    for name in ("script", "handler", "svg", "closers", "math"):
        assert HOSTILE[name] in seen
    assert (
        browser.find_elements(By.CSS_SELECTOR, ".nbh script, .nbh textarea, .nbh svg[onload], .nbh img[onerror]") == []
    )


def test_training_is_watched_in_one_place(jupyter, browser):
    make_run(jupyter.root / "live", steps=6, prompts=4, problems=8, evaluation=4)
    jupyter.notebook(
        "live.ipynb",
        "import time\nfrom nbhelpers.runs import RunDirectory\nfrom nbhelpers.show import live_view\n"
        "run = RunDirectory('live')\n"
        "with live_view('live') as view:\n"
        "    for row in run.read_jsonl(run.metrics_path):\n"
        "        view.update({**row, 'max_steps': 6}); time.sleep(0.8)",
    )
    jupyter.open(browser, "live.ipynb")
    jupyter.run_all(browser)
    wait_for(browser, "return document.querySelector('.nbh .live')?.textContent.includes('Training: step')", 90)
    wait_for(
        browser, "return document.querySelector('.nbh .live')?.textContent.includes('Training done: step 6 of 6')", 60
    )
    assert len(browser.find_elements(By.CSS_SELECTOR, ".jp-OutputArea-output")) == 1
