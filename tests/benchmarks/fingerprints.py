"""Fresh fingerprints for `nbhelpers/runs/tested.json`, with the seconds that reading them takes.

usage: python tests/benchmarks/fingerprints.py [--write] [FOLDER]

FOLDER: unpacked wheels, for libraries that are not installed here; default is where Python finds the packages. --write
puts what was found, with its version, into the file.
"""

from __future__ import annotations

import argparse
import json
import time
from importlib.metadata import distributions

from nbhelpers.runs.tested import TABLE, fingerprints


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", nargs="?")
    parser.add_argument("--write", action="store_true")
    arguments = parser.parse_args()
    places = {"path": [arguments.folder]} if arguments.folder else {}
    table = json.loads(TABLE.read_text())
    for found in distributions(**places):
        if (entry := table.get(found.metadata["Name"].replace("_", "-"))) is None:
            continue
        started = time.perf_counter()
        now = fingerprints(found.locate_file(found.metadata["Name"].replace("-", "_")), entry["names"])
        seconds = time.perf_counter() - started
        other = [name for name, value in now.items() if value != entry["names"][name]]
        print(f"{found.metadata['Name']} {found.version}: {len(now)} names in {seconds:.2f} s; other: {other}")
        entry |= {"version": found.version, "names": now}
    if arguments.write:
        TABLE.write_text(json.dumps(table, indent=1) + "\n")


if __name__ == "__main__":
    main()
