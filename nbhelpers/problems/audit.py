"""Is a training problem also an evaluation problem? By what the picture looks like, and by what is asked of it.

A picture that was saved again, scaled, cropped or recoloured has other bytes. So pictures are compared by a perceptual
hash: the low frequencies of the grey picture, its margins cut off (a discrete cosine transform, as in "pHash"), kept as
numbers and compared by their correlation. `tests/benchmarks/bench_leaks.py` measures what is found and who is accused.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from nbhelpers.problems.cutting import picture_digest, question_key

# Correlation of two looks, 0 to 1. Above the first two pictures are one, whatever is asked; above the second they are
# one where the question and the answer are the same too. Tuned on one half of 200 real pictures, measured on the other.
SAME_PICTURE = 0.97
SAME_PROBLEM = 0.8
# A question of so many words, with the same choices and answer, is the same problem whatever its picture looks like.
DISTINCTIVE_WORDS = 12

_SIDE, _FREQUENCIES, _MARGIN_GRID = 64, 16, 128
# Parts of a picture that a cropped copy may hold: left, right, top, bottom as shares of the whole.
_CROPS = tuple(
    [(cut, 1 - cut, cut, 1 - cut) for cut in (0.03, 0.06, 0.1)]
    + [side for cut in (0.05, 0.1) for side in ((cut, 1, 0, 1), (0, 1 - cut, 0, 1), (0, 1, cut, 1), (0, 1, 0, 1 - cut))]
)


@dataclass(frozen=True)
class Overlap:
    """Two problems that are one: what they share, and the correlation of their pictures' looks."""

    one: Mapping[str, Any]
    other: Mapping[str, Any]
    why: str
    similarity: float


class Looks:
    """The looks of some problems' pictures and the words of what is asked, to compare other problems with."""

    def __init__(self, rows: Sequence[Mapping[str, Any]]) -> None:
        self.rows = list(rows)
        self._digests: dict[str, int] = {}
        for place, row in enumerate(self.rows):
            self._digests.setdefault(picture_digest(row), place)
        self._texts = np.array([hash(_text(row)) for row in self.rows], dtype=np.int64)
        small = _small([row["image"] for row in self.rows])
        self._whole, self._parts = _look(small), [_look(part) for part in _cropped(small)]

    def find(self, row: Mapping[str, Any]) -> Overlap | None:
        """The problem here that `row` repeats, the most alike first; None where there is none."""
        if (place := self._digests.get(picture_digest(row))) is not None:
            return Overlap(row, self.rows[place], "the same picture", 1.0)
        if not self.rows:
            return None
        similarity = self.similarity([row["image"]])[0]
        asked_again = self.asked_again(row, similarity)
        found = asked_again | (similarity >= SAME_PICTURE)
        if not found.any():
            return None
        place = int(np.argmax(np.where(found, similarity, -1.0)))
        why = "the same question and answer" if asked_again[place] else "the same picture, saved again"
        return Overlap(row, self.rows[place], why, round(float(similarity[place]), 3))

    def asked_again(self, row: Mapping[str, Any], similarity: np.ndarray) -> np.ndarray:
        """Which problems here ask the same and have the same answer, of a picture as alike as that needs: (rows,)."""
        long = len(question_key(row["question"]).split()) >= DISTINCTIVE_WORDS
        return (self._texts == hash(_text(row))) & ((similarity >= SAME_PROBLEM) | long)

    def similarity(self, images: Sequence[Any]) -> np.ndarray:
        """How alike pictures are to those here, whole or one a crop of the other: (images, rows), 0 to 1."""
        small = _small(images)
        whole = _look(small)
        pairs = [(whole, self._whole), *((whole, part) for part in self._parts)]
        pairs += [(_look(part), self._whole) for part in _cropped(small)]
        return np.max([np.abs(own @ theirs.T) for own, theirs in pairs], axis=0)


def repetitions(rows: Sequence[Mapping[str, Any]]) -> list[tuple[int, int, float]]:
    """Rows that repeat an earlier one: (number of the later, number of the earlier, correlation)."""
    looks, found = Looks(rows), []
    for start in range(0, len(rows), 256):
        part = rows[start : start + 256]
        similarity = looks.similarity([row["image"] for row in part])
        one = np.stack([looks.asked_again(row, alike) for row, alike in zip(part, similarity, strict=True)])
        for later, earlier in np.argwhere(one | (similarity >= SAME_PICTURE)).tolist():
            if earlier < start + later:
                found.append((start + later, earlier, round(float(similarity[later, earlier]), 3)))
    return found


def _text(row: Mapping[str, Any]) -> Hashable:
    return question_key(row["question"]), tuple(row["choices"] or ()), row["answer"]


def _small(images: Sequence[Any]) -> np.ndarray:
    """Grey pictures without their margins, all of one size: (images, side, side)."""
    from PIL import Image

    small = np.empty((len(images), _SIDE, _SIDE), np.float32)
    for place, image in enumerate(images):
        grey = image.convert("L")
        box = _inside_margins(np.asarray(grey.resize((_MARGIN_GRID,) * 2, Image.Resampling.BOX), np.float32), grey.size)
        small[place] = np.asarray(grey.resize((_SIDE,) * 2, Image.Resampling.BILINEAR, box=box))
    return small


def _inside_margins(grey: np.ndarray, size: tuple[int, int]) -> tuple[float, ...] | None:
    """The box (left, top, right, bottom in pixels of `size`) around what differs from the edge's usual grey."""
    edge = np.concatenate([grey[0], grey[-1], grey[:, 0], grey[:, -1]])
    differs = np.abs(grey - np.median(edge))
    differs = differs > 0.2 * differs.max()
    across, down = np.flatnonzero(differs.any(axis=0)), np.flatnonzero(differs.any(axis=1))
    if len(across) < 2 or len(down) < 2:
        return None
    (wide, high), (left, right), (top, bottom) = np.divide(size, _MARGIN_GRID), across[[0, -1]], down[[0, -1]]
    return left * wide, top * high, (right + 1) * wide, (bottom + 1) * high


def _cropped(small: np.ndarray) -> list[np.ndarray]:
    """Each of `_CROPS` of the pictures, stretched to the whole size; cropping is a product with two matrices."""
    return [_stretch(top, bottom) @ small @ _stretch(left, right).T for left, right, top, bottom in _CROPS]


def _stretch(start: float, end: float) -> np.ndarray:
    """The matrix (side, side) that reads the part from `start` to `end` of a line of pixels, between them linearly."""
    places = np.clip((start + (np.arange(_SIDE) + 0.5) / _SIDE * (end - start)) * _SIDE - 0.5, 0, _SIDE - 1)
    left = np.minimum(places.astype(int), _SIDE - 2)
    matrix = np.zeros((_SIDE, _SIDE), np.float32)
    matrix[np.arange(_SIDE), left] = 1 - (places - left)
    matrix[np.arange(_SIDE), left + 1] += places - left
    return matrix


def _look(small: np.ndarray) -> np.ndarray:
    """Unit vectors (images, frequencies squared) of low frequencies, each times its frequency, which evens them out.

    The mean grey is left out; with the absolute correlation a negative is as alike as a positive.
    """
    from scipy.fft import dctn

    low = dctn(small, axes=(1, 2), norm="ortho")[:, :_FREQUENCIES, :_FREQUENCIES]
    frequency = np.hypot(*np.mgrid[:_FREQUENCIES, :_FREQUENCIES]).astype(np.float32)
    look = (low * frequency).reshape(len(small), -1)
    return look / np.maximum(np.linalg.norm(look, axis=1, keepdims=True), 1e-6)
