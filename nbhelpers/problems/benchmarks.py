"""Rows of MathVerse, MATH-Vision and We-Math, told by their columns, with the columns that MathVista has."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

_VERSE_CHOICES = re.compile(r"\s*Choices:\s*", re.I)
_VERSE_CHOICE = re.compile(r"(?:^|\n)\s*([A-H])\s*[:.]\s*")
_WE_CHOICE = re.compile(r"(?:^|;)\s*([A-H])\.\s*")


def as_mathvista(row: Mapping[str, Any]) -> Mapping[str, Any]:
    """The row with `question`, `choices`, `answer`, `pid` and `metadata` as in MathVista; other rows stay as they are.

    AI4Math/MathVerse: the choices stand in the question, the answer is a letter, `category` is the problem's version.
    MathLLMs/MathVision: `options`; `category` is the subject. We-Math/We-Math: `option` in one line; the `pid` is
    `<ID>/<key>`, whose parts the four-dimensional scores need; `category` is the key.
    """
    if {"sample_index", "problem_version"} <= row.keys():
        return _mathverse(row)
    if {"options", "level", "subject"} <= row.keys():
        question = re.sub(r"\s*<image\d+>\s*", " ", str(row["question"])).strip()
        metadata = {"category": row["subject"], "level": row["level"]}
        options = [str(option) for option in row["options"]]
        return {**row, "question": question, "choices": options, "pid": row["id"], "metadata": metadata}
    if {"option", "key", "ID"} <= row.keys():
        choices = _lettered(_WE_CHOICE, str(row["option"]))
        metadata = {"category": row["key"], "concept": row.get("knowledge concept")}
        picture = row.get("image_path") if row.get("image_path") is not None else row.get("image")
        more = {"choices": choices, "pid": f"{row['ID']}/{row['key']}", "metadata": metadata, "image": picture}
        return {**row, **more}
    return row


def _mathverse(row: Mapping[str, Any]) -> Mapping[str, Any]:
    asked = str(row.get("question") or "").strip()
    if not asked:  # "Vision Only": the question stands in the picture, and the query says so
        asked = str(row.get("query_wo") or "").partition("Question:")[2].strip() or str(row.get("query_wo") or "")
    parts = _VERSE_CHOICES.split(asked, maxsplit=1)
    choices = _lettered(_VERSE_CHOICE, parts[1]) if len(parts) == 2 else []
    if row.get("question_type") == "multi-choice" and not choices:  # they stand in the picture
        choices = list("ABCD")
    metadata = {**(row.get("metadata") or {}), "category": row["problem_version"]}
    more = {"question_type": "multi_choice" if choices else "free_form", "metadata": metadata}
    question = parts[0].strip() or "Answer the question in the picture."
    return {**row, "question": question, "choices": choices, "pid": row["sample_index"], **more}


def _lettered(mark: re.Pattern, text: str) -> list[str]:
    """The texts after the letters A, B, ...; none where the letters are not in order."""
    _, *pieces = mark.split(text)
    letters, texts = pieces[::2], [piece.strip().strip(";").strip() for piece in pieces[1::2]]
    return texts if letters == [chr(ord("A") + place) for place in range(len(letters))] else []
