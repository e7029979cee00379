"""The viewer, the static tables and the live view: what they show, and that text stays text."""

from __future__ import annotations

import json
import os
import re
import shutil
import time
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from synthetic_run import HOSTILE, make_problems, make_run

from nbhelpers.params import DEFAULT_DELIMITERS
from nbhelpers.runs import stage
from nbhelpers.runs.directory import RunDirectory
from nbhelpers.runs.samples import CHANGES, ORDERS, ROLES, SampleStore, SampleWriter
from nbhelpers.show import live, pictures, samples, viewer
from nbhelpers.show.live import LiveView, live_view, sparkline
from nbhelpers.show.packing import FIELDS, problem_of
from nbhelpers.show.pages import is_interactive, macro
from nbhelpers.show.text import Piece, clipped, number, reading_order, segments, visible, word_diff
from nbhelpers.show.typeset import _ATTRIBUTES as ATTRIBUTES
from nbhelpers.show.typeset import _TAGS as TAGS
from nbhelpers.show.typeset import markup, typeset

# The script of samples.html passes the same cases: tests/browser/test_pages.py.
CASES = json.loads((Path(__file__).parent / "data" / "text_cases.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("run"), steps=8, prompts=8, problems=16, evaluation=24)


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("hostile"), steps=1, prompts=12, problems=12, evaluation=4, hostile=True)


class Elements(HTMLParser):
    """The elements and the text of a page."""

    def __init__(self, markup):
        super().__init__()
        self.tags, self.attributes, self.text, self._style = [], [], "", False
        self.feed(str(markup))

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += attributes
        self._style = tag == "style"

    def handle_endtag(self, tag):
        self._style = False

    def handle_data(self, data):
        self.text += "" if self._style else data


def assert_harmless(markup):
    page = Elements(markup)
    assert not {"script", "iframe", "object", "embed", "form", "textarea", "link", "meta"} & set(page.tags)
    assert not [name for name, _ in page.attributes if name.startswith("on")]
    addresses = [value for name, value in page.attributes if name in ("src", "href", "action")]
    assert all(value.startswith("data:image/webp;base64,") for value in addresses)
    return page


# text


def test_text_is_escaped_and_unseen_characters_get_a_number():
    assert visible("<b>&\"'") == "&lt;b&gt;&amp;&#34;&#39;"
    assert visible("a\u202eb\n\tc\x00") == (
        'a<span class="hidden-char">U+202E</span>b\n\tc<span class="hidden-char">U+0000</span>'
    )
    visible("\ud83d").encode("utf-8")


def test_long_text_is_clipped_with_everything_behind_show_all():
    page = Elements(clipped(HOSTILE["long"], 500))
    assert page.text.startswith(HOSTILE["long"][:500] + "\u2026")
    assert f"show all {len(HOSTILE['long']):,} characters" in page.text
    assert HOSTILE["long"] in page.text
    assert clipped("short", 500) == "short"


def test_text_beyond_all_measure_is_cut_and_says_so():
    shown = clipped("x" * 300_000, 500)
    assert len(shown) < 210_000 and "100,000 more characters are not shown" in shown


@pytest.mark.parametrize(("text", "expected"), CASES["visible"])
def test_visible_text_is_the_text_with_numbers_for_what_acts_unseen(text, expected):
    assert Elements(visible(text)).text == expected


@pytest.mark.parametrize(("text", "limit", "expected"), CASES["clipped"])
def test_clipped_text_counts_characters(text, limit, expected):
    page = Elements(clipped(text, limit))
    assert page.text == expected + (text if "details" in page.tags else "")


@pytest.mark.parametrize(("value", "expected"), CASES["number"])
def test_a_number_has_three_decimals_at_most(value, expected):
    assert number(value) == expected


@pytest.mark.parametrize(("completion", "delimiters", "pieces"), CASES["segments"])
def test_a_completion_is_taken_apart_and_nothing_is_left_out(completion, delimiters, pieces):
    found = segments(completion, delimiters) if delimiters else segments(completion)
    assert [list(piece[:3]) for piece in found] == pieces
    assert all(completion[piece.start :].startswith(piece.text) for piece in found)


@pytest.mark.parametrize(("pieces", "expected"), CASES["reading order"])
def test_solutions_are_read_first(pieces, expected):
    assert [list(piece[:3]) for piece in reading_order([Piece(*piece, 0) for piece in pieces])] == expected


@pytest.mark.parametrize(("before", "after", "row"), CASES["word diff"])
def test_words_that_differ_are_told_apart(before, after, row):
    found = word_diff(before, after)
    assert [list(pair) for pair in found] == row
    assert "".join(words for sign, words in found if sign != "+") == before
    assert "".join(words for sign, words in found if sign != "-") == after


# Markdown and LaTeX


def test_markdown_and_formulas_are_set_and_other_words_stay():
    text = "**Step 1:** `a*b` is $x = 45^\\circ$, see \\[ \\frac{1}{2} \\]\n- one\n\\boxed{45} "
    text += "and 2**3**4, $5 and $6, x^2_{3}"
    page = assert_harmless(markup(typeset(text)))
    assert {"b", "code", "math", "msup", "mfrac", "mpadded"} <= set(page.tags)
    assert "Step 1:" in page.text and "\u2022 one" in page.text and "2**3**4, $5 and $6, x^2_{3}" in page.text
    assert page.tags.count("math") == 3 and ("display", "block") in page.attributes


def test_what_gemma_writes_is_set_without_gaps():
    lines = "*   $AB = 14$\n*   by *Heron's formula*:\n\n\\begin{align*}\nK &= 84 \\\\\nh &= 12\n\\end{align*}\n\nso"
    tree = typeset(lines)
    assert [node if isinstance(node, str) else node[0] for node in tree] == [
        "\u2022 ", "math", "\n", "\u2022 ", "by ", "i", ":\n\n", "math", "\nso",
    ]  # fmt: skip
    assert str(tree).count("'mtr'") == 2
    assert "'mtr'" in str(typeset("$$\\begin{aligned} a &= 1 \\\\ b &= 2 \\end{aligned}$$"))
    for text in ("3*4*5", "a * b * c", "**a*", "\\*a*", "f* and g*"):
        assert typeset(text) == [text]


def test_a_table_of_bars_is_set_where_its_rows_agree():
    text = "Look:\n| side | **cm** |\n|:--|--:|\n| AB | $2^3$ |\n| BC | <b>5 |\nso"
    page = assert_harmless(markup(typeset(text)))
    assert page.tags.count("tr") == 3 and page.tags.count("th") == 2 and page.tags.count("td") == 4
    assert "msup" in page.tags and "<b>5" in page.text and page.text.endswith("so") and "|" not in page.text
    for other in ("|x| < 3", "| a | b |\nno rule\n| c | d |", "| a | b |\n|---|---|\n| |x| | 2 |"):
        assert not any(not isinstance(node, str) and node[0] == "table" for node in typeset(other))


def test_a_table_needs_no_bars_at_its_ends_and_a_cell_may_hold_one():
    page = assert_harmless(markup(typeset("item | price\n--- | ---\n`a|b` | $5\n$|x|$ | $6\nrest")))
    assert page.tags.count("tr") == 3 and page.tags.count("td") == 4 and "math" in page.tags
    assert all(text in page.text for text in ("a|b", "$5", "$6")) and page.text.endswith("rest")
    short = assert_harmless(markup(typeset("| a | b |\n|---|---|\n| 1 |")))
    assert short.tags.count("td") == 2
    for other in ("a | b\nno rule\nc | d", "a | b\n---|---\n1 | 2 | 3", "a or b\n---\nc | d"):
        assert typeset(other) == [other]


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("Triangle $ ABC$ with $ AB = 1$", "Triangle ABC with AB=1"),
        ("an area of 18$\\pi$ and 60$^\\circ$", "an area of 18\u03c0 and 60\u2218"),
        ("it costs $\\$0.05$ an inch", "it costs $0.05 an inch"),
        ("$5 and $x$", "$5 and x"),
        ("\\frac{20}{3}", "203"),
        ("36*\\pi", "36*\u03c0"),
        ("so\n\\frac{AD}{AB} = 2\nis it", "so\nADAB=2\nis it"),
    ],
)
def test_formulas_are_set_as_data_sets_write_them(text, plain):
    page = assert_harmless(markup(typeset(text)))
    assert "math" in page.tags and page.text == plain


@pytest.mark.parametrize(
    "text",
    [
        "$35 - $65", "so $7 - $2 = $5 a day", "0.9 * $3 = $2.7", "$ 5 and $ 6", "US$5 or US$6",
        "it is $ 5 a piece or 6$",
        "\\frac{1}{2} of it", "\\section*{ACROSS}", "$\\nothing{x}$", "$ $", "a_{i}$",
    ],
)  # fmt: skip
def test_amounts_of_money_and_unknown_commands_stay_as_they_were_written(text):
    assert typeset(text) == [text]


def test_a_problem_s_formulas_are_set_wherever_it_is_shown(tmp_path):
    row = {"pid": "a", "kind": "k", "question": "Find $x^2$, it costs $5 and $6", "choices": ["$\\frac{1}{2}$", "none"]}
    row |= {"answer": "$\\frac{1}{2}$", "unit": None, "image": None, "step": 1, "group": "1-0", "index": 0}
    row |= {"completion": "2", "correct": False}
    page = assert_harmless(macro("group")([row], None, DEFAULT_DELIMITERS))
    assert page.tags.count("math") == 3 and page.tags.count("mfrac") == 2 and "it costs $5 and $6" in page.text
    *_, trees = problem_of(row)
    assert [tree is not None for tree in trees] == [True, True, False, True] and trees[1][0][0] == "math"
    assert problem_of({**row, "question": "x", "choices": None, "answer": "3"})[-1] is None
    assert "<b>" in assert_harmless(macro("problem")({**row, "question": "<b>$x$ </b>"}, None)).text


@pytest.mark.parametrize(
    "text",
    [
        *HOSTILE.values(),
        "$\\text{<script>window.PWNED=1</script>}$",
        "$\\href{javascript:alert(1)}{x}$ $\\color{red}{x}$ $\\text{<mi onclick=alert(1)>x</mi>}$",
        "**<img src=x onerror=alert(1)>** `<b>` $\\mathrm{<b>}$ $\\style{x:1}{y}$",
        "$\\frac{1}{$ $\\left($ ${{{{{$ \\[ \\] \\boxed{} $\\begin{array}{cc}a$",
    ],
)
def test_nothing_that_is_set_becomes_markup_of_its_own(text):
    page = assert_harmless(markup(typeset(text)))
    assert set(page.tags) <= TAGS | {"span"}
    assert {name for name, _ in page.attributes} <= ATTRIBUTES


@settings(max_examples=150, deadline=None)
@given(
    st.lists(
        st.sampled_from(
            [
                *"$`*#\\{}[]()<>&x1 \n-^_",
                "\\frac",
                "\\text",
                "**",
                "$$",
                "\\[",
                "\\]",
                "\\boxed{",
                "```",
                "\\begin{align}",
                "\\end{align}",
            ]
        )
    )
)
def test_any_text_is_set_or_left_as_it_is(parts):
    page = assert_harmless(markup(typeset("".join(parts))))
    assert set(page.tags) <= TAGS


def test_setting_takes_no_longer_than_reading():
    begun = time.process_time()
    for part in (
        "\\[",
        "\\(",
        "**a",
        "`",
        "$x",
        "```\n",
        "- ",
        "# ",
        "*a ",
        "\\begin{align}",
        "$\\a",
        "a|",
        "\\ab{c}",
        "a|b\n",
    ):
        typeset((part * 20_000)[:19_000])
    assert time.process_time() - begun < 3


def test_what_was_set_can_be_read_as_written(run):
    row = {"pid": "p", "question": "q", "answer": "1", "completion": "<SOLUTION>$\\frac{1}{2}$</SOLUTION>"}
    page = assert_harmless(samples.show_samples([row]))
    assert "mfrac" in page.tags and "as written" in page.text and row["completion"] in page.text


# pictures


def test_a_picture_outside_the_run_directory_is_not_read(tmp_path):
    Image.new("RGB", (4, 4)).save(tmp_path / "secret.png")
    folder = tmp_path / "run"
    (folder / "images").mkdir(parents=True)
    Image.new("RGB", (4, 4)).save(folder / "images" / "own.png")
    (folder / "images" / "text.png").write_text("not a picture")
    (folder / "images" / "out.png").symlink_to(tmp_path / "secret.png")
    assert pictures.load_image(folder, "images/own.png").size == (4, 4)
    for name in (
        "../secret.png",
        str(tmp_path / "secret.png"),
        "images/out.png",
        "images/text.png",
        "none.png",
        None,
        3,
    ):
        assert pictures.load_image(folder, name) is None


def test_a_large_picture_is_made_smaller_in_its_proportions():
    import io

    packed = pictures.encode_image(Image.new("RGBA", (2000, 500)), 400)
    assert Image.open(io.BytesIO(packed)).size == (400, 100)


# static tables


def test_samples_are_shown_with_all_that_the_grader_and_the_rewards_said(run):
    store = SampleStore(run)
    row = store.group(0).rows[0]
    text = assert_harmless(samples.show_samples(run, step=1, n=1)).text
    assert row["question"] in text and row["answer"] in text and row["reason"] in text
    assert "step 1" in re.sub(r"\s+", " ", text)
    for name, value in row["rewards"].items():
        assert f"{name} {value:g}" in text
    assert f"advantage {row['advantage']:+.2f}" in text and f"{row['length']} tokens" in text


def test_the_last_step_is_minus_one(run):
    assert "step 8" in re.sub(r"\s+", " ", Elements(samples.show_samples(run, step=-1, n=1)).text)


def test_groups_asked_for_are_evenly_chosen(run):
    page = Elements(samples.show_samples(run, n=3))
    assert re.findall(r"step\s+(\d+)", page.text) == ["1", "3", "6"]


def test_an_empty_run_and_an_empty_filter_say_so(tmp_path, run):
    assert "No completion has been sampled" in str(samples.show_samples(tmp_path))
    assert "No group matches" in str(samples.show_samples(run, step=99))


def test_rows_with_few_fields_and_their_own_pictures_are_shown():
    problem = make_problems(1)[0]
    row = {key: problem[key] for key in ("pid", "question", "image")}
    row |= {"answer": "4", "completion": "<SOLUTION>4</SOLUTION>"}
    page = assert_harmless(samples.show_samples([row]))
    assert "img" in page.tags and "not judged" in page.text
    assert "no picture" in str(samples.show_samples([{**row, "image": None}]))


def test_changed_minds_counts_and_shows_the_answers_side_by_side(run):
    directory = RunDirectory(run)
    changes = samples.sort_changes(directory.read_jsonl(directory.predictions_path))
    counts = {name: len(pairs) for name, pairs in changes.items()}
    assert sum(counts.values()) == 24
    assert all(not before["correct"] and after["correct"] for before, after in changes["fixed"])
    text = assert_harmless(samples.changed_minds(run)).text
    assert ", ".join(f"{count} {name}" for name, count in counts.items()) in text
    assert "before training" in text and "after training" in text


def test_without_a_baseline_wrong_is_still_wrong(tmp_path):
    rows = [{"phase": "after", "pid": str(place), "correct": place == 0, "kind": "k"} for place in range(3)]
    assert {name: len(pairs) for name, pairs in samples.sort_changes(rows).items()} == {
        "fixed": 0, "broken": 0, "still wrong": 2, "still right": 1
    }  # fmt: skip
    assert "has not been evaluated" in str(samples.changed_minds(tmp_path))


def test_several_samples_a_problem_are_judged_by_their_share():
    def rows(phase, *verdicts):
        return [{"phase": phase, "pid": "p", "correct": verdict, "kind": "k"} for verdict in verdicts]

    pairs = samples.sort_changes(rows("before", False, False, True) + rows("after", True, True, False))
    assert len(pairs["fixed"]) == 1


def test_instructive_pairs_take_each_kind_in_turn_and_readable_answers_first():
    def pair(kind, parsed="1"):
        return ({"parsed": parsed}, {"kind": kind, "parsed": "2"})

    chosen = samples.most_instructive([pair("a", None), pair("a"), pair("a"), pair("b"), pair("c")], 4)
    assert [after["kind"] for _, after in chosen] == ["a", "b", "c", "a"]
    assert chosen[0][0]["parsed"] == "1"


# hostile text


def test_hostile_samples_are_shown_as_text(hostile):
    page = assert_harmless(samples.show_samples(hostile, n=12))
    for name in ("script", "handler", "svg", "closers", "template", "math", "chinese"):
        assert HOSTILE[name] in page.text
    assert "U+202E" in page.text and "\u202e" not in page.text
    str(samples.show_samples(hostile, n=12)).encode("utf-8")


def test_hostile_samples_are_text_in_the_live_view(hostile):
    rows = [{"step": 1, "reward": 1.0, "rewards/<script>alert(1)<_script>/mean": 1.0, "max_steps": 2}]
    view = LiveView(hostile)
    view._begun, view.rows = time.monotonic(), rows
    assert "<script>alert(1)" in assert_harmless_live(view._page()).text


def assert_harmless_live(markup):
    page = Elements(markup)
    assert "script" not in page.tags and not [name for name, _ in page.attributes if name.startswith("on")]
    return page


# the viewer: what the script asks, and what it gets


ASKED = {"role": "rollout", "show": "all", "kind": "", "error": "", "step": "", "order": "sampled", "text": "",
         "pid": "", "marked": ""}  # fmt: skip


def find(looking, key=None, step=None, **state) -> dict:
    return looking.answer({"ask": "find", "state": ASKED | state, "key": key, "step": step})


def groups(looking, numbers, role="rollout") -> list[dict]:
    return looking.answer({"ask": "groups", "role": role, "numbers": list(numbers), "pictures": True})


def rows_of(group) -> list[dict]:
    """The rows of a packed group by the names of their fields."""
    return [dict(zip(FIELDS["row"], row, strict=False)) for row in group["rows"]]


@pytest.fixture
def looking(run):
    return viewer.SampleViewer(run)


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("order", ORDERS)
def test_a_filter_leaves_what_it_names_in_the_order_asked_for(looking, run, role, order):
    store = SampleStore(run, role)
    for show in store.filters:
        assert find(looking, role=role, show=show, order=order)["numbers"] == store.groups(show=show, order=order)


def test_a_group_comes_with_its_problem_its_picture_and_all_that_was_said_of_it(looking, run):
    (found,) = groups(looking, [2])
    row = SampleStore(run).group(2).rows[0]
    assert (found["key"], found["step"], found["problem"][0]) == (f"rollout/{row['group']}", 1, row["pid"])
    assert found["picture"].startswith("data:image/webp;base64,") and found["visits"] == 4
    text, pieces, reason, rewards, reward, advantage, length, cut, correct, error, when = found["rows"][0]
    assert (text, reason, rewards) == (row["completion"], row["reason"], list(row["rewards"].values()))
    assert (reward, advantage, length, cut) == (row["reward"], row["advantage"], row["length"], row["truncated"])
    assert (correct, when) == (row["correct"], "") and (error == "") == row["correct"]
    cut_out = [text[start:stop] for _, start, stop in pieces]
    assert cut_out == [piece.text for piece in reading_order(segments(text))] and len(cut_out) == 2


def test_kind_error_problem_and_search_narrow_down(looking, run):
    store = SampleStore(run)
    area = find(looking, kind="area")["numbers"]
    assert area and all(store.group(number).kind == "area" for number in area)
    unread = find(looking, error="no answer")["numbers"]
    assert unread and all(
        any(not row["correct"] and row["parsed"] is None and not row["truncated"] for row in store.group(number).rows)
        for number in unread
    )
    assert find(looking, text="tallest BAR")["numbers"] == store.groups(kind="bars")
    assert find(looking, text="bars-0002")["numbers"] == store.groups(pid="bars-0002")
    assert find(looking, pid="bars-0002")["numbers"] == store.groups(pid="bars-0002")
    reason = store.group(3).rows[0]["reason"]
    assert 3 in find(looking, text=reason)["numbers"]
    assert find(looking, text="no such words") == {"numbers": [], "place": 0}


def test_filtering_keeps_the_group_or_else_the_step(looking, run):
    store = SampleStore(run)
    here = store.group(40)
    found = find(looking, key=f"rollout/{here.name}", step=here.step, kind=here.kind)
    assert found["numbers"][found["place"]] == 40
    other = next(kind for kind in store.kinds if kind != here.kind)
    found = find(looking, key=f"rollout/{here.name}", step=here.step, kind=other)
    assert store.group(found["numbers"][found["place"]]).step == here.step == 6


def test_all_before_and_after_pairs_are_there(looking, run):
    rows = RunDirectory(run).read_jsonl(RunDirectory(run).predictions_path)
    counts = {show: len(find(looking, role="evaluation", show=show)["numbers"]) for show in CHANGES}
    assert counts["all"] == 24 == sum(counts.values()) - 24
    changes = samples.sort_changes(rows)
    assert {name: len(pairs) for name, pairs in changes.items()} == {k: v for k, v in counts.items() if k != "all"}
    (pair,) = groups(looking, find(looking, role="evaluation", show="fixed")["numbers"][:1], "evaluation")
    assert [row["when"] for row in rows_of(pair)] == ["before training", "after training"]
    assert [row["correct"] for row in rows_of(pair)] == [False, True]


def test_a_probe_is_one_strip_through_training(looking, run):
    probes = find(looking, role="probe")["numbers"]
    assert len(probes) == 4
    (strip,) = groups(looking, probes[:1], "probe")
    assert [row["when"] for row in rows_of(strip)] == ["before training", "after 4 steps", "after 8 steps"]
    assert all(row["reward"] is not None and row["length"] > 0 for row in rows_of(strip))


def test_marks_are_kept_in_the_run_directory(run, tmp_path):
    folder = shutil.copytree(run, tmp_path / "run")
    looking, key = viewer.SampleViewer(folder), "rollout/2-1/3"
    looking.answer({"ask": "keep", "key": key, "note": "reads <b>well</b>"})
    looking.answer({"ask": "keep", "key": "evaluation/count-0000/1", "note": ""})
    assert find(looking, marked="1")["numbers"] == [9]
    again = viewer.SampleViewer(folder)
    assert again.widget.info["marks"] == {key: "reads <b>well</b>", "evaluation/count-0000/1": ""}
    again.answer({"ask": "keep", "key": key, "note": None})
    assert [mark["key"] for mark in RunDirectory(folder).read_jsonl(folder / "marks.jsonl")] == [
        "evaluation/count-0000/1"
    ]
    assert find(again, marked="1")["numbers"] == []


def test_a_running_run_is_taken_in_on_refresh(tmp_path):
    picture = Image.new("RGB", (8, 8))
    row = {
        "group": "1-0",
        "pid": "p",
        "kind": "k",
        "question": "q",
        "answer": "1",
        "completion": "1",
        "reward": 0.0,
        "correct": False,
    }
    looking = viewer.SampleViewer(tmp_path)
    assert [view["count"] for view in looking.widget.info["views"]] == [0]
    writer = SampleWriter(RunDirectory(tmp_path))
    writer.write([{**row, "step": 1}], [picture])
    assert looking.refresh() == 1 and find(looking)["numbers"] == [0]
    writer.write([{**row, "step": 2, "group": "2-0", "pid": "z", "kind": "new"}], [picture])
    (view,) = looking.answer({"ask": "refresh"})["views"]
    assert (view["steps"], view["kinds"], view["count"]) == ([1, 2], ["k", "new"], 2)


def test_where_nobody_is_there_the_viewer_is_a_table(run, monkeypatch):
    monkeypatch.setenv("NBHELPERS_BATCH", "1")
    bundle = viewer.SampleViewer(run)._repr_mimebundle_()
    assert "step" in bundle["text/html"] and "application/vnd.jupyter.widget-view+json" not in bundle
    pages = [viewer.SampleViewer(run, role)._repr_mimebundle_()["text/html"] for role in ("evaluation", "probe")]
    assert "Fixed: wrong before training" in pages[0] and "a probe: never trained on" in pages[1]
    with pytest.raises(ValueError, match="did you mean evaluation"):
        viewer.SampleViewer(run, "evaluatoin")


# the live view


def follow_rows(run, view):
    directory = RunDirectory(run)
    with view:
        for row in directory.read_jsonl(directory.metrics_path):
            view.update({**row, "max_steps": 8, "seconds_per_step": 2.0})


def test_without_a_person_there_are_a_few_lines(run, capsys):
    follow_rows(run, live_view(run))
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("Preparing the problems") and re.match(
        r"Training done at \d\d:\d\d:\d\d, after", lines[-1]
    )
    assert lines[1].startswith("step 1/8  reward ") and lines[-2].startswith("step 8/8")
    assert "formatting" in lines[1] and "zero variance" in lines[1] and "14 s left" in lines[1]


@pytest.mark.parametrize(("steps", "total"), [(2000, 2000), (2000, None)])
def test_a_long_run_prints_no_thousand_lines(tmp_path, capsys, steps, total):
    with live_view(tmp_path, total) as view:
        for step in range(1, steps + 1):
            view.update({"step": step, "reward": 0.5})
    lines = capsys.readouterr().out.splitlines()
    assert 10 <= len(lines) <= 35
    assert lines[-2].startswith("step 2000")


def test_a_resumed_run_is_shown_from_its_beginning(run):
    rows = RunDirectory(run).read_jsonl(RunDirectory(run).metrics_path)
    with live_view(run, 8) as view:
        view.update(rows[5])
        assert [row["step"] for row in view.rows] == [1, 2, 3, 4, 5, 6]


def test_a_view_that_fails_does_not_end_the_training(run, capsys):
    class Broken:
        def update(self, page):
            raise ConnectionError("the front end is gone")

    with live_view(run, 2) as view:
        view._interactive, view._handle = True, Broken()
        view.update({"step": 1, "reward": 0.0})
        view.update({"step": 2, "reward": 1.0})
    printed = capsys.readouterr().out
    assert "The live view stopped (ConnectionError: the front end is gone)" in printed and "step 2/2" in printed


def test_a_failing_training_is_not_hidden_and_the_view_says_how_it_ended(run, capsys):
    with pytest.raises(RuntimeError, match="out of memory"), live_view(run, 9) as view:
        view.update({"step": 1, "reward": 0.0})
        raise RuntimeError("out of memory")
    assert "Training stopped by RuntimeError at " in capsys.readouterr().out
    page = Elements(view._page()).text
    assert "Training stopped: step 1 of 9" in page and re.search(r"stopped by RuntimeError at \d\d:", page)


def test_before_the_first_step_the_stages_are_shown_with_a_clock(tmp_path, monkeypatch):
    run = RunDirectory(tmp_path)
    run.append_jsonl(run.samples_path, {"step": 1})  # of an earlier run
    os.utime(run.samples_path, (0, 0))
    view = LiveView(tmp_path)
    monkeypatch.setattr(live.time, "monotonic", lambda: 100.0)
    view._begun, view._opened = 25.0, time.time() - 1
    stages = []
    for change in (lambda: None, lambda: run.write_jsonl(run.samples_path, []),
                   lambda: run.append_jsonl(run.samples_path, {"step": 0, "role": "probe"})):  # fmt: skip
        change()
        stages.append(re.search(r'class="now">(\w+)', view._waiting())[1])
    assert stages == ["Preparing", "Asking", "Sampling"]
    assert "1 min 15 s so far" in view._waiting()


def test_what_takes_long_before_the_first_step_is_named_with_its_clock(tmp_path, monkeypatch):
    """A slow load and a slow vLLM are told apart."""
    monkeypatch.setattr(live, "is_interactive", lambda: True)
    with LiveView(tmp_path) as view:
        with stage("loading weights"):
            pass
        view._take_stage("loading weights", 31.0, True)
        view._take_stage("starting vLLM", 12.0, False)
        assert "loading weights 31 s \u00b7 starting vLLM \u2026 12 s" in Elements(view._waiting()).text
        assert view._doing.keys() == {"loading weights", "starting vLLM"}
    with stage("afterwards"):
        pass
    assert "afterwards" not in view._doing


def test_a_tile_has_its_scale_and_a_smoothed_line(run):
    view = LiveView(run)
    view.rows = [{"step": step, "reward": float(step % 2) * 3} for step in range(1, 41)]
    view._begun = time.monotonic()
    page = Elements(view._page())
    lines = [value for name, value in page.attributes if name == "points"]
    heights = [[float(point.split(",")[1]) for point in line.split()] for line in lines]
    assert "3.00" in page.text and "0.00" in page.text and len(lines) == 2
    assert max(heights[0]) - min(heights[0]) == 30 > 10 > max(heights[1][4:-4]) - min(heights[1][4:-4])


def test_the_live_page_shows_progress_curves_and_what_the_loss_says(run, monkeypatch):
    directory = RunDirectory(run)
    view = LiveView(run, 16)
    monkeypatch.setattr(live.time, "monotonic", lambda: 100.0)
    view._begun = 35.0
    view.rows = directory.read_jsonl(directory.metrics_path)
    view.rows[-1]["seconds_per_step"] = 1.625  # as train says it
    page = Elements(view._page())
    text = re.sub(r"\s+", " ", page.text)
    assert "Training: step 8 of 16" in text and "1 min 05 s so far, about 13 s left" in text
    labels = [tile["label"] for tile in view._tiles()]
    assert labels[0] == "reward" and "loss" in labels and "KL to the reference policy" not in labels
    assert "length is being paid" in text and "A group of step 8" in text
    assert ("width", "50.00") in page.attributes


def test_an_evaluation_says_how_much_time_is_left(capsys, monkeypatch):
    from nbhelpers.show import live

    now = [10.0]
    monkeypatch.setattr(live.time, "monotonic", lambda: now[0])
    progress = live.evaluation_progress()
    for done in range(8, 65, 8):
        progress("before", done, 64)
        now[0] += 5
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "16 of 64 problems answered, before, 5 s, about 15 s left" and len(lines) == 4
    assert lines[-1] == "64 of 64 problems answered, before, 35 s"


def test_the_live_page_ends_with_what_happened_and_when(run):
    pages = []
    with pytest.raises(RuntimeError), live_view(run, 16) as view:
        view._interactive, view._handle = True, SimpleNamespace(update=lambda page: pages.append(page.data))
        view.update({"step": 8, "reward": 1.0})
        raise RuntimeError("<b>Training was stopped by SIGINT after step 8 of 16.")
    text = re.sub(r"\s+", " ", Elements(pages[-1]).text)
    assert "Training stopped: step 8 of 16" in text and " left" not in text.split("Training was")[0]
    assert re.search(r"\d\d:\d\d: <b>Training was stopped by SIGINT after step 8 of 16\.", text)


def test_where_nothing_was_left_to_train_the_live_page_shows_the_run(run):
    pages = []
    with live_view(run, 8) as view:
        view._interactive, view._handle = True, SimpleNamespace(update=lambda page: pages.append(page.data))
    assert "Training done: step 8 of 8" in re.sub(r"\s+", " ", Elements(pages[-1]).text)


def test_drawing_is_limited_in_time(run, monkeypatch):
    drawn = []
    view = LiveView(run, 100)
    view._begun, view._interactive = 0.0, True
    now = [100.0]
    monkeypatch.setattr("nbhelpers.show.live.time.monotonic", lambda: now[0])

    def draw():
        drawn.append(now[0])
        view._drawn_at = now[0]

    view._draw = draw
    for step in range(1, 21):
        now[0] += 0.5
        view.update({"step": step, "reward": 0.0})
    assert len(drawn) == 5


def test_a_sparkline_stays_inside_its_box_and_thins_out():
    points = [tuple(map(float, point.split(","))) for point in sparkline([0, 5, -3, 2] * 500).split()]
    assert len(points) == 200
    assert all(0 <= x <= 100 and 0 <= y <= 34 for x, y in points)
    assert sparkline([1.0]) == ""
    assert "nan" not in sparkline([2.0, 2.0])


# who is there


@pytest.mark.parametrize(("batch", "expected"), [("1", False), ("0", True), ("true", False)])
def test_the_environment_decides_who_is_there(monkeypatch, batch, expected):
    monkeypatch.setenv("NBHELPERS_BATCH", batch)
    assert is_interactive() is expected


def test_outside_a_notebook_nobody_is_there(monkeypatch):
    monkeypatch.delenv("NBHELPERS_BATCH")
    assert is_interactive() is False


def test_papermill_gets_lines_a_picture_and_a_table(run, tmp_path, monkeypatch):
    import nbformat
    import papermill

    monkeypatch.delenv("NBHELPERS_BATCH")
    live = (
        "with show.live_view(run_dir) as view:\n"
        "    for row in RunDirectory(run_dir).read_jsonl(RunDirectory(run_dir).metrics_path):\n"
        "        view.update({**row, 'max_steps': 8})\n"
        "show.training_overview(view.rows)"
    )
    sources = [
        "from nbhelpers import show\nfrom nbhelpers.runs import RunDirectory\n"
        f"run_dir = {str(run)!r}\nshow.is_interactive()",
        "show.SampleViewer(run_dir)",
        live,
    ]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in sources])
    nbformat.write(notebook, tmp_path / "in.ipynb")
    done = papermill.execute_notebook(
        str(tmp_path / "in.ipynb"), str(tmp_path / "out.ipynb"), kernel_name="python3", progress_bar=False
    )
    cells = [cell for cell in done.cells if cell.cell_type == "code"]
    assert cells[0].outputs[0].data["text/plain"] == "False"
    assert "<section" in cells[1].outputs[0].data["text/html"]
    kinds = [output.output_type for output in cells[2].outputs]
    assert set(kinds) == {"stream", "execute_result"} and "image/png" in cells[2].outputs[-1].data
    printed = "".join(output.text for output in cells[2].outputs if output.output_type == "stream")
    assert len(printed.splitlines()) == 10  # the stage, eight steps, the end
