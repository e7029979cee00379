"""The viewer and the live view in a real JupyterLab."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from lab import wait_for
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.select import Select
from synthetic_run import HOSTILE, make_run

pytestmark = pytest.mark.browser

HEAD = (
    "return [...document.querySelectorAll('.nbh .group .head')]"
    ".map((head) => head.innerText.replace(/\\s+/g, ' ')).join()"
)
PLACE = "return document.querySelector('.nbh.reader .place')?.textContent ?? ''"


@pytest.fixture(scope="module")
def viewer_notebook(jupyter, browser):
    make_run(jupyter.root / "run", steps=6, prompts=8, problems=24, evaluation=8)
    jupyter.notebook("viewer.ipynb", "from nbhelpers.show import SampleViewer\nSampleViewer('run')")
    jupyter.open(browser, "viewer.ipynb")
    jupyter.run_all(browser)
    wait_for(browser, HEAD, 90)
    return browser


def head_becomes(browser, words, seconds=60):
    wait_for(browser, HEAD + f".includes({words!r})", seconds)
    return browser.execute_script(HEAD)


def control(browser, label):
    inside = f"starts-with(normalize-space(.), '{label}')"
    return browser.find_element(By.XPATH, f"//label[{inside}]//*[self::select or self::input]")


def press(browser, *keys):
    browser.execute_script("document.querySelector('.nbh.reader').focus()")
    for key in keys:
        browser.switch_to.active_element.send_keys(key)


def test_the_keys_of_the_page_work_in_jupyterlab_too(viewer_notebook):
    """Outside of the viewer j and k would move through the notebook's cells, and m turn one into Markdown."""
    head_becomes(viewer_notebook, "step 1 problem count-0000")
    press(viewer_notebook, "j", "j")
    head_becomes(viewer_notebook, "problem bars-0002")
    press(viewer_notebook, "k")
    assert "problem sum-0001" in head_becomes(viewer_notebook, "problem sum-0001")
    press(viewer_notebook, Keys.ARROW_RIGHT)
    head_becomes(viewer_notebook, "problem bars-0002")
    assert viewer_notebook.find_element(By.CSS_SELECTOR, ".reader .keys").is_displayed()
    press(viewer_notebook, "?")
    wait_for(viewer_notebook, "return document.querySelector('.reader .keys').hidden")
    press(viewer_notebook, "?")
    wait_for(viewer_notebook, "return !document.querySelector('.reader .keys').hidden")
    assert len(viewer_notebook.find_elements(By.CSS_SELECTOR, ".jp-CodeCell")) == 1
    assert not viewer_notebook.find_elements(By.CSS_SELECTOR, ".jp-MarkdownCell")


def test_step_filter_and_search_move_on(viewer_notebook):
    control(viewer_notebook, "step").send_keys(Keys.ARROW_RIGHT, Keys.ARROW_RIGHT, Keys.ARROW_RIGHT)
    assert "step 3 " in head_becomes(viewer_notebook, "step 3 ")
    assert viewer_notebook.execute_script(PLACE) == "group 1 of 8"
    Select(control(viewer_notebook, "show")).select_by_visible_text("zero variance: same reward for all")
    assert "step 3 " in head_becomes(viewer_notebook, "zero variance: this group teaches nothing")
    Select(control(viewer_notebook, "show")).select_by_value("all")
    control(viewer_notebook, "search").send_keys("tallest bar", Keys.ENTER)
    wait_for(viewer_notebook, "return document.querySelectorAll('.reader mark.hit').length")
    head_becomes(viewer_notebook, "step 3 problem bars-")
    hits = [hit.text for hit in viewer_notebook.find_elements(By.CSS_SELECTOR, ".reader mark.hit")]
    assert hits == ["tallest bar"]
    control(viewer_notebook, "search").clear()
    control(viewer_notebook, "search").send_keys(Keys.ENTER)
    control(viewer_notebook, "step").send_keys(Keys.HOME)
    wait_for(viewer_notebook, PLACE + ".endsWith('of 48')")


def test_pairs_and_probes_are_in_the_viewer(viewer_notebook):
    look = Select(control(viewer_notebook, "look at"))
    look.select_by_value("probe")
    wait_for(viewer_notebook, PLACE + " === 'problem 1 of 4'")
    head_becomes(viewer_notebook, "problem probe-count-0000")
    said = viewer_notebook.find_element(By.CSS_SELECTOR, ".reader .group").text
    assert "before training" in said and "after 6 steps" in said
    look.select_by_value("evaluation")
    press(viewer_notebook, "d")  # drawn or not
    wait_for(viewer_notebook, "return document.querySelector('.reader .diff')?.textContent.length > 20")
    assert viewer_notebook.execute_script(PLACE) == "problem 1 of 8"
    press(viewer_notebook, Keys.ESCAPE)
    look.select_by_value("rollout")
    wait_for(viewer_notebook, PLACE + ".endsWith('of 48')")
    head_becomes(viewer_notebook, "step ")


def test_a_picture_is_enlarged_beside_the_completions(viewer_notebook):
    picture = viewer_notebook.find_element(By.CSS_SELECTOR, ".reader .picture")
    before = picture.size["width"]
    picture.click()
    wait_for(viewer_notebook, f"return document.querySelector('.reader .picture').offsetWidth > {1.4 * before}")
    completion = viewer_notebook.find_element(By.CSS_SELECTOR, ".reader .completion")
    assert picture.rect["x"] + picture.rect["width"] <= completion.rect["x"]
    press(viewer_notebook, Keys.ESCAPE)
    wait_for(viewer_notebook, f"return document.querySelector('.reader .picture').offsetWidth === {before}")
    assert picture.is_displayed()


def test_a_mark_and_its_note_lie_in_the_run_directory(viewer_notebook, jupyter):
    head_becomes(viewer_notebook, "step ")
    viewer_notebook.find_element(By.CSS_SELECTOR, ".reader .star").click()
    note = viewer_notebook.find_element(By.CSS_SELECTOR, ".reader .remark")
    assert note.is_displayed()
    note.send_keys("reads well", Keys.TAB)
    path, kept, end = jupyter.root / "run" / "marks.jsonl", [], time.monotonic() + 60
    while not (kept and kept[0]["note"]) and time.monotonic() < end:
        time.sleep(0.1)
        lines = path.read_text().splitlines(keepends=True) if path.is_file() else []
        kept = [json.loads(line) for line in lines if line.endswith("\n")]
    assert [mark["note"] for mark in kept] == ["reads well"] and kept[0]["key"].startswith("rollout/")


def test_it_is_legible_in_both_themes(viewer_notebook, jupyter):
    import axe_core_python

    script = (Path(axe_core_python.__path__[0]) / "axe.min.js").read_text(encoding="utf-8")
    viewer_notebook.execute_cdp_cmd("Runtime.evaluate", {"expression": script})
    for theme in ("JupyterLab Dark", "JupyterLab Light"):
        jupyter.theme(viewer_notebook, theme)
        found = viewer_notebook.execute_async_script(
            "axe.run('.nbh.reader', {resultTypes: ['violations']}).then((found) => arguments[0](found.violations"
            ".filter((one) => ['serious', 'critical'].includes(one.impact))"
            ".map((one) => `${one.id}: ${one.nodes[0].html} ` + one.nodes[0].any.map((it) => it.message).join('; '))))"
        )
        assert found == [], theme
        assert viewer_notebook.find_element(By.CSS_SELECTOR, ".reader .completion .verdict").is_displayed()


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
    wait_for(browser, "return document.querySelectorAll('.nbh.reader .completion').length > 0", 90)
    for place in range(2, len(HOSTILE) + 2):
        browser.find_element(By.CSS_SELECTOR, ".reader .forward").click()
        wait_for(browser, PLACE + f".startsWith('group {place} ')")
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
        "import pathlib, time\nfrom nbhelpers.runs import RunDirectory\nfrom nbhelpers.show import live_view\n"
        "run = RunDirectory('live')\n"
        "with live_view('live') as view:\n"
        "    for row in run.read_jsonl(run.metrics_path):\n"
        "        view.update({**row, 'max_steps': 6})\n"
        "        while not pathlib.Path('seen').exists(): time.sleep(0.1)",
    )
    jupyter.open(browser, "live.ipynb")
    jupyter.run_all(browser)
    wait_for(browser, "return document.querySelector('.nbh .live')?.textContent.includes('Training: step')", 90)
    (jupyter.root / "seen").touch()
    wait_for(
        browser, "return document.querySelector('.nbh .live')?.textContent.includes('Training done: step 6 of 6')", 60
    )
    assert len(browser.find_elements(By.CSS_SELECTOR, ".jp-OutputArea-output")) == 1
