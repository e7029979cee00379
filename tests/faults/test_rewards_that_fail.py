"""A reward of the user's own that breaks its promise stops the run with its name and, where there is one, the text."""

from __future__ import annotations

import asyncio
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch

from nbhelpers.params.sections import RewardParams
from nbhelpers.rewards.guarding import RewardError, guarded
from nbhelpers.rewards.making import make_reward_funcs
from nbhelpers.rewards.previewing import preview

COMPLETIONS = [[{"role": "assistant", "content": f"<SOLUTION>{number}</SOLUTION>"}] for number in (4, 5, 6)]


def call(function, seconds=5.0, completions=COMPLETIONS):
    return guarded("mine", function, seconds)(prompts=["?"] * len(completions), completions=completions, answer=["4"])


def quits(**_):
    sys.exit("bye")


def divides(**_):
    return [1 / 0]


BROKEN = {
    "NaN": (lambda **_: [1.0, float("nan"), 0.0], "returned 'nan' for completion 2 of 3, '<SOLUTION>5</SOLUTION>'"),
    "infinity": (lambda **_: [0.0, 0.0, float("-inf")], "returned '-inf' for completion 3 of 3"),
    "a NaN of NumPy's": (lambda **_: np.array([np.nan, 1, 1]), "completion 1 of 3, '<SOLUTION>4</SOLUTION>'"),
    "a text": (lambda **_: ["1.0", 0.0, 0.0], "returned '1.0' for completion 1"),
    "a list in the list": (lambda **_: [[1.0], 0.0, 0.0], "a reward is a finite number, or None"),
    "nothing": (lambda **_: None, "returned None; a reward returns a list"),
    "one number": (lambda **_: 1.0, "returned one float"),
    "a mapping": (lambda **_: {0: 1.0}, "returned one dict"),
    "too few": (lambda **_: [1.0], "1 values for 3 completions"),
    "too many": (lambda **_: [1.0] * 4, "4 values for 3 completions"),
    "an error": (divides, "raised ZeroDivisionError: division by zero"),
    "a signature without **kwargs": (lambda completions: [0.0] * 3, "unexpected keyword argument"),
    "sys.exit": (quits, "raised SystemExit: bye"),
    "a number too large": (lambda **_: [10**400, 0, 0], "completion 1 of 3"),
}


@pytest.mark.parametrize("fault", BROKEN)
def test_a_broken_promise_names_the_function_and_what_it_did(fault):
    function, says = BROKEN[fault]
    with pytest.raises(RewardError, match="reward 'mine' ") as caught:
        call(function)
    assert says in str(caught.value) and "\n" not in str(caught.value)


def test_a_long_completion_is_shortened_in_the_sentence():
    with pytest.raises(RewardError) as caught:
        call(lambda **_: [float("nan")], completions=["word " * 5000])
    assert len(str(caught.value)) < 400 and "…" in str(caught.value)


@pytest.mark.parametrize(
    "paid",
    [[1, 0.5, None], (1, 0.5, None), np.array([1, 0.5, 0]), torch.tensor([1, 0.5, 0]), [np.float32(1), True, 0]],
    ids=["list", "tuple", "NumPy", "torch", "scalars"],
)
def test_every_way_of_keeping_the_promise_is_taken(paid):
    result = call(lambda **_: paid)
    assert len(result) == 3 and result[0] == 1.0 and all(value is None or type(value) is float for value in result)


def test_none_for_all_is_no_error_as_a_reward_may_be_for_other_problems():
    assert call(lambda **_: [None] * 3) == [None] * 3


# time

DAY = 86_400


def waits(**_):
    time.sleep(DAY)


def loops(**_):
    while True:
        pass


def swallows_errors(**_):
    while True:
        try:
            time.sleep(DAY)
        except Exception:  # what retries around a connection look like
            continue


def backtracks(completions, **_):
    return [float(bool(re.fullmatch(r"(a+)+b", "a" * 40))) for _ in completions]


@pytest.mark.parametrize("function", [waits, loops, swallows_errors, backtracks])
def test_a_reward_that_hangs_is_ended_at_its_limit(function, monkeypatch):
    """None of them ends by itself within a day: that they end is the alarm's doing, which is set to the limit."""
    alarms, setitimer = [], signal.setitimer
    monkeypatch.setattr(signal, "setitimer", lambda *given: alarms.append(given) or setitimer(*given))
    with pytest.raises(RewardError, match=r"'mine' had not answered after 0.3 seconds, the limit of reward.timeout"):
        call(function, seconds=0.3)
    assert alarms[0] == (signal.ITIMER_REAL, 0.3, 1.0)
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


HANGS = """
import asyncio, ctypes, itertools, sys, threading, time
from nbhelpers.rewards import guarding
guarding.GRACE = 0.6
def counts_in_c(**_):
    return [sum(itertools.repeat(0))]
def sleeps_in_c(**_):  # and lets no other thread have the interpreter
    ctypes.PyDLL(None).sleep(60)
def waits(**_):
    time.sleep(60)
async def blocks(**_):
    time.sleep(60)
def call(function):
    guarding.guarded("mine", function, 0.3)(completions=["a"])
async def quick(**_):
    await asyncio.sleep(0.1)
    return [1.0]
async def together():
    mine = [guarding.guarded(f"mine{n}", f, 0.3 + n)(completions=["a"]) for n, f in enumerate((quick, blocks))]
    await asyncio.gather(*mine)
def in_a_thread(function):
    threading.Thread(target=call, args=[function]).start()
"""

NEVER_BACK = {
    "counts_in_c": "call(counts_in_c)",
    "sleeps_in_c, on another thread": "in_a_thread(sleeps_in_c)",
    "waits, on another thread": "in_a_thread(waits)",
    "waits, on another thread beside one that pays": "in_a_thread(waits); call(lambda **_: [1.0])",
    "blocks, asynchronously": "asyncio.run(guarding.guarded('mine', blocks, 0.3)(completions=['a']))",
    "blocks, beside one that pays": "asyncio.run(together())",
}


@pytest.mark.parametrize("case", NEVER_BACK)
def test_a_call_that_nothing_else_can_end_ends_with_its_process_and_is_named(case):
    done = subprocess.run([sys.executable, "-c", HANGS + NEVER_BACK[case]], capture_output=True, text=True, timeout=600)
    assert done.returncode == 1 and "Timeout" in done.stderr and f"in {case.partition(',')[0]}" in done.stderr
    if "waits" in case:
        assert "reward 'mine' had not answered after 0.3 seconds" in done.stderr and "Nothing can end" in done.stderr


def test_a_call_in_time_leaves_its_process_alone_on_any_thread():
    code = HANGS + "in_a_thread(lambda **_: [1.0]); asyncio.run(guarding.guarded('q', quick, 0.3)(completions=['a']))"
    done = subprocess.run(
        [sys.executable, "-c", f"{code}; time.sleep(1.5); print('still here')"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "still here\n", "")


def test_a_reward_in_time_leaves_no_alarm_behind():
    before = signal.getsignal(signal.SIGALRM)
    call(lambda **_: [0.0] * 3)
    assert signal.getsignal(signal.SIGALRM) is before and signal.getitimer(signal.ITIMER_REAL)[0] == 0


def test_an_interrupt_is_no_fault_of_the_reward():
    def interrupted(**_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        call(interrupted)


def test_an_asynchronous_reward_is_held_to_the_same():
    async def hangs(**_):
        await asyncio.sleep(30)

    async def pays(**_):
        return [1.0, float("nan"), 0.0]

    with pytest.raises(RewardError, match="had not answered after 0.2 seconds"):
        asyncio.run(call(hangs, seconds=0.2))
    with pytest.raises(RewardError, match="completion 2 of 3"):
        asyncio.run(call(pays))


# where rewards are called


@pytest.fixture
def module(tmp_path, monkeypatch):
    """Writes `fault_<n>.py` on the path; gives its name."""
    written = []

    def write(source: str) -> str:
        name = f"fault_{len(written)}_{tmp_path.name.replace('-', '_')}"
        (tmp_path / f"{name}.py").write_text(source)
        written.append(name)
        return name

    monkeypatch.syspath_prepend(tmp_path)
    yield write
    for name in written:
        sys.modules.pop(name, None)


def test_a_module_that_fails_while_it_is_imported_is_named(module):
    for source, says in (("import sys; sys.exit(3)", "SystemExit: 3"), ("1 +", "SyntaxError"), ("1 / 0", "ZeroDiv")):
        name = module(source)
        with pytest.raises(RewardError, match=f"cannot import module '{name}' .*{says}"):
            make_reward_funcs(RewardParams(functions=[f"{name}:f"]))


def test_two_functions_of_one_name_keep_their_rewards_apart(module):
    source = "def correctness(completions, **kwargs):\n    return [0.0] * len(completions)\n"
    first, second = module(source), module(source)
    own = [f"{first}:correctness", f"{second}:correctness"]
    functions = make_reward_funcs(RewardParams(functions=["correctness", *own]))
    assert [function.__name__ for function in functions] == ["correctness", *own]


def test_the_preview_stops_with_the_same_sentence_and_takes_asynchronous_rewards(module):
    source = (
        "def bad(completions, **kwargs):\n    return [float('nan')] * len(completions)\n"
        "async def good(completions, **kwargs):\n    return [0.5] * len(completions)\n"
    )
    name, problem = module(source), {"question": "?", "answer": "4", "pid": "a"}
    with pytest.raises(RewardError, match="reward 'bad' returned 'nan' for completion 1 of 2"):
        preview([problem], [["a", "b"]], RewardParams(functions=[f"{name}:bad"]))
    assert preview([problem], [["a", "b"]], RewardParams(functions=[f"{name}:good"])).totals == [0.5, 0.5]
