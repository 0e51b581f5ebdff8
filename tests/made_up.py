"""Write a small made-up dataset in the layout of Charades-CG: a few videos, queries and negatives."""

import json
from pathlib import Path

VERBS, NOUNS, LEVELS = ("opens", "closes", "holds", "throws"), ("door", "book", "phone", "pillow"), 3


def write_charades_cg(folder: Path, train_videos: int = 12, test_videos: int = 3) -> Path:
    """Write the JSON files of the four splits and the authors' file of negatives; two queries per video, half-second clips."""
    (folder / "charades_cg").mkdir(parents=True)
    (folder / "shine" / "charades_cg").mkdir(parents=True)
    negatives = []
    for split, videos in (
        ("train", train_videos),
        ("test_trivial", test_videos),
        ("novel_composition", test_videos),
        ("novel_word", test_videos),
    ):
        annotations = {}
        for index in range(videos):
            vid = f"{split[:2].upper()}{split[6:8].upper()}{index:02}"
            words = [(VERBS[(index + k) % 4], NOUNS[(index + 2 * k + 1) % 4]) for k in range(2)]
            duration = 6.0 + index % 3
            annotations[vid] = {
                "sentences": [f"person {verb} the {noun}." for verb, noun in words],
                # As in the real data, some windows end after their video: here, the second one of every fourth video.
                "timestamps": [[0.5, 2.6], [3.1, duration + (0.7 if index % 4 == 0 else -0.5)]],
                "duration": duration,
            }
            if split == "novel_composition":
                annotations[vid]["novels"] = [{"v-n": [list(pair)]} for pair in words]
            elif split == "novel_word":
                annotations[vid]["news"] = [{"NOUN": [noun]} for _, noun in words]
            elif split == "train":
                negatives += [_negatives(vid, k, *pair, annotations[vid]) for k, pair in enumerate(words)]
        (folder / "charades_cg" / f"{split}.json").write_text(json.dumps(annotations))
    lines = "\n".join(map(json.dumps, negatives))
    (folder / "shine" / "charades_cg" / "charades_cg_gpt_train.jsonl").write_text(lines + "\n")
    return folder


def _negatives(vid: str, k: int, verb: str, noun: str, video: dict) -> dict:
    other_verb, other_noun = VERBS[VERBS.index(verb) - 1], NOUNS[NOUNS.index(noun) - 1]
    return {
        "qid": f"{vid}_train_{k}",
        "query": video["sentences"][k],
        "duration": video["duration"],
        "vid": vid,
        "relevant_windows": [video["timestamps"][k]],
        "masked_queries": [f"person <mask> the {noun}.", "person <mask> the <mask>.", "<mask> <mask> the <mask>."],
        "recomposed_queries": [
            f"person {other_verb} the {noun}.",
            f"person {other_verb} the {other_noun}.",
            f"cat {other_verb} the {other_noun}.",
        ],
    }
