"""Official MathVista verdicts, and the tolerant extraction against a language model's, on recorded answers.

python tests/benchmarks/bench_extraction.py GRADED.jsonl

A row holds a problem of MathVista, a model's `response`, the `extraction` that GPT-4 made of it for the official
scorer, the `prediction` and `official_true_false`. Two fifths of the problems (by a digest of their id) were kept aside
while the extraction was written. Of some responses, empty ones among them, GPT-4 guessed: the second line of each part
is about those in which its extraction stands.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
from collections import Counter
from pathlib import Path

from nbhelpers.grading import DEFAULT_DELIMITERS, GRADING_COLUMNS, grade, grade_anywhere


def solved(text):
    return f"{DEFAULT_DELIMITERS.solution_start}{text}{DEFAULT_DELIMITERS.solution_end}"


def official(rows):
    """How many verdicts are the stored ones, and the others with their reason."""
    for row in rows:
        columns = {key: row[key] for key in GRADING_COLUMNS}
        verdict = grade(solved(row["extraction"] or ""), row["answer"], protocol="mathvista", **columns)
        if verdict.correct == row["official_true_false"]:
            yield "as stored"
        elif row["answer_type"] == "integer" and row["prediction"] is None and verdict.correct:
            yield f"pid {row['pid']}: {str(row['extraction'])[:20]!r} stored as no integer by the scorer's older rule"
        else:
            yield f"pid {row['pid']}: unexplained"


def stands(row):
    """Whether the language model's extraction is in the response: a letter, its choice's text, or the words."""
    said, text, choices = (row["extraction"] or "").strip(), row["response"] or "", row["choices"] or []
    if choices and (letter := re.fullmatch(r"\(?([A-H])\)?\.?", said)):
        named = choices[ord(letter[1]) - ord("A") :][:1]
        return bool(re.search(rf"(?<![\w']){letter[1]}(?![\w'])", text) or named and named[0].lower() in text.lower())
    return bool(said) and said.lower() in text.lower()


def tolerant(rows):
    """(right by the language model's extraction, right by ours), both judged by the strict grader."""
    for row in rows:
        columns = {key: row[key] for key in GRADING_COLUMNS}
        theirs = grade(solved(row["extraction"] or ""), row["answer"], **columns).correct
        yield theirs, grade_anywhere(row["response"] or "", row["answer"], **columns).correct


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path)
    rows = [json.loads(line) for line in parser.parse_args().file.read_text(encoding="utf-8").splitlines()]
    for outcome, count in Counter(official(rows)).items():
        print(f"official verdicts, {count:>5}: {outcome}")
    rows = [row for row in rows if "code" not in row["model"]]  # those were run, and their output was extracted
    aside = [int(hashlib.sha1(row["pid"].encode()).hexdigest(), 16) % 5 < 2 for row in rows]
    for name, kept in (("seen", False), ("kept aside", True)):
        own = [row for row, held in zip(rows, aside, strict=True) if held == kept]
        for which, part in (("all", own), ("where it stands", list(filter(stands, own)))):
            found = Counter(tolerant(part))
            right, wrong = found[True, True] + found[True, False], found[False, True] + found[False, False]
            print(
                f"tolerant extraction, {name}, {which}: {found[True, False]} of {right} right answers not found, "
                f"{found[False, True]} of {wrong} wrong ones credited, "
                f"same verdict on {100 * (found[True, True] + found[False, False]) / (right + wrong):.1f} %"
            )


if __name__ == "__main__":
    main()
