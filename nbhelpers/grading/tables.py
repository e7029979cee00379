"""What the readers know by heart, from `tables.toml` beside this file: units, LaTeX commands, words; and the policy."""

import tomllib
from pathlib import Path
from typing import Any, NamedTuple

TABLES: dict[str, dict] = tomllib.loads(Path(__file__).with_name("tables.toml").read_text(encoding="utf-8"))


class Rule(NamedTuple):
    """One decision with a solution that shows it: the gold answer, whether it is credited, the problem's columns."""

    case: str
    solution: str
    answer: str
    credited: bool
    columns: dict[str, Any]


# What the strict protocol does where one could decide either way. A test runs it, and notebook 02 shows it.
POLICY = tuple(Rule(**rule) for rule in TABLES["policy"]["rules"])


def words(section: str, name: str) -> list[str]:
    """One list of words."""
    return TABLES[section][name].split()


def pairs(section: str, name: str) -> dict[str, str]:
    """A list of words in pairs: what stands for what."""
    listed = words(section, name)
    return dict(zip(listed[::2], listed[1::2], strict=True))


def one_of(section: str, name: str) -> str:
    """A list of words as the inside of a regular expression's group."""
    return "|".join(words(section, name))


def phrase(name: str) -> str:
    """A regular expression for any of the phrases of one name, as whole words."""
    return rf"\b(?:{TABLES['phrases'][name].replace(' | ', '|')})\b"


def denial(name: str) -> str:
    """The same, or a contracted `not`."""
    return rf"(?:{phrase(name)}|n't\b)"
