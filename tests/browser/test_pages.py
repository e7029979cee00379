"""report.html and samples.html in a real browser, opened from a file: they page, filter and search, and run nothing
else.
"""

from __future__ import annotations

import csv
import io
import json
import shutil
from itertools import zip_longest
from pathlib import Path

import pytest
from lab import wait_for
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.select import Select
from synthetic_run import HOSTILE, make_run

from nbhelpers.grading import ERRORS, error_kind
from nbhelpers.runs.directory import RunDirectory
from nbhelpers.runs.samples import ORDERS, ROLES, SampleStore
from nbhelpers.show.comparison import compare_runs
from nbhelpers.show.packing import FIELDS, Packer, problem_of
from nbhelpers.show.report import write_report
from nbhelpers.show.samples import sort_changes
from nbhelpers.show.typeset import markup, typeset

pytestmark = pytest.mark.browser

CASES = json.loads((Path(__file__).parents[1] / "data" / "text_cases.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    run = make_run(tmp_path_factory.mktemp("runs") / "run", steps=12, prompts=8, problems=32, evaluation=32)
    RunDirectory(run).write_json(
        run / "final_model/processor_config.json", {"image_processor": {"size": {"height": 160}}}
    )
    write_report(run)
    return run


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    run = make_run(
        tmp_path_factory.mktemp("hostile") / "run", steps=2, prompts=12, problems=12, evaluation=8, hostile=True
    )
    write_report(run)
    return run


LONG = (
    "<REASONING>**Step 1:** Read the figure. " + "The angle $x$ is opposite, so $\\frac{180 - 90}{2} = 45$. " * 28
    + "\n- first\n- second</REASONING><SOLUTION>$\\frac{1}{2}$</SOLUTION>"
)  # fmt: skip


@pytest.fixture(scope="module")
def long(tmp_path_factory):
    run = make_run(tmp_path_factory.mktemp("long") / "run", steps=1, prompts=4, problems=4, evaluation=4)
    rows = [row | {"completion": LONG} for row in RunDirectory(run).read_jsonl(run / "samples.jsonl")]
    RunDirectory(run).write_jsonl(run / "samples.jsonl", rows)
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
    return browser.find_element(By.CSS_SELECTOR, ".place").text


def ready(browser, path, address="", count=1):
    visit(browser, path / "samples.html")
    if address:
        browser.get((path / "samples.html").as_uri() + address)
        browser.refresh()
    wait_for(browser, f"return document.querySelectorAll('.group').length >= {count}")


def control(browser, label):
    xpath = f"//label[starts-with(normalize-space(.), '{label}')]//*[self::select or self::input]"
    return browser.find_element(By.XPATH, xpath)


def choose(browser, label, value):
    Select(control(browser, label)).select_by_value(value)


def becomes(browser, words):
    wait_for(browser, f"return document.querySelector('.place').textContent.includes({words!r})")


def press(browser, *keys):
    for key in keys:
        browser.find_element(By.TAG_NAME, "body").send_keys(key)


def theme(browser, scheme):
    features = [{"name": "prefers-color-scheme", "value": scheme}] if scheme else []
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})


def findings(browser) -> list[str]:
    """What axe-core finds to be serious or critical for people who read with the keyboard or by ear."""
    import axe_core_python

    script = (Path(axe_core_python.__path__[0]) / "axe.min.js").read_text(encoding="utf-8")
    browser.execute_cdp_cmd("Runtime.evaluate", {"expression": script})
    found = browser.execute_async_script(
        "axe.run(document, {resultTypes: ['violations']}).then((found) => arguments[0](found.violations"
        ".filter((one) => ['serious', 'critical'].includes(one.impact))"
        ".map((one) => `${one.id}: ${one.nodes.length} x ${one.nodes[0].html.slice(0, 200)} `"
        " + one.nodes[0].any.map((check) => check.message).join('; '))))"
    )
    return found


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
    ready(browser, run)
    assert place(browser) == "page 1 of 20 (96 groups)"
    first = groups(browser)
    browser.find_element(By.CSS_SELECTOR, ".forward").click()
    becomes(browser, "page 2 of 20")
    assert groups(browser) != first
    press(browser, Keys.ARROW_RIGHT, Keys.ARROW_LEFT, Keys.ARROW_LEFT, Keys.ARROW_LEFT)
    becomes(browser, "page 1 of 20")
    assert groups(browser) == first
    assert not browser.find_element(By.CSS_SELECTOR, ".back").is_enabled()
    press(browser, *"jjjjj")
    becomes(browser, "page 2 of 20")
    assert "j, k" in browser.find_element(By.CSS_SELECTOR, ".keys").text
    assert complaints(browser) == []


def test_every_filter_and_order_finds_what_the_store_finds(browser, run):
    """`findGroups` of page_source.js and `SampleStore.groups` on the same run."""
    ready(browser, run)
    count = 0
    for role in ROLES:
        store = SampleStore(run, role)
        asked = [{"show": show, "order": order} for show in store.filters for order in ORDERS]
        asked += [{"error": error} for error in ERRORS] + [{"kind": kind} for kind in store.kinds]
        asked += [{"text": text} for text in ("TALLEST bar", "count-0000", "is the answer", "no such", "\u00df")]
        asked += [{"pid": store.group(3).pid}, {"step": 3}]
        for one in asked:
            state = {"role": role, "kind": "", "error": "", "text": "", "pid": "", "marked": "", "show": "all"}
            state |= {"step": "", "order": "sampled"} | one
            found = browser.execute_script("return findGroups(arguments[0])", state | {"step": str(state["step"])})
            if kind := one.pop("error", None):
                one["holds"] = lambda row, kind=kind: error_kind(row) == kind
            assert found == store.groups(**one), (role, state)
            count += len(found)
    assert count > 2000


def test_step_kind_and_search_narrow_down(browser, run):
    ready(browser, run)
    control(browser, "step").send_keys(Keys.ARROW_RIGHT, Keys.ARROW_RIGHT)
    becomes(browser, "(8 groups)")
    assert browser.find_element(By.CSS_SELECTOR, ".step-name").text == "2"
    assert all(head.startswith("step 2 ") for head in groups(browser))
    choose(browser, "kind", "area")
    becomes(browser, "(2 groups)")
    assert all(head.startswith("step 2 ") for head in groups(browser))
    control(browser, "search").send_keys("no such words")
    becomes(browser, "no group matches")


def test_one_problem_is_followed_through_training(browser, run):
    ready(browser, run)
    browser.find_element(By.CSS_SELECTOR, ".group .link:not(.diff-button)").click()
    becomes(browser, "(3 groups)")
    assert [head.split(" kind")[0] for head in groups(browser)] == [
        f"step {step} problem count-0000" for step in (1, 5, 9)
    ]
    browser.find_element(By.CSS_SELECTOR, ".all").click()
    becomes(browser, "(96 groups)")


def test_all_pairs_of_the_evaluation_can_be_read(browser, run):
    ready(browser, run)
    choose(browser, "look at", "evaluation")
    becomes(browser, "(32 problems)")
    rows = RunDirectory(run).read_jsonl(RunDirectory(run).predictions_path)
    fixed = sort_changes(rows)["fixed"]
    choose(browser, "show", "fixed")
    becomes(browser, f"({len(fixed)} problems)")
    said = [one.text for one in browser.find_elements(By.CSS_SELECTOR, ".group:first-child .verdict")]
    assert "wrong" in said[0] and "before training" in said[0] and "right" in said[1] and "after training" in said[1]
    kind = error_kind(fixed[0][0])
    choose(browser, "error", kind)
    becomes(browser, f"({sum(error_kind(one) == kind for one, _ in fixed)} problem")


def test_a_problem_s_formulas_and_a_table_are_set(browser, run):
    ready(browser, run)
    problem = {"pid": "p", "kind": "k", "question": "Find $x^2$ of <b>", "choices": ["$\\frac{1}{2}$", "none"]}
    packed = dict(zip(FIELDS["problem"], problem_of({**problem, "answer": "$3$"}), strict=True))
    said = browser.execute_script("""
        const card = problemCard(arguments[0], null, null);
        return [[...card.querySelectorAll("math")].length, card.textContent];
    """, packed)  # fmt: skip
    assert said[0] == 3 and "$" not in said[1] and "of <b>" in said[1] and "none" in said[1]
    rows = "const part = document.createElement('div'); part.append(built(arguments[0])); return part.innerHTML"
    table = browser.execute_script(rows, typeset("| a | b |\n|---|---|\n| <i>1 | 2 |"))
    assert table == "<table><tr><th>a</th><th>b</th></tr><tr><td>&lt;i&gt;1</td><td>2</td></tr></table>"


def test_a_probe_is_a_strip_through_training(browser, run):
    ready(browser, run, "#role=probe")
    assert place(browser) == "page 1 of 1 (4 problems)"
    said = [one.text for one in browser.find_elements(By.CSS_SELECTOR, ".group:first-child .verdict")]
    for words, moment in zip(said, ("before training", "after 6 steps", "after 12 steps"), strict=True):
        assert moment in words and "reward" in words
    assert "tokens" in browser.find_element(By.CSS_SELECTOR, ".group .chips").text


def test_hits_are_highlighted_and_walked_through_across_pages(browser, run):
    ready(browser, run)
    press(browser, "/")
    browser.switch_to.active_element.send_keys("IS THE Answer", Keys.ENTER)
    wait_for(browser, "return document.querySelectorAll('mark.hit').length > 3")
    hits = [hit.text for hit in browser.find_elements(By.CSS_SELECTOR, "mark.hit") if hit.text]
    assert {hit.lower() for hit in hits} == {"is the answer"}
    assert "hits here" in browser.find_element(By.CSS_SELECTOR, ".hits").text
    for count in range(1, len(browser.find_elements(By.CSS_SELECTOR, "mark.hit")) + 1):
        press(browser, "n")
        wait_for(browser, f"return document.querySelector('.hits').textContent.startsWith('hit {count} of')")
    press(browser, "n")
    becomes(browser, "page 2 of")
    assert len(browser.find_elements(By.CSS_SELECTOR, "mark.hit.now")) == 1
    press(browser, "p")
    becomes(browser, "page 1 of")


def test_the_address_holds_filters_and_group(browser, run):
    ready(browser, run)
    choose(browser, "show", "mixed")
    choose(browser, "kind", "bars")
    choose(browser, "sort by", "longest")
    wait_for(browser, "return location.hash.includes('order=longest')")
    before = browser.current_url
    press(browser, Keys.ESCAPE, "j")
    wait_for(browser, f"return location.href !== {before!r}")
    address, seen, at = browser.current_url, groups(browser), place(browser)
    current = browser.find_element(By.CSS_SELECTOR, ".group.current .head").text
    visit(browser, run / "report.html")
    browser.get(address)
    wait_for(browser, "return document.querySelector('.group.current')")
    assert (groups(browser), place(browser)) == (seen, at)
    assert browser.find_element(By.CSS_SELECTOR, ".group.current .head").text == current
    assert [Select(control(browser, name)).first_selected_option.get_attribute("value")
            for name in ("show", "kind", "sort by")] == ["mixed", "bars", "longest"]  # fmt: skip


def test_marks_and_notes_are_kept_and_exported(browser, run):
    ready(browser, run)
    browser.execute_script("localStorage.clear()")
    ready(browser, run)
    browser.find_elements(By.CSS_SELECTOR, ".star")[1].click()
    note = browser.find_elements(By.CSS_SELECTOR, ".remark")[1]
    note.send_keys('=HYPERLINK("x"), reads "well"', Keys.TAB)
    visit(browser, run / "report.html")
    ready(browser, run)
    assert [star.text for star in browser.find_elements(By.CSS_SELECTOR, ".star")[:3]] == [
        "\u2606 mark", "\u2605 marked", "\u2606 mark"
    ]  # fmt: skip
    control(browser, "marked").click()
    becomes(browser, "(1 group)")

    def exported(label):
        browser.find_element(By.CSS_SELECTOR, ".exports summary").click()
        browser.find_element(By.XPATH, f"//button[text()='{label}']").click()
        text = wait_for(browser, "return browser.exported")
        browser.execute_script("browser.exported = null")
        browser.find_element(By.CSS_SELECTOR, ".exports summary").click()
        return text

    (row,) = map(json.loads, exported("marks as JSONL").splitlines())
    stored = SampleStore(run).group(0).rows[1]
    assert (row["completion"], row["pid"], row["step"]) == (stored["completion"], stored["pid"], stored["step"])
    assert (row["note"], row["key"]) == ('=HYPERLINK("x"), reads "well"', "rollout/1-0/1")
    table = list(csv.DictReader(io.StringIO(exported("this selection as CSV"), newline="")))
    assert len(table) == 4 and [one["marked"] for one in table] == ["false", "true", "false", "false"]
    assert table[1]["note"].startswith("'=HYPERLINK") and table[1]["completion"] == stored["completion"]
    browser.execute_script("localStorage.clear()")


def test_a_key_that_comes_before_the_answer_is_not_lost(browser, run):
    """A kernel may take its time: here each question is answered when all keys have come."""
    ready(browser, run)
    said = browser.execute_async_script("""
        const done = arguments[0], source = new PageSource(), root = element("div"), asked = [];
        for (const name of ["find", "groups"]) {
          const quick = source[name].bind(source);
          source[name] = (...given) => new Promise((answer) => asked.push(() => answer(quick(...given))));
        }
        root.tabIndex = 0;
        document.body.append(root);
        const slow = new Browser(root, source, { perPage: 1 });
        const press = async (...keys) => {
          for (const key of keys) root.dispatchEvent(new KeyboardEvent("keydown", { key }));
          for (let turns = 0; turns < 20; turns++) {
            for (const answer of asked.splice(0)) answer();
            await new Promise((next) => setTimeout(next));
          }
          const inside = root.contains(document.activeElement);
          return [slow.place.textContent, root.querySelectorAll(".diff").length > 0, inside];
        };
        (async () => {
          const found = [await press("j", "j", "d"), await press("j"), await press("ArrowRight", "k", "j", "j", "d")];
          slow.change("show", "mixed");
          found.push(await press("j", "d"));
          root.remove();
          done([found, findGroups({ ...slow.state }).length]);
        })();
    """)  # fmt: skip
    (before, moved, on, mixed), number = said
    assert before[:2] == ["group 3 of 96", True]
    assert moved == ["group 4 of 96", False, True] and on == ["group 6 of 96", True, True]
    assert mixed[0].endswith(f" of {number}") and number < 96 and mixed[1:] == [True, True]


def test_two_completions_are_compared_word_by_word(browser, run):
    ready(browser, run, "#role=evaluation&show=fixed")
    press(browser, "d")
    wait_for(browser, "return document.querySelector('.diff ins') && document.querySelector('.diff del')")
    assert browser.find_element(By.CSS_SELECTOR, ".diff").is_displayed()
    press(browser, Keys.ESCAPE)
    wait_for(browser, "return !document.querySelector('.diff')")


def test_what_the_model_sees_is_its_own_square(browser, run):
    browser.get_log("browser")
    ready(browser, run)
    browser.find_element(By.XPATH, "//button[text()='what the model sees']").click()
    canvas = browser.find_element(By.CSS_SELECTOR, "canvas.seen")
    assert canvas.is_displayed() and canvas.get_attribute("width") == canvas.get_attribute("height") == "160"
    assert browser.execute_script(
        "const pen = arguments[0].getContext('2d');"
        "return new Set(pen.getImageData(0, 0, 160, 160).data).size > 2", canvas
    )  # fmt: skip
    assert complaints(browser) == []


def test_formulas_and_markdown_are_set_and_long_reasoning_folds(browser, long):
    ready(browser, long)
    assert browser.execute_script("return document.querySelectorAll('.completion math mfrac').length") > 0
    card = browser.find_element(By.CSS_SELECTOR, ".completion")
    shown = [box.rect["y"] for box in (card.find_element(By.CSS_SELECTOR, name) for name in (".verdict", ".solution"))]
    fold = card.find_element(By.CSS_SELECTOR, ".fold")
    assert shown[0] < shown[1] < fold.rect["y"]
    assert fold.get_attribute("open") is None and "1,6" in fold.find_element(By.CSS_SELECTOR, ".label").text
    lefts = {one.rect["x"] for one in browser.find_elements(By.CSS_SELECTOR, ".group:first-child .completion")}
    assert len(lefts) == 2
    fold.find_element(By.TAG_NAME, "summary").click()
    wait_for(browser, "return document.querySelector('.completion .fold').open")
    bottom = fold.rect["y"] + fold.rect["height"]
    browser.execute_script("window.scrollTo(0, arguments[0] - 500)", bottom)
    picture = browser.find_element(By.CSS_SELECTOR, ".group .picture")
    top = browser.execute_script("return arguments[0].getBoundingClientRect().top", picture)
    assert 0 <= top < 500  # still in sight
    assert complaints(browser) == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("page", ["samples.html", "report.html"])
def test_nothing_serious_is_found_by_axe(browser, run, page, scheme):
    theme(browser, scheme)
    try:
        visit(browser, run / page)
        wait_for(browser, "return document.querySelectorAll('.group').length")
        if page == "samples.html":
            press(browser, "d", "m")
            wait_for(browser, "return document.querySelector('.diff')")
        assert findings(browser) == []
    finally:
        theme(browser, None)


@pytest.mark.parametrize("page", ["samples.html", "report.html"])
def test_a_phone_shows_one_column_and_nothing_sticks_out(browser, run, page):
    metrics = {"width": 390, "height": 844, "deviceScaleFactor": 2, "mobile": True}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    try:
        visit(browser, run / page)
        wait_for(browser, "return document.querySelectorAll('.group .completion').length")
        assert browser.execute_script("return document.documentElement.scrollWidth") <= 390
        narrowest = "return Math.min(...[...document.querySelectorAll('.completion')].map((one) => one.offsetWidth))"
        assert browser.execute_script(narrowest) > 300
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_hostile_texts_are_shown_and_do_nothing(browser, hostile):
    for page in ("report.html", "samples.html"):
        visit(browser, hostile / page)
        wait_for(browser, "return document.querySelectorAll('.group').length")
        seen = ""
        while True:
            seen += browser.execute_script("return document.body.textContent")
            forward = browser.find_elements(By.CSS_SELECTOR, ".forward")
            if not forward or not forward[0].is_enabled():
                break
            now = place(browser)
            forward[0].click()
            wait_for(browser, f"return document.querySelector('.place').textContent !== {now!r}")
        wait_for(browser, "return document.readyState === 'complete'")
        assert complaints(browser) == []
        for name in ("script", "handler", "svg", "closers", "template", "math", "chinese"):
            if page == "samples.html":
                assert HOSTILE[name] in seen
        assert "\u202e" not in seen
    assert "U+202E" in seen and "U+D83D" in seen


@pytest.mark.parametrize("page", ["report.html", "samples.html"])
def test_a_picture_is_enlarged_beside_the_completions(browser, run, page):
    visit(browser, run / page)
    wait_for(browser, "return document.querySelectorAll('.group').length")
    picture = browser.find_element(By.CSS_SELECTOR, ".problem .picture")
    before = picture.size["width"]
    picture.click()
    assert picture.size["width"] > 1.6 * before
    completion = browser.find_element(By.CSS_SELECTOR, ".group .completion")
    assert picture.rect["x"] + picture.rect["width"] <= completion.rect["x"]  # beside, not over
    browser.switch_to.active_element.send_keys(Keys.ESCAPE)
    assert picture.size["width"] == before
    assert complaints(browser) == []


def test_a_long_text_opens_on_request(browser, hostile):
    ready(browser, hostile)
    control(browser, "search").send_keys("no play. all work")
    wait_for(browser, "return document.querySelectorAll('mark.hit').length > 0")
    fold = browser.find_element(By.CSS_SELECTOR, ".completion .fold:not([open])")
    assert "100,0" in fold.text
    height = browser.execute_script("return document.body.scrollHeight")
    fold.find_element(By.TAG_NAME, "summary").click()
    wait_for(browser, "return document.querySelector('.completion .fold[open] .long')?.textContent.length > 99000")
    assert browser.execute_script("return document.body.scrollHeight") < height + 1100
    assert complaints(browser) == []


def test_a_page_that_someone_tampered_with_runs_nothing(browser, run, tmp_path):
    """The policy is the second wall: markup that got in all the same must not act."""
    page = (run / "samples.html").read_text()
    injected = '<img src="x" onerror="window.PWNED=1"><script>window.PWNED=1</script>'
    (tmp_path / "page.html").write_text(page.replace('<div id="browser"></div>', f'<div id="browser"></div>{injected}'))
    visit(browser, tmp_path / "page.html")
    wait_for(browser, "return document.querySelectorAll('.group').length")
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
    """The cases of tests/test_viewer.py; ASCII, because a half surrogate does not travel to the browser otherwise.

    A completion is taken apart by Python alone.
    """
    ready(browser, run)
    calls = {
        "visible": lambda text: f"element('p', '', visible({json.dumps(text)})).textContent",
        "clipped": lambda text, limit: f"element('p', '', clipped({json.dumps(text)}, {limit})).textContent",
        "number": lambda value: f"numberText({json.dumps(value)})",
        "word diff": lambda before, after: f"wordDiff({json.dumps(before)}, {json.dumps(after)})",
    }
    assert calls.keys() == CASES.keys() - {"segments", "reading order"}
    for name, call in calls.items():
        for *given, expected in CASES[name]:
            assert browser.execute_script(f"return {call(*given)}") == expected, (name, given)


def test_a_piece_of_a_completion_is_cut_where_python_cut_it(browser, run):
    """Python counts characters, JavaScript halves of them."""
    ready(browser, run)
    text = "hm \U0001f600 <REASONING> a\U0001f600b </REASONING> <SOLUTION>5\U0001f600</SOLUTION>"
    packed = Packer(run)._row({"completion": text})
    shown = browser.execute_script(
        "const card = completionCard(arguments[0], data.info);"
        "return [...card.querySelectorAll('.segment > .text')].map((piece) => piece.textContent)",
        dict(zip_longest(FIELDS["row"], packed)),
    )
    assert shown == ["5\U0001f600", "hm \U0001f600", "a\U0001f600b"]


def test_the_script_builds_the_tree_that_python_sets(browser, run):
    ready(browser, run)
    texts = ["**a** `b` $x^2$", "\\[ \\frac{1}{2} \\]\n- one\n\\boxed{45}", *HOSTILE.values(), "$\\text{<b>}$"]
    for text in texts:
        tree = typeset(text[:2000])
        made = browser.execute_script(f"return element('p', '', built({json.dumps(tree)})).innerHTML")
        same = "const made = document.createElement('template'); made.innerHTML = arguments[0]; return made.innerHTML"
        assert made == browser.execute_script(same, str(markup(tree))), text
    bad = [["script", {}, "window.PWNED = 1"], ["mi", {"onclick": "alert(1)"}, "x"]]
    made = browser.execute_script(f"return element('p', '', built({json.dumps(bad)})).innerHTML")
    assert made == "<mi>x</mi>"
