"""What GRPO did not teach."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def not_taught(result: Mapping[str, Any], below: float = 0.5) -> list[dict[str, Any]]:
    """The kinds of problem that the policy mostly fails after training, the worst first.

    Args:
        result: the dict of `evaluation.json`.
        below: accuracies under this are listed.

    Returns:
        Rows {"kind", "n", "before", "after", "mostly": the most frequent kind of error}, and where it was sampled
        "pass@k before" and "pass@k after" with the largest k: a kind at 0 there was never sampled right, so there was
        nothing to reinforce.
    """
    curves = result.get("pass_at_k") or {}
    table = []
    for kind, group in result["by_group"].items():
        if group["after"] is None or group["after"] >= below:
            continue
        row = {"kind": kind, "n": group["n"], "before": group.get("before"), "after": group["after"]}
        for phase in ("before", "after"):
            values = (curves.get(phase) or {}).get("by_group", {}).get(kind)
            if values:
                row[f"pass@{curves[phase]['k'][-1]} {phase}"] = values[-1]
        errors = group.get("errors") or {}
        table.append(row | {"mostly": max(errors, key=errors.__getitem__) if any(errors.values()) else None})
    return sorted(table, key=lambda row: row["after"])
