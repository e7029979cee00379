"""The same run twice: from a manifest to a run beside the first one, and where the two differ."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nbhelpers.params import Layer, ParamsError, RunParams, available_presets, differing_settings, one_line
from nbhelpers.runs import RunDirectory, environment_differences, read_seal

# What differs between two equal runs: times, and what is counted from the last start.
_CLOCK = {"time", "step_time", "seconds_per_step"}


def file_of_manifest(manifest: Path, output_dir: str | None) -> Path:
    """A parameter file with the parameters of a manifest, written where the repeated run will lie; it is data, as
    every parameter file is.

    Args:
        output_dir: default: the first run's folder with `-again` at its end.

    Raises:
        ParamsError: the file is no manifest of a run.
    """
    import yaml

    try:
        parameters = json.loads(manifest.read_text(encoding="utf-8"))["parameters"]
        sections = {key: value for key, value in parameters.items() if isinstance(value, dict)}
        sections["training"] = sections["training"] | {"resume": False}
    except (OSError, ValueError, RecursionError) as error:
        raise ParamsError(f"{manifest} is no manifest.json of a run: {one_line(error)}") from None
    except (KeyError, TypeError, AttributeError):
        raise ParamsError(f"{manifest} is no manifest.json of a run: it holds no parameters of one") from None
    folder = manifest.absolute().parent
    place = RunDirectory(output_dir or folder.with_name(f"{folder.name}-again"))
    if place.path == folder:
        raise ParamsError(f"{folder} is the run that is to be repeated: give another --output-dir")
    layer = Layer(str(manifest), sections, is_data=True)
    for preset in available_presets():  # whose own fields in training.grpo, say, must not come on top
        again = RunParams.load(preset, trust_code=True, layers=[layer])  # nothing is run
        if not differing_settings(parameters, again.as_dict()):
            given = {"preset": preset, "output_dir": str(place.path), **sections}
            file = place.path / "repeated.yaml"
            place.write_text(file, yaml.safe_dump(given, sort_keys=False, allow_unicode=True))
            return file
    raise ParamsError(f"{manifest} cannot be repeated: its parameters build on none of the shipped presets")


def report_differences(manifest: Path, again: RunDirectory) -> str:
    """Where a repeated run differs from the first, in environment and in result; kept as `repeated` in its manifest.

    What the first run's folder does not hold any more is not compared, and that is said.
    """
    first = RunDirectory(manifest.parent)
    then = json.loads(manifest.read_text(encoding="utf-8"))
    environment = environment_differences(then, again.read_manifest())
    result = result_differences(first, again)
    again.update_manifest(repeated={"from": str(manifest.absolute()), "environment": environment, "result": result})
    parts = []
    for name, lines in (("Environment", environment), ("Result", result)):
        parts.append(f"{name}: " + ("the same." if not lines else "".join(f"\n  {line}" for line in lines)))
    return "\n".join(parts)


def result_differences(first: RunDirectory, again: RunDirectory) -> list[str]:
    """A line for each record that is another one: from which row on, the adapter's weights, the accuracies."""
    lines = []
    for path in (first.metrics_path, first.samples_path, first.predictions_path):
        if not path.is_file():
            lines.append(f"{path.name}: not compared, the first run's is not there")
            continue
        pairs = [[_without_clock(row) for row in run.read_jsonl(run.path / path.name)] for run in (first, again)]
        at = next((at for at, (was, now) in enumerate(zip(*pairs, strict=False)) if was != now), None)
        if at is not None:
            row, step = pairs[0][at], pairs[0][at].get("step")
            where = f"step {step}" if step is not None else f"problem {row.get('pid')}"
            lines.append(f"{path.name}: differs from {where} on")
        elif len(pairs[0]) != len(pairs[1]):
            lines.append(f"{path.name}: {len(pairs[0]):,} rows then, {len(pairs[1]):,} now")
    weights = [(read_seal(run.final_model_dir) or {}).get("files", {}).get("adapter_model.safetensors")
               for run in (first, again)]  # fmt: skip
    if weights[0] != weights[1]:
        lines.append("final_model: the adapter's weights are other ones" if all(weights) else "final_model: missing")
    accuracies = [
        {phase: found.get(phase, {}).get("accuracy") for phase in ("before", "after")}
        for found in (run.read_json(run.evaluation_path) or {} for run in (first, again))
    ]
    if accuracies[0] != accuracies[1]:
        lines.append(f"accuracy: {accuracies[0]} then, {accuracies[1]} now")
    return lines


def _without_clock(row: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in row.items() if key not in _CLOCK}
