"""How many planted copies of real pictures the leakage audit finds, and how many strangers it accuses.

    python tests/benchmarks/bench_leaks.py FOLDER      # items.jsonl and pictures

The pictures are halved by their digest: the two thresholds in `problems/audit.py` were set on the first half and not
changed after the second was read (how a picture is looked at was chosen with all of them in view). A copy is planted
once with its own question and answer, once with others.
"""

from __future__ import annotations

import argparse
import io
import time

import numpy as np
from PIL import Image, ImageChops, ImageEnhance, ImageOps

from nbhelpers.problems.audit import SAME_PICTURE, SAME_PROBLEM, Looks
from nbhelpers.problems.cutting import picture_digest
from nbhelpers.problems.rows import problem_from
from nbhelpers.problems.sources import open_source


def saved(image, quality, format="JPEG"):
    file = io.BytesIO()
    image.save(file, format, quality=quality)
    return Image.open(file).convert("RGB")


def scaled(image, across, down=None):
    size = max(8, round(image.width * across)), max(8, round(image.height * (down or across)))
    return image.resize(size, Image.Resampling.LANCZOS)


def cropped(image, left, top, right, bottom):
    wide, high = image.size
    return image.crop((round(wide * left), round(high * top), round(wide * (1 - right)), round(high * (1 - bottom))))


def other_hues(image, by):
    hue, *rest = image.convert("HSV").split()
    return Image.merge("HSV", (hue.point(lambda value: (value + by) % 256), *rest)).convert("RGB")


COPIES = {
    "re-encoded": [lambda i: saved(i, 75), lambda i: saved(i, 25), lambda i: saved(i, 40, "WEBP")],
    "rescaled": [lambda i: scaled(i, 0.5), lambda i: scaled(i, 1 / 3), lambda i: scaled(i, 1.5),
                 lambda i: scaled(i, 1, 0.85)],
    "cropped or padded by 3 to 5 %": [lambda i: cropped(i, *[0.03] * 4), lambda i: cropped(i, *[0.05] * 4),
                                      lambda i: ImageOps.expand(i, (40, 10, 5, 30), "white")],
    "cropped by 10 %": [lambda i: cropped(i, 0.1, 0, 0, 0), lambda i: cropped(i, *[0.1] * 4)],
    "recoloured": [ImageOps.invert, lambda i: i.convert("L").convert("RGB"), lambda i: other_hues(i, 80),
                   lambda i: ImageEnhance.Contrast(i).enhance(0.5), lambda i: ImageEnhance.Brightness(i).enhance(0.7),
                   lambda i: ImageChops.multiply(i, Image.new("RGB", i.size, (255, 240, 200)))],
    "all of it": [lambda i: saved(scaled(cropped(other_hues(i, 40), *[0.03] * 4), 0.6), 50)],
}  # fmt: skip


def measure(rows):
    looks = Looks(rows)
    for name, ways in COPIES.items():
        found = {"own": [], "other": []}
        for way in ways:
            for row in rows:
                copy = row | {"image": way(row["image"])}
                for asked, probe in (("own", copy), ("other", copy | {"question": "And what is this?"})):
                    hit = looks.find(probe)
                    found[asked].append(hit is not None and picture_digest(hit.other) == picture_digest(row))
        shares = [f"{100 * np.mean(found[asked]):5.1f} %" for asked in ("own", "other")]
        print(f"  {name:<32} own question {shares[0]}, another {shares[1]} of {len(found['own'])}")
    accuse(rows)


def accuse(rows):
    looks, digests = Looks(rows), np.array([picture_digest(row) for row in rows])
    similarity = looks.similarity([row["image"] for row in rows])
    again = np.stack([looks.asked_again(row, alike) for row, alike in zip(rows, similarity, strict=True)])
    strangers = (digests[:, None] != digests) & np.tri(len(rows), k=-1, dtype=bool)
    accused = strangers & (again | (similarity >= SAME_PICTURE))
    print(f"  strangers accused: {accused.sum()} of {strangers.sum()} pairs")
    for one, other in np.argwhere(accused):
        print(f"    {rows[one]['pid']} {rows[other]['pid']} {similarity[one, other]:.3f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder")
    source = open_source(parser.parse_args().folder, None)
    rows = [problem_from(row, str(place), 512, source.folder) for place, row in enumerate(source.rows)]
    print(f"{len(rows)} problems; one picture from {SAME_PICTURE}, one problem from {SAME_PROBLEM}")
    for half in (0, 1):
        print("the half that the thresholds were chosen on" if half == 0 else "the other half")
        measure([row for row in rows if int(picture_digest(row)[0], 16) % 2 == half])
    print("across both halves")
    accuse(rows)
    started = time.perf_counter()
    Looks(rows).similarity([row["image"] for row in rows])
    print(f"all {len(rows)} against each other: {time.perf_counter() - started:.2f} s")


if __name__ == "__main__":
    main()
