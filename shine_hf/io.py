"""Helpers for safe reading and writing: atomic files and folders, files of rows, hidden paths, retries. It imports nothing else from the package."""

from __future__ import annotations

import contextlib
import email.utils
import json
import os
import random
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from datasets import Dataset

T = TypeVar("T")

ATTEMPTS = 5
# Limit on the pause that a server requests in `Retry-After`. The openai client has the same limit.
LONGEST_PAUSE_SECONDS = 120.0


@contextlib.contextmanager
def atomic_file(path: str | os.PathLike, mode: str = "w") -> Iterator[IO[Any]]:
    """Open a file for writing that replaces `path` only when the block ends without an error.

    A reader never sees a half-written file, and the previous file survives a failure. Parent folders are created.

    Args:
        path: The file to write.
        mode: `"w"` for UTF-8 text, `"wb"` for bytes.

    Raises:
        OSError: if the file cannot be written; `path` is unchanged.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # Each writer gets a unique temporary file, so two processes that write the same path do not mix their bytes.
    descriptor, partial = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".partial", dir=path.parent)
    try:
        with open(descriptor, mode, encoding=None if "b" in mode else "utf-8") as file:
            yield file

        os.chmod(partial, path.stat().st_mode & 0o777 if path.exists() else 0o666 & ~UMASK)
        os.replace(partial, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(partial)
        raise


@contextlib.contextmanager
def atomic_dir(folder: str | os.PathLike, is_writer: bool = True) -> Iterator[str]:
    """Yield a new folder that replaces `folder` only when the block ends without an error.

    A reader finds the old folder or the new one (or, between two renames, none), but never a half-written one. An interrupted write leaves
    `_{name}` next to the folder. The next write removes it, and pushes to the Hub skip names with a leading underscore.

    Args:
        folder: The folder to write.
        is_writer: False in the processes of a distributed run that enter the block but do not write the folder.

    Raises:
        OSError: if the folder cannot be written; `folder` is unchanged.
    """
    folder = os.path.abspath(folder)
    parent, name = os.path.split(folder)
    new, old = os.path.join(parent, f"_{name}"), os.path.join(parent, f"_old_{name}")
    if is_writer:
        shutil.rmtree(new, ignore_errors=True)
        os.makedirs(new)
    yield new
    if is_writer:
        shutil.rmtree(old, ignore_errors=True)
        if os.path.isdir(folder):
            os.rename(folder, old)
        os.rename(new, folder)
        shutil.rmtree(old, ignore_errors=True)


def check_output(path: str | Path) -> Path:
    """Check that rows can be written to a path, and return it. Call this before hours of work, so that a typo is found early.

    Raises:
        ValueError: if the suffix is neither `.parquet` nor `.jsonl`.
    """
    path = Path(path)
    if path.suffix not in (".parquet", ".jsonl"):
        raise ValueError(f"{path}: the output must end in .parquet or .jsonl")
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def write_rows(dataset: Dataset, path: str | Path) -> None:
    """Write a dataset to a Parquet or JSON lines file atomically.

    Raises:
        ValueError: if the suffix is neither `.parquet` nor `.jsonl`.
    """
    path = check_output(path)
    if path.suffix == ".parquet":
        import pyarrow.parquet

        with atomic_file(path, "wb") as file:
            # Not `Dataset.to_parquet`, which shows a progress bar.
            pyarrow.parquet.write_table(dataset.with_format("arrow")[:], file)
    else:
        with atomic_file(path) as file:
            for row in dataset:
                file.write(json.dumps(row, ensure_ascii=False) + "\n")


def hide_path(text: str) -> str:
    """Return the last part of a local path; return anything else, e.g. a Hub name, unchanged.

    Used for everything that leaves the machine: cards, configurations, logs of a run.
    """
    if text and (os.path.isabs(text) or text.startswith("~") or os.path.exists(text)):
        return os.path.basename(os.path.normpath(text))
    return text


def content_fault(file: IO[bytes]) -> str:
    """Describe what is wrong with a file if its first bytes show it, e.g. after a failed download; else return `""`."""
    file.seek(0)
    start = file.read(40)
    if not start:
        return "it is empty (0 bytes)"
    if start.startswith(b"version https://git-lfs"):
        return "it is a Git LFS pointer instead of the file; run `git lfs pull`"
    if start.lstrip().lower().startswith((b"<!doctype html", b"<html")):
        return "it is a web page instead of the file; download it again"
    return ""


def retry_after_seconds(headers: Mapping[str, str]) -> float | None:
    """Return the seconds to wait from the header `Retry-After` (seconds or an HTTP date) or `retry-after-ms`; None without either."""
    with contextlib.suppress(TypeError, ValueError):
        return max(0.0, float(headers.get("retry-after-ms")) / 1000)
    value = headers.get("retry-after") or headers.get("Retry-After")
    if value is None:
        return None
    with contextlib.suppress(ValueError):
        return max(0.0, float(value))
    with contextlib.suppress(TypeError, ValueError):
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    return None


def pause_seconds(attempt: int, headers: Mapping[str, str] | None = None) -> float:
    """Return the seconds to wait after failed attempt `attempt` (from 1), as the response requests or with exponential backoff and jitter."""
    seconds = retry_after_seconds(headers) if headers is not None else None
    if seconds is None:
        seconds = 2.0 ** (attempt - 1) * random.uniform(0.75, 1.0)
    return min(seconds, LONGEST_PAUSE_SECONDS)


def retry(
    action: Callable[[], T],
    is_transient: Callable[[Exception], bool],
    *,
    attempts: int = ATTEMPTS,
    headers_of: Callable[[Exception], Mapping[str, str] | None] = lambda error: None,
    on_pause: Callable[[Exception, float], None] = lambda error, seconds: None,
    sleep: Callable[[float], None] = time.sleep,
) -> T:
    """Run an action until it succeeds, up to `attempts` times.

    Args:
        action: What to do.
        is_transient: Returns whether to retry after an error. Other errors are raised immediately.
        attempts: The maximum number of attempts.
        headers_of: Returns the headers of the response that caused an error, for `Retry-After`.
        on_pause: Called before each pause with the error and the seconds, e.g. to log a warning.
        sleep: Waits for a number of seconds.

    Raises:
        Exception: the last error of `action`.
    """
    for attempt in range(1, attempts + 1):
        try:
            return action()
        except Exception as error:
            if attempt == attempts or not is_transient(error):
                raise
            seconds = pause_seconds(attempt, headers_of(error))
            on_pause(error, seconds)
            sleep(seconds)
    raise AssertionError("attempts must be positive")


def _read_umask() -> int:
    umask = os.umask(0)
    os.umask(umask)
    return umask


# Read once, at import: the umask can only be read by setting it, which affects all threads.
UMASK = _read_umask()
