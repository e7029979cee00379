"""What a run learns from the full reward, from its parts, and from a coin: the same preset, several seeds each.

    python tests/benchmarks/bench_controls.py --seeds 5 --jobs 1 --out outputs/controls
    python tests/benchmarks/bench_controls.py --rewards full --seeds 5          # the seeds of the demonstration alone

Each run trains with `nbhelpers.training` and is evaluated greedily before and after on the preset's own evaluation
problems. A run that is there already is not made again. Prints one table, and leaves it with every figure in
`controls.json`.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

HERE = Path(__file__).resolve().parent
REWARDS = {
    "full": ["formatting", "correctness"],
    "format": ["formatting"],
    "correctness": ["correctness"],
    "coin": ["coin:coin"],
}


def one(preset: str, reward: str, seed: int, folder: Path, overrides: list[str]) -> None:
    """Train and evaluate one run in this process."""
    from nbhelpers.evaluation import evaluate
    from nbhelpers.params import RunParams, parse_overrides
    from nbhelpers.policy import load_policy
    from nbhelpers.problems import load_problems
    from nbhelpers.runs import RunDirectory
    from nbhelpers.training import train

    sections = parse_overrides([*overrides, f"training.seed={seed}", f"reward.functions={json.dumps(REWARDS[reward])}"])
    params = RunParams.load(preset, output_dir=folder, **sections)
    run, problems = RunDirectory(folder), load_problems(params.dataset)
    policy = load_policy(params.model, params.lora, seed=seed)
    result = train(policy, problems, params, run)
    evaluation = evaluate(policy, problems, params, run)
    lines = run.read_jsonl(run.metrics_path)
    ends = {
        name: [lines[0].get(key), lines[-1].get(key)]
        for name, key in (("length", "completions/mean_length"), ("reward", "reward"))
    }
    (folder / "done.json").write_text(
        json.dumps({"seconds": result.seconds, "steps": result.steps, "ends": ends, "evaluation": evaluation})
    )


def row(reward: str, results: list[dict]) -> str:
    gains = [100 * result["evaluation"]["difference"]["accuracy"] for result in results]
    lows = [100 * result["evaluation"]["difference"]["ci95"][0] for result in results]
    before = 100 * results[0]["evaluation"]["before"]["accuracy"]
    after = [100 * result["evaluation"]["after"]["accuracy"] for result in results]
    form = [100 * result["evaluation"]["after"]["format_rate"] for result in results]
    length = [result["ends"]["length"] for result in results]
    spread = f"{statistics.median(gains):+.1f} ({min(gains):+.1f} to {max(gains):+.1f})"
    return (
        f"{reward:<12} {len(results)} seeds  {before:5.1f} -> {statistics.median(after):5.1f} %  gain {spread}, "
        "lowest end of an interval "
        f"{min(lows):+.1f}  format {statistics.median(form):5.1f} %  length {length[0][0]:.0f} -> "
        f"{statistics.median(x[1] for x in length):.0f}  "
        f"{statistics.median(result['seconds'] for result in results):.0f} s of training"
    )


def by_kind(results: list[dict]) -> str:
    kinds = results[0]["evaluation"]["by_group"]
    parts = []
    for kind in sorted(kinds):
        before = 100 * kinds[kind]["before"]
        after = [100 * result["evaluation"]["by_group"][kind]["after"] for result in results]
        parts.append(f"{kind} {before:.0f} -> {statistics.median(after):.0f} ({min(after):.0f} to {max(after):.0f})")
    return "             " + "; ".join(parts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="smoke")
    parser.add_argument("--rewards", nargs="+", default=list(REWARDS), choices=list(REWARDS))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time")
    parser.add_argument("--out", type=Path, default=Path("outputs/controls"))
    parser.add_argument("--set", action="append", default=[], dest="overrides")
    parser.add_argument("--one", nargs=2, metavar=("REWARD", "SEED"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        reward, seed = arguments.one
        return one(arguments.preset, reward, int(seed), arguments.out / f"{reward}-{seed}", arguments.overrides)

    def start(job: tuple[str, int]) -> None:
        reward, seed = job
        folder = arguments.out / f"{reward}-{seed}"
        if (folder / "done.json").is_file():
            return
        folder.mkdir(parents=True, exist_ok=True)
        paths = os.pathsep.join(filter(None, [str(HERE), str(HERE.parent.parent), os.environ.get("PYTHONPATH")]))
        command = [
            sys.executable,
            __file__,
            "--preset",
            arguments.preset,
            "--out",
            str(arguments.out),
            "--one",
            reward,
            str(seed),
        ]
        command += [part for override in arguments.overrides for part in ("--set", override)]
        with open(folder / "log.txt", "w") as log:
            subprocess.run(
                command, env={**os.environ, "PYTHONPATH": paths}, stdout=log, stderr=subprocess.STDOUT, check=False
            )

    started = time.perf_counter()
    with ThreadPoolExecutor(arguments.jobs) as pool:
        list(
            pool.map(start, [(reward, seed) for seed in range(1, arguments.seeds + 1) for reward in arguments.rewards])
        )
    found: dict[str, list[dict]] = {}
    for reward in arguments.rewards:
        files = sorted(arguments.out.glob(f"{reward}-*/done.json"))
        found[reward] = [json.loads(file.read_text()) for file in files]
        if files:
            print(row(reward, found[reward]), by_kind(found[reward]), sep="\n")
    (arguments.out / "controls.json").write_text(json.dumps(found))
    print(f"{time.perf_counter() - started:.0f} s; {platform.platform()}, Python {platform.python_version()}")


if __name__ == "__main__":
    main()
