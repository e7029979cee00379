"""report.html, samples.html and the comparison: self-contained, harmless, right, and honest about what is missing."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shutil
from html.parser import HTMLParser

import pytest
from synthetic_run import HOSTILE, make_run

from nbhelpers.grading import error_kind
from nbhelpers.runs.directory import RunDirectory
from nbhelpers.runs.samples import SampleStore
from nbhelpers.show import report, standalone
from nbhelpers.show.browser import _spread_out, write_sample_browser
from nbhelpers.show.comparison import compare_runs
from nbhelpers.show.packing import keep_mark
from nbhelpers.training import alarms

SIZE = {"steps": 10, "prompts": 8, "problems": 32, "evaluation": 48}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    make_run(folder / "better", **SIZE)
    make_run(folder / "worse", gain=0.05, seed=1, **SIZE)
    report.write_report(folder / "better")
    return folder


@pytest.fixture
def quick_figures(monkeypatch):
    """For reports of which no figure is looked at: drawing them is nine tenths of the work."""
    for module in ("report", "comparison"):
        monkeypatch.setattr(f"nbhelpers.show.{module}.figure_uri", lambda figure: "data:image/png;base64,iVBORw0KGgo=")


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    run = make_run(tmp_path_factory.mktemp("hostile"), steps=2, prompts=12, problems=12, evaluation=12, hostile=True)
    path = run / "predictions.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    for row, text in zip(rows, [*HOSTILE.values()] * 4, strict=False):
        row |= {
            "completion": text,
            "question": text[:2000],
            "reason": text[:400],
            "kind": text[:60],
            "answer": text[:50],
        }
    RunDirectory(run).write_jsonl(path, rows)
    evaluation = json.loads((run / "evaluation.json").read_text())
    evaluation["by_group"] = {HOSTILE["closers"]: {"before": 0.0, "after": 0.5, "n": 2}}
    (run / "evaluation.json").write_text(json.dumps(evaluation))
    report.write_report(run)
    return run


class Page(HTMLParser):
    def __init__(self, path):
        super().__init__()
        self.markup = path.read_text(encoding="utf-8")
        self.tags, self.attributes, self.text, self.raw, self._inside = [], [], "", {}, None
        self.feed(self.markup)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += [(tag, *pair) for pair in attributes]
        self._inside = tag if tag in ("style", "script") else None

    def handle_endtag(self, tag):
        self._inside = None

    def handle_data(self, data):
        if self._inside:
            self.raw.setdefault(self._inside, []).append(data)
        else:
            self.text += data

    @property
    def words(self) -> str:
        return re.sub(r"\s+", " ", self.text)

    def data(self) -> dict:
        return json.loads(self.raw["script"][0])


@pytest.mark.parametrize("name", ["report.html", "samples.html"])
def test_a_page_loads_nothing_and_runs_only_what_its_policy_names(runs, name):
    page = Page(runs / "better" / name)
    policy = dict(
        part.strip().split(" ", 1)
        for part in next(
            v for tag, k, v in page.attributes if tag == "meta" and k == "content" and "default-src" in v
        ).split(";")
    )
    assert policy["default-src"] == policy["base-uri"] == policy["form-action"] == "'none'"
    assert policy["img-src"] == "data:"

    def named(text):
        return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"

    assert policy["style-src"] == named(page.raw["style"][0])
    scripts = page.raw.get("script", [])
    assert policy["script-src"] == named(scripts[-1])
    assert len(scripts) == (2 if name == "samples.html" else 1)
    assert not [name for _, name, _ in page.attributes if name.startswith("on") or name == "style"]
    addresses = [value for _, name, value in page.attributes if name in ("src", "href")]
    assert all(re.match("data:image/(webp|png);base64,", value) or value == "samples.html" for value in addresses)


def test_the_report_says_what_was_trained_on_what_and_what_came_of_it(runs):
    words = Page(runs / "better" / "report.html").words
    evaluation = json.loads((runs / "better" / "evaluation.json").read_text())
    assert (
        f"{100 * evaluation['before']['accuracy']:.1f} % \u2192 {100 * evaluation['after']['accuracy']:.1f} %" in words
    )
    assert "95 % interval" in words
    for fact in ("embedded", "256 to train on", "trl 1.14.2", "10 optimiser steps", "protocol strict"):
        assert fact in words
    assert "The batch was rounded up from 126 to 128 completions." in words
    for kind, row in evaluation["by_group"].items():
        points = 100 * (row["after"] - row["before"])
        assert re.search(rf"{kind}\s*{row['n']}\s*[\d.]+ %\s*[\d.]+ %\s*{re.escape(f'{points:+.1f}')}", words)
    for heading in ("Fixed: wrong before", "Broken: right before", "Still wrong"):
        assert heading in words


def test_the_report_shows_where_the_difference_lies_and_says_which_policy_it_is(tmp_path, monkeypatch, quick_figures):
    run = RunDirectory(make_run(tmp_path / "run", steps=2, prompts=1, problems=4, evaluation=4))
    drawn, forest = [], report.forest_plot
    monkeypatch.setattr(report, "forest_plot", lambda evaluation: drawn.append(evaluation) or forest(evaluation))
    evaluation = run.read_json(run.evaluation_path) | {"checkpoint": {"step": 12, "chosen": "the best of those tried"}}
    run.write_json(run.evaluation_path, evaluation)
    assert "the policy of step 12: the best of those tried" in Page(report.write_report(run.path)).words
    assert len(drawn) == 1
    run.write_json(run.evaluation_path, {key: evaluation[key] for key in ("after", "by_group", "protocol")})
    assert "By kind of problem" in Page(report.write_report(run.path)).words and len(drawn) == 1


def test_the_report_opens_with_the_result_and_the_figure_that_shows_it(runs):
    page = Page(runs / "better" / "report.html")
    markup = page.markup.partition("<main")[2]
    lead, figure, facts = (markup.index(part) for part in ('class="lead"', "<img", 'class="facts"'))
    assert lead < figure < markup.index('class="warnings"') < facts
    rewards = [row["reward"] for row in RunDirectory(runs / "better").read_jsonl(runs / "better/metrics.jsonl")]
    ends = f"{rewards[0]:.2f} \u2192 {rewards[-1]:.2f}"
    assert f"mean reward, first and last step{ends}" in page.text and f"reward {ends}" in page.words


def test_a_doubt_that_the_result_answered_is_a_note_and_any_other_warning_stands_at_the_top(tmp_path, quick_figures):
    run = RunDirectory(make_run(tmp_path / "run", steps=4, prompts=1, problems=4, evaluation=4))
    run.write_jsonl(run.metrics_path, [{"step": step, "frac_reward_zero_std": 0.9} for step in range(1, 5)])
    (doubt,), worthless = alarms(run.read_jsonl(run.metrics_path)), "Gradient or loss was NaN at step 3."
    run.update_manifest(warnings=[worthless, doubt])
    evaluation = run.read_json(run.evaluation_path)
    for interval, answered in (([-0.1, 0.4], False), ([0.1, 0.4], True)):
        evaluation["difference"] |= {"accuracy": 0.2, "ci95": interval}
        run.write_json(run.evaluation_path, evaluation)
        top, _, rest = Page(report.write_report(run.path)).markup.partition('class="facts"')
        assert "was NaN" in top and "was NaN" not in rest
        assert ("carry no signal" in top, "Answered by the gain" in rest) == (not answered, answered)


def test_the_report_links_to_marked_samples(runs, tmp_path, quick_figures):
    run = RunDirectory(shutil.copytree(runs / "better", tmp_path / "run"))
    keep_mark(run, "rollout/3-2/1", "<b>odd</b>")
    keep_mark(run, "nonsense", "")
    page = Page(report.write_report(run.path))
    links = [value for tag, name, value in page.attributes if (tag, name) == ("a", "href") and "#" in value]
    assert links == ["samples.html#role=rollout&at=rollout%2F3-2"] and "<b>odd</b>" in page.text
    said = str(report.report_link(run.path))
    assert 'run/report.html" target="_blank">report.html</a>' in said and "samples.html</a>" in said


def test_a_partial_run_gets_the_parts_that_it_has(tmp_path, runs, quick_figures):
    with pytest.raises(FileNotFoundError, match="no run directory"):
        report.write_report(tmp_path / "nowhere")
    (tmp_path / "run" / "notebooks").mkdir(parents=True)
    (tmp_path / "run" / "notebooks" / "01_dataset_exploration.ipynb").touch()
    assert "Neither trained nor evaluated yet" in Page(report.write_report(tmp_path / "run")).words
    for name in ("metrics.jsonl", "samples.jsonl"):
        shutil.copy(runs / "better" / name, tmp_path / "run")
    words = Page(report.write_report(tmp_path / "run")).words
    assert "10 optimiser steps so far; not evaluated yet" in words
    assert "no picture on disk" in words  # images/ was not copied
    for name in ("evaluation.json", "predictions.jsonl"):
        shutil.copy(runs / "better" / name, tmp_path / "run")
    assert "Samples to read" in Page(report.write_report(tmp_path / "run")).words


def test_writing_a_report_again_changes_nothing_but_its_date(runs):
    def body(path):
        return path.read_text().split("<footer>")[0]

    before = body(runs / "better" / "report.html")
    assert body(report.write_report(runs / "better")) == before


def test_hostile_texts_are_text_in_every_page(hostile):
    page = Page(hostile / "report.html")
    assert not {"svg", "iframe", "textarea"} & set(page.tags) and page.tags.count("script") == 1
    for name in ("script", "handler", "svg", "closers", "math", "chinese"):
        assert HOSTILE[name] in page.text
    assert "\u202e" not in page.markup and "\x00" not in page.markup
    browser = Page(hostile / "samples.html")
    assert browser.tags.count("script") == 2 and "textarea" not in browser.tags
    assert "<" not in browser.raw["script"][0]
    texts = {one[0] for groups in browser.data()["groups"].values() for group in groups for one in group[3]}
    assert set(HOSTILE.values()) - texts == {HOSTILE["long"]}
    assert any(
        text.startswith(HOSTILE["long"][:99_000]) and "more characters are in the run directory" in text
        for text in texts
    )


def test_the_browser_holds_every_sample_and_each_picture_once(runs):
    page = Page(runs / "better" / "samples.html")
    data = page.data()
    assert [view["role"] for view in data["info"]["views"]] == ["rollout", "probe", "evaluation"]
    assert "All 320 sampled completions in 80 groups of 10 steps" in data["info"]["views"][0]["note"]
    for role, groups in data["groups"].items():
        store = SampleStore(runs / "better", role)
        assert [one[0] for group in groups for one in group[3]] == [
            row["completion"] for group in store.groups() for row in store.group(group).rows
        ]
        assert [group[:2] for group in groups] == [
            [store.group(number).name, store.group(number).step] for number in store.groups()
        ]
    assert len(data["images"]) == len(set(data["images"])) <= 32 + 48 + 4
    assert data["info"]["rewards"] == ["formatting", "correctness"]
    _, step, problem, completions = data["groups"]["rollout"][5]
    row = SampleStore(runs / "better").group(5).rows[0]
    assert completions[0][2:] == [
        row["reason"], list(row["rewards"].values()), row["reward"], row["advantage"], row["length"], row["truncated"],
        row["correct"], error_kind(row) or "", "",
    ]  # fmt: skip
    assert data["problems"][problem][:3] == [row["pid"], row["kind"], row["question"]]


def test_what_does_not_fit_is_left_out_by_whole_steps_and_said(runs, tmp_path):
    shutil.copytree(runs / "better", tmp_path / "run")
    page = Page(write_sample_browser(tmp_path / "run", budget=80_000))
    data = page.data()
    groups, views = data["groups"], data["info"]["views"]
    steps = sorted({group[1] for group in groups["rollout"]})
    assert steps[0] == 1 and steps[-1] == 10 and 2 <= len(steps) < 10
    assert f"{len(groups['rollout'])} of 80 groups, from {len(steps)} of 10 steps" in views[0]["note"]
    assert f"{len(groups['evaluation'])} of 48 problems" in views[2]["note"] and len(groups["evaluation"]) > 2
    assert len(page.raw["script"][0]) < 95_000


def test_steps_are_taken_from_everywhere_first():
    assert list(_spread_out([])) == []
    assert list(_spread_out([7])) == [7]
    assert list(_spread_out(range(9))) == [0, 8, 4, 2, 6, 1, 3, 5, 7]
    for count in range(1, 40):
        assert sorted(_spread_out(range(count))) == list(range(count))


# comparing


def test_two_runs_are_compared_on_the_same_problems(runs, tmp_path):
    comparison = compare_runs([runs / "better", runs / "worse"], tmp_path / "c.html")
    first, second = comparison.table
    better, worse = (
        json.loads((runs / name / "evaluation.json").read_text())["after"]["accuracy"] for name in ("better", "worse")
    )
    assert (first["accuracy"], second["accuracy"]) == (pytest.approx(better), pytest.approx(worse))
    assert second["difference"] == pytest.approx(worse - better)
    assert second["ci95"][0] <= second["difference"] <= second["ci95"][1] < 0
    assert (first["difference"], second["matched"], comparison.cautions) == (None, 48, [])
    words = Page(comparison.path).words
    assert "worse against better" in words and "Only better is right" in words
    assert "on the same 48 problems" in str(comparison) and str(comparison.path) in str(comparison)


def test_the_page_lies_beside_the_first_run_unless_asked_otherwise(runs, quick_figures):
    assert compare_runs([runs / "better", runs / "worse"]).path == runs / "comparison.html"


def edited(runs, folder, name, change):
    """A copy of the run "worse" with `change` applied to its evaluation and its predictions."""
    run = RunDirectory(shutil.copytree(runs / "worse", folder / name))
    evaluation, rows = run.read_json(run.evaluation_path), run.read_jsonl(run.predictions_path)
    change(evaluation, rows)
    run.write_json(run.evaluation_path, evaluation)
    run.write_jsonl(run.predictions_path, rows)
    return run.path


def test_only_problems_with_the_same_picture_are_paired(runs, tmp_path, quick_figures):
    def change(evaluation, rows):
        for row in rows:
            if row["kind"] == "count":
                row["image"] = "images/another.png"

    comparison = compare_runs([runs / "better", edited(runs, tmp_path, "other", change)], tmp_path / "c.html")
    assert comparison.table[1]["matched"] == 36
    assert "12 of them share an id" in comparison.cautions[0]


def test_runs_without_a_common_problem_are_refused(runs, tmp_path):
    def change(evaluation, rows):
        for row in rows:
            row["pid"] += "-b"

    with pytest.raises(standalone.ReportError, match="evaluated on different problems"):
        compare_runs([runs / "better", edited(runs, tmp_path, "other", change)])


def test_runs_graded_by_different_protocols_are_refused(runs, tmp_path):
    other = edited(runs, tmp_path, "other", lambda evaluation, rows: evaluation.update(protocol="mathvista"))
    with pytest.raises(standalone.ReportError, match="better by 'strict', other by 'mathvista'"):
        compare_runs([runs / "better", other])


def test_another_decoding_is_a_caution(runs, tmp_path, quick_figures):
    other = edited(runs, tmp_path, "other", lambda evaluation, rows: evaluation["decoding"].update(temperature=1.0))
    comparison = compare_runs([runs / "better", other], tmp_path / "c.html")
    assert "decoded differently" in comparison.cautions[0]
    assert "decoded differently" in Page(comparison.path).words


def test_another_version_of_the_grader_is_a_caution(runs, tmp_path):
    other = edited(runs, tmp_path, "other", lambda evaluation, rows: evaluation.update(grader=1))
    (caution,) = compare_runs([runs / "better", other], tmp_path / "c.html").cautions
    assert "different versions of the grader" in caution and caution.endswith("other: 1")


def test_every_figure_of_a_comparison_is_over_the_common_problems(runs, tmp_path, quick_figures):
    """The first run's row once took all of its own problems, so two rows and their difference told three stories."""

    def change(evaluation, rows):
        rows[:] = [row for row in rows if row["phase"] == "after"][:20]

    comparison = compare_runs([runs / "better", edited(runs, tmp_path, "few", change)], tmp_path / "c.html")
    first, second = comparison.table
    assert second["matched"] == 20
    assert second["accuracy"] - first["accuracy"] == pytest.approx(second["difference"])
    better = RunDirectory(runs / "better")
    kept = [row for row in better.read_jsonl(better.predictions_path) if row["phase"] == "after"][:20]
    assert first["accuracy"] == pytest.approx(sum(row["correct"] for row in kept) / 20)


def test_runs_that_differ_only_in_their_seed_are_compared_as_one_setting(runs, tmp_path, quick_figures):
    folders = []
    for name, source, seed, rate in (
        ("a", "better", 1, 1),
        ("b", "better", 2, 1),
        ("c", "worse", 1, 2),
        ("d", "worse", 2, 2),
    ):
        folders.append(tmp_path / name)
        shutil.copytree(runs / source, folders[-1])
        parameters = {"output_dir": name, "training": {"seed": seed, "learning_rate": rate}}
        manifest = json.loads((folders[-1] / "manifest.json").read_text())
        (folders[-1] / "manifest.json").write_text(json.dumps(manifest | {"parameters": parameters}))
    comparison = compare_runs(folders, tmp_path / "c.html")
    assert len(comparison.seeds) == 1 and "Mean over 2 seeds, paired by seed, c, d against a, b" in comparison.seeds[0]
    assert "paired by seed" in Page(comparison.path).words and comparison.seeds[0] in str(comparison)


@pytest.mark.parametrize("given", [[], ["better"], ["better", "better"]])
def test_one_run_cannot_be_compared(runs, given):
    with pytest.raises(standalone.ReportError, match="at least two different runs"):
        compare_runs([runs / name for name in given])


def test_a_run_without_evaluation_says_what_to_do(runs, tmp_path):
    (tmp_path / "young").mkdir()
    (tmp_path / "young" / "metrics.jsonl").touch()
    with pytest.raises(standalone.ReportError, match="young has no predictions after training: run notebook 04"):
        compare_runs([runs / "better", tmp_path / "young"])
    killed = edited(runs, tmp_path, "killed", lambda evaluation, rows: rows.pop())
    (killed / "evaluation.json").unlink()
    with pytest.raises(standalone.ReportError, match="killed has an evaluation that was not finished"):
        compare_runs([runs / "better", killed])


def test_runs_of_the_same_name_are_told_apart(runs, tmp_path, quick_figures):
    shutil.copytree(runs / "worse", tmp_path / "x" / "better")
    comparison = compare_runs([runs / "better", tmp_path / "x" / "better"], tmp_path / "c.html")
    assert [row["run"] for row in comparison.table] == [f"{runs.name}/better", "x/better"]
