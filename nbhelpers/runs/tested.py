"""The guard of the private names that this package touches in other libraries: installed source against tested source.

`tested.json` holds each library's tested version, the setting that does without it, and the touched names
(`module:Class.method`) with a fingerprint each; the `inside` modules say why each is touched. Nothing is imported: the
installed files are found and parsed. `tests/benchmarks/fingerprints.py --write` renews the file.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib.util
import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nbhelpers.runs.machine import installed_version

TABLE = Path(__file__).with_suffix(".json")
UNTESTED = "NBHELPERS_UNTESTED"  # set to 1, a difference is a warning


@dataclass(frozen=True)
class Finding:
    """What is installed of a library beside what was tested.

    Attributes:
        tested, installed: versions; None where the library is not installed.
        differing: what is wrong with touched names, such as "trainer:Trainer.step has changed".
        remedy: the line that installs what was tested, or the setting that does without.
    """

    library: str
    tested: str
    remedy: str
    installed: str | None = None
    differing: tuple[str, ...] = ()

    def __str__(self) -> str:
        same = f"{self.installed} as tested" if self.installed == self.tested else (
            f"{self.installed} is installed and {self.tested} was tested"
        )  # fmt: skip
        return f"{same}: {', '.join(self.differing) or 'the touched names have not changed'}"


@functools.cache
def compare_library(library: str) -> Finding:
    """Read what is installed of a library (its name as pip knows it) and compare the touched names."""
    entry = json.loads(TABLE.read_text())[library]
    instead = f", or --set {entry['instead']} to do without it" if entry["instead"] else ""
    remedy = f"pip install '{library}=={entry['version']}'{instead}"
    folder, installed = _folder_of(library), installed_version(library)
    if folder is None:
        return Finding(library, entry["version"], remedy)
    now = fingerprints(folder, entry["names"])
    other = [name for name, fingerprint in entry["names"].items() if now[name] != fingerprint]
    differing = tuple(f"{name} {'has changed' if now[name] else 'is missing'}" for name in other)
    return Finding(library, entry["version"], remedy, installed, differing)


def fields_of(library: str, module: str, name: str) -> list[str]:
    """The own fields of a data class in a library's source; none where there is no such library, file or class."""
    folder = _folder_of(library)
    if folder is None or not (file := folder.joinpath(*module.split(".")).with_suffix(".py")).is_file():
        return []
    body = [node for found in _named(name, ast.parse(file.read_bytes()).body) for node in found.body]
    return [node.target.id for node in body if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)]


def _folder_of(library: str) -> Path | None:
    """Where an installed library lies; a package at the top is found without being imported."""
    spec = importlib.util.find_spec(library.replace("-", "_")) if installed_version(library) else None
    return Path(spec.origin).parent if spec and spec.origin else None


def check_libraries(*libraries: str, error: type[Exception] = RuntimeError) -> list[str]:
    """Stop where a touched name is missing or changed, before it is used.

    Returns:
        Sentences to warn with: another version whose names are as tested; any difference with NBHELPERS_UNTESTED=1.

    Raises:
        error: a name differs. The sentence says which, the tested version, the installed one and what to do.
    """
    sentences = []
    for finding in map(compare_library, libraries):
        if finding.installed in (None, finding.tested) and not finding.differing:
            continue
        sentence = f"{finding.library} {finding}. To have what was tested: {finding.remedy}."
        if finding.differing and os.environ.get(UNTESTED) != "1":
            raise error(f"{sentence} {UNTESTED}=1 goes on regardless.")
        sentences.append(sentence)
    return sentences


def fingerprints(folder: Path, names: Iterable[str]) -> dict[str, str | None]:
    """The fingerprint of each `module:Class.method` below a package's folder; None where there is none."""
    found: dict[str, str | None] = {}
    read, tree = "", []
    for name in names:
        module, _, path = name.partition(":")
        if module != read:  # names of one file stand together in the tables
            file = folder.joinpath(*module.split(".")).with_suffix(".py")
            read, tree = module, [ast.parse(file.read_bytes())] if file.is_file() else []
        nodes = tree
        for part in path.split("."):
            nodes = [node for owner in nodes for node in _named(part, owner.body)]
        found[name] = hashlib.blake2b(repr(_shape(nodes)).encode(), digest_size=6).hexdigest() if nodes else None
    return found


def _named(name: str, body: list[ast.stmt]) -> Iterator[Any]:
    """The definitions of `name` in a body (a property has several), or the import that brings it, `if` and `try`
    included."""
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            if node.name == name:
                yield node
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                if (alias.asname or alias.name) == name:
                    yield ast.ImportFrom(node.module, [alias], node.level)
        elif isinstance(node, ast.If | ast.Try):
            for inner in (node.body, node.orelse, *(handler.body for handler in getattr(node, "handlers", ()))):
                yield from _named(name, inner)


def _shape(value: Any) -> Any:
    """Code as nested tuples, without docstrings, positions, and the empty fields that newer Pythons add."""
    if isinstance(value, list):
        return [_shape(item) for item in value]
    if not isinstance(value, ast.AST):
        return value
    fields = {name: field for name, field in ast.iter_fields(value) if field is not None and field != []}
    documented = isinstance(value, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) and ast.get_docstring(value)
    if documented:
        fields["body"] = value.body[1:]
    return type(value).__name__, [(name, _shape(field)) for name, field in fields.items()]
