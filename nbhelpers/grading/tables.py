"""What the readers know by heart, from `tables.toml` beside this file: units, LaTeX commands, words."""

import tomllib
from pathlib import Path

TABLES: dict[str, dict] = tomllib.loads(Path(__file__).with_name("tables.toml").read_text(encoding="utf-8"))


def words(section: str, name: str) -> list[str]:
    """One list of words."""
    return TABLES[section][name].split()


def one_of(section: str, name: str) -> str:
    """The same list as the inside of a regular expression's group."""
    return "|".join(words(section, name))


def phrase(name: str) -> str:
    """A regular expression for any of the phrases of one name, as whole words."""
    either = "|".join(TABLES["phrases"][name].split(" | "))
    return rf"\b(?:{either})\b"


def denial(name: str) -> str:
    """The same, or a contracted `not`."""
    return rf"(?:{phrase(name)}|n't\b)"
