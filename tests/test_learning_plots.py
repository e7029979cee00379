"""Learning by kind and pass@k are drawn from what was sampled, and from nothing else."""

from __future__ import annotations

import numpy as np

from nbhelpers.show.learning_plots import learning_by_kind, pass_figure


def row(step, kind, correct, text="About 5.", **more):
    return {"step": step, "kind": kind, "correct": correct, "completion": text, "length": len(text), **more}


def test_each_kind_has_its_row_and_probes_have_none():
    rows = [row(step, kind, step > 1) for step in (1, 2) for kind in ("dots", "free")] + [
        row(1, "dots", True, role="probe")
    ]
    left = learning_by_kind(rows).axes[0]
    assert [tick.get_text() for tick in left.get_yticklabels()] == ["dots", "free"]
    assert left.get_images()[0].get_array().tolist() == [[0.0, 1.0], [0.0, 1.0]]


def test_the_share_that_works_is_drawn_where_some_do_and_left_out_where_none_does():
    rows = [row(step, "dots", True, "Step by step: 1 2" if step > 2 else "About 5.") for step in (1, 2, 3, 4)]
    drawn = learning_by_kind(rows, works=lambda text: text.startswith("Step"))
    assert len(drawn.axes) == 3 and drawn.axes[2].get_lines()[0].get_ydata()[-1] == 1.0
    assert len(learning_by_kind(rows, works=lambda text: False).axes) == 2


def test_pass_at_k_is_drawn_before_and_after_for_the_kinds_that_tell_most():
    def curve(first, still):
        return {"k": [1, 2, 4], "all": [first, 0.8, 0.9], "interval": [[0.1, 0.9]] * 3, "by_group": {
            "dots": [first, 0.9, 1.0], "free": still, "bars": [first / 2, 0.5, 0.6]}}  # fmt: skip

    figure = pass_figure({"before": curve(0.2, [0.0, 0.0, 0.0]), "after": curve(0.8, [0.01, 0.0, 0.0])})
    assert [axis.get_title(loc="left") for axis in figure.axes] == ["all problems", "dots", "free"]
    assert [np.round(line.get_ydata()[0], 2) for line in figure.axes[0].get_lines()] == [0.2, 0.8]
    assert len(pass_figure({}).axes) == 0


def test_votes_and_the_greedy_answer_stand_beside_pass_at_k():
    curve = {"k": [1, 2], "all": [0.4, 0.6], "interval": [[0.1, 0.9]] * 2, "by_group": {"dots": [0.4, 0.6]}}
    figure = pass_figure({"after": curve | {"majority": [0.4, 0.5], "greedy": 0.7}})
    lines = {line.get_label(): line.get_ydata().tolist() for line in figure.axes[0].get_lines()}
    assert lines == {"after training": [0.4, 0.6], "majority, after": [0.4, 0.5], "greedy, after": [0.7]}
