"""Figures: every text is drawn as it is, nothing is drawn that was not measured, and missing parts are left out."""

from __future__ import annotations

import io
import warnings

import numpy as np
import pytest
from matplotlib.text import Text
from PIL import Image
from synthetic_run import HOSTILE, make_problems, make_run

from nbhelpers.evaluation.statistics import compare
from nbhelpers.runs.directory import RunDirectory
from nbhelpers.runs.metrics import METRICS, progress_line
from nbhelpers.show import evaluation_plots, figures, learning_plots, problem_plots, training_plots


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return RunDirectory(make_run(tmp_path_factory.mktemp("run"), steps=30, prompts=4, problems=16, evaluation=16))


@pytest.fixture(scope="module")
def metrics(run):
    return run.read_jsonl(run.metrics_path)


def texts(figure) -> str:
    return "\n".join(text.get_text() for text in figure.findobj(Text) if text.get_visible())


def drawn(figure) -> np.ndarray:
    """The figure's pixels; a warning while drawing is an error."""
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure.savefig(buffer, format="png", dpi=30)
    return np.asarray(Image.open(buffer).convert("RGB"))


def titles(figure) -> list[str]:
    return [axis.get_title(loc="left") for axis in figure.axes]


def test_a_notebook_shows_a_figure_once_and_at_notebook_width(metrics):
    from matplotlib import pyplot

    figure = training_plots.training_overview(metrics)
    png, size = figure._repr_png_()
    assert Image.open(io.BytesIO(png)).width > size["width"] == 921
    assert pyplot.get_fignums() == []


def test_the_overview_shows_the_story_and_the_rest_when_asked(metrics):
    figure = training_plots.training_overview(metrics)
    assert titles(figure)[1:] == ["Groups without signal", "Completion length", "Loss"]
    assert "length is being paid" in texts(figure).replace("\n", " ")
    assert {"formatting", "correctness", "total"} <= set(texts(figure).splitlines())
    everything = training_plots.training_overview(metrics, everything=True)
    assert titles(everything)[: len(titles(figure))] == titles(figure)
    assert {"Entropy of the policy", "Time of a step"} <= set(titles(everything))
    assert "KL to the reference policy" not in titles(everything)
    with_kl = [{**row, "kl": 0.01 * row["step"]} for row in metrics]
    assert "KL to the reference policy" in titles(training_plots.training_overview(with_kl, everything=True))
    drawn(figure)
    drawn(everything)


def test_the_logged_loss_is_what_is_said_of_it(trained_run):
    """For dr_grpo \u2212mean(advantage x length) / max_completion_length: below 0 where longer ones earn more."""
    run, limit = trained_run["run"], trained_run["params"].training.max_completion_length
    samples, losses = run.read_jsonl(run.samples_path), {}
    assert trained_run["params"].training.loss_type == "dr_grpo"
    for row in run.read_jsonl(run.metrics_path):
        pairs = [(one["advantage"], one["length"]) for one in samples if one["step"] == row["step"]]
        losses[row["step"]] = -np.mean([advantage * length for advantage, length in pairs]) / limit
        assert row["loss"] == pytest.approx(losses[row["step"]], abs=1e-4)
    assert len(losses) == 3 and max(map(abs, losses.values())) > 1e-3  # not 0, and so not said by accident


def test_every_axis_is_labelled(metrics):
    for figure in (training_plots.training_overview(metrics), problem_plots.image_sizes(make_problems(4))):
        assert all(axis.get_xlabel() and axis.get_ylabel() for axis in figure.axes)


def test_the_drawn_curve_is_the_logged_reward(metrics):
    top = training_plots.training_overview(metrics).axes[0]
    thin = [line for line in top.lines if line.get_alpha()]
    logged = [row["reward"] for row in metrics]
    assert any(np.array_equal(line.get_ydata(), logged) for line in thin)


@pytest.mark.parametrize("rows", [0, 1, 3])
def test_a_run_that_has_hardly_begun_is_drawn(metrics, rows):
    figure = training_plots.training_overview(metrics[:rows])
    drawn(figure)
    curves = [line for axis in figure.axes[:1] for line in axis.get_lines()]
    assert max((len(line.get_xdata()) for line in curves), default=0) == rows
    assert rows or "no training step has been logged yet" in texts(figure)
    both = training_plots.compare_curves({"a": metrics[:rows], "b": metrics})
    drawn(both)
    assert "b" in texts(both).splitlines()


def test_metrics_without_a_value_are_left_out():
    rows = [{"step": step, "reward": None, "loss": 0.0, "rewards/own/mean": None} for step in range(1, 5)]
    figure = training_plots.training_overview(rows)
    drawn(figure)
    assert not np.isfinite([line.get_ydata() for line in figure.axes[0].get_lines()] or np.nan).any()
    assert titles(figure)[1:] == ["Loss"]


def test_smoothing_keeps_a_constant_and_ignores_gaps():
    assert np.allclose(figures.smooth([2.0] * 20, 5), 2.0)
    assert np.allclose(figures.smooth([1.0, np.nan, 1.0, 1.0], 3), 1.0)


def test_before_and_after_carry_the_figures_of_the_evaluation():
    evaluation = {
        "before": {"accuracy": 0.25, "format_rate": 0.5, "n": 8},
        "after": {"accuracy": 0.5, "format_rate": 0.75, "n": 8},
        "difference": {"accuracy": 0.25, "ci95": [0.05, 0.45], "n_paired": 8},
        "by_group": {"count": {"before": None, "after": 1.0, "n": 4}},
    }
    figure = evaluation_plots.before_after(evaluation)
    shown = texts(figure)
    assert {"25.0 %", "50.0 %", "75.0 %", "100.0 %"} <= set(shown.splitlines())
    assert "+25.0" not in shown  # with kinds, the forest plot has it
    drawn(figure)
    figure = evaluation_plots.before_after(evaluation | {"by_group": {}})
    shown = texts(figure)
    assert {"25.0 %", "50.0 %", "+25.0"} <= set(shown.splitlines()) and "100.0 %" not in shown.splitlines()
    assert "95 %: +5.0 to +45.0" in shown
    assert "the interval lies above 0" in shown
    drawn(figure)


def test_the_line_on_a_bar_is_the_interval_of_its_share_over_pictures():
    """Four questions about each of nine pictures, right or wrong together: an interval over questions is too short."""
    rows = [
        {"pid": f"{picture}-{place}", "phase": phase, "kind": "count", "image": f"images/{picture}.png",
         "correct": picture % 3 == 0 or phase == "after" and picture % 3 == 1, "format_ok": True, "parsed": "1"}
        for phase in ("before", "after") for picture in range(9) for place in range(4)
    ]  # fmt: skip
    result = compare(rows)
    low, high = result["ci95"]["after"]
    alone = compare([{**row, "image": None} for row in rows])["ci95"]["after"]
    assert low < 2 / 3 < high and high - low > 1.6 * (alone[1] - alone[0])
    figure = evaluation_plots.before_after(result)
    drawn_lines = {tuple(line.get_xdata()) for line in figure.axes[0].get_lines()}
    assert drawn_lines == {tuple(of["ci95"][p]) for of in (result, result["by_group"]["count"]) for p in of["ci95"]}
    assert "this share alone, over pictures" in texts(figure)
    without = {key: value for key, value in result.items() if key != "ci95"}  # as runs of earlier versions have it
    assert len(evaluation_plots.before_after(without | {"by_group": {}}).axes[0].get_lines()) == 0


def test_the_forest_holds_the_whole_its_parts_and_the_kinds_from_gain_to_loss():
    def change(gain, reach, p_holm=None):
        test = {"p": 0.5} if p_holm is None else {"p": 0.01, "p_holm": p_holm}
        return {"accuracy": gain, "ci95": [gain - reach, gain + reach], "n_paired": 8, "mcnemar": test}

    evaluation = {
        "after": {"accuracy": 0.5, "n": 8},
        "difference": change(0.3, 0.1),
        "split": {
            "hands_in": change(0.1, 0.2),
            "right_more_often": change(0.2, 0.1),
            "plain": {"accuracy": 0.1, "helps": False, "difference": change(0.9, 0.1)},
        },
        "by_group": {
            "fell": {"difference": change(-0.2, 0.1, 0.04)},
            "rose": {"difference": change(0.4, 0.1, 0.2)},
            "absent": {"after": 1.0},
        },
    }
    figure = evaluation_plots.forest_plot(evaluation)
    names = [tick.get_text().split("  ")[0] for tick in figure.axes[0].get_yticklabels()]
    assert names == ["all problems", "of it: handing the answer in", "of it: being right more often", "rose", "fell"]
    filled = [line.get_markerfacecolor() != "white" for line in figure.axes[0].get_lines() if line.get_marker() == "o"]
    assert filled == [True, False, True, False, True]
    assert "+30.0 (+20.0 to +40.0)" in texts(figure)
    drawn(figure)
    assert "no baseline" in texts(evaluation_plots.forest_plot({"after": {"accuracy": 0.5, "n": 4}}))


@pytest.mark.parametrize(
    ("interval", "said"), [([-0.1, 0.2], "contains 0"), ([-0.3, -0.1], "below 0"), ([0.0, 0.0], "contains 0")]
)
def test_an_interval_is_described_for_what_it_is(interval, said):
    difference = {"accuracy": sum(interval) / 2, "ci95": interval, "n_paired": 5}
    figure = evaluation_plots.before_after(
        {"before": {"accuracy": 0.5}, "after": {"accuracy": 0.5, "n": 5}, "difference": difference}
    )
    assert said in texts(figure)
    drawn(figure)


@pytest.mark.parametrize(
    "evaluation",
    [
        {},
        {"after": {"accuracy": 0.5, "n": 4}, "by_group": {}},
        {"after": {"accuracy": None, "n": 0}},
        {"after": {"accuracy": 0.1}, "difference": {"accuracy": None, "ci95": [None, None], "n_paired": 0}},
    ],
)
def test_an_evaluation_in_part_is_drawn_in_part(evaluation):
    figure = evaluation_plots.before_after(evaluation)
    assert "before training" not in texts(figure)
    drawn(figure)


def test_problems_are_shown_with_question_choices_and_answer():
    problems = make_problems(6)
    shown = texts(problem_plots.problem_grid(problems, columns=3))
    assert "How many red dots" in shown
    assert "(A)" in shown and "\u2192 " + problems[0]["answer"] in shown
    assert "squares" in shown


@pytest.mark.parametrize("name", HOSTILE)
def test_a_question_is_drawn_as_text_without_a_warning(name):
    problem = {
        **make_problems(1)[0],
        "question": HOSTILE[name],
        "answer": HOSTILE[name][:40],
        "choices": [HOSTILE[name][:30], "$x^$"],
    }
    figure = problem_plots.problem_grid([problem])
    drawn(figure)
    shown = [text for text in figure.findobj(Text) if text.get_text().strip()]
    assert any("\u2192" in text.get_text() for text in shown), "the answer is there"
    assert not [text for text in shown if text.get_parse_math()], "nothing is read as a formula"
    counts = problem_plots.answer_counts([{**problem, "metadata": {"category": HOSTILE[name]}}])
    drawn(counts)
    assert [bar.get_width() for bar in counts.axes[0].patches] == [1], "one problem, one bar"


def test_marks_that_turn_the_direction_of_writing_are_boxes():
    assert figures.drawable("a\u202e54\u202cb\x07") == "a\u25a154\u25a1b\u25a1"


def test_a_long_question_is_cut_and_says_so():
    wrapped = figures.drawable(HOSTILE["long"], 30, 5)
    assert wrapped.count("\n") == 4 and wrapped.endswith("\u2026")


def test_chinese_wraps_at_half_the_letters():
    assert max(map(len, figures._wrap("\u9898" * 100, 30))) == 15


def test_pictures_of_any_shape_and_mode_fit_the_grid():
    problems = make_problems(3)
    for problem, (size, mode) in zip(problems, [((900, 80), "RGB"), ((60, 700), "L"), ((30, 30), "RGBA")], strict=True):
        problem["image"] = Image.new(mode, size)
    grid, sizes = problem_plots.problem_grid(problems), problem_plots.image_sizes(problems)
    assert [image.get_size() for axis in grid.axes for image in axis.images] == [(80, 900), (700, 60), (30, 30)]
    assert "3 different sizes" in texts(sizes)
    same = make_problems(2)
    assert "2 pictures (1 size)" in texts(problem_plots.image_sizes(same))
    assert drawn(grid).std() > 0 and drawn(sizes).std() > 0


def test_counts_add_up():
    figure = problem_plots.answer_counts(make_problems(40), top=3)
    widths = [sum(bar.get_width() for bar in axis.patches) for axis in figure.axes]
    assert widths[:2] == [40, 40]
    assert "others" in texts(figure)
    for axis in figure.axes:
        lowest = max(bar.get_y() + bar.get_height() for bar in axis.patches)
        assert axis.get_ylim()[0] >= lowest, "every bar can be seen"


def test_nothing_to_draw_is_said():
    for figure in (
        problem_plots.problem_grid([]),
        problem_plots.answer_counts([]),
        problem_plots.image_sizes([]),
        training_plots.compare_curves({}),
    ):
        assert "no " in texts(figure)


def test_compared_runs_have_their_own_colour_and_name(metrics):
    figure = training_plots.compare_curves({"first $x$": metrics, "second": metrics})
    assert {"first $x$", "second"} <= set(texts(figure).splitlines())
    lines = [line.get_color() for line in figure.axes[0].lines if not line.get_alpha()]
    assert len(set(lines)) == 2
    drawn(figure)


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("reward", 2.291, "2.29"), ("completions/mean_length", 19.94, "19.9"),
        ("completions/mean_length", 512.4, "512"),
        ("frac_reward_zero_std", 0.0417, "4"), ("loss", -0.0054, "-0.0054"), ("loss", 0.0, "0.00"),
        ("kl", -0.00001, "0.0000"), ("entropy", None, "\u2013"), ("entropy", float("nan"), "\u2013"),
    ],
)  # fmt: skip
def test_a_metric_is_shown_with_the_digits_that_say_something(key, value, expected):
    (metric,) = [metric for metric in METRICS if metric.key == key]
    assert metric.text(value) == expected


def test_the_progress_line_says_where_the_run_stands():
    row = {"step": 6, "max_steps": 60, "seconds_per_step": 3.25, "reward": 2.291, "rewards/formatting/mean": 1.521}
    row |= {"frac_reward_zero_std": 0.0417, "completions/mean_length": 19.94, "completions/clipped_ratio": 0.0}
    expected = "step 6/60  reward 2.29 (formatting 1.52)  zero variance 4 %  length 19.9"
    assert progress_line(row) == expected + "  2 min 56 s left"
    assert (
        progress_line({**row, "seconds_per_step": None, "completions/clipped_ratio": 0.3})
        == expected + "  cut off 30 %"
    )


def test_what_the_model_sees_is_its_processor_s_square(embedded_policy):
    problems = make_problems(2)
    problems[1]["image"] = problems[1]["image"].resize((400, 100))
    figure = problem_plots.seen_by_model(problems, embedded_policy.processor)
    side = embedded_policy.processor.image_processor.size["height"]
    shown = [axis.images[0].get_array() for axis in figure.axes]
    assert [picture.shape[:2] for picture in shown] == [(256, 256), (100, 400), (side, side), (side, side)]
    assert (
        abs(float(np.mean(shown[2])) - float(np.mean(shown[0])) / 255) < 0.02
    )  # the same picture, not a normalised one
    assert f"as the model sees it: {side}" in texts(figure)
    drawn(figure)


def test_a_figure_follows_the_theme_where_somebody_looks(monkeypatch):
    figure = problem_plots.answer_counts(make_problems(8))
    assert figure._repr_html_() is None
    monkeypatch.setenv("NBHELPERS_BATCH", "0")
    assert 'class="plot"' in figure._repr_html_() and "Problems by kind" in figure._repr_html_()
    assert 'class="plot as-is"' in problem_plots.problem_grid(make_problems(2))._repr_html_()


@pytest.mark.parametrize("kind", [*HOSTILE.values(), "$x_{$", "$\\frac{"])
def test_a_kind_is_drawn_as_it_is_written(kind):
    """One called "$x_{$" ended notebook 03 after training, in matplotlib's reading of formulas."""
    rows = [{"step": 1, "kind": kind, "correct": True, "completion": "", "length": 3}]
    change = {"accuracy": 0.5, "ci95": [0.1, 0.9], "n_paired": 2, "mcnemar": {"p": 1.0, "p_holm": 1.0}}
    curve = {"k": [1, 2], "all": [0.5, 0.7], "interval": [[0.1, 0.9]] * 2, "by_group": {kind: [0.5, 0.7]}}
    for figure in (
        learning_plots.learning_by_kind(rows),
        learning_plots.pass_figure({"after": curve}),
        evaluation_plots.forest_plot({"difference": change, "by_group": {kind: {"difference": change}}}),
    ):
        drawn(figure)
        assert not [text for text in figure.findobj(Text) if text.get_parse_math() and "$" in text.get_text()]
