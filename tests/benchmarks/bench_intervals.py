"""How often the intervals and tests of `evaluation.statistics` hold what they promise, by simulation.

python tests/benchmarks/bench_intervals.py [--trials 2000]
"""

from __future__ import annotations

import argparse
import time

import numpy as np

from nbhelpers.evaluation.statistics import cluster_interval, difference_over_seeds, holm, mcnemar

CHANGES, CHANCES = np.array([-1.0, 0.0, 1.0]), (0.05, 0.8, 0.15)  # the true difference is 10 points
TRUTH = 0.1


def differences(rng, sizes, share):
    """A change of verdict per question; with chance `share` a question does what its picture does."""
    of_picture = np.repeat(rng.choice(CHANGES, len(sizes), p=CHANCES), sizes)
    alone = rng.choice(CHANGES, sum(sizes), p=CHANCES)
    return np.where(rng.random(sum(sizes)) < share, of_picture, alone)


def coverage(trials, pictures, most, share):
    """Shares of trials in which the interval holds the truth: clusters drawn whole, and questions drawn alone."""
    rng, held = np.random.default_rng(0), np.zeros(2)
    for _ in range(trials):
        sizes = rng.integers(1, most + 1, pictures)
        values = differences(rng, sizes, share)
        for place, labels in enumerate((np.repeat(np.arange(pictures), sizes), np.arange(len(values)))):
            low, high = cluster_interval(values, labels, resamples=999)
            held[place] += low <= TRUTH <= high
    return held / trials


def seeds_coverage(trials, seeds, problems, spread):
    """The same for the mean over seeds, whose true gains have this standard deviation."""
    rng, held = np.random.default_rng(1), 0
    names = [str(at) for at in range(problems)]
    zeros = dict.fromkeys(names, 0.0)
    for _ in range(trials):
        gains = np.clip(rng.normal(TRUTH, spread, seeds), 0, 0.2)
        ease = 2 * rng.random(problems)  # of a problem, for every seed
        gained = [dict(zip(names, (rng.random(problems) < gain * ease).astype(float), strict=True)) for gain in gains]
        pairs = [(zeros, after) for after in gained]
        low, high = difference_over_seeds(pairs)["ci95"]
        held += low <= TRUTH <= high
    return held / trials


def false_alarms(trials, kinds, problems):
    """Shares of trials without any change in which some kind is called changed: plain McNemar, and after Holm."""
    rng, called = np.random.default_rng(2), np.zeros(2)
    for _ in range(trials):
        tests = []
        for _ in range(kinds):
            change = rng.choice(CHANGES, problems, p=(0.15, 0.7, 0.15))
            first = {str(at): float(value < 0) for at, value in enumerate(change)}
            second = {str(at): float(value > 0) for at, value in enumerate(change)}
            tests.append(mcnemar(first, second)["p"])
        called += [min(tests) < 0.05, min(holm(tests)) < 0.05]
    return called / trials


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=2000)
    trials, started = parser.parse_args().trials, time.perf_counter()
    print("| pictures | questions each | share | clusters drawn | questions drawn |")
    for pictures, most, share in (
        (20, 4, 0.9),
        (60, 1, 0.0),
        (60, 4, 0.9),
        (200, 4, 0.9),
        (200, 4, 0.3),
        (512, 1, 0.0),
    ):
        whole, alone = coverage(trials, pictures, most, share)
        print(f"| {pictures} | 1 to {most} | {share} | {100 * whole:.1f} % | {100 * alone:.1f} % |", flush=True)
    for seeds, spread in ((2, 0.02), (5, 0.0), (5, 0.02), (5, 0.05)):
        held = seeds_coverage(trials, seeds, 300, spread)
        print(f"{seeds} seeds, spread {100 * spread:.0f} points: {100 * held:.1f} %", flush=True)
    plain, corrected = false_alarms(trials // 4, 14, 36)
    print(f"14 kinds without a change, some called changed: {100 * plain:.1f} %, after Holm {100 * corrected:.1f} %")
    print(f"{trials} trials each, {time.perf_counter() - started:.0f} s")


if __name__ == "__main__":
    main()
