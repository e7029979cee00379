"""How often the intervals and tests of `evaluation.statistics` hold what they promise, by simulation.

python tests/benchmarks/bench_intervals.py [--trials 2000]
"""

from __future__ import annotations

import argparse
import time

import numpy as np
from scipy.stats import norm, t

from nbhelpers.evaluation.statistics import cluster_interval, difference_over_seeds, holm, mcnemar

CHANGES = np.array([-1.0, 0.0, 1.0])
USUAL, RARE, MOST = (0.05, 0.8, 0.15), (0.01, 0.97, 0.02), (0.0, 0.1, 0.9)  # chances of a change for each question
TRUTH = 0.1  # of USUAL


def drawn(rng, sizes, share, chances):
    """A change of verdict per question, or a verdict where `chances` is one number; with chance `share` a question does
    what its picture does.
    """

    def draw(count):
        one = isinstance(chances, float)
        return (rng.random(count) < chances) * 1.0 if one else rng.choice(CHANGES, count, p=chances)

    of_picture, alone = np.repeat(draw(len(sizes)), sizes), draw(sum(sizes))
    return np.where(rng.random(sum(sizes)) < share, of_picture, alone)


def bootstrap_interval(values, labels, rng, resamples=999):
    """What was used before: whole clusters drawn with replacement, Hesterberg's expanded percentiles."""
    sums, sizes = np.bincount(labels, weights=values), np.bincount(labels)
    count = len(sums)
    tail = norm.cdf(t.ppf(0.025, count - 1) * np.sqrt(count / (count - 1)))
    chosen = rng.integers(0, count, (resamples, count))
    return np.quantile(sums[chosen].sum(1) / sizes[chosen].sum(1), [tail, 1 - tail])


def coverage(trials, pictures, most, share, chances):
    """Of three intervals the share of trials in which it holds the truth, and its mean width."""
    rng, held, width = np.random.default_rng(0), np.zeros(3), np.zeros(3)
    rates = isinstance(chances, float)
    truth, bounds = (chances, (0.0, 1.0)) if rates else (chances[2] - chances[0], (-1.0, 1.0))
    for _ in range(trials):
        sizes = rng.integers(1, most + 1, pictures)
        values, labels = drawn(rng, sizes, share, chances), np.repeat(np.arange(pictures), sizes)
        ends = np.array([
            cluster_interval(values, labels, bounds),
            cluster_interval(values, np.arange(len(values)), bounds),
            bootstrap_interval(values, labels, rng),
        ])  # fmt: skip
        held += (ends[:, 0] <= truth) & (truth <= ends[:, 1])
        width += ends[:, 1] - ends[:, 0]
    return held / trials, width / trials


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
    print("| pictures | questions each | share | chances | by pictures (width) | by questions | bootstrap (width) |")
    for pictures, most, share, chances in (
        (20, 4, 0.9, USUAL), (60, 1, 0.0, USUAL), (60, 4, 0.9, USUAL), (200, 4, 0.9, USUAL), (200, 4, 0.3, USUAL),
        (512, 1, 0.0, USUAL), (36, 1, 0.0, RARE), (200, 1, 0.0, RARE), (36, 1, 0.0, MOST), (20, 4, 0.9, 0.8),
        (64, 1, 0.0, 0.95),
    ):  # fmt: skip
        held, width = 100 * np.array(coverage(trials, pictures, most, share, chances))
        print(
            f"| {pictures} | 1 to {most} | {share} | {chances} | {held[0]:.1f} % ({width[0]:.1f}) "
            f"| {held[1]:.1f} % | {held[2]:.1f} % ({width[2]:.1f}) |", flush=True
        )  # fmt: skip
    for seeds, spread in ((2, 0.02), (2, 0.05), (3, 0.02), (5, 0.0), (5, 0.02), (5, 0.05)):
        held = seeds_coverage(trials, seeds, 300, spread)
        print(f"{seeds} seeds, spread {100 * spread:.0f} points: {100 * held:.1f} %", flush=True)
    plain, corrected = false_alarms(trials // 4, 14, 36)
    print(f"14 kinds without a change, some called changed: {100 * plain:.1f} %, after Holm {100 * corrected:.1f} %")
    print(f"{trials} trials each, {time.perf_counter() - started:.0f} s")


if __name__ == "__main__":
    main()
