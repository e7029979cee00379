"""Where problems come from: hub data sets, local folders, parquet and JSONL files, read as problem rows.

A source is recognised by its columns, not by its name, so a local copy of MathVista or Geometry3K reads like
the original:

| column read | from MathVista and local rows | from Geometry3K |
|---|---|---|
| picture | `decoded_image`, or `image` (a picture or a path) | `images` (one picture) |
| question | `question` | `problem` (its `<image>` mark is removed) |
| the rest | the fields of a problem, where there are any | types are read off the answer |
"""

from __future__ import annotations

import difflib
import io
import json
import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nbhelpers.params import ParamsError, repository_root, resolve_path

if TYPE_CHECKING:
    from PIL import Image

QUESTION_TYPES = ("multi_choice", "free_form")
ANSWER_TYPES = ("text", "integer", "float", "list")
# Above this a picture is a scan or an attack; decoding 50 megapixels takes 150 MB and most of a second.
MAX_PIXELS = 50_000_000
MAX_CHOICES = 26  # one letter each

_QUESTION_COLUMNS = ("question", "problem")
_PICTURE_COLUMNS = ("decoded_image", "image", "images")
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_SHARD = re.compile(r"(.+?)(?:-\d{5}-of-\d{5}(?:-[0-9a-f]+)?)?\.parquet")
# In a question these would become tokens of the chat template, and the picture would be looked for in the wrong place.
_SPECIAL_TOKEN = re.compile(
    r"<(?:start_of_turn|end_of_turn|start_of_image|end_of_image|image_soft_token|bos|eos|pad|unk|mask)>"
)


class DataError(ParamsError):
    """A data set that cannot be used as a whole. The message says what was asked, what was found, what to do."""


class Unusable(Exception):
    """A row that cannot be used; the message is the reason under which it is counted."""


@dataclass(frozen=True)
class Source:
    """Undecoded rows by number, the folder that relative picture paths start from, and what a reader should
    know.
    """

    name: str
    rows: Sequence[Any]
    folder: Path | None = None
    notices: list[str] = field(default_factory=list)

    @property
    def columns(self) -> list[str]:
        """Names of the columns; of rows in a JSONL file, those of the first hundred."""
        names = getattr(self.rows, "column_names", None)
        if names is None:
            names = list(dict.fromkeys(name for row in self.rows[:100] if isinstance(row, dict) for name in row))
        return names

    def problem(self, index: int, image_size: int) -> dict[str, Any]:
        """Row `index` as a problem; raises `Unusable`."""
        return problem_from(self.rows[index], str(index), image_size, self.folder)


def open_source(path: str, split: str | None, key: str = "dataset.path") -> Source:
    """Open a hub id, a folder (`items.jsonl`, parquet files, or one JSONL file), a parquet or a JSONL file.

    `split` null takes every split. A source without splits, or with a single one, is read whole whatever
    `split` says; a notice tells so. `key` is the parameter that an error names. Raises `DataError`.
    """
    found = resolve_path(path)
    if found is None:
        if _HUB_ID.fullmatch(path) and not path.endswith((".parquet", ".jsonl")):
            source = _from_hub(path, split, key)
        else:
            raise DataError(f"{key}: there is no file or folder {path!r}; {_places(path)}.")
    elif found.is_dir():
        source = _from_folder(found, split, key)
    elif found.suffix == ".parquet":
        source = _from_parquet({split or found.stem: [found]}, split, found, key)
    elif found.suffix == ".jsonl":
        source = _from_jsonl(found, split, key)
    else:
        raise DataError(f"{key}: {found} is neither a folder nor a .parquet or .jsonl file.")
    _check_columns(source, key)
    return source


def _places(path: str) -> str:
    places = dict.fromkeys(str((folder / path).resolve()) for folder in (Path.cwd(), repository_root()) if folder)
    return "looked for " + " and ".join(places)


def _from_hub(path: str, split: str | None, key: str) -> Source:
    import datasets

    try:
        found = datasets.load_dataset(path, split=split)
    except Exception as error:  # the hub fails in many classes, of requests, httpx, huggingface_hub and datasets
        known = re.search(r"Should be one of \[(.*?)\]", str(error))
        if known and split:
            names = re.findall(r"'([^']+)'", known[1])
            raise DataError(_no_split(key, split, path, names)) from None
        reason = next((line.strip() for line in str(error).splitlines() if line.strip()), "no reason given")
        raise DataError(
            f"{key}: {path!r} could not be read from the Hugging Face hub ({type(error).__name__}: {reason[:200]}). "
            f"There is no local copy either: {_places(path)}. Check the name and the connection; or, where there is one, run "
            f"`hf download {path} --repo-type dataset --local-dir FOLDER` and set {key} to that FOLDER; or try the series "
            "without any download with dataset.path=embedded."
        ) from None
    if isinstance(found, dict):
        names, found = list(found), datasets.concatenate_datasets(list(found.values()))
    else:
        names = [split]
    return Source(f"{path} ({', '.join(names)})", _undecoded(found))


def _from_folder(folder: Path, split: str | None, key: str) -> Source:
    if (folder / "items.jsonl").is_file():
        return _from_jsonl(folder / "items.jsonl", split, key)
    shards: dict[str, list[Path]] = {}
    for file in sorted([*folder.glob("*.parquet"), *folder.glob("data/*.parquet")]):
        shards.setdefault(_SHARD.fullmatch(file.name)[1], []).append(file)
    if shards:
        return _from_parquet(shards, split, folder, key)
    lines = sorted(folder.glob("*.jsonl"))
    if len(lines) == 1:
        return _from_jsonl(lines[0], split, key)
    raise DataError(
        f"{key}: {folder} holds neither items.jsonl, nor parquet files (here or in data/), nor exactly one .jsonl file"
        + (f" but {len(lines)} of them." if lines else ".")
    )


def _from_parquet(shards: dict[str, list[Path]], split: str | None, path: Path, key: str) -> Source:
    import datasets

    chosen, notices = _choose_split(list(shards), split, str(path), key)
    files = [str(file) for name in chosen for file in shards[name]]
    shown = datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()  # local files are read at once; a bar for each would clutter the notebook
    try:
        found = datasets.load_dataset("parquet", data_files=files, split="train")
    except Exception as error:  # datasets wraps what Arrow says in its own classes
        cause = error.__cause__ or error
        raise DataError(f"{key}: {path} cannot be read as parquet ({type(cause).__name__}: {cause}).") from None
    finally:
        if not shown:
            datasets.enable_progress_bars()
    folder = path if path.is_dir() else path.parent
    return Source(f"{path} ({', '.join(chosen)})", _undecoded(found), folder, notices)


def _from_jsonl(file: Path, split: str | None, key: str) -> Source:
    try:
        lines = file.read_bytes().decode("utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{key}: {file} cannot be read as UTF-8 text ({error}).") from None
    rows = [_parsed(line) for line in lines if line.strip()]
    splits = list(
        dict.fromkeys(row["split"] for row in rows if isinstance(row, dict) and isinstance(row.get("split"), str))
    )
    notices: list[str] = []
    if splits:
        chosen, notices = _choose_split(splits, split, str(file), key)
        # Rows that cannot be read, or name no split, are kept here to be counted or used.
        rows = [row for row in rows if not isinstance(row, dict) or row.get("split", chosen[0]) in chosen]
    return Source(str(file), rows, file.parent, notices)


def _parsed(line: str) -> Any:
    try:
        return json.loads(line)
    except ValueError:
        return None


def _choose_split(names: list[str], split: str | None, where: str, key: str) -> tuple[list[str], list[str]]:
    if split is None or split in names:
        return ([split] if split else names), []
    if len(names) == 1:
        return names, [f"{where} has no split {split!r}, only {names[0]!r}: all of it is used."]
    raise DataError(_no_split(key, split, where, names))


def _no_split(key: str, split: str, where: str, names: list[str]) -> str:
    near = difflib.get_close_matches(split, names, n=1)
    key = key.replace("path", "split")
    hint = f"; did you mean {near[0]}?" if near else "; null takes all of them."
    return f"{key}: {where} has no split {split!r}, but {', '.join(names)}{hint}"


def _undecoded(found: Any) -> Any:
    """The data set with its pictures left as bytes, so that one broken picture costs one row and not the run."""
    import datasets

    for name, feature in found.features.items():
        if isinstance(feature, datasets.Image):
            found = found.cast_column(name, datasets.Image(decode=False))
        elif isinstance(getattr(feature, "feature", None), datasets.Image):
            found = found.cast_column(name, datasets.List(datasets.Image(decode=False)))
    return found


def _check_columns(source: Source, key: str) -> None:
    columns = source.columns
    if not len(source.rows):
        raise DataError(f"{key}: {source.name} holds no rows.")
    missing = [
        " or ".join(names)
        for names in (_QUESTION_COLUMNS, _PICTURE_COLUMNS, ("answer",))
        if not set(names) & set(columns)
    ]
    if missing:
        raise DataError(
            f"{key}: {source.name} has the columns {', '.join(columns) or 'of no JSON object'}; missing: {'; '.join(missing)}."
        )


# --- a row


def problem_from(row: Any, name: str, image_size: int, folder: Path | None = None) -> dict[str, Any]:
    """One source row as a problem, its picture ready for the model.

    Args:
        row: a mapping with the columns of one of the sources above; pictures as bytes, path, or PIL image.
        name: the `pid` where the row has none.
        image_size: longest side of the picture in pixels.
        folder: where relative picture paths start.

    Raises:
        Unusable: with the reason.
    """
    if not isinstance(row, dict):
        raise Unusable("not a JSON object")
    question = _text(next((row[key] for key in _QUESTION_COLUMNS if row.get(key)), None))
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
    if answer_type not in ANSWER_TYPES:
        answer, answer_type, decimals = (answer, "text", None) if choices else _read_off(answer)
        precision = decimals if precision is None else precision
    return {
        "pid": _text(row.get("pid")) or name,
        "question": question,
        "image": prepare_image(_picture(row, folder), image_size),
        "choices": choices or None,
        "unit": unit,
        "precision": float(precision) if isinstance(precision, int | float) else None,
        "answer": answer,
        "question_type": question_type,
        "answer_type": answer_type,
        "metadata": _metadata(row.get("metadata")),
    }


def _text(value: Any) -> str:
    if value is None or isinstance(value, bool | dict):
        return ""
    return str(value).replace("\r\n", "\n").strip()


def _metadata(value: Any) -> dict[str, Any]:
    if isinstance(value, str):
        value = _parsed(value)
    return dict(value) if isinstance(value, dict) else {}


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
    plain = answer.strip("$ ").replace("\u2212", "-").replace(" ", "")
    if re.fullmatch(r"[+-]?\d{1,3}(,\d{3})+(\.\d+)?", plain):
        plain = plain.replace(",", "")
    if re.fullmatch(r"[+-]?\d+", plain):
        return plain, "integer", None
    if decimal := re.fullmatch(r"[+-]?\d*\.(\d+)", plain):
        return plain, "float", len(decimal[1])
    if re.fullmatch(r"\[.*\]", answer, re.S):
        return answer, "list", None
    return answer, "text", None


# --- its picture


def _picture(row: dict[str, Any], folder: Path | None) -> Any:
    given = next((row[key] for key in _PICTURE_COLUMNS if row.get(key) is not None), None)
    if isinstance(given, list | tuple):
        if len(given) > 1:
            raise Unusable("more than one picture")
        given = given[0] if given else None
    if isinstance(given, dict):
        given = given.get("bytes") or given.get("path")
    if given is None or given == "":
        raise Unusable("no picture")
    if isinstance(given, str):
        file = Path(given) if folder is None else folder / given
        if not file.is_file():
            raise Unusable("no picture")
        return file
    return given


def prepare_image(picture: Any, image_size: int) -> Image.Image:
    """A picture as the model gets it: RGB, upright, at most `image_size` pixels on the longest side, same
    aspect ratio.

    Args: picture: a PIL image, a path, or the bytes of a file. Transparent parts become white, 16 bits become
    8.

    Raises:
        Unusable: it cannot be decoded, or has more than 50 megapixels (checked before decoding).
    """
    from PIL import Image, ImageOps

    if isinstance(picture, bytes):
        picture = io.BytesIO(picture)
    try:
        # Pillow's own warning comes at 89 megapixels; the check below is stricter.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = picture if isinstance(picture, Image.Image) else Image.open(picture)
        if image.width * image.height > MAX_PIXELS:
            raise Unusable("oversized picture")
        image.load()
        # A copy even of an upright picture: `datasets` would store the path of an opened file, not its pixels.
        image = _rgb(ImageOps.exif_transpose(image))
    except Unusable:
        raise
    except Image.DecompressionBombError:
        raise Unusable("oversized picture") from None
    except Exception:  # Pillow's decoders raise whatever they meet in a broken file
        raise Unusable("unreadable picture") from None
    scale = image_size / max(image.size)
    if scale < 1:
        image = image.resize([max(1, round(side * scale)) for side in image.size], Image.Resampling.LANCZOS)
    return image


def _rgb(image: Image.Image) -> Image.Image:
    import numpy as np
    from PIL import Image

    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode.startswith("I") or image.mode == "F":
        levels = np.asarray(image, dtype=np.float64)
        # I;16 is 16 bits by definition; I and F hold 8 or 16 bits.
        if image.mode.startswith("I;16") or levels.max() > 255:
            levels = levels / 257
        return Image.fromarray(levels.clip(0, 255).round().astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image).convert("RGB")
    return image.convert("RGB")
