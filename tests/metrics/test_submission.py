"""Submissions: the published one to two decimals, random ones against a loop-based scorer, and broken ones with clear errors."""

import gzip
import importlib.util
import json
from copy import deepcopy

import numpy as np
import pytest

from shine_hf.metrics import evaluate_submission, official_layout, read_rows
from shine_hf.metrics.submission import submitted_saliency
from tests.conftest import REPOSITORY


@pytest.fixture(scope="module")
def loop_scorer():
    spec = importlib.util.spec_from_file_location(
        "metrics_benchmark", REPOSITORY / "benchmarks" / "speed" / "metrics.py"
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.loop_scorer


@pytest.fixture
def files():
    """Return a small submission and its ground truth, with highlights."""
    submission = [
        {"qid": 1, "pred_relevant_windows": [[0, 4, 0.9], [4, 8, 0.5]], "pred_saliency_scores": [1.0, 0.5, 0.0, 0.0]},
        {"qid": 2, "pred_relevant_windows": [[2, 8, 0.7]], "pred_saliency_scores": [0.0, 0.1, 0.9, 0.2]},
    ]
    ground_truth = [
        {
            "qid": qid,
            "duration": 8,
            "relevant_windows": [[0, 4]],
            "relevant_clip_ids": [0, 1],
            "saliency_scores": [[4, 3, 2], [2, 2, 2]],
        }
        for qid in (2, 1)
    ]
    return submission, ground_truth


def test_published_submission_gets_the_published_scores(shared):
    folder = shared / "data" / "qvhighlights"
    metrics = evaluate_submission(
        read_rows(folder / "sample_val_preds.jsonl.gz"), read_rows(folder / "highlight_val_release.jsonl")
    )
    official = json.loads((folder / "sample_val_preds_metrics_raw.json").read_text())
    assert _leaves(official) <= _leaves(official_layout(metrics))
    assert len(_leaves(official)) == 104


def _leaves(layout: dict, path: str = "") -> set:
    return set().union(
        *(
            _leaves(value, f"{path}/{name}") if isinstance(value, dict) else {(f"{path}/{name}", value)}
            for name, value in layout.items()
        )
    )


@pytest.mark.parametrize("seed", range(40))
def test_random_submissions_match_the_loop_scorer(loop_scorer, seed):
    submission, ground_truth = _random_files(np.random.default_rng(seed))
    assert evaluate_submission(submission, ground_truth) == loop_scorer(submission, ground_truth)


def _random_files(rng, num_queries=25):
    """Make random files with integer seconds and few distinct scores, so that exact thresholds and ties are common."""
    submission, ground_truth = [], []
    for qid in rng.permutation(num_queries).tolist():
        duration = int(rng.integers(4, 400))
        num_clips = duration // 2
        windows = np.sort(rng.integers(0, duration, size=(rng.choice([1, 1, 2, 5, 14]), 2))).tolist()
        windows = windows + windows[:1] if rng.random() < 0.1 else windows  # the same window twice
        clips = rng.choice(num_clips, size=rng.integers(1, num_clips + 1), replace=False).tolist()
        ground_truth.append(
            {
                "qid": qid,
                "duration": duration,
                "relevant_windows": windows,
                "relevant_clip_ids": clips,
                "saliency_scores": rng.integers(0, 5, size=(len(clips), 3)).tolist(),
            }
        )
        moments = np.sort(rng.integers(0, duration, size=(rng.choice([0, 1, 4, 10, 30]), 2))).tolist()
        moments = [list(rng.choice(windows)) if rng.random() < 0.3 else moment for moment in moments]
        scores = rng.integers(0, 4, size=len(moments)) / 4
        saliency = rng.integers(-3, 4, size=max(1, num_clips + rng.integers(-2, 3))) / 2
        submission.append(
            {
                "qid": qid,
                "pred_relevant_windows": [[*map(float, m), float(s)] for m, s in zip(moments, scores)],
                "pred_saliency_scores": saliency.tolist(),
            }
        )
    return submission, rng.permutation(ground_truth).tolist()


def test_metrics_are_rounded_percentages(files):
    metrics = evaluate_submission(*files)
    assert metrics["MR-full-R1@0.5"] == 50
    assert metrics["MR-full-mIoU"] == 62.5  # IoUs 1 and 2 / 8
    assert metrics["HL-min-Fair-Hit1"] == 50
    assert all(value == round(value, 2) for value in metrics.values())


def test_row_order_and_qid_type_do_not_change_the_metrics(files):
    submission, ground_truth = files
    expected = evaluate_submission(submission, ground_truth)
    text_qids = [{**row, "qid": str(row["qid"])} for row in ground_truth]
    assert evaluate_submission(submission[::-1], text_qids) == expected


def test_moments_and_highlights_can_be_scored_separately(files):
    submission, ground_truth = files
    both = evaluate_submission(submission, ground_truth)
    moments = evaluate_submission(_without(submission, "pred_saliency_scores"), ground_truth)
    assert evaluate_submission(submission, _without(ground_truth, "saliency_scores")) == moments
    highlights = evaluate_submission(_without(submission, "pred_relevant_windows"), ground_truth)
    assert moments and highlights and {**moments, **highlights} == both and not moments.keys() & highlights.keys()
    assert "HL-min-Fair" not in official_layout(moments) and "full" not in official_layout(highlights)


def test_length_ranges_without_windows_are_omitted(files):
    metrics = evaluate_submission(*files)
    assert "MR-short-mAP" in metrics and "MR-long-mAP" not in metrics
    assert "long" not in official_layout(metrics) and "MR-long-mAP" not in official_layout(metrics)["brief"]


def test_windows_longer_than_150_seconds_count_only_in_full():
    metrics = evaluate_submission(
        [{"qid": 1, "pred_relevant_windows": [[0, 200, 1.0]]}], [{"qid": 1, "relevant_windows": [[0, 200]]}]
    )
    assert metrics["MR-full-mAP"] == 100
    assert {name.split("-")[1] for name in metrics} == {"full"}


def test_query_without_predicted_moments_is_a_miss(files):
    submission, ground_truth = files
    submission[1]["pred_relevant_windows"] = []
    metrics = evaluate_submission(submission, ground_truth)
    assert metrics["MR-full-mIoU"] == 50 and metrics["MR-full-mAP"] == 50
    for row in submission:
        row["pred_relevant_windows"] = []
    assert evaluate_submission(submission, ground_truth)["MR-full-mAP"] == 0


def test_empty_windows_do_not_overlap():
    metrics = evaluate_submission(
        [{"qid": 1, "pred_relevant_windows": [[3, 3, 0.9]]}], [{"qid": 1, "relevant_windows": [[50, 50]]}]
    )
    assert metrics["MR-full-mAP"] == metrics["MR-full-R1@0.5"] == metrics["MR-full-mIoU"] == 0


def _without(rows, column):
    return [{name: value for name, value in row.items() if name != column} for row in rows]


def _set(which, index, **columns):
    def spoil(submission, ground_truth):
        (submission if which == "submission" else ground_truth)[index].update(columns)

    return spoil


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (_set("submission", 1, qid=7), "1 queries have no prediction .first: '2'. and 1 predictions have an unknown qid .first: '7'"),
        (lambda submission, _: submission.pop(), "1 queries have no prediction .first: '2'"),
        (lambda _, truth: truth.pop(), "1 predictions have an unknown qid .first: '1'"),
        (lambda submission, _: submission.append(deepcopy(submission[0])), "submission, row 2: duplicate qid '1'"),
        (lambda _, truth: truth.append(deepcopy(truth[0])), "ground truth, row 2: duplicate qid '2'"),
        (lambda submission, _: submission.clear(), "the submission is empty"),
        (lambda _, truth: truth.clear(), "the ground truth is empty"),
        (lambda submission, _: submission[0].pop("qid"), "submission, row 0: no qid"),
        (_set("submission", 0, pred_relevant_windows=[[0, 4, float("nan")]]), "submission, qid '1': pred_relevant_windows needs .*finite.*nan"),
        (_set("submission", 0, pred_relevant_windows=[[0, float("inf"), 1]]), "submission, qid '1': pred_relevant_windows needs .*finite.*inf"),
        (_set("submission", 1, pred_relevant_windows=[[0, 4, 1], [5, 3, 1]]), "submission, qid '2': item 2 starts after"),
        (_set("submission", 0, pred_relevant_windows=[[0, 4]]), r"submission, qid '1': pred_relevant_windows needs \[start, end, score\]"),
        (_set("submission", 0, pred_relevant_windows=[0, 4, 1]), r"submission, qid '1': pred_relevant_windows needs \[start, end, score\]"),
        (_set("submission", 0, pred_relevant_windows=[[]]), r"submission, qid '1': pred_relevant_windows needs \[start, end, score\]"),
        (_set("submission", 0, pred_relevant_windows="none"), "submission, qid '1': pred_relevant_windows must be a list"),
        (_set("submission", 0, pred_relevant_windows={"start": 1}), "submission, qid '1': pred_relevant_windows must be a list"),
        (_set("submission", 0, pred_relevant_windows=None), "qid '1': no pred_relevant_windows, which other rows have"),
        (_set("submission", 1, pred_saliency_scores=None), "qid '2': no pred_saliency_scores, which other rows have"),
        (_set("submission", 1, pred_saliency_scores=[]), "submission, qid '2': no pred_saliency_scores"),
        (_set("submission", 1, pred_saliency_scores=[0.1, float("nan")]), "submission, qid '2': .*finite"),
        (_set("truth", 0, relevant_windows=[]), "ground truth, qid '2': no relevant_windows"),
        (_set("truth", 0, relevant_windows=None), "ground truth, qid '2': relevant_windows must be a list"),
        (lambda _, truth: truth[1].pop("relevant_windows"), "ground truth, qid '1': relevant_windows must be a list"),
        (_set("truth", 0, relevant_windows=[[4, 0]]), "ground truth, qid '2'.*starts after"),
        (_set("truth", 0, relevant_windows=[["a", 0]]), r"ground truth, qid '2': relevant_windows needs \[start, end\]"),
        (_set("truth", 0, duration=None), "ground truth, qid '2': duration needs seconds"),
        (_set("truth", 0, duration="long"), "ground truth, qid '2': duration needs seconds"),
        (_set("truth", 0, duration=1), "ground truth, qid '2': the video is shorter than 2 s"),
        (_set("truth", 0, relevant_clip_ids=None), "ground truth, qid '2': relevant_clip_ids must be a list"),
        (_set("truth", 0, relevant_clip_ids=[0, 0.5]), "ground truth, qid '2': item 2 of relevant_clip_ids is not a clip"),
        (_set("truth", 0, relevant_clip_ids=[0, 4]), "ground truth, qid '2': item 2 of relevant_clip_ids is not a clip"),
        (_set("truth", 0, relevant_clip_ids=[0]), "ground truth, qid '2': 1 relevant_clip_ids, but saliency_scores for 2"),
        (_set("truth", 1, saliency_scores=[[1, 2, 3], [1, 2]]), "ground truth, qid '1': saliency_scores needs 3 grades"),
        (_set("truth", 1, saliency_scores=[1, 2]), "ground truth, qid '1': saliency_scores needs 3 grades"),
        (_set("truth", 1, saliency_scores=3), "ground truth, qid '1': saliency_scores must be a list"),
    ],
)  # fmt: skip
def test_invalid_files_are_rejected(files, spoil, message):
    submission, ground_truth = files
    spoil(submission, ground_truth)
    with pytest.raises(ValueError, match=message):
        evaluate_submission(submission, ground_truth)


def test_files_without_anything_to_score_are_rejected(files):
    submission, ground_truth = files
    with pytest.raises(ValueError, match="has neither"):
        evaluate_submission([{"qid": row["qid"]} for row in submission], ground_truth)
    with pytest.raises(ValueError, match="only pred_saliency_scores"):
        evaluate_submission(_without(submission, "pred_relevant_windows"), _without(ground_truth, "saliency_scores"))


def test_rows_are_read_plain_or_gzipped(tmp_path):
    rows = [{"qid": "a", "query": "\u2028 a person"}, {"qid": "b"}]
    text = "\n\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    (tmp_path / "rows.jsonl").write_text(text, encoding="utf-8")
    with gzip.open(tmp_path / "rows.jsonl.gz", "wt", encoding="utf-8") as file:
        file.write(text)
    assert read_rows(tmp_path / "rows.jsonl") == read_rows(tmp_path / "rows.jsonl.gz") == rows


@pytest.mark.parametrize(
    ("content", "message"),
    [(b'{"qid": 1}\n{"qid": ', "line 2: not JSON"), (b"[1]\n", "line 1: expected an object"), (b"\xff\xfe", "lines of text")],
)  # fmt: skip
def test_unreadable_rows_are_rejected(tmp_path, content, message):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message) as error:
        read_rows(path)
    assert str(path) in str(error.value)


def test_unreadable_archives_are_rejected(tmp_path):
    path, packed = tmp_path / "rows.jsonl.gz", gzip.compress(b'{"qid": 1}\n' * 1000)
    for content in (b'{"qid": 1}', packed[:-20], packed[:12] + b"\0\0\0" + packed[15:]):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"rows\.jsonl\.gz"):
            read_rows(path)


@pytest.mark.parametrize("clip_length", [0.5, 1.0, 2.0])
def test_saliency_is_submitted_and_scored_on_two_second_clips(clip_length):
    truth = [
        {"qid": "1", "duration": 150, "relevant_windows": [[32, 52]], "relevant_clip_ids": [*range(16, 26)], "saliency_scores": [[4]] * 10}
    ]  # fmt: skip
    # A model with perfect saliency.
    centers = (np.arange(round(150 / clip_length)) + 0.5) * clip_length
    saliency = ((centers > 32) & (centers < 52)).astype(float).tolist()
    row = {"qid": "1", "pred_saliency_scores": submitted_saliency(saliency, clip_length)}
    assert len(row["pred_saliency_scores"]) == 75
    unlabeled = {**row, "pred_saliency_scores": saliency}
    for submitted in (row, {**unlabeled, "clip_length": clip_length}):
        metrics = evaluate_submission([submitted], truth)
        assert metrics["HL-min-VeryGood-mAP"] == metrics["HL-min-VeryGood-Hit1"] == 100
    if clip_length != 2:
        with pytest.raises(
            ValueError, match=rf"qid '1': {len(saliency)} pred_saliency_scores, but .* 75 clips .* clip_length"
        ):
            evaluate_submission([unlabeled], truth)
    with pytest.raises(ValueError, match="qid '1': clip_length must be a positive number"):
        evaluate_submission([{**unlabeled, "clip_length": 0}], truth)
