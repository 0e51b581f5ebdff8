"""Read the original annotation formats of the field into raw rows with the fields of the schema.

| Format | Content | Datasets |
|---|---|---|
| by video | `{vid: {"sentences", "timestamps", "duration"}}` | ActivityNet Captions, Charades-CG, ActivityNet-CG |
| by video, in frames | the same with `num_frames` and `fps` instead of `duration` | TACoS |
| Charades-STA text | lines `VID START END##SENTENCE`; the durations are in separate files | Charades-STA |
| DiDeMo | a list of `{"annotation_id", "video", "description", "times"}`, times in segments of 5 s | DiDeMo |

QVHighlights and datasets in its format are JSON lines that already have the columns of the schema.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from .text_files import read_text

CHARADES_STA_LINE = re.compile(r"(\S+)\s+(\S+)\s+(\S+?)\s*##(.*)")
DIDEMO_SEGMENT_SECONDS = 5
DIDEMO_SEGMENTS = 6
# Files with the durations of Charades videos: from Charades itself, from VSLNet, or the user's own.
CHARADES_DURATION_FILES = ("Charades_v1_train.csv", "Charades_v1_test.csv", "charades.json", "durations.json")
# Names of the splits in the qids of the authors of SHINE.
QID_INFIX = {"test_trivial": "test", "novel_composition": "composition", "novel_word": "word"}


def is_by_video(document: Any) -> bool:
    """Return whether a JSON document is an object that maps videos to their sentences."""
    return (
        isinstance(document, Mapping)
        and "qid" not in document
        and any(
            isinstance(video, Mapping) and {"sentences", "timestamps"} & video.keys() for video in document.values()
        )
    )


def rows_by_video(videos: Mapping[str, Any], source: str, split: str) -> Iterator[tuple[str, dict]]:
    """Read an object that maps videos to their sentences, in order. Qids are `{vid}_{split}_{i}`, as in the authors' files.

    Raises:
        ValueError: for a video without sentences, timestamps or duration, or with lists of different lengths.
    """
    infix = QID_INFIX.get(split, split)
    for vid, video in videos.items():
        where = f"{source}, video {vid!r}"
        if not isinstance(video, Mapping):
            raise ValueError(f"{where}: expected an object with sentences, timestamps and duration")
        sentences, timestamps = (_list_field(video, name, where) for name in ("sentences", "timestamps"))
        compositions = video.get("novels") or video.get("news") or [{}] * len(sentences)
        if not len(sentences) == len(timestamps) == len(compositions):
            raise ValueError(
                f"{where}: {len(sentences)} sentences, {len(timestamps)} timestamps and {len(compositions)} compositions; expected the "
                "same number of each"
            )
        duration, frames_per_second = _duration(video, where)
        for index, (sentence, window, composition) in enumerate(zip(sentences, timestamps, compositions)):
            if frames_per_second:
                window = _in_seconds(window, frames_per_second, f"{where}, timestamp {index + 1}")
            # Novel compositions are pairs of words, novel words are single words.
            pairs = [
                (kind, [words] if isinstance(words, str) else list(words))
                for kind, found in composition.items()
                for words in found
            ]
            yield (
                f"{where}, sentence {index + 1}",
                {
                    "qid": "_".join(filter(None, (vid, infix, str(index)))),
                    "vid": vid,
                    "query": sentence,
                    "duration": duration,
                    "relevant_windows": [window],
                    "composition_types": [kind for kind, _ in pairs],
                    "composition_words": [words for _, words in pairs],
                },
            )


def _list_field(video: Mapping, name: str, where: str) -> list:
    if not isinstance(video.get(name), list):
        raise ValueError(f"{where}: expected the lists sentences and timestamps; {name} is not a list")
    return video[name]


def _duration(video: Mapping, where: str) -> tuple[Any, float | None]:
    """Return the duration, and the frame rate if the timestamps are frame numbers."""
    if "duration" in video:
        return video["duration"], None
    try:
        frames, rate = float(video["num_frames"]), float(video["fps"])
        return frames / rate, rate
    except (KeyError, TypeError, ValueError, ZeroDivisionError):
        raise ValueError(f"{where}: expected duration (seconds), or num_frames and fps") from None


def _in_seconds(window: Any, frames_per_second: float, where: str) -> list[float]:
    try:
        start, end = window
        return [float(start) / frames_per_second, float(end) / frames_per_second]
    except (TypeError, ValueError):
        raise ValueError(f"{where}: expected [first frame, last frame]; found {json.dumps(window)}") from None


def is_charades_sta(text: str) -> bool:
    """Return whether a text is in the format of Charades-STA."""
    return "##" in text.lstrip().partition("\n")[0] and text.lstrip()[0] not in "[{"


def charades_sta_rows(text: str, path: Path, split: str) -> Iterator[tuple[str, dict]]:
    """Read the text format of Charades-STA. Durations come from a file in the same folder; see [`charades_durations`].

    Raises:
        FileNotFoundError: if there is no file of durations.
        ValueError: for a line in another format, or a video without a duration.
    """
    durations = charades_durations(path.parent)
    counts: dict[str, int] = {}
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        match = CHARADES_STA_LINE.fullmatch(line.strip())
        if match is None:
            raise ValueError(f"{where}: expected VID START END##SENTENCE; found {line.strip()[:40]!r}")
        vid, start, end, sentence = match.groups()
        if vid not in durations:
            raise ValueError(
                f"{where}: no duration of video {vid!r} in {_names(CHARADES_DURATION_FILES)} of {path.parent}"
            )
        index = counts[vid] = counts.get(vid, -1) + 1
        yield (
            where,
            {
                "qid": "_".join(filter(None, (vid, "STA", split, str(index)))),
                "vid": vid,
                "query": sentence,
                "duration": durations[vid],
                "relevant_windows": [[start, end]],
            },
        )


def charades_durations(folder: Path) -> dict[str, Any]:
    """Read the durations of Charades videos, in seconds, from whichever of [`CHARADES_DURATION_FILES`] a folder contains.

    `Charades_v1_{train,test}.csv` have the columns `id` and `length`, `charades.json` is `{vid: {"duration": seconds}}`, and
    `durations.json` is `{vid: seconds}`.

    Raises:
        FileNotFoundError: if the folder contains none of them.
        ValueError: for a file that cannot be read.
    """
    durations: dict[str, Any] = {}
    for path in (folder / name for name in CHARADES_DURATION_FILES):
        if not path.is_file():
            continue
        text = read_text(path)
        if path.suffix == ".csv":
            rows = list(csv.DictReader(io.StringIO(text, newline="")))
            if not rows or not {"id", "length"} <= rows[0].keys():
                raise ValueError(f"{path}: expected the columns id and length")
            durations |= {row["id"]: row["length"] for row in rows}
            continue
        try:
            videos = json.loads(text)
            durations |= {
                vid: video["duration"] if isinstance(video, dict) else video for vid, video in videos.items()
            }
        except (ValueError, AttributeError, KeyError):
            raise ValueError(f"{path}: expected an object of durations by video") from None
    if not durations:
        raise FileNotFoundError(
            f"Charades-STA's text files contain no durations, and {folder} has none of {_names(CHARADES_DURATION_FILES)}. The first two are "
            "part of the annotations at https://prior.allenai.org/projects/charades; durations.json is an object {vid: seconds}"
        )
    return durations


def _names(files: Sequence[str]) -> str:
    return f"{', '.join(files[:-1])} and {files[-1]}"


def is_didemo(document: Any) -> bool:
    """Return whether a JSON document is DiDeMo's list of annotations."""
    return (
        isinstance(document, list)
        and bool(document)
        and isinstance(document[0], Mapping)
        and {"description", "video", "times"} <= document[0].keys()
    )


def didemo_rows(items: Sequence[Any], source: str) -> Iterator[tuple[str, dict]]:
    """Read DiDeMo's annotations. Several people marked each moment as `[first, last]` in segments of 5 s, both inclusive.

    The window is the mark with the largest total IoU with all marks, i.e. the majority's if there is one.

    Raises:
        ValueError: for an item without marks, or in another format.
    """
    for number, item in enumerate(items, start=1):
        where = f"{source}, item {number}"
        try:
            marks = [(int(first), int(last) + 1) for first, last in item["times"]]
            segments = int(item.get("num_segments") or DIDEMO_SEGMENTS)
            first, last = max(marks, key=lambda mark: sum(_iou(mark, other) for other in marks))
            qid, vid, query = (item[name] for name in ("annotation_id", "video", "description"))
        except (KeyError, TypeError, ValueError, AttributeError):
            raise ValueError(
                f"{where}: expected annotation_id, video, description and times ([[first segment, last segment], …])"
            ) from None
        yield (
            where,
            {
                "qid": qid,
                "vid": vid,
                "query": query,
                "duration": segments * DIDEMO_SEGMENT_SECONDS,
                "relevant_windows": [[first * DIDEMO_SEGMENT_SECONDS, last * DIDEMO_SEGMENT_SECONDS]],
            },
        )


def _iou(mark: tuple[int, int], other: tuple[int, int]) -> float:
    common = max(0, min(mark[1], other[1]) - max(mark[0], other[0]))
    union = max(mark[1], other[1]) - min(mark[0], other[0])
    return common / union if union > 0 else 0.0
