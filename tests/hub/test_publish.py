"""Publish to a local Hub, and load the result with the unmodified clients in fresh processes."""

import json
import shutil

import numpy as np
import pytest
import yaml
from datasets import load_dataset

from shine_hf.builders.tree import build_tree, main
from shine_hf.cli import main as command_line
from shine_hf.features.base import FeatureStore
from shine_hf.features.packed import pack_features
from shine_hf.hub.publish import publish_dataset, publish_features, publish_model
from tests.dataset_scripts.builders import script, use_made_up_sources, write_public_files

from .hub_server import READ_TOKEN

REPO = "shine/charades-cg-negatives"
CHARADES = script("charades_cg_negatives").CharadesCGNegatives


@pytest.fixture(scope="module")
def public(tmp_path_factory):
    return write_public_files(tmp_path_factory.mktemp("public"))


@pytest.fixture(scope="module")
def tree(tmp_path_factory, public):
    """Build made-up Charades-CG with two configs."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        use_made_up_sources(monkeypatch)
        folder = tmp_path_factory.mktemp("tree")
        return build_tree(CHARADES, folder, data_dir=public, configs=["gpt-3.5-turbo", "lexical"])


@pytest.fixture
def publish(hub, online, tree):
    return lambda folder=tree, **options: publish_dataset(folder, REPO, endpoint=hub.endpoint, **options)


def local_rows(tree, tmp_path, name, split):
    return load_dataset(str(tree), name, split=split, cache_dir=str(tmp_path / "local")).to_list()


# ---- datasets --------------------------------------------------------------------------------------------------------


def test_published_dataset_loads_by_config_streamed_and_by_revision(publish, run_client, tree, tmp_path):
    first = publish()
    changed = tmp_path / "changed"
    shutil.copytree(tree, changed)
    # A later revision with the negatives of another build.
    shutil.copy(
        tree / "gpt-3.5-turbo" / "train-00000-of-00001.parquet", changed / "lexical" / "train-00000-of-00001.parquet"
    )
    publish(changed)
    printed = run_client(f"""
import json
from datasets import load_dataset
repo = {REPO!r}
print(json.dumps({{
    "default": load_dataset(repo)["train"].to_list(),
    "splits": {{name: len(rows) for name, rows in load_dataset(repo).items()}},
    "stream": list(load_dataset(repo, split="novel_word", streaming=True)),
    "pinned": load_dataset(repo, "lexical", split="train", revision={first.sha!r}).to_list(),
    "newest": load_dataset(repo, "lexical", split="train").to_list(),
}}))
""")
    found = json.loads(printed)
    assert found["splits"] == dict.fromkeys(("train", "test_trivial", "novel_composition", "novel_word"), 16)
    assert found["default"] == found["newest"] == local_rows(tree, tmp_path, "gpt-3.5-turbo", "train")
    assert found["pinned"] == local_rows(tree, tmp_path, "lexical", "train") != found["newest"]
    assert found["stream"] == local_rows(tree, tmp_path, "gpt-3.5-turbo", "novel_word")


def test_updating_one_config_keeps_the_others(hub, publish, tree, tmp_path, public, monkeypatch):
    publish()
    before = hub.files(REPO)
    alone = tmp_path / "alone"
    use_made_up_sources(monkeypatch)
    build_tree(CHARADES, alone, data_dir=public, configs=["random"])
    publish(alone)
    after = hub.files(REPO)
    assert {path: after[path] for path in before if path != "README.md"} == {
        path: content for path, content in before.items() if path != "README.md"
    }
    header = yaml.safe_load(after["README.md"].decode().split("---\n")[1])
    # The default config is unchanged, and the card lists all three.
    assert [(config["config_name"], config.get("default")) for config in header["configs"]] == [
        ("gpt-3.5-turbo", True), ("lexical", None), ("random", None),
    ]  # fmt: skip
    assert "### `random`" in after["README.md"].decode() and "### `lexical`" in after["README.md"].decode()
    # A new build of a config replaces its files, even under other names.
    renamed = tmp_path / "renamed"
    shutil.copytree(alone, renamed)
    train = renamed / "random" / "train-00000-of-00001.parquet"
    train.rename(train.with_name("train-00000-of-00002.parquet"))
    publish(renamed)
    assert hub.files(REPO).keys() == (after.keys() - {"random/train-00000-of-00001.parquet"}) | {
        "random/train-00000-of-00002.parquet"
    }


def test_failed_push_leaves_the_previous_revision_loadable(hub, publish, run_client, tree, tmp_path):
    publish()
    before = hub.files(REPO)
    broken = tmp_path / "next"
    shutil.copytree(tree, broken)
    shutil.copy(
        broken / "lexical" / "train-00000-of-00001.parquet", broken / "gpt-3.5-turbo" / "train-00000-of-00001.parquet"
    )
    hub.fail("POST .*/commit/", status=503, times=100)
    with pytest.raises(ConnectionError, match="the previous revision is unchanged"):
        publish(broken)
    assert hub.files(REPO) == before
    hub.faults.clear()
    printed = run_client(
        f"from datasets import load_dataset; print(load_dataset({REPO!r}, split='train')[0]['negative_queries'][0])"
    )
    assert printed.strip() == "person paints the wall."


def test_publishing_again_makes_no_commit(hub, publish):
    assert publish() == publish(message="again")


@pytest.mark.parametrize("token", ["hf_nosuchtoken", READ_TOKEN])
def test_invalid_tokens_are_rejected_and_not_printed(hub, publish, token):
    with pytest.raises(
        PermissionError, match=r"refused to write to shine/charades-cg-negatives.*hf auth login"
    ) as error:
        publish(token=token)
    assert token not in str(error.value)


def test_incomplete_trees_are_rejected(publish, tree, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"contains no CONFIG/build.json"):
        publish(tmp_path)
    cut = tmp_path / "cut"
    shutil.copytree(tree, cut)
    (cut / "lexical" / "novel_word-00000-of-00001.parquet").unlink()
    with pytest.raises(FileNotFoundError, match=r"lexical contains no novel_word"):
        publish(cut)
    with_videos = tmp_path / "videos"
    shutil.copytree(tree, with_videos)
    build = json.loads((with_videos / "lexical" / "build.json").read_text())
    build["dataset_info"]["features"].append({"name": "video", "dtype": "video"})
    (with_videos / "lexical" / "build.json").write_text(json.dumps(build))
    with pytest.raises(ValueError, match="contains local paths"):
        publish(with_videos)


def test_builder_script_publishes(hub, online, public, tmp_path, monkeypatch, capsys):
    use_made_up_sources(monkeypatch)
    command = [
        "--output-dir",
        str(tmp_path / "tree"),
        "--data-dir",
        str(public),
        "--configs",
        "gpt-3.5-turbo",
        "--push-to-hub",
    ]
    assert main(CHARADES, [*command, "--private", "--revision", "next", "--commit-message", "A first try"]) == 0
    assert f"{hub.endpoint}/datasets/{REPO}/commit/" in capsys.readouterr().out
    repository = hub.repository(REPO)
    assert repository.private and repository.commits[repository.branches["next"]].title == "A first try"
    assert "gpt-3.5-turbo/train-00000-of-00001.parquet" in hub.files(REPO, revision="next")


# ---- features --------------------------------------------------------------------------------------------------------


@pytest.fixture
def packed(tmp_path):
    folder = tmp_path / "npy"
    folder.mkdir()
    for index in range(3):
        np.save(folder / f"v{index}.npy", np.full((4 + index, 8), index, dtype=np.float32))
    pack_features(FeatureStore.from_spec(f"i3d:{folder}"), tmp_path / "packed", half_precision=True, progress=False)
    return tmp_path / "packed"


ABOUT = {"title": "I3D of some videos", "description": "Made up."}


def test_published_features_are_read_from_the_hub(hub, online, packed, run_client):
    publish_features(packed, "shine/i3d", **ABOUT, endpoint=hub.endpoint)
    card = hub.files("shine/i3d")["README.md"].decode()
    assert (
        "# I3D of some videos" in card
        and "3 keys, 15 rows of 8 channels, 4 to 6 rows per key, stored as float16" in card
    )
    # The card's example, unchanged.
    printed = run_client(card.split("```python\n")[1].split("```")[0])
    assert printed.split() == ["v0", "(4,", "8)"]
    store = FeatureStore.from_spec("packed:shine/i3d@main")
    np.testing.assert_array_equal(store["v2"], np.full((6, 8), 2.0))
    with pytest.raises(
        FileNotFoundError, match="'shine/other' is neither a local path nor a readable dataset repository"
    ):
        FeatureStore.from_spec("packed:shine/other")


def test_damaged_features_are_not_published(hub, online, packed):
    shard = packed / "features-00000.arrow"
    content = shard.read_bytes()
    shard.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(ValueError, match="its SHA-256 is"):
        publish_features(packed, "shine/i3d", **ABOUT, endpoint=hub.endpoint)
    assert not hub.repositories


# ---- models ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def model(tmp_path):
    folder = tmp_path / "model"
    for name in ("checkpoint-10", "best"):
        (folder / name).mkdir(parents=True)
    for name in (
        "config.json",
        "model.safetensors",
        "training_args.bin",
        "checkpoint-10/optimizer.pt",
        "best/model.safetensors",
        "README.md",
        "train.log",
        "pytorch_model_fsdp.bin",
    ):
        (folder / name).write_bytes(b"{}" if name == "config.json" else name.encode())
    return folder


def test_models_are_published_without_training_state(hub, online, model):
    publish_model(model, "shine/model", endpoint=hub.endpoint)
    assert set(hub.files("shine/model", "models")) == {"config.json", "model.safetensors", "README.md"}


def test_results_of_other_weights_are_removed(hub, online, model):
    for name in ("figures/old.png", ".eval_results/moment_retrieval.yaml"):
        (model / name).parent.mkdir()
        (model / name).write_bytes(b"old")
    publish_model(model, "shine/model", endpoint=hub.endpoint)
    assert "figures/old.png" in hub.files("shine/model", "models")
    for name in ("figures/old.png", ".eval_results/moment_retrieval.yaml"):
        (model / name).unlink()
    (model / "figures" / "new.png").write_bytes(b"new")
    publish_model(model, "shine/model", endpoint=hub.endpoint)
    assert set(hub.files("shine/model", "models")) == {
        "config.json",
        "model.safetensors",
        "README.md",
        "figures/new.png",
    }


def test_pickled_weights_and_empty_folders_are_rejected(hub, online, model, tmp_path):
    (model / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(ValueError, match=r"pickles \(pytorch_model.bin\)"):
        publish_model(model, "shine/model", endpoint=hub.endpoint)
    with pytest.raises(FileNotFoundError, match=r"contains no config.json"):
        publish_model(tmp_path, "shine/model", endpoint=hub.endpoint)
    assert not hub.repositories


# ---- the command -----------------------------------------------------------------------------------------------------


def test_publish_command_handles_datasets_features_and_models(hub, online, tree, packed, model, capsys):
    assert command_line(["publish", "dataset", str(tree), "--repo-id", REPO, "--commit-message", "Hello"]) == 0
    features = ["--title", "I3D", "--description", "Made up.", "--license", "mit"]
    assert command_line(["publish", "features", str(packed), "--repo-id", "shine/i3d", *features]) == 0
    assert command_line(["publish", "model", str(model), "--repo-id", "shine/model", "--private"]) == 0
    pages = [line for line in capsys.readouterr().out.split("\n") if line.startswith(hub.endpoint)]
    assert [page.split("/commit/")[0].removeprefix(hub.endpoint) for page in pages] == [
        f"/datasets/{REPO}", "/datasets/shine/i3d", "/shine/model",
    ]  # fmt: skip
    assert "license: mit" in hub.files("shine/i3d")["README.md"].decode()


def test_publish_errors_are_one_line(hub, online, tmp_path, capsys, monkeypatch):
    assert command_line(["publish", "dataset", str(tmp_path), "--repo-id", REPO]) == 2
    assert "contains no CONFIG/build.json" in capsys.readouterr().err
    monkeypatch.delenv("HF_TOKEN")
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_text("")
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    assert command_line(["publish", "model", str(tmp_path), "--repo-id", "shine/model"]) == 2
    assert "no token" in capsys.readouterr().err
