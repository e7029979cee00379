"""report.html and samples.html in a real browser, opened from a file: they page, filter and search, and run nothing
else.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from lab import wait_for
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.select import Select
from synthetic_run import HOSTILE, make_run

from nbhelpers.runs.samples import SampleStore
from nbhelpers.show.comparison import compare_runs
from nbhelpers.show.report import write_report

pytestmark = pytest.mark.browser

CASES = json.loads((Path(__file__).parents[1] / "data" / "text_cases.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    run = make_run(tmp_path_factory.mktemp("runs") / "run", steps=12, prompts=8, problems=32, evaluation=32)
    write_report(run)
    return run


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    run = make_run(
        tmp_path_factory.mktemp("hostile") / "run", steps=2, prompts=12, problems=12, evaluation=8, hostile=True
    )
    write_report(run)
    return run


def visit(browser, path):
    browser.get_log("browser")  # what earlier pages said
    browser.get(path.as_uri())


def complaints(browser) -> list[str]:
    """What the console said, and whatever text of a sample was executed."""
    said = [entry["message"] for entry in browser.get_log("browser")]
    return said + browser.execute_script("return window.PWNED === undefined ? [] : ['a text ran as a script']")


def groups(browser) -> list[str]:
    return [" ".join(element.text.split()) for element in browser.find_elements(By.CSS_SELECTOR, ".group .head")]


def place(browser) -> str:
    return browser.find_element(By.ID, "place").text


def test_the_report_opens_from_a_file_with_its_pictures(browser, run):
    visit(browser, run / "report.html")
    assert "95 % interval" in browser.find_element(By.CSS_SELECTOR, ".lead").text
    broken = "return [...document.images].filter((image) => !image.complete || !image.naturalWidth).length"
    assert browser.execute_script("return document.images.length") > 8
    assert browser.execute_script(broken) == 0
    assert complaints(browser) == []
    browser.find_element(By.LINK_TEXT, "samples.html").click()
    wait_for(browser, "return document.querySelectorAll('.group').length === 5")


def test_the_report_follows_the_dark_theme(browser, run):
    def colours(scheme):
        browser.execute_cdp_cmd(
            "Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
        )
        visit(browser, run / "report.html")
        return browser.execute_script(
            "const style = (of) => getComputedStyle(document.querySelector(of));"
            "return [style('body').backgroundColor, style('.lead').color]"
        )

    light, dark = colours("light"), colours("dark")
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
    assert light == ["rgb(246, 247, 249)", "rgb(31, 35, 40)"]
    assert dark == ["rgb(18, 22, 26)", "rgb(230, 233, 237)"]


def test_samples_turn_pages_by_button_and_by_key(browser, run):
    visit(browser, run / "samples.html")
    assert place(browser) == "page 1 of 20 (96 groups)"
    first = groups(browser)
    browser.find_element(By.ID, "forward").click()
    assert place(browser).startswith("page 2 of 20") and groups(browser) != first
    browser.find_element(By.TAG_NAME, "body").send_keys(2 * Keys.ARROW_RIGHT, 3 * Keys.ARROW_LEFT)
    assert place(browser).startswith("page 1 of 20") and groups(browser) == first
    assert not browser.find_element(By.ID, "back").is_enabled()
    assert complaints(browser) == []


def test_every_filter_finds_what_the_store_finds(browser, run):
    visit(browser, run / "samples.html")
    store = SampleStore(run)
    show = Select(browser.find_element(By.ID, "show"))
    for option in [option.get_attribute("value") for option in show.options]:
        show.select_by_value(option)
        expected = len(store.groups(show=option))
        wanted = f"({expected} groups)" if expected else "no group matches"
        wait_for(browser, f"return document.getElementById('place').textContent.includes('{wanted}')")


def test_step_kind_and_search_narrow_down(browser, run):
    visit(browser, run / "samples.html")
    browser.find_element(By.ID, "step").send_keys(Keys.ARROW_RIGHT, Keys.ARROW_RIGHT)
    wait_for(browser, "return document.getElementById('place').textContent.includes('(8 groups)')")
    assert browser.find_element(By.ID, "step-name").text == "2"
    assert all(head.startswith("step 2 ") for head in groups(browser))
    Select(browser.find_element(By.ID, "kind")).select_by_value("area")
    wait_for(browser, "return document.getElementById('place').textContent.includes('(2 groups)')")
    browser.find_element(By.ID, "text").send_keys("no such words")
    wait_for(browser, "return document.getElementById('place').textContent === 'no group matches'")


def test_one_problem_is_followed_through_training(browser, run):
    visit(browser, run / "samples.html")
    browser.find_element(By.CSS_SELECTOR, ".group .link").click()
    assert [head.split(" kind")[0] for head in groups(browser)] == [
        f"step {step} problem count-0000" for step in (1, 5, 9)
    ]
    browser.find_element(By.ID, "all").click()
    assert place(browser) == "page 1 of 20 (96 groups)"


def test_hostile_texts_are_shown_and_do_nothing(browser, hostile):
    for page in ("report.html", "samples.html"):
        visit(browser, hostile / page)
        seen = ""
        while True:
            seen += browser.execute_script("return document.body.textContent")
            forward = browser.find_elements(By.ID, "forward")
            if not forward or not forward[0].is_enabled():
                break
            forward[0].click()
        wait_for(browser, "return document.readyState === 'complete'")
        assert complaints(browser) == []
        for name in ("script", "handler", "svg", "closers", "template", "math", "chinese"):
            if page == "samples.html":
                assert HOSTILE[name] in seen
        assert "\u202e" not in seen
    assert "U+202E" in seen and "U+D83D" in seen


@pytest.mark.parametrize("page", ["report.html", "samples.html"])
def test_a_picture_is_enlarged_by_a_click(browser, run, page):
    visit(browser, run / page)
    picture = browser.find_element(By.CSS_SELECTOR, ".problem img")
    before = picture.size["width"]
    picture.click()
    assert picture.size["width"] == 560 > before
    assert complaints(browser) == []


def test_a_long_text_opens_on_request(browser, hostile):
    visit(browser, hostile / "samples.html")
    browser.find_element(By.ID, "text").send_keys("no play. all work")
    wait_for(browser, "return document.querySelectorAll('.completion details.more').length > 0")
    more = browser.find_element(By.CSS_SELECTOR, ".completion details.more")
    assert "show all 100," in more.text
    height = browser.execute_script("return document.body.scrollHeight")
    more.find_element(By.TAG_NAME, "summary").click()
    wait_for(browser, "return document.querySelector('.completion details.more .text')?.textContent.length > 100000")
    assert browser.execute_script("return document.body.scrollHeight") < height + 900
    assert complaints(browser) == []


def test_a_page_that_someone_tampered_with_runs_nothing(browser, run, tmp_path):
    """The policy is the second wall: markup that got in all the same must not act."""
    page = (run / "samples.html").read_text()
    injected = '<img src="x" onerror="window.PWNED=1"><script>window.PWNED=1</script>'
    (tmp_path / "page.html").write_text(page.replace('<div id="page"></div>', f'<div id="page"></div>{injected}'))
    visit(browser, tmp_path / "page.html")
    assert place(browser) == "page 1 of 20 (96 groups)"
    assert browser.execute_script("return window.PWNED === undefined")
    assert any("Content Security Policy" in entry["message"] for entry in browser.get_log("browser"))


def test_the_comparison_opens_from_a_file(browser, run, tmp_path):
    other = make_run(tmp_path / "other", steps=12, prompts=2, problems=8, evaluation=32, gain=0.1, seed=1)
    visit(browser, compare_runs([run, other], tmp_path / "comparison.html").path)
    assert "other against run" in browser.find_element(By.CSS_SELECTOR, ".lead").text
    assert complaints(browser) == []


def test_a_copied_report_still_has_everything(browser, run, tmp_path):
    shutil.copy(run / "report.html", tmp_path / "alone.html")
    visit(browser, tmp_path / "alone.html")
    assert browser.execute_script("return [...document.images].every((image) => image.naturalWidth)")


def test_the_script_reads_texts_as_python_does(browser, run):
    """The cases of tests/test_viewer.py; ASCII, because a half surrogate does not travel to the browser otherwise."""
    visit(browser, run / "samples.html")
    marks = browser.execute_script("return data.delimiters")
    calls = {
        "visible": lambda text: f"element('p', '', visible({json.dumps(text)})).textContent",
        "clipped": lambda text, limit: f"element('p', '', clipped({json.dumps(text)}, {limit})).textContent",
        "number": lambda value: f"numberText({json.dumps(value)})",
        "segments": lambda text, own: f"(data.delimiters = {json.dumps(own or marks)}, segments({json.dumps(text)}))",
    }
    for name, cases in CASES.items():
        for *given, expected in cases:
            assert browser.execute_script(f"return {calls[name](*given)}") == expected, (name, given)
