"""Fresh fingerprints for the tables of the `inside` modules, with the seconds that reading them takes.

usage: python tests/benchmarks/fingerprints.py [FOLDER]

FOLDER: unpacked wheels, for libraries that are not installed here; default is where Python finds the packages.
"""

from __future__ import annotations

import importlib.util
import sys
import time
from pathlib import Path

from nbhelpers.policy.inside_transformers import TRANSFORMERS
from nbhelpers.policy.unsloth import UNSLOTH, UNSLOTH_ZOO
from nbhelpers.policy.vllm.inside import VLLM
from nbhelpers.runs.tested import fingerprints
from nbhelpers.training.inside_trl import TRL


def main(folder: str | None = None) -> None:
    for library in (TRL, TRANSFORMERS, VLLM, UNSLOTH, UNSLOTH_ZOO):
        package = library.name.replace("-", "_")
        spec = None if folder else importlib.util.find_spec(package)
        place = Path(folder, package) if folder else spec and Path(spec.origin).parent
        if not place or not place.is_dir():
            print(f"{library.name}: not there")
            continue
        started = time.perf_counter()
        now = fingerprints(place, library.names)
        print(f"{library.name}: {len(now)} names in {time.perf_counter() - started:.2f} s")
        for name, value in now.items():
            print(f'        "{name}": "{value}",' + ("" if value == library.names[name] else "  # differs"))


if __name__ == "__main__":
    main(*sys.argv[1:])
