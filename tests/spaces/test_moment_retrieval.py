"""The metric as users load it: `evaluate.load` on the folder, batches, several processes, and the page of its Space."""

import importlib.util
import json
import multiprocessing
from pathlib import Path

import numpy as np
import pytest

from shine_hf.metrics import evaluate_submission

SPACE = Path(__file__).resolve().parents[2] / "spaces" / "moment_retrieval"


def made_up_rows(num_queries: int = 23, seed: int = 0) -> tuple[list[dict], list[dict]]:
    """Return predictions and references with highlights, varying numbers of windows, unused keys, and numeric qids."""
    rng = np.random.default_rng(seed)
    predictions, references = [], []
    for qid in range(num_queries):
        windows = np.sort(rng.choice(30, size=(2 * rng.integers(1, 4)), replace=False)).reshape(-1, 2) * 2.0
        moments = np.sort(
            windows[rng.integers(len(windows), size=rng.integers(0, 6))] + rng.normal(scale=3, size=2), axis=1
        )
        scores = rng.random((len(moments), 1))
        predictions.append(
            {
                "qid": qid,
                "query": "not read",
                "pred_relevant_windows": np.concatenate([moments, scores], axis=1).tolist(),
                "pred_saliency_scores": rng.normal(size=30).tolist(),
            }
        )
        references.append(
            {
                "qid": qid,
                "vid": "not read",
                "duration": 60,
                "relevant_windows": windows.tolist(),
                "relevant_clip_ids": [0, 5, 6],
                "saliency_scores": rng.integers(0, 5, size=(3, 3)).tolist(),
            }
        )
    return predictions, references


@pytest.fixture
def load_metric(tmp_path, monkeypatch):
    """Return a function that loads the metric from its folder, with temporary caches."""
    evaluate = pytest.importorskip("evaluate")
    monkeypatch.setattr(evaluate.config, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    return lambda **options: evaluate.load(str(SPACE), cache_dir=str(tmp_path / "metrics"), **options)


def test_loaded_metric_matches_the_package(load_metric):
    predictions, references = made_up_rows()
    got = load_metric().compute(predictions=predictions, references=references)
    assert got == evaluate_submission(predictions, references)
    assert {"MR-full-R1@0.5", "MR-full-mIoU", "HL-min-VeryGood-Hit1"} <= got.keys()
    assert 0 < got["MR-full-mIoU"] < 100


def test_card_example_runs(load_metric):
    got = load_metric().compute(
        predictions=[{"qid": "1", "pred_relevant_windows": [[0.0, 9.0, 0.8], [20.0, 30.0, 0.1]]}],
        references=[{"qid": "1", "relevant_windows": [[0.0, 10.0]]}],
    )
    assert (got["MR-full-R1@0.5"], got["MR-full-mIoU"]) == (100.0, 90.0)
    assert not any(name.startswith("HL-") for name in got)


def test_batches_and_single_rows_give_the_same_result_as_all_rows(load_metric):
    predictions, references = made_up_rows()
    metric = load_metric()
    for start in range(0, 20, 7):
        metric.add_batch(predictions=predictions[start : start + 7], references=references[start : start + 7])
    for prediction, reference in zip(predictions[21:], references[21:]):
        metric.add(prediction=prediction, reference=reference)
    assert metric.compute() == evaluate_submission(predictions, references)


def compute_in_process(rank: int, num_process: int, folder: str, results) -> None:
    """Act as one of several processes: add every `num_process`-th row and compute."""
    import evaluate

    evaluate.config.HF_MODULES_CACHE = f"{folder}/modules-{rank}"
    metric = evaluate.load(
        str(SPACE), cache_dir=f"{folder}/metrics", num_process=num_process, process_id=rank, experiment_id="test"
    )
    predictions, references = made_up_rows()
    for index in range(rank, len(predictions), num_process):
        metric.add_batch(predictions=[predictions[index]], references=[references[index]])
    results.put((rank, metric.compute()))


def test_several_processes_give_the_same_result_as_one(tmp_path):
    pytest.importorskip("evaluate")
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    processes = [
        context.Process(target=compute_in_process, args=(rank, 2, str(tmp_path), results)) for rank in range(2)
    ]
    for process in processes:
        process.start()
    by_rank = dict(results.get(timeout=240) for _ in processes)
    for process in processes:
        process.join()
        assert process.exitcode == 0
    assert by_rank == {0: evaluate_submission(*made_up_rows()), 1: None}


def test_errors_name_the_qid(load_metric):
    predictions, references = made_up_rows(3)
    predictions[1]["pred_relevant_windows"] = [[9.0, 2.0, 0.5]]
    with pytest.raises(ValueError, match="'1'"):
        load_metric().compute(predictions=predictions, references=references)
    with pytest.raises(ValueError, match="without qid"):
        load_metric().compute(predictions=[{"pred_relevant_windows": []}], references=references[:1])


def test_card_metadata_and_requirements_are_valid():
    yaml = pytest.importorskip("yaml")
    _, metadata, text = (SPACE / "README.md").read_text(encoding="utf-8").split("---", 2)
    metadata = yaml.safe_load(metadata)
    assert metadata["sdk"] == "gradio" and (SPACE / metadata["app_file"]).is_file()
    assert {"evaluate", "metric"} <= set(metadata["tags"])
    assert "How to use" in text and "Limitations" in text
    required = {line.split(">")[0] for line in (SPACE / "requirements.txt").read_text().split()}
    assert {"shine-hf", "evaluate", "gradio"} == required


@pytest.fixture(scope="module")
def app_module():
    pytest.importorskip("gradio")
    spec = importlib.util.spec_from_file_location("moment_retrieval_app", SPACE / "app.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def write_rows(path: Path, rows: list[dict]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def test_page_scores_uploaded_files_over_http(app_module, tmp_path):
    from gradio_client import Client, handle_file

    predictions, references = made_up_rows()
    files = write_rows(tmp_path / "preds.jsonl", predictions), write_rows(tmp_path / "gt.jsonl", references)
    app = app_module.build_app()
    _, address, _ = app.launch(prevent_thread_lock=True, quiet=True, server_name="127.0.0.1")
    try:
        client = Client(address, verbose=False)
        tables, output = client.predict(*map(handle_file, files), api_name="/score")
    finally:
        app.close()
    metrics = evaluate_submission(predictions, references)
    assert f"{metrics['MR-full-mIoU']:.2f}" in tables and f"{metrics['HL-min-Fair-mAP']:.2f}" in tables
    assert json.loads(output)["full"]["MR-mAP"]["0.5"] == metrics["MR-full-mAP@0.5"]


def test_page_shows_what_is_wrong_with_a_file(app_module, tmp_path):
    import gradio

    predictions, references = made_up_rows(3)
    files = write_rows(tmp_path / "preds.jsonl", predictions[:2]), write_rows(tmp_path / "gt.jsonl", references)
    with pytest.raises(gradio.Error, match="'2'"):
        app_module.score(*files)
    with pytest.raises(gradio.Error, match="both files"):
        app_module.score(None, files[1])
