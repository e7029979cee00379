"""Many runs from one file: named overrides times seeds, each a run directory of its own, and one table over them all.

    nbhelpers sweep params/sweeps/loss_types.yaml --jobs 4
    nbhelpers sweep params/sweeps/controls.yaml --trust-code    # it names a reward of its own, the coin

A run trains and is evaluated without notebooks, in a process of its own. One that is finished is not made again, one
that was interrupted goes on from its last checkpoint.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, StringConstraints, ValidationError

from nbhelpers.params import (
    Layer,
    ParamsError,
    PlainError,
    RunParams,
    Section,
    as_given,
    did_you_mean,
    differing_settings,
    percent,
    places_of,
    points,
    read_yaml,
    repository_root,
    resolve_path,
    trusting,
)
from nbhelpers.runs import RunDirectory, SampleStore, duration, hardware, versions
from nbhelpers.training import in_processes, stops_go_to

ENOUGH = 0.8  # the share of right probes whose first step is in the table

Sections = dict[str, dict[str, Any]]


class SweepError(PlainError, RuntimeError):
    """A sweep cannot be run, or some of its runs failed; the message says which and where their logs are."""


class SweepFile(Section):
    """A sweep file: every entry of `overrides` is run with every seed; what is compared is compared with the first.

    `common` holds sections for every run, laid over the preset; an override is laid over both.
    """

    preset: str = Field("smoke", description="a preset or the path of a parameter file")
    seeds: list[Annotated[int, Field(ge=0)]] = Field(min_length=1, description="a list of whole numbers such as [1, 2]")
    overrides: dict[Annotated[str, StringConstraints(pattern=r"^\w[\w.-]*$")], Sections | None] = Field(
        min_length=1, description="names (of letters, digits, _, . and -), each with sections: {a: {lora: {r: 8}}}"
    )
    common: Sections = Field(default_factory=dict, description="sections: {lora: {r: 8}}")


@dataclass(frozen=True)
class SweepRun:
    """One run of a sweep: its override and seed, and its parameters."""

    override: str
    seed: int
    params: RunParams

    @property
    def name(self) -> str:
        return f"{self.override}/{self.seed}"

    @property
    def run(self) -> RunDirectory:
        return RunDirectory(self.params.output_dir)

    @property
    def finished(self) -> bool:
        """Whether it was evaluated, with these very parameters.

        Raises:
            SweepError: its directory holds a run with other parameters.
        """
        found, wanted = self.run.read_manifest().get("parameters"), self.params.as_dict()
        judged = wanted["evaluation"].items()
        other = [f"evaluation.{key}" for key, value in judged if found and found["evaluation"].get(key) != value]
        if found and (other := [*differing_settings(found, wanted), *other]):
            raise SweepError(
                f"{self.run.path} holds a run with other parameters ({', '.join(other)}): give another --output-dir, "
                "or another name to the override."
            )
        return self.run.evaluation_path.is_file()


def load_sweep(
    file: str | Path,
    *,
    output_dir: str | Path | None = None,
    overrides: Sections | None = None,
    trust_code: bool = False,
) -> list[SweepRun]:
    """Read a sweep file and check the parameters of every run, seed by seed.

    Args:
        output_dir: holds the runs as `<override>/<seed>/`; default: `outputs/<name of the file>`.
        overrides: sections that are laid over those of the file in every run.
        trust_code: whether the file may name code of its own (`params/trust.py`).

    Raises:
        ParamsError: there is no such file, or a section, key or value in it is wrong.
    """
    found = resolve_path(file)
    if found is None or not found.is_file():
        raise ParamsError(f"there is no sweep file {str(file)!r}; {places_of(file)}")
    try:
        sweep = SweepFile.model_validate(read_yaml(found, str(file)) or {})
    except ValidationError as error:
        raise ParamsError(*dict.fromkeys(_sentence(file, item) for item in error.errors())) from None
    folder = Path(output_dir or (repository_root() or Path.cwd()) / "outputs" / found.stem).absolute()
    runs, common = [], Layer(f"{file}, common", sweep.common, is_data=True)
    for seed in dict.fromkeys(sweep.seeds):
        for name, own in sweep.overrides.items():
            layers = [common, Layer(f"{file}, {name}", own, is_data=True), Layer("--set", overrides, is_data=False)]
            place, of_run = folder / name / str(seed), {"training": {"seed": seed, "resume": True}}
            params = RunParams.load(sweep.preset, output_dir=place, trust_code=trust_code, layers=layers, **of_run)
            runs.append(SweepRun(name, seed, params))
    return runs


def _sentence(file: str | Path, error: Mapping[str, Any]) -> str:
    """One of pydantic's errors on a sweep file for a person."""
    fields, key = SweepFile.model_fields, str((*error["loc"], "")[0])
    if not key:
        return f"{file} was given {as_given(error['input'])}; expected the keys {', '.join(fields)}"
    if key not in fields:
        return f"{file}: {key} is not a known key ({', '.join(fields)}){did_you_mean(key, fields)}"
    found = "is missing" if error["type"] == "missing" else f"was given {as_given(error['input'])}"
    return (
        f"{file}: {'.'.join(map(str, error['loc'])).removesuffix('.[key]')} {found}; expected {fields[key].description}"
    )


def run_sweep(runs: Sequence[SweepRun], *, jobs: int = 1, echo: Callable[[str], None] = print) -> Path:
    """Make every run that is not finished, `jobs` at a time, and write table, figure and comparisons beside them.

    Each run has `OMP_NUM_THREADS` set to its share of the cores, unless the environment sets it, and `log.txt`.

    Returns:
        `sweep.md`; beside it `sweep.json` (every figure), `sweep.png`, and `compare-<seed>.html`.

    Raises:
        SweepError: some runs failed (the others were made, and the table holds them), or a directory holds another run.
        KeyboardInterrupt: SIGINT, SIGTERM or SIGHUP came; the runs that were being made have ended, with a checkpoint.
    """
    waiting = [one for one in runs if not one.finished]
    echo(f"{len(runs)} runs, {len(runs) - len(waiting)} of them finished earlier; {jobs} at a time")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with trusting(any(one.params.needs_trust for one in waiting)):
        environment = {"OMP_NUM_THREADS": str(max(1, cores // jobs)), **os.environ, "NBHELPERS_BATCH": "1"}
    started, running, failed = time.monotonic(), set(), {}

    def stop(number: int, frame: Any) -> None:
        raise KeyboardInterrupt

    with stops_go_to(stop), ThreadPoolExecutor(jobs) as pool:
        try:
            futures = {pool.submit(_in_a_process, one, environment, running): one for one in waiting}
            for done, future in enumerate(as_completed(futures), start=1):
                one, code = futures[future], future.result()
                if code:
                    failed[one.name] = _last_line(one)
                left = (time.monotonic() - started) / done * (len(waiting) - done)
                result = f"failed ({failed[one.name]})" if code else f"done, accuracy {_accuracies(one)}"
                echo(f"[{done}/{len(waiting)}] {one.name} {result}; about {duration(left)} left")
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            for process in list(running):
                process.terminate()
            raise
    table = _write_results([one for one in runs if one.name not in failed], jobs)
    if failed:
        listed = "; ".join(f"{name}: {line}" for name, line in failed.items())
        raise SweepError(f"{len(failed)} of {len(runs)} runs failed ({listed}). Their log.txt says more. {table}")
    return table


def _in_a_process(one: SweepRun, environment: Mapping[str, str], running: set) -> int:
    one.run.path.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "nbhelpers.sweep", *one.params.as_arguments()]
    with open(one.run.path / "log.txt", "a", encoding="utf-8") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT)
        running.add(process)
        try:
            return process.wait()
        finally:
            running.discard(process)


def _last_line(one: SweepRun) -> str:
    lines = (one.run.path / "log.txt").read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return lines[-1][:200] if lines else "it said nothing"


def _accuracies(one: SweepRun) -> str:
    evaluation = one.run.read_json(one.run.evaluation_path)
    return " \u2192 ".join(f"{100 * evaluation[p]['accuracy']:.1f} %" for p in ("before", "after") if p in evaluation)


def train_and_evaluate(params: RunParams) -> None:
    """Notebooks 03 and 04 without their pictures: the trained adapter and `evaluation.json`."""
    from nbhelpers.evaluation import evaluate
    from nbhelpers.show import evaluation_progress
    from nbhelpers.training import load_and_train

    policy, problems, _ = load_and_train(params)  # nothing is trained again where that is done
    evaluate(policy, problems, params, RunDirectory(params.output_dir), progress=evaluation_progress())


# the table


def result_of(one: SweepRun) -> dict[str, Any]:
    """What the table needs of a finished run.

    `curve`: (step, share of right probes); `area`: the mean height of that curve over the steps, 0 to 1; `steps`: the
    first step at which the probes are right to `ENOUGH`, None if there was none.
    """
    run, store = one.run, SampleStore(one.run.path, role="probe")
    evaluation, metrics = run.read_json(run.evaluation_path), run.read_jsonl(run.metrics_path)
    shares: dict[int, list[bool]] = {}
    for group in map(store.group, store.groups()):
        for row in group.rows:
            shares.setdefault(row["step"], []).append(bool(row["correct"]))
    curve = [(step, sum(values) / len(values)) for step, values in sorted(shares.items())]
    reached = [step for step, share in curve if share >= ENOUGH]
    return {
        "override": one.override,
        "seed": one.seed,
        "before": (evaluation.get("before") or {}).get("accuracy"),
        "after": evaluation["after"]["accuracy"],
        "format": evaluation["after"]["format_rate"],
        "problems": evaluation["after"]["n"],
        "by_group": evaluation["by_group"],
        "length": [line.get("completions/mean_length") for line in (metrics[0], metrics[-1])],
        "seconds": (run.read_manifest().get("timings") or {}).get("training_seconds"),
        "curve": curve,
        "area": _area(curve),
        "steps": reached[0] if reached else None,
    }


def _area(curve: Sequence[tuple[int, float]]) -> float | None:
    import numpy as np

    if len(curve) < 2:
        return None
    steps, shares = np.transpose(curve)
    return float(np.trapezoid(shares, steps) / (steps[-1] - steps[0]))


def table_of(results: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A row for each override, the first one's first: means over seeds, and differences paired by seed.

    `gain` is after less before, `against_first` this override's `after` less the first one's with the same seed, and
    `area_against_first` the same of the area; each is [mean, low, high], a t-interval of 95 % over the seeds (no
    interval from one). The intervals say what other seeds would give on these problems, not what other problems would.
    """
    by_override: dict[str, dict[int, Mapping]] = {}
    for result in results:
        by_override.setdefault(result["override"], {})[result["seed"]] = result
    first = next(iter(by_override.values()), {})
    rows = []
    for name, seeds in by_override.items():
        found = list(seeds.values())
        reached = sorted(result["steps"] for result in found if result["steps"] is not None)
        pairs = [] if seeds is first else [(seeds[seed], first[seed]) for seed in seeds if seed in first]
        rows.append(
            {
                "override": name,
                "seeds": len(found),
                **{key: _mean(result[key] for result in found) for key in ("before", "after", "format", "area")},
                "lowest": min(result["after"] for result in found),
                "highest": max(result["after"] for result in found),
                "gain": _interval(r["after"] - r["before"] for r in found if r["before"] is not None),
                "against_first": _interval(own["after"] - base["after"] for own, base in pairs),
                "area_against_first": _interval(
                    own["area"] - base["area"] for own, base in pairs if None not in (own["area"], base["area"])
                ),
                "steps": reached[len(reached) // 2] if reached else None,
                "reached": len(reached),
                "length": [_mean(result["length"][end] for result in found) for end in (0, 1)],
                "seconds": _mean(result["seconds"] for result in found),
            }
        )
    return rows


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _interval(values: Iterable[float]) -> list[float] | None:
    """[mean, low, high]; low and high are the mean where all are equal, and absent from a single value."""
    from scipy.stats import ttest_1samp

    known = list(values)
    if not known:
        return None
    mean = sum(known) / len(known)
    if len(known) == 1:
        return [mean]
    if max(known) == min(known):
        return [mean, mean, mean]
    return [mean, *map(float, ttest_1samp(known, 0.0).confidence_interval(0.95))]


def markdown(table: Sequence[Mapping[str, Any]]) -> str:
    """The table as a person reads it; shares in %, differences in points."""
    first = table[0]["override"]
    lines = [
        f"| override | seeds | before | after (lowest to highest) | gain | against {first} | steps to "
        f"{100 * ENOUGH:.0f} % of the probes | area under the probe curve | format after | tokens | training |",
        "|---" * 11 + "|",
    ]
    for row in table:
        spread = f"{percent(row['after'])} ({percent(row['lowest'])} to {percent(row['highest'])})"
        reached = f"{row['steps']} ({row['reached']} of {row['seeds']})" if row["reached"] else "not reached"
        area = percent(row["area"]) + (f", {said}" if (said := _points(row["area_against_first"])) else "")
        lengths = " \u2192 ".join("\u2013" if length is None else f"{length:.0f}" for length in row["length"])
        seconds = "\u2013" if row["seconds"] is None else f"{row['seconds']:.0f} s"
        cells = [row["override"], row["seeds"], percent(row["before"]), spread, _points(row["gain"])]
        cells += [_points(row["against_first"]), reached, area, percent(row["format"]), lengths, seconds]
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines)


def _points(interval: Sequence[float] | None) -> str:
    if not interval:
        return ""
    mean, *ends = map(points, interval)
    return f"{mean} ({' to '.join(ends)})" if ends else mean


def _write_results(runs: Sequence[SweepRun], jobs: int) -> Path:
    from nbhelpers.show import compare_runs, sweep_figure

    if not runs:
        raise SweepError("no run of the sweep was finished, so there is no table.")
    folder, results = RunDirectory(runs[0].run.path.parent.parent), [result_of(one) for one in runs]
    table, machine = table_of(results), hardware()
    date = datetime.now(UTC).isoformat(timespec="seconds")
    record = {"date": date, "jobs": jobs, "hardware": machine, "versions": versions(), "table": table, "runs": results}
    folder.write_json(folder.path / "sweep.json", record)
    sweep_figure(results).savefig(folder.path / "sweep.png", dpi=144)
    gpus = ", ".join(gpu["name"] for gpu in machine["gpus"]) or "no GPU"
    notes = (
        f"{results[0]['problems']} evaluation problems in each run; means over seeds; intervals: 95 %, t, over seeds, "
        f"on these problems; differences paired by seed, in points. {date[:10]}; {machine['cpu']}, "
        f"{machine['cores']} cores, {gpus}; at most {jobs} runs at a time."
    )
    path = folder.path / "sweep.md"
    folder.write_text(path, f"{markdown(table)}\n\n{notes}\n\n![](sweep.png)\n")
    for seed in dict.fromkeys(one.seed for one in runs):
        same = [one.run.path for one in runs if one.seed == seed]
        if len(same) > 1:
            compare_runs(same, folder.path / f"compare-{seed}.html")
    return path


if __name__ == "__main__":
    sys.exit(in_processes("nbhelpers.sweep", train_and_evaluate))
