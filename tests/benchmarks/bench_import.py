"""How long `import nbhelpers` and its modules take, beside an empty interpreter, in one run.

python tests/benchmarks/bench_import.py
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time

STATEMENTS = {
    "(empty interpreter)": "pass",
    "nbhelpers": "import nbhelpers",
    "nbhelpers.params": "import nbhelpers.params",
    "all that notebook 03 imports": "from nbhelpers import policy, problems, runs, show, training; show.live_view",
}


def seconds(statement: str, repeats: int = 7) -> float:
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        subprocess.run([sys.executable, "-c", statement], check=True)
        times.append(time.perf_counter() - started)
    return statistics.median(times)


def main() -> None:
    empty = None
    for name, statement in STATEMENTS.items():
        taken = seconds(statement)
        empty = empty or taken
        print(f"{name:<32}{taken:6.2f} s   {taken / empty:5.1f} x an empty interpreter")


if __name__ == "__main__":
    main()
