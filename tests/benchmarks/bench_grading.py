"""How fast and how right the grader is, beside math-verify and the public notebook's string comparison.

    python tests/benchmarks/bench_grading.py            # a minute or two
    python tests/benchmarks/bench_grading.py --fuzz 0   # without the 100,000 fuzzed texts
    python tests/benchmarks/bench_grading.py --real CASES.jsonl   # also real answers with labels, by their source

One process, one core, CPU time (so that a busy neighbour does not count). Prints completions per second and the rates
of wrong verdicts on tests/data/grader_cases.jsonl, the slowest of a set of hostile completions of 100 KB, and whether
any fuzzed text raised or was credited.
"""

from __future__ import annotations

import argparse
import json
import platform
import random
import re
import statistics
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from nbhelpers.grading import DEFAULT_DELIMITERS, MAX_SOLUTION, PROTOCOLS, check_format, grade, split_completion
from nbhelpers.rewards import GRADING_COLUMNS, naive_correctness_reward_func

CASES = Path(__file__).parents[1] / "data" / "grader_cases.jsonl"
SIZE = 100_000


def ours(case: dict) -> bool:
    return grade(case["completion"], case["answer"], **{key: case[key] for key in GRADING_COLUMNS}).correct


def official(case: dict) -> bool:
    columns = {key: case[key] for key in GRADING_COLUMNS}
    return grade(case["completion"], case["answer"], **columns, protocol="mathvista").correct


def exact_match(case: dict) -> bool:
    return naive_correctness_reward_func([None], [case["completion"]], [case["answer"]]) == [2.0]


LETTERS = (  # where a grader that only knows letters would look for one, the surest place first
    r"^\W*(?:\\\w+\{)*\W*([A-J])\W*$",
    r"\\boxed\{\W*(?:\\\w+\{)?\W*([A-J])\W*\}",
    r"(?:answer|option|choice)\W+(?:is\W+)?(?:\\\w+\{)*\(?([A-J])\b",
    r"\(([A-J])\)",
)


def math_verify_grader(letters: bool) -> Callable[[dict], bool]:
    """math-verify on the solution's text; `letters`: choice letters in sentences and equal texts count as well."""
    from math_verify import parse, verify

    def judge(case: dict) -> bool:
        solution = (split_completion(case["completion"])[1] or "").strip()
        choices = case["choices"] or []
        for pattern in LETTERS if letters and choices else ():
            found = re.findall(pattern, solution)
            if found and ord(found[-1]) - ord("A") < len(choices):
                return len(set(found)) == 1 and choices[ord(found[-1]) - ord("A")] == case["answer"]
        if letters and solution.strip(" .").casefold() == case["answer"].casefold():
            return True
        return bool(verify(parse(f"${case['answer'].strip('$')}$"), parse(solution)))

    return judge


def by_source(name: str, judge: Callable[[dict], bool], cases: list[dict]) -> None:
    """What one grader denies and credits wrongly, a line a source, clear cases and judgement calls apart."""
    table: dict[tuple[str, str], list[int]] = {}
    for case in cases:
        right, wanted = judge(case), case["expected_correct"]
        for source in (case["source"].split()[0], "all"):
            counts = table.setdefault((source, "calls" if case["call"] else "clear"), [0, 0, 0, 0])
            counts[0 if wanted else 2] += 1
            counts[1 if wanted else 3] += right is not wanted
    for (source, kind), (right, denied, wrong, credited) in sorted(table.items()):
        rate = 1 - (denied + credited) / (right + wrong)
        counts = f"denied {denied:>3} of {right:>3}   credited {credited:>3} of {wrong:>3}"
        print(f"{name:28} {source:14} {kind}  right {rate:6.1%}   {counts}")


def measure(name: str, judge: Callable[[dict], bool], cases: list[dict], rounds: int) -> dict:
    verdicts = [judge(case) for case in cases]  # also warms the caches, as the steps of a training run do
    start = time.process_time()
    for _ in range(rounds):
        for case in cases:
            judge(case)
    seconds = (time.process_time() - start) / rounds if rounds else float("nan")
    wanted = [case["expected_correct"] for case in cases]
    denied = sum(want and not got for want, got in zip(wanted, verdicts, strict=True))
    credited = sum(got and not want for want, got in zip(wanted, verdicts, strict=True))
    rate = len(cases) / seconds
    print(
        f"{name:28} {rate:>10,.0f} completions/s   {1e6 * seconds / len(cases):>8,.0f} us each   "
        f"denied {denied:>3} of {sum(wanted)}   credited {credited:>3} of {len(cases) - sum(wanted)}"
    )
    return {
        "grader": name,
        "per_second": rate,
        "denied": denied / sum(wanted),
        "credited": credited / (len(cases) - sum(wanted)),
    }


GOLDS = [
    {"answer": "48151", "answer_type": "integer"},
    {"answer": "0.4815", "answer_type": "float", "precision": 4},
    {"answer": "[48, 151, 62]", "answer_type": "list"},
    {"answer": "Product Q", "answer_type": "text"},
    {"answer": r"48\sqrt{151}", "answer_type": "text"},
    {"answer": "y = 48x + 151", "answer_type": "text"},
    {"answer": "True", "answer_type": "text"},
    {"answer": "4815 cm", "choices": [f"{n} cm" for n in range(4800, 4820)], "question_type": "multi_choice"},
]


def hostile_completions() -> dict[str, str]:
    """Completions of 100 KB (or the longest solution that is read) made of what trips up regular expressions."""
    reasoning, closed, start, end = DEFAULT_DELIMITERS
    texts = {
        "opening marks": start * (SIZE // len(start)),
        "equal blocks": f"{start}45{end}" * (SIZE // 23),
        "different blocks": "".join(f"{start}{n}{end}" for n in range(SIZE // 27)),
        "reasoning then blocks": reasoning * (SIZE // 22) + f"{start}45{end}" * (SIZE // 46),
        "blocks inside reasoning": f"{reasoning}{start}45{end}{closed}" * (SIZE // 46),
        "blanks": f"{start}{' ' * (SIZE // 2)}45{' ' * (SIZE // 2)}{end}",
        "digits": f"{start}{'9' * SIZE}{end}",
        "angle brackets": start + "<" * SIZE + end,
    }
    pieces = [
        "1,", "- ", "4", "1 234 ", "\\frac{", "{", "(", "[", "x=", "=", "A ", "B) ", "(B) ", "½", "²", "**", "`",
        "\\text{", "\\boxed{", "or ", "the answer is ", "is ", "√{", "1/", "1e", ".", "10^", "minus ", "°", "^",
        "\\", "five ", "°^{", "0,", "\\sqrt", "\\sin ", "2^", "x=4,", "(B) or ", "|", "√", "4!", "12 cm ",
        "because ", "\\boxed{4} ", "{}", "((1))", "so 4\n", "99999^",
    ]  # fmt: skip
    for piece in pieces:
        body = (piece * (MAX_SOLUTION // len(piece)))[: MAX_SOLUTION - 3]
        filler = "<REASONING>" + "why " * ((SIZE - MAX_SOLUTION) // 4) + "</REASONING>"
        texts[f"{piece!r} again and again"] = f"{filler}{start}{body}{end}"
        texts[f"{piece!r} before a number"] = f"{filler}{start}{body} 45{end}"
    return texts


def slowest() -> tuple[float, str]:
    worst = (0.0, "")
    for name, text in hostile_completions().items():
        for gold in GOLDS:
            for protocol in PROTOCOLS:
                # The best of three: what the text costs, not what a busy machine adds.
                costs = []
                for _ in range(3):
                    start = time.process_time()
                    grade(text, **gold, protocol=protocol)
                    check_format(text)
                    costs.append(time.process_time() - start)
                worst = max(worst, (min(costs), f"{name}, answer {gold['answer']!r}, {protocol}"))
    return worst


FUZZ = [
    *DEFAULT_DELIMITERS, "\\frac{", "\\boxed{", "\\text{", "{", "}", "(", ")", "[", "]", "$", "%", "^", "_", "√",
    "½", "²", "\u200b", "\x00", "１", "٤", "**", "`", "=", "≈", "≠", "<", ">", "-", "−", "+", "*", "/", ",", ".", ";",
    ":", "!", "e", "E", "10^", " ", "\n", "0", "1", "2", "3", "7", "9", "x", "cm", "°", "or", "not",
    "the answer is ", "thousand", "five", "nan", "inf", "__import__('os')",
]  # fmt: skip


def fuzz(count: int) -> tuple[int, int]:
    """How many of `count` random texts raised, and how many were credited; half of them stand in proper blocks."""
    dice = random.Random(0)
    raised = credited = 0
    for at in range(count):
        text = "".join(dice.choices(FUZZ, k=dice.randint(3, 40)))
        if dice.random() < 0.2:
            text += "".join(chr(dice.randrange(0x110000)) for _ in range(10))
        if at % 2:
            text = f"<REASONING>r</REASONING><SOLUTION>{text}</SOLUTION>"
        try:
            credited += grade(text, **GOLDS[at % len(GOLDS)]).correct
            check_format(text)
            grade(text, **GOLDS[at % len(GOLDS)], protocol="mathvista")
        except Exception as error:  # the point of the exercise
            raised += 1
            print(f"raised {error!r} for {text!r}")
    return raised, credited


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fuzz", type=int, default=100_000, help="how many fuzzed texts")
    parser.add_argument("--real", type=Path, help="real answers with labels, sources and calls, one JSON object a line")
    parser.add_argument("--json", type=Path, help="also write the rates to this file")
    arguments = parser.parse_args()
    cases = [json.loads(line) for line in CASES.read_text(encoding="utf-8").splitlines()]
    lengths = [len(case["completion"]) for case in cases]
    print(f"{len(cases)} cases, median {statistics.median(lengths):.0f} characters; Python {platform.python_version()}")
    graders = {"ours": ours, "exact match": exact_match, "MathVista's official rule": official}
    rates = [measure(name, judge, cases, 20) for name, judge in graders.items()]
    try:
        name = f"math-verify {version('math-verify')}"
    except PackageNotFoundError:
        print("math-verify is not installed (extra test): left out")
    else:
        graders |= {name: math_verify_grader(letters=False), f"{name} + letters": math_verify_grader(letters=True)}
        rates += [measure(grader, judge, cases, 1) for grader, judge in graders.items() if grader.startswith(name)]
    if arguments.real:
        real = [json.loads(line) for line in arguments.real.read_text(encoding="utf-8").splitlines()]
        print(f"\n{len(real)} real answers of {arguments.real.name}")
        measure("ours", ours, real, 5)
        for grader, judge in graders.items():
            by_source(grader, judge, real)
    if arguments.json:
        arguments.json.write_text(json.dumps(rates, indent=1) + "\n", encoding="utf-8")
    seconds, where = slowest()
    print(f"slowest hostile completion of {SIZE // 1000} KB: {1e3 * seconds:.1f} ms ({where})")
    if arguments.fuzz:
        raised, credited = fuzz(arguments.fuzz)
        print(f"{arguments.fuzz:,} fuzzed texts: {raised} raised, {credited} credited")


if __name__ == "__main__":
    main()
