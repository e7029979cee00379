"""The guard of the private names that this package touches in other libraries: installed source against tested source.

Nothing is imported: the files of a library are found and parsed, and each touched function or class is compared with
the fingerprint of the version that was tested.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib.metadata
import importlib.util
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

UNTESTED = "NBHELPERS_UNTESTED"  # set to 1, a difference is a warning


@dataclass(frozen=True, eq=False)
class Library:
    """A library with the names of it that are touched.

    Attributes:
        name: as pip knows it; its package has the same name with `_` for `-`.
        version: the tested one.
        names: `module:Class.method` inside the package, and its fingerprint in that version.
        instead: settings that do without the library, for the sentence on a difference.
    """

    name: str
    version: str
    names: Mapping[str, str]
    instead: str = ""

    @property
    def pin(self) -> str:
        return f"pip install '{self.name}=={self.version}'"


@dataclass(frozen=True)
class Finding:
    """What is installed of a library: its version (None: it is not there) and the touched names that differ."""

    library: Library
    installed: str | None
    missing: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()

    @property
    def fits(self) -> bool:
        return not self.missing and not self.changed

    def __str__(self) -> str:
        tested = f"{self.library.version} was tested"
        if self.fits:
            same = f"the {len(self.library.names)} names that are touched are as tested"
            return f"{self.installed}, {same}" if self.installed == self.library.version else (
                f"{self.installed} is installed and {tested}; {same}"
            )  # fmt: skip
        differing = [f"{name} is missing" for name in self.missing] + [f"{name} has changed" for name in self.changed]
        return f"{self.installed} is installed and {tested}: {', '.join(differing)}"


@functools.cache
def compare_library(library: Library) -> Finding:
    """Read what is installed of `library` and compare the touched names; a library that is not there has no names."""
    try:
        version = importlib.metadata.version(library.name)
        found = importlib.util.find_spec(library.name.replace("-", "_"))  # of a package at the top: not imported
    except (importlib.metadata.PackageNotFoundError, ValueError):
        return Finding(library, None)
    if found is None or found.origin is None:
        return Finding(library, None)
    now = fingerprints(Path(found.origin).parent, library.names)
    missing = tuple(name for name, value in now.items() if value is None)
    return Finding(library, version, missing, tuple(n for n in now if n not in missing and now[n] != library.names[n]))


def check_libraries(*libraries: Library, error: type[Exception] = RuntimeError) -> list[str]:
    """Stop where a touched name is missing or changed, before it is used.

    Returns:
        Sentences to warn with: another version whose names are as tested; any difference with NBHELPERS_UNTESTED=1.

    Raises:
        error: a name differs. The sentence says which, the tested version, the installed one and what to do.
    """
    sentences = []
    for finding in map(compare_library, libraries):
        library = finding.library
        if finding.installed in (None, library.version) and finding.fits:
            continue
        instead = f", or --set {library.instead} to do without it" if library.instead else ""
        sentence = f"{library.name} {finding}. What was tested: {library.pin}{instead}."
        if not finding.fits and os.environ.get(UNTESTED) != "1":
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
