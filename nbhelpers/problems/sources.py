"""Opening a source: the hub, a local copy of it, a folder, a parquet or a JSONL file."""

from __future__ import annotations

import codecs
import contextlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nbhelpers.params import ParamsError, did_you_mean, is_hub_id, places_of, resolve_path
from nbhelpers.problems.rows import PICTURE_COLUMNS, QUESTION_COLUMNS, parse_json

_SHARD = re.compile(r"(.+?)(?:-\d{5}-of-\d{5}(?:-[0-9a-f]+)?)?\.parquet")


class DataError(ParamsError):
    """A data set that cannot be used as a whole. The message says what was asked, what was found, what to do."""


@dataclass(frozen=True)
class Source:
    """Undecoded rows by number, the folders where pictures may lie (relative paths start in the first), what a reader
    should know, and the commit on the hub.
    """

    name: str
    rows: Sequence[Any]
    folders: tuple[Path, ...] = ()
    notices: list[str] = field(default_factory=list)
    revision: str | None = None

    @property
    def columns(self) -> list[str]:
        """Names of the columns; of rows in a JSONL file, those of the first hundred."""
        if isinstance(self.rows, list):
            return list(dict.fromkeys(name for row in self.rows[:100] if isinstance(row, dict) for name in row))
        return self.rows.column_names


def open_source(path: str, split: str | None, key: str = "dataset.path", revision: str | None = None) -> Source:
    """Open a hub id, a folder (`items.jsonl`, parquet files, or one JSONL file), a parquet, JSONL or JSON file.

    `split` null takes every split. A source without splits, or with a single one, is read whole whatever `split` says,
    and a notice tells so. `key` is the parameter that an error names, `revision` a commit on the hub. Raises
    `DataError`.
    """
    found = local_source(path, key)
    if found is None:
        source = _from_hub(path, split, key, revision)
    elif found.suffix == ".parquet" and found.is_file():
        source = _from_parquet({split or found.stem: [found]}, split, found, key)
    elif found.suffix in (".jsonl", ".json") and found.is_file():
        source = _from_json(found, split, key)
    else:
        source = _from_parquet(_shards(found), split, found, key)
    _check_columns(source, key)
    return source


def local_source(path: str, key: str = "dataset.path") -> Path | None:
    """The local data behind `path`, looked for and not yet read: a JSONL or parquet file, or a folder of parquet files;
    None for a hub id.

    Raises:
        DataError: there is no such file or folder, or nothing in it that could be read.
    """
    found = resolve_path(path)
    if found is None:
        if path.endswith((".parquet", ".jsonl", ".json")) or not is_hub_id(path):
            raise DataError(f"{key}: there is no file or folder {path!r}; {places_of(path)}.")
        return None
    if not found.is_dir():
        if found.suffix not in (".parquet", ".jsonl", ".json"):
            raise DataError(f"{key}: {found} is neither a folder nor a .parquet, .jsonl or .json file.")
        return found
    lines = sorted(found.glob("*.jsonl"))
    if (found / "items.jsonl").is_file():
        return found / "items.jsonl"
    if _shards(found):
        return found
    if len(lines) == 1:
        return lines[0]
    raise DataError(
        f"{key}: {found} holds neither items.jsonl, nor parquet files (here or in data/), nor exactly one .jsonl file"
        + (f" but {len(lines)} of them." if lines else ".")
    )


def _shards(folder: Path) -> dict[str, list[Path]]:
    """The parquet files of a folder by split."""
    shards: dict[str, list[Path]] = {}
    for file in sorted([*folder.glob("*.parquet"), *folder.glob("data/*.parquet")]):
        shards.setdefault(_SHARD.fullmatch(file.name)[1], []).append(file)
    return shards


def _from_hub(path: str, split: str | None, key: str, revision: str | None) -> Source:
    import datasets

    try:
        found = datasets.load_dataset(path, split=split, revision=revision)
    except Exception as error:  # the hub fails in many classes, of requests, httpx, huggingface_hub and datasets
        known = re.search(r"Should be one of \[(.*?)\]", str(error))
        if known and split:
            names = re.findall(r"'([^']+)'", known[1])
            raise DataError(_no_split(key, split, path, names)) from None
        reason = next((line.strip() for line in str(error).splitlines() if line.strip()), "no reason given")
        raise DataError(
            f"{key}: {path!r} could not be read from the Hugging Face hub ({type(error).__name__}: {reason[:200]}). "
            f"There is no local copy either: {places_of(path)}. Check the name and the connection; or, where there is "
            f"one, run `hf download {path} --repo-type dataset --local-dir FOLDER` and set {key} to that FOLDER; or "
            "try the series without any download with dataset.path=embedded."
        ) from None
    if isinstance(found, dict):
        names, found = list(found), datasets.concatenate_datasets(list(found.values()))
    else:
        names = [split]
    return Source(f"{path} ({', '.join(names)})", _undecoded(found), _hub_caches(), revision=_commit(found))


def _hub_caches() -> tuple[Path, ...]:
    """Where `datasets` and the hub put what they fetch: paths in a fetched data set lead there."""
    import datasets
    from huggingface_hub import constants

    return tuple(map(Path, (constants.HF_HUB_CACHE, datasets.config.HF_DATASETS_CACHE)))


@contextlib.contextmanager
def without_bars() -> Iterator[None]:
    """Inside, `datasets` shows no bars, which would stay in an executed notebook: for work that is done at once."""
    import datasets

    hidden = datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        if not hidden:
            datasets.enable_progress_bars()


def _folders(folder: Path) -> tuple[Path, ...]:
    """A local folder and, where it is a snapshot in a hub cache, the `blobs` that its links lead to."""
    resolved = folder.resolve()
    parents = [parent.parent for parent in (resolved, *resolved.parents) if parent.parent.name == "snapshots"]
    blobs = [snapshots.parent / "blobs" for snapshots in parents]
    return folder, *(blob for blob in blobs if blob.is_dir() and not blob.is_symlink())


def _commit(found: Any) -> str | None:
    """The commit that a data set's files were read at, from the addresses that `datasets` keeps of them."""
    addresses = getattr(found.info, "download_checksums", None) or {}
    commits = {match[1] for address in addresses if (match := re.search(r"@([0-9a-f]{40})/", str(address)))}
    return commits.pop() if len(commits) == 1 else None


def _from_parquet(shards: dict[str, list[Path]], split: str | None, path: Path, key: str) -> Source:
    import datasets

    chosen, notices = _choose_split(list(shards), split, str(path), key)
    files = [str(file) for name in chosen for file in shards[name]]
    try:
        with without_bars():
            found = datasets.load_dataset("parquet", data_files=files, split="train")
    except Exception as error:  # datasets wraps what Arrow says in its own classes
        cause = error.__cause__ or error
        raise DataError(f"{key}: {path} cannot be read as parquet ({type(cause).__name__}: {cause}).") from None
    folder = path if path.is_dir() else path.parent
    return Source(f"{path} ({', '.join(chosen)})", _undecoded(found), _folders(folder), notices)


def _from_json(file: Path, split: str | None, key: str) -> Source:
    try:
        content = file.read_bytes().removeprefix(codecs.BOM_UTF8)
    except OSError as error:
        raise DataError(f"{key}: {file} cannot be read ({error}).") from None
    if file.suffix == ".json":  # as We-Math has it
        rows = parse_json(content)
        if not isinstance(rows, list):
            raise DataError(f"{key}: {file} holds no JSON list of rows. A file with a row in each line ends in .jsonl.")
    else:
        rows = [parse_json(line) for line in content.split(b"\n") if line.strip()]
    named = (row.get("split") for row in rows if isinstance(row, dict))
    splits = list(dict.fromkeys(split for split in named if isinstance(split, str)))
    notices: list[str] = []
    if splits:
        chosen, notices = _choose_split(splits, split, str(file), key)
        # Rows that cannot be read, or name no split, are kept here to be counted or used.
        rows = [row for row in rows if not isinstance(row, dict) or row.get("split", chosen[0]) in chosen]
    return Source(str(file), rows, _folders(file.parent), notices)


def _choose_split(names: list[str], split: str | None, where: str, key: str) -> tuple[list[str], list[str]]:
    if split is None or split in names:
        return ([split] if split else names), []
    if len(names) == 1:
        return names, [f"{where} has no split {split!r}, only {names[0]!r}: all of it is used."]
    raise DataError(_no_split(key, split, where, names))


def _no_split(key: str, split: str, where: str, names: list[str]) -> str:
    hint = did_you_mean(split, names) or "; null takes all of them."
    return f"{key.replace('path', 'split')}: {where} has no split {split!r}, but {', '.join(names)}{hint}"


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
    if not len(source.rows):
        raise DataError(f"{key}: {source.name} holds no rows.")
    columns, needed = source.columns, (QUESTION_COLUMNS, PICTURE_COLUMNS, ("answer",))
    missing = "; ".join(" or ".join(names) for names in needed if not set(names) & set(columns))
    if missing:
        found = ", ".join(columns) or "of no JSON object"
        raise DataError(f"{key}: {source.name} has the columns {found}; missing: {missing}.")
