"""Made-up rows and files for the data tests."""

from __future__ import annotations

import json
from pathlib import Path

from shine_hf.schema import annotation_flags

VERBS, NOUNS = ("opens", "closes", "takes", "holds", "throws"), ("door", "book", "towel", "cup", "laptop", "phone")


def make_row(index: int = 0, vid: str | None = None, **changes) -> dict:
    """Return a valid row with three negatives; `changes` overwrite columns."""
    vid = f"video{index // 2}" if vid is None else vid
    verb, noun = VERBS[index % len(VERBS)], NOUNS[index % len(NOUNS)]
    row = {
        "qid": f"{vid}_train_{index}",
        "vid": vid,
        "query": f"person {verb} the {noun} number {index}.",
        "duration": 10.0 + index,
        "relevant_windows": [[1.0, 4.0 + index % 3]],
        "masked_queries": [f"person <mask> the {noun}.", "person <mask> the <mask>.", "<mask> <mask> the <mask>."],
        "negative_queries": [f"person paints the {noun}.", "person paints the wall.", "dog eats the bone."],
        "negative_flags": [[], [], []],
        "composition_types": [],
        "composition_words": [],
    }
    row |= changes
    return {"annotation_flags": annotation_flags(row["duration"], row["relevant_windows"]), **row}


def make_rows(count: int = 8) -> list[dict]:
    """Return rows with two queries per video, all different."""
    return [make_row(index) for index in range(count)]


def write_compositional_files(folder: Path, **splits: dict) -> Path:
    """Write a `charades_cg` folder like the original repository's; splits not passed hold one video each."""
    (folder / "charades_cg").mkdir(parents=True, exist_ok=True)
    for split in ("train", "test_trivial", "novel_composition", "novel_word"):
        video = {"sentences": ["person opens the door."], "timestamps": [[1, 4.5]], "duration": 9.0}
        content = splits.get(split, {f"{split}-video": video})
        (folder / "charades_cg" / f"{split}.json").write_text(json.dumps(content), encoding="utf-8")
    return folder


def write_jsonl(path: Path, rows: list[dict]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path
