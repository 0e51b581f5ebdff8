"""The leaderboard reads the results that models report on the (local) Hub."""

import importlib.util
from pathlib import Path

import pytest
from huggingface_hub import HfApi

from shine_hf.cards.eval_results import EVAL_RESULTS_FILE, eval_results_yaml

from ..hub.conftest import hub, online  # noqa: F401
from ..hub.hub_server import OWNER

APP = Path(__file__).resolve().parents[2] / "spaces" / "leaderboard" / "app.py"
DATASET, SPLITS = "shine/charades-cg-negatives", ("test_trivial", "novel_composition")


@pytest.fixture(scope="module")
def app():
    pytest.importorskip("gradio")
    spec = importlib.util.spec_from_file_location("leaderboard_app", APP)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def push(api: HfApi, model: str, r1: float, dataset: str = DATASET, notes: str | None = None) -> None:
    api.create_repo(model)
    results = {"novel_composition": {"R1@0.5": r1, "mIoU": r1 - 5}}
    files = {
        EVAL_RESULTS_FILE: eval_results_yaml(results, dataset, notes=notes),
        "README.md": f"---\ndatasets:\n- {dataset}\n---\n",
    }
    for path, content in files.items():
        api.upload_file(path_or_fileobj=content.encode(), path_in_repo=path, repo_id=model)


def test_models_are_ranked_by_novel_compositions(app, hub, online):  # noqa: F811
    api = HfApi(endpoint=hub.endpoint)
    push(api, f"{OWNER}/base", 42.3)
    push(api, f"{OWNER}/shine", 50.23, notes="simulated features")
    push(api, f"{OWNER}/elsewhere", 99.0, dataset="other/data")
    rows = app.read_leaderboard(api, DATASET, SPLITS)
    assert [row["model"] for row in rows] == [f"{OWNER}/shine", f"{OWNER}/base"]
    table = app.as_table(rows, SPLITS)
    assert (
        table[0][0] == 1
        and f"{OWNER}/shine" in table[0][1]
        and 50.23 in table[0]
        and table[0][-1] == "simulated features"
    )
    assert table[0][2] is None  # The models report nothing for test_trivial.


def test_page_serves_the_table_and_survives_a_hub_outage(app, hub, online):  # noqa: F811
    client_module = pytest.importorskip("gradio_client")
    api = HfApi(endpoint=hub.endpoint)
    push(api, f"{OWNER}/base", 42.3)
    page = app.build_app(api, {DATASET: SPLITS})
    _, url, _ = page.launch(prevent_thread_lock=True, quiet=True, server_name="127.0.0.1", ssr_mode=False)
    try:
        client = client_module.Client(url, verbose=False)
        table, _ = client.predict(api_name="/leaderboard_0")
        assert f"{OWNER}/base" in table["data"][0][1]
        hub.fail("GET /api/models", times=99, status=503)
        table, status = client.predict(api_name="/leaderboard_0")
        assert "could not be read" in str(status)
    finally:
        page.close()
