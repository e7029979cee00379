"""An evaluation told: `evaluation.json` in sentences and tables."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nbhelpers.evaluation.statistics import detectable_difference
from nbhelpers.params import counted, interval_of_points, percent, points


def headline(result: Mapping[str, Any]) -> str:
    """The result in one or two honest sentences: the difference with its interval, and what it is made of."""
    after, difference = result["after"], result.get("difference")
    if difference is None:
        return _without_baseline(result)
    low, high = difference["ci95"]
    verdict = "a gain" if low > 0 else "a loss" if high < 0 else "no difference that this many problems could show"
    said = (
        f"Accuracy {percent(result['before']['accuracy'])} → {percent(after['accuracy'])} on the same "
        f"{counted(difference['n_paired'], 'problem')}: {points(difference['accuracy'])} points "
        f"(95 % interval {interval_of_points((low, high))}), {verdict}."
    )
    return f"{said} {split_sentence(result['split'])}" if "split" in result else said


def _without_baseline(result: Mapping[str, Any]) -> str:
    after, anywhere = result["after"], result.get("anywhere", {})
    of = "of the base model" if "anywhere" in result else "after training"
    ends = " to ".join(percent(end) for end in (result.get("ci95") or {}).get("after", ()))
    names = {
        "training_prompt": "with the answer taken wherever it stands",
        "plain_prompt": "under a plain prompt, taken likewise",
    }
    more = [f"{percent(share)} {names[name]}" for name, share in anywhere.items()] or ["no baseline was measured"]
    reach = f" (95 % interval {ends})" if ends else ""
    return f"Accuracy {of}: {percent(after['accuracy'])} of {counted(after['n'], 'problem')}{reach}; {', '.join(more)}."


def split_sentence(split: Mapping[str, Any]) -> str:
    """The two parts of the gain in one sentence, and what the plain prompt says of them."""
    handed, right = _with_interval(split["hands_in"]), _with_interval(split["right_more_often"])
    said = f"Of it, {handed} is handing the answer in, {right} is being right more often"
    if not (plain := split.get("plain")):
        return f"{said}."
    asked = f"{percent(plain['accuracy'])} of {counted(plain['n'], 'problem')}"
    if not plain["helps"]:
        return f"{said}. A plain prompt does not help the base model: {asked}."
    if plain["difference"]["accuracy"] is None:
        return f"{said}."
    than_plain = _with_interval(plain["difference"])
    return f"{said}; against the base model under a plain prompt ({asked}) it is {than_plain}."


def _with_interval(difference: Mapping[str, Any]) -> str:
    return f"{points(difference['accuracy'])} ({interval_of_points(difference['ci95'])})"


def power_sentence(problems: int, flips: float | None = None, pictures: int | None = None) -> str:
    """What difference so many problems can show; without `flips`, with the share of changed verdicts that is usual.

    Args:
        pictures: that they are about. Were the questions of a picture all alike, they alone would count.
    """
    share = {} if flips is None else {"flips": flips}
    shown = detectable_difference(problems, **share)
    alike = detectable_difference(pictures, **share) if pictures and pictures < problems else shown
    reach = f"{100 * shown:.1f}" + (f" to {100 * alike:.1f}" if alike > shown else "")
    about = f" about {counted(pictures, 'picture')}" if alike > shown else ""
    given = "if 12 % of the verdicts change" if flips is None else f"with {percent(flips, 0)} of the verdicts changed"
    return (
        f"{counted(problems, 'problem')}{about} show a true difference of {reach} points in four of five runs, "
        f"{given}; smaller ones will often look like none."
    )


def readings(result: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Who was asked how, and how the answer was taken: rows {"policy", "prompt", "answer", "accuracy", "n"}; the three
    baselines first.
    """
    split, alone = result.get("split") or {}, result.get("anywhere") or {}
    anywhere = split.get("anywhere") or {"after": alone.get("training_prompt")}
    plain = split.get("plain") or {"accuracy": alone.get("plain_prompt"), "n": None}
    trained = "after training" if split else "as it is"
    table = []
    for phase, policy in (("before", "before training"), ("after", trained)):
        own = result.get(phase) or {}
        table.append((policy, "training", "handed in", own.get("accuracy"), own.get("n")))
        table.append((policy, "training", "wherever it stands", anywhere.get(phase), own.get("n")))
        if phase == ("before" if split else "after"):
            table.append((policy, "plain", "wherever it stands", plain["accuracy"], plain["n"]))
    names = ("policy", "prompt", "answer", "accuracy", "n")
    return [dict(zip(names, row, strict=True)) for row in table if row[3] is not None]


def sampling_table(result: Mapping[str, Any]) -> list[dict[str, str]]:
    """`pass_at_k` as a table, rows {"on the problems that were sampled", "before", "after"}: greedy and sampled side by
    side, votes, the variance of a verdict, and how often an answer is right by how many agree.
    """
    curves = {phase: curve for phase in ("before", "after") if (curve := (result.get("pass_at_k") or {}).get(phase))}
    columns = {phase: _column(curve) for phase, curve in curves.items()}
    names = dict.fromkeys(name for column in columns.values() for name in column)
    return [
        {"on the problems that were sampled": name, **{phase: of.get(name, "\u2013") for phase, of in columns.items()}}
        for name in sorted(names, key=lambda name: name if name.startswith("right where") else "")
    ]


def _column(curve: Mapping[str, Any]) -> dict[str, str]:
    n = curve["n"]
    column = {"greedy": percent(curve["greedy"])} if "greedy" in curve else {}
    column |= {
        "one sample (pass@1)": percent(curve["all"][0]),
        f"majority of {n}": percent(curve["majority"][-1]),
        f"one of {n} is right (pass@{n})": percent(curve["all"][-1]),
    }
    column |= {f"variance {where} problems": f"{value:.3f}" for where, value in curve["variance"].items()}
    for part in curve["agreement"]:
        name = f"right where {100 * part['low']:.0f} to {percent(part['high'], 0)} of the samples agree"
        column[name] = f"{percent(part['accuracy'])} of {part['problems']}"
    return column


def not_taught(result: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The kinds of problem of which more than half are wrong after training, the worst first.

    Returns:
        Rows {"kind", "n", "before", "after", "mostly": the most frequent kind of error}, and where it was sampled
        "pass@k before" and "pass@k after" with the largest k: a kind at 0 there was never sampled right, so there was
        nothing to reinforce.
    """
    curves = result.get("pass_at_k") or {}
    table = []
    for kind, group in result["by_group"].items():
        if group["after"] is None or group["after"] >= 0.5:
            continue
        row = {"kind": kind, "n": group["n"], "before": group.get("before"), "after": group["after"]}
        for phase in ("before", "after"):
            if values := (curves.get(phase) or {}).get("by_group", {}).get(kind):
                row[f"pass@{curves[phase]['k'][-1]} {phase}"] = values[-1]
        errors = group.get("errors") or {}
        table.append(row | {"mostly": max(errors, key=errors.__getitem__) if any(errors.values()) else None})
    return sorted(table, key=lambda row: row["after"])
