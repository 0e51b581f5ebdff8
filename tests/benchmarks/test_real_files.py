"""The files of the study on real features, built from made-up features in the same layout."""

import json
import sys

import numpy as np
from safetensors.numpy import save_file

from benchmarks.study import charades_real_files
from benchmarks.study.charades_real_files import main, read_features, standardized
from benchmarks.study.spec import read_study
from shine_hf.features.base import FeatureStore


def write(folder):
    """Write features of three videos of 4, 5 and 6 seconds; the video `absent` has none."""
    for name in ("charades_clip", "glove", "rows"):
        (folder / name).mkdir()
    features = np.random.default_rng(0).normal(3, 2, (15, 8)).astype(np.float16)
    save_file(
        {"features": features, "offsets": np.array([0, 4, 9, 15])}, folder / "charades_clip" / "clip_f16.safetensors"
    )
    (folder / "charades_clip" / "clip_index.json").write_text(
        json.dumps({"video_ids": ["a", "b", "c"], "durations": [4, 5, 6]})
    )
    save_file({"vectors": np.ones((2, 3), np.float16)}, folder / "glove" / "glove_f16.safetensors")
    (folder / "glove" / "glove.txt").write_text("person\ndoor\n")
    for split, vids in {
        "train": ["a", "b", "absent"],
        "test_trivial": ["c"],
        "novel_composition": ["absent"],
        "novel_word": ["c"],
    }.items():
        rows = [{"qid": f"{split}_{vid}", "vid": vid} for vid in vids]
        (folder / "rows" / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "rows" / "gpt-3.5-turbo.jsonl").write_text('{"qid": "train_a"}\n{"qid": "train_absent"}\n')
    return features


def test_covered_rows_and_both_feature_forms_are_written(tmp_path, monkeypatch, capsys):
    raw = write(tmp_path)
    command = ["x", "--data-dir", str(tmp_path), "--rows", str(tmp_path / "rows"), "--output", str(tmp_path / "out")]
    monkeypatch.setattr(sys, "argv", command)
    main()
    assert "train: 2 of 3 rows" in capsys.readouterr().out
    rows = [json.loads(line)["vid"] for line in (tmp_path / "out" / "train.jsonl").open()]
    assert rows == ["a", "b"] and (tmp_path / "out" / "novel_composition.jsonl").read_text() == ""
    assert (tmp_path / "out" / "gpt-3.5-turbo.jsonl").read_text() == '{"qid": "train_a"}\n'
    stores = [FeatureStore.from_spec(f"npz:{tmp_path / 'out' / kind}") for kind in ("video", "all")]
    assert [store["c"].shape for store in stores] == [(6, 8), (6, 8)]
    np.testing.assert_allclose(stores[0]["c"].mean(axis=0), 0, atol=1e-2)
    # Statistics come from the training videos only.
    train = raw[:9].astype(np.float32)
    np.testing.assert_allclose(stores[1]["c"], (raw[9:] - train.mean(0)) / train.std(0), atol=1e-2)
    assert (tmp_path / "out" / "glove.safetensors").is_file() and (tmp_path / "out" / "glove.txt").is_file()


def test_study_uses_the_written_files(shared):
    features = read_features(shared / "data" / "charades_clip")
    assert len(features) == 1334 and all(array.shape[1] == 512 for array in features.values())
    some = dict(list(features.items())[:20])
    for _, within, over_all in standardized(some, set(list(some)[:10])):
        assert np.isfinite(within).all() and np.isfinite(over_all).all()


def test_prepared_paths_match_the_recipe():
    study = read_study("charades_real")
    (command,) = [command for command in study.prepare if charades_real_files.__name__ in command]
    output = command.split("--output ")[1]
    paths = [*study.recipe["video_features"], study.recipe["text_features"], study.recipe["negatives"]]
    assert all(output in path for path in paths) and study.recipe["clip_length"] == 1.0
