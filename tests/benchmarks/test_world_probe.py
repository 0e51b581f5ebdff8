"""The check of simulated worlds, on made-up rows."""

import json
import re

import numpy as np
import pytest

from benchmarks.study.world_probe import best_run, fixed_part, is_found, main


@pytest.mark.parametrize(
    "scores, expected",
    [([-1, 2, 3, -1], (1, 3)), ([-3, -1, -2], (1, 2)), ([1, -5, 2, -1, 2], (2, 5)), ([4], (0, 1))],
)
def test_best_run_is_the_range_with_the_largest_sum(scores, expected):
    assert best_run(np.array(scores, dtype=float)) == expected


def test_a_moment_is_found_from_half_overlap_on():
    row = {"relevant_windows": [[0.0, 4.0], [10.0, 12.0]]}
    assert is_found(row, 0, 2) and is_found(row, 10, 12) and not is_found(row, 0, 1.9) and not is_found(row, 5, 9)


def test_fixed_part_finds_most_training_rows():
    def row(start, end):
        return {"relevant_windows": [[start, end]], "duration": 20.0}

    assert fixed_part([row(0, 4), row(0, 4.2), row(10, 12)]) == (0.0, 0.15)
    assert fixed_part([row(16, 20)]) == (0.6, 1.0)


def test_known_matcher_finds_the_moments_of_its_query_but_not_those_of_others(tmp_path, capsys):
    rng = np.random.default_rng(0)
    verbs, nouns = ("opens", "takes", "throws", "washes"), ("door", "book", "towel", "cup")
    for split, count in {"train": 60, "seen": 40}.items():
        rows = []
        for index in range(count):
            start = float(rng.integers(0, 15))
            query = f"person {rng.choice(verbs)} the {rng.choice(nouns)}."
            rows.append({"qid": f"{split}{index}", "vid": f"{split}{index}", "query": query, "duration": 20.0, "relevant_windows": [[start, start + 4]]})  # fmt: skip
        (tmp_path / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    main(["scenes:noise=0.5", "--rows", str(tmp_path), "--splits", "seen", "--clip-length", "1"])
    printed = capsys.readouterr().out
    assert printed.startswith("scenes:noise=0.5 | seen | linear ")
    known, wrong = map(float, re.search(r"known ([\d.]+) \(([\d.]+)\)", printed).groups())
    assert known > 80 and known > wrong + 30
    # Each video has its annotated event and at most one other.
    assert 50 <= float(re.search(r"anything ([\d.]+)", printed)[1]) < 90


def test_stored_features_have_no_known_events(tmp_path, capsys):
    rng = np.random.default_rng(0)
    for split in ("train", "test"):
        rows = [
            {"qid": f"{split}{i}", "vid": f"{split}{i}", "query": "opens" if i % 2 else "cooks", "duration": 10.0, "relevant_windows": [[2.0, 6.0]]}
            for i in range(8)
        ]  # fmt: skip
        (tmp_path / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        for row in rows:
            features = 0.1 * rng.standard_normal((10, 4))
            features[2:6, 0] += 1
            np.savez(tmp_path / f"{row['vid']}.npz", features=features.astype(np.float32))
    main([f"npz:{tmp_path}", "--rows", str(tmp_path), "--splits", "test", "--clip-length", "1"])
    assert capsys.readouterr().out.strip().endswith(" | test | linear 100.0 (100.0), fixed 100.0")
