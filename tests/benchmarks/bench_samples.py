"""How long a store of many samples takes to open, to turn a page and to search.

python tests/benchmarks/bench_samples.py [--samples 100000] [--words 150]
"""

from __future__ import annotations

import argparse
import random
import statistics
import tempfile
import time
from pathlib import Path

from nbhelpers.runs import RunDirectory, SampleStore, SampleWriter
from nbhelpers.show import viewer


class Run(RunDirectory):
    def image_file(self, image) -> str:
        return "images/none.png"


def write(folder: Path, samples: int, words: int) -> None:
    rng = random.Random(0)
    vocabulary = ["the", "triangle", "angle", "side", "is", "twice", "3", "12", "degrees", "so", "we", "add", "area"]
    picture = object()
    writer = SampleWriter(Run(folder))
    for step in range(1, samples // 100 + 1):
        rows = []
        for place in range(25):
            pid = f"p{rng.randrange(1000)}"
            for index in range(4):
                right = rng.random() < 0.5
                text = " ".join(rng.choices(vocabulary, k=words))
                rows.append(
                    {
                        "step": step, "group": f"{step}-{place}", "index": index, "pid": pid, "kind": pid[:2],
                        "question": "What is the area of the figure?", "choices": None, "unit": None, "precision": None,
                        "answer": "12", "question_type": "free_form", "answer_type": "integer", "prompt": "p" * 400,
                        "completion": f"<REASONING>{text}</REASONING><SOLUTION>12</SOLUTION>",
                        "rewards": {"formatting": 2.0, "correctness": 2.0 * right}, "reward": 2.0 + 2.0 * right,
                        "advantage": 0.5, "length": words, "truncated": False, "correct": right, "parsed": "12",
                        "reason": "",
                    }
                )  # fmt: skip
        writer.write(rows, [picture] * len(rows))


def seconds(action) -> tuple[float, object]:
    begun = time.perf_counter()
    result = action()
    return time.perf_counter() - begun, result


def typical(times: list[float]) -> str:
    return f"{statistics.median(times) * 1e3:6.2f} ms median, {max(times) * 1e3:.2f} ms worst of {len(times)}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, default=100_000)
    parser.add_argument("--words", type=int, default=150)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        writing, _ = seconds(lambda: write(folder, options.samples, options.words))
        size = (folder / "samples.jsonl").stat().st_size
        print(f"{options.samples:,} samples, {size / 1e6:.0f} MB, written in {writing:.1f} s")
        opening, store = seconds(lambda: SampleStore(folder))
        print(f"open:                      {opening:6.2f} s")
        listing, _ = seconds(lambda: store.groups(show="wrong to right"))
        print(f"first filter:              {listing * 1e3:6.1f} ms")
        rng = random.Random(1)
        pages = [seconds(lambda: store.group(rng.randrange(options.samples // 4)).rows)[0] for _ in range(200)]
        print(f"turn a page:               {typical(pages)}")
        building, looking = seconds(lambda: viewer.SampleViewer(folder))
        building += seconds(lambda: looking.widget)[0]
        ask = {"ask": "groups", "role": "rollout", "pictures": True}
        turns = [seconds(lambda at=at: looking.answer({**ask, "numbers": [at]}))[0] for at in range(100)]
        print(f"the viewer opens:          {building:6.2f} s")
        print(f"the viewer turns a page:   {typical(turns)}")
        searching, found = seconds(lambda: store.groups(text="12 degrees so we add"))
        print(f"search:                    {searching:6.2f} s ({len(found)} groups)")
        searching, found = seconds(lambda: store.groups(text="angle"))
        print(f"search that all match:     {searching:6.2f} s ({len(found)} groups)")


if __name__ == "__main__":
    main()
