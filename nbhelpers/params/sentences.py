"""The words of an error: what was given, what is accepted, and the nearest known name."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any

_BOUNDS = {"minimum": "of at least", "exclusiveMinimum": "above", "maximum": "of at most", "exclusiveMaximum": "below"}


class PlainError(Exception):
    """An error whose message tells a person what is wrong and what to do.

    A notebook shows the message alone, a command prints it and ends with `exit_code`; neither shows the way through the
    code to it.
    """

    exit_code = 1

    def _render_traceback_(self) -> list[str]:
        """What IPython shows instead of a traceback."""
        return [f"{type(self).__name__}: {self}"]


class ParamsError(PlainError, ValueError):
    """A parameter that cannot be used: says where it stands, what was given, what is accepted.

    A sentence without its end is given a full stop.
    """

    def __init__(self, *sentences: str) -> None:
        super().__init__("\n".join(text if text.endswith(("?", ".")) else f"{text}." for text in sentences))


def expectation(schema: dict[str, Any]) -> str:
    """A JSON schema of one key in words: "a whole number of at least 1, or null"."""
    if "description" in schema:
        return schema["description"]
    if "anyOf" in schema:
        return ", or ".join(expectation(option) for option in schema["anyOf"])
    if "enum" in schema:
        return "one of " + ", ".join(value if isinstance(value, str) else as_given(value) for value in schema["enum"])
    if "const" in schema:
        return f"the word {schema['const']}"
    kind = schema.get("type")
    if kind == "string":
        return "text" if not schema.get("minLength") else "text that is not empty"
    if kind == "array":
        items = expectation(schema["items"]).replace("one of ", "")
        return f"a list of {items}" if schema["items"].get("type") != "number" else "a list of numbers"
    words = {"null": "null", "boolean": "true or false", "object": "keys and values", "integer": "a whole number"}
    bounds = " and ".join(f"{word} {schema[key]:g}" for key, word in _BOUNDS.items() if key in schema)
    return f"{words.get(kind, 'a number')} {bounds}".strip()


def as_given(value: Any) -> str:
    """A value as the person wrote it in YAML."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return f"the text {value!r}"
    if isinstance(value, dict):
        return "keys and values"
    return repr(value)


def did_you_mean(word: Any, known: Iterable[str]) -> str:
    """The end of a sentence on an unknown `word`: "; did you mean training?", or nothing where none is near."""
    near = difflib.get_close_matches(str(word).lower(), list(known), n=1)
    return f"; did you mean {near[0]}?" if near else ""


def owners(key: str, sections: dict[str, Any]) -> str:
    """The end of a sentence on a `key` that stands in the wrong place: the sections that have it, or nothing."""
    names = [name for name, section in sections.items() if key in section.model_fields]
    return f"; it is a key of {' and '.join(names)}: write it there" if names else ""


def one_line(error: Exception) -> str:
    return " ".join(str(error).split())
