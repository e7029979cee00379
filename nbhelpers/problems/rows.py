"""One row of any source as a problem, or the reason why it cannot be one."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

from nbhelpers.params import AnswerType
from nbhelpers.problems.benchmarks import as_mathvista
from nbhelpers.problems.pictures import Unusable, prepare_image

QUESTION_TYPES = ("multi_choice", "free_form")
MAX_CHOICES = 26  # one letter each
MAX_TEXT = 20_000  # characters of a field; the longest prompt that fits into 2,048 tokens has some 8,000
MAX_DEPTH = 32  # of nested metadata
MAX_DECIMALS = 15  # that a float holds

# The names under which sources have them.
QUESTION_COLUMNS = ("question", "problem")
PICTURE_COLUMNS = ("decoded_image", "image", "images", "image_path")

# In a question these would become tokens of the chat template, and the picture would be looked for in the wrong place.
_SPECIAL_TOKEN = re.compile(
    r"<(?:start_of_turn|end_of_turn|start_of_image|end_of_image|image_soft_token|bos|eos|pad|unk|mask)>"
)


def parse_json(line: str | bytes) -> Any:
    """A line's JSON value, None where it is none: not JSON, not UTF-8, nested too deeply, an endless number."""
    try:
        return json.loads(line if isinstance(line, str) else line.decode("utf-8"))
    except (ValueError, RecursionError):
        return None


def problem_from(row: Any, name: str, image_size: int, folders: Sequence[Path] = ()) -> dict[str, Any]:
    """One source row as a problem, its picture ready for the model.

    Raises `Unusable` with the reason.

    Args:
        row: a mapping with MathVista's or Geometry3K's columns; pictures as bytes, path, or PIL image.
        name: the `pid` where the row has none.
        image_size: longest side of the picture in pixels.
        folders: where pictures may lie; relative paths start in the first one.
    """
    if not isinstance(row, dict):
        raise Unusable("not a JSON object")
    row = as_mathvista(row)
    question = _text(next((row[key] for key in QUESTION_COLUMNS if row.get(key)), None))
    question = question.replace("<image>", "").strip()  # the picture's place in Geometry3K and its like
    if not question:
        raise Unusable("no question")
    answer = _text(row.get("answer"))
    if not answer:
        raise Unusable("no answer")
    given = row.get("choices")
    choices = [_text(choice) for choice in given] if isinstance(given, list | tuple) else []
    unit = _text(row.get("unit")) or None
    if _SPECIAL_TOKEN.search("\n".join([question, unit or "", *choices])):
        raise Unusable("a special token of the chat template in the text")
    question_type = row.get("question_type")
    if question_type not in QUESTION_TYPES:
        question_type = "multi_choice" if choices else "free_form"
    if question_type == "multi_choice":
        answer = _chosen(answer, choices)
    answer_type, precision = row.get("answer_type"), row.get("precision")
    if answer_type not in get_args(AnswerType):
        answer, answer_type, decimals = (answer, "text", None) if choices else _read_off(answer)
        precision = decimals if _decimals(precision) is None else precision
    return {
        "pid": _text(row.get("pid")) or name,
        "question": question,
        "image": prepare_image(_picture(row, folders), image_size),
        "choices": choices or None,
        "unit": unit,
        "precision": _decimals(precision),
        "answer": answer,
        "question_type": question_type,
        "answer_type": answer_type,
        "metadata": _metadata(row.get("metadata")),
    }


def _text(value: Any) -> str:
    if value is None or isinstance(value, bool | dict | bytes) or value != value:  # NaN is how tables say "nothing"
        return ""
    text = str(value).replace("\r\n", "\n").strip()
    if len(text) > MAX_TEXT:
        raise Unusable(f"a text of more than {MAX_TEXT:,} characters")
    return _sound(text)


def _sound(text: str) -> str:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise Unusable("half a character (a lone surrogate) in the text") from None
    return text


def _decimals(precision: Any) -> float | None:
    """MathVista's `precision`, the decimals of the answer; NaN stands for none in a column of numbers."""
    if isinstance(precision, bool) or not isinstance(precision, int | float) or precision != precision:
        return None
    if not 0 <= precision <= MAX_DECIMALS:
        raise Unusable(f"a precision that is no number of decimals from 0 to {MAX_DECIMALS}")
    return float(precision)


def _metadata(value: Any) -> dict[str, Any]:
    if isinstance(value, str):
        value = parse_json(value)
    if not isinstance(value, dict):
        return {}
    if _is_deep(value, MAX_DEPTH):
        raise Unusable("metadata nested too deeply")
    # What JSON has no type for, a date of a parquet file say, becomes text.
    return json.loads(_sound(json.dumps(value, ensure_ascii=False, default=str)))


def _is_deep(value: Any, left: int) -> bool:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
    return left == 0 or any(_is_deep(one, left - 1) for one in inner)


def _chosen(answer: str, choices: list[str]) -> str:
    """The right choice's text; the answer may be given as that text or as its letter."""
    if not choices:
        raise Unusable("multiple choice without choices")
    if len(choices) > MAX_CHOICES:
        raise Unusable(f"more than {MAX_CHOICES} choices")
    if answer in choices:
        return answer
    letter = re.fullmatch(r"\(?([A-Z])\)?", answer)
    if letter and ord(letter[1]) - ord("A") < len(choices):
        return choices[ord(letter[1]) - ord("A")]
    raise Unusable("answer not among the choices")


def _read_off(answer: str) -> tuple[str, str, int | None]:
    """(answer, answer_type, precision) of an answer without a type: a plain number is one, all else is text."""
    bare = answer.strip("$ ").replace("\u2212", "-").replace(" ", "")
    if re.fullmatch(r"[+-]?\d{1,3}(,\d{3})+(\.\d+)?", bare):
        bare = bare.replace(",", "")
    if re.fullmatch(r"[+-]?\d+", bare):
        return bare, "integer", None
    if decimal := re.fullmatch(r"[+-]?\d*\.(\d+)", bare):
        return bare, "float", len(decimal[1])
    if re.fullmatch(r"\[.*\]", answer, re.S):
        return answer, "list", None
    return answer, "text", None


def _picture(row: dict[str, Any], folders: Sequence[Path]) -> Any:
    given = next((row[key] for key in PICTURE_COLUMNS if row.get(key) is not None), None)
    if isinstance(given, list | tuple):
        if len(given) > 1:
            raise Unusable("more than one picture")
        given = given[0] if given else None
    if isinstance(given, dict):
        given = given.get("bytes") or given.get("path")
    if given is None or given == "":
        raise Unusable("no picture")
    return _picture_file(given, folders) if isinstance(given, str) else given


def _picture_file(given: str, folders: Sequence[Path]) -> Path:
    """The file that a row names, where it lies in one of the folders once every link and `..` is followed."""
    try:
        file = folders[0].joinpath(given).resolve(strict=True) if folders else None
        if file is None or not file.is_file():
            raise Unusable("no picture")
    except (OSError, ValueError, RuntimeError):  # not there, too long, a NUL, links in a circle
        raise Unusable("no picture") from None
    if not any(file.is_relative_to(folder.resolve()) for folder in folders):
        raise Unusable("a picture outside the data's folder")
    return file
