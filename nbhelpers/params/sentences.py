"""TODO."""

from __future__ import annotations

import difflib
from typing import Any


class ParamsError(ValueError):
    """A parameter that cannot be used: the message says where it stands, what was given, what is accepted."""


def ended(sentence: str) -> str:
    return sentence if sentence.endswith("?") else sentence + "."


def expectation(schema: dict[str, Any]) -> str:
    """A JSON schema of one key in words: "a whole number of at least 1, or null"."""
    if "anyOf" in schema:
        return ", or ".join(expectation(option) for option in schema["anyOf"])
    if "enum" in schema:
        return "one of " + ", ".join(
            str(value).lower() if isinstance(value, bool) else str(value) for value in schema["enum"]
        )
    kind = schema.get("type")
    if kind == "null":
        return "null"
    if kind == "boolean":
        return "true or false"
    if kind == "string":
        return "text" if not schema.get("minLength") else "text that is not empty"
    if kind == "array":
        items = expectation(schema["items"]).replace("one of ", "")
        return f"a list of {items}" if schema["items"].get("type") != "number" else "a list of numbers"
    if kind == "object":
        return "keys and values"
    words = "a whole number" if kind == "integer" else "a number"
    bounds = [
        f"{word} {schema[key]:g}"
        for key, word in (
            ("minimum", "of at least"),
            ("exclusiveMinimum", "above"),
            ("maximum", "of at most"),
            ("exclusiveMaximum", "below"),
        )
        if key in schema
    ]
    return " ".join([words, " and ".join(bounds)]).strip()


def as_given(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return f"the text {value!r}"
    if isinstance(value, dict):
        return "keys and values"
    return repr(value)


def did_you_mean(word: Any, known: Any) -> str:
    near = difflib.get_close_matches(str(word).lower(), [str(name) for name in known], n=1, cutoff=0.6)
    return f"; did you mean {near[0]}?" if near else ""


def one_line(error: Exception) -> str:
    return " ".join(str(error).split())
