import json
import re
import shutil
import subprocess
import sys

import pytest
import yaml
from datasets import load_dataset

from shine_hf.builders.tree import build_tree, main
from shine_hf.data.annotations import read_original
from shine_hf.data.arguments import DataArguments
from shine_hf.data.datasets import COMPOSITIONAL_SPLITS as SPLITS
from shine_hf.data.datasets import DATASETS
from shine_hf.data.loading import load_splits
from shine_hf.data.selection import training_rows
from shine_hf.data.sources import SourceFile
from shine_hf.schema import FEATURES
from tests.data.made_up import write_jsonl

from .builders import script, use_made_up_sources, write_public_files

CHARADES = script("charades_cg_negatives").CharadesCGNegatives
ACTIVITYNET = script("activitynet_cg_negatives").ActivityNetCGNegatives


@pytest.fixture(autouse=True)
def quiet(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "hf-datasets")
    monkeypatch.setattr("datasets.utils.tqdm.disable", True, raising=False)


@pytest.fixture
def sources(tmp_path, monkeypatch):
    use_made_up_sources(monkeypatch)
    return write_public_files(tmp_path / "public")


@pytest.fixture(scope="module")
def complete_tree(tmp_path_factory):
    """Build a tree with every config of Charades-CG from made-up files."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        use_made_up_sources(monkeypatch)
        public = write_public_files(tmp_path_factory.mktemp("public"))
        return build_tree(CHARADES, tmp_path_factory.mktemp("tree"), data_dir=public)


def files_of(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# ---- the tree --------------------------------------------------------------------------------------------------------


def test_load_dataset_returns_the_source_rows(complete_tree, sources, tmp_path):
    expected = read_original("charades_cg", sources)
    for options in ({}, {"name": "gpt-3.5-turbo"}):
        dataset = load_dataset(str(complete_tree), cache_dir=str(tmp_path / "cache"), **options)
        assert list(dataset) == list(SPLITS)
        for split in SPLITS:
            assert dataset[split].features == FEATURES
            rows, originals = dataset[split].to_list(), expected[split].to_list()
            for row in [*rows, *originals]:
                flags = row.pop("negative_flags")
                assert len(flags) == len(row["negative_queries"])
            assert rows == originals
    # The released texts are unchanged; their faults are flagged.
    assert "markup" in dataset["train"][0]["negative_flags"][1]
    assert dataset["train"][3]["annotation_flags"] == ["window_empty"]


@pytest.mark.parametrize("config", ["lexical", "balanced", "random"])
def test_generated_configs_have_negatives_in_every_split(complete_tree, tmp_path, config):
    dataset = load_dataset(str(complete_tree), config, cache_dir=str(tmp_path / "cache"))
    originals = load_dataset(str(complete_tree), cache_dir=str(tmp_path / "cache"))
    for split in SPLITS:
        assert dataset[split]["query"] == originals[split]["query"][:]
        for row in dataset[split]:
            assert len(row["masked_queries"]) == len(row["negative_queries"]) == len(row["negative_flags"]) == 3
            assert all(
                text != row["query"]
                for text, flags in zip(row["negative_queries"], row["negative_flags"])
                if not flags
            )


def test_streaming_gives_the_same_rows(complete_tree, tmp_path):
    stream = load_dataset(str(complete_tree), "lexical", split="novel_word", streaming=True)
    rows = load_dataset(str(complete_tree), "lexical", split="novel_word", cache_dir=str(tmp_path / "cache"))
    assert list(stream) == rows.to_list()


def test_build_is_byte_for_byte_reproducible(complete_tree, sources, tmp_path):
    again = build_tree(CHARADES, tmp_path / "again", data_dir=sources)
    assert files_of(again) == files_of(complete_tree)


def test_rebuilding_one_config_leaves_the_others_unchanged(complete_tree, sources, tmp_path):
    tree = tmp_path / "tree"
    shutil.copytree(complete_tree, tree)
    (tree / "random" / "train-00000-of-00001.parquet").write_bytes(b"old")
    build_tree(CHARADES, tree, data_dir=sources, configs=["random"])
    assert files_of(tree) == files_of(complete_tree)


def test_published_form_can_be_trained_on(complete_tree):
    for negatives, with_negatives in ((None, {"train"}), ("lexical", set(SPLITS))):
        splits = load_splits(DataArguments(dataset=str(complete_tree), negatives=negatives))
        assert {name for name, rows in splits.items() if any(rows["negative_queries"])} == with_negatives
    assert len(training_rows(splits["train"])) == len(splits["train"]) - 1


# ---- the card --------------------------------------------------------------------------------------------------------


def test_card_lists_configs_splits_features_and_sizes(complete_tree):
    text = (complete_tree / "README.md").read_text()
    header = yaml.safe_load(text.split("---\n")[1])
    assert [(config["config_name"], config.get("default")) for config in header["configs"]] == [
        ("gpt-3.5-turbo", True), ("balanced", None), ("lexical", None), ("random", None),
    ]  # fmt: skip
    for info in header["dataset_info"]:
        assert [split["name"] for split in info["splits"]] == list(SPLITS)
        assert [feature["name"] for feature in info["features"]] == list(FEATURES)
        assert info["splits"][0]["num_examples"] == 16
    # Licenses and sources, fault counts, and how each config was made.
    assert "states no license" in text and "2372337e9166b8e26b83ce936a8474c6ae127290" in text
    assert re.search(r"\d+ `train`.* windows end after the video", text) and "1 `train`, 1 `test_trivial`" in text
    assert "generator: random_words" in text and "GPT-3.5 Turbo, queried by the authors" in text
    assert "| `markup` | 0 | 16 | 0 |" in text
    assert "{{ " not in text and "None" not in text


def test_tree_declares_a_hub_benchmark(complete_tree):
    benchmark = yaml.safe_load((complete_tree / "eval.yaml").read_text())
    assert benchmark["name"] == "Charades-CG"
    assert {(task["config"], task["split"]) for task in benchmark["tasks"]} == {
        ("gpt-3.5-turbo", split) for split in ("test_trivial", "novel_composition", "novel_word")
    }


def test_card_quick_start_runs(complete_tree, tmp_path):
    (code,) = re.findall(r"```python\n(.*?)```", (complete_tree / "README.md").read_text(), re.DOTALL)
    code = code.replace("shine/charades-cg-negatives", str(complete_tree))
    environment = {"HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1", "PATH": ""}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "person opens the door. [[1.0, 4.0]] ['person paints the wall.'" in done.stdout


# ---- custom and broken sources ---------------------------------------------------------------------------------------


def test_custom_negatives_become_a_config(sources, tmp_path):
    row = {
        "qid": "TRAIN0_train_0",
        "query": "person opens the door.",
        "masked_queries": ["person <mask> the door."],
        "negative_queries": ["person paints the door."],
        "negative_flags": [[]],
    }
    test_row = row | {"qid": "NOVELWORD0_word_0"}
    files = [write_jsonl(tmp_path / f"{name}.jsonl", [r]) for name, r in (("train", row), ("word", test_row))]
    (tmp_path / "train.jsonl.provenance.json").write_text(json.dumps({"model": "some-llm", "prompt_version": "3"}))
    command = ["--output-dir", str(tmp_path / "tree"), "--data-dir", str(sources)]
    assert main(CHARADES, [*command, "--negatives", f"some-llm={files[0]},{files[1]}"]) == 0
    dataset = load_dataset(str(tmp_path / "tree"), cache_dir=str(tmp_path / "cache"))
    assert (
        dataset["train"][0]["negative_queries"]
        == dataset["novel_word"][0]["negative_queries"]
        == ["person paints the door."]
    )
    card = (tmp_path / "tree" / "README.md").read_text()
    assert "model: some-llm" in card and "prompt_version: '3'" in card and str(tmp_path) not in card


def test_activitynet_builds_without_the_authors_file(sources, tmp_path, capsys):
    write_public_files(sources, "activitynet_cg", authors=False)
    command = ["--output-dir", str(tmp_path / "tree"), "--data-dir", str(sources), "--configs"]
    assert main(ACTIVITYNET, [*command, "gpt-3.5-turbo"]) == 2
    error = capsys.readouterr().err
    assert "anet_cg_gpt_train.jsonl" in error and "https://raw.githubusercontent.com/zxccade/SHINE/bf8b598" in error
    assert not list((tmp_path / "tree").iterdir())  # No partial output.
    assert main(ACTIVITYNET, [*command, "lexical"]) == 0
    assert list(load_dataset(str(tmp_path / "tree"), cache_dir=str(tmp_path / "cache"))) == list(SPLITS)
    assert "gpt-3.5-turbo" in ACTIVITYNET.ON_DEMAND  # Not built unless asked for.


def test_changed_sources_are_rejected(tmp_path, capsys):
    public = write_public_files(tmp_path / "public")
    assert main(CHARADES, ["--output-dir", str(tmp_path / "tree"), "--data-dir", str(public)]) == 2
    assert "its SHA-256 is" in capsys.readouterr().err


def test_downloads_are_pinned_and_checked(tmp_path):
    train = DATASETS["charades_cg"].originals["train"]
    assert train.url == (
        "https://raw.githubusercontent.com/YYJMJC/Compositional-Temporal-Grounding/2372337e9166b8e26b83ce936a8474c6ae127290/"
        "Charades-CG/train.json"
    )
    path = tmp_path / "download"
    path.write_bytes(b"content")
    sha256 = "ed7002b439e9ac845f22357d822bac1444730fbdb6016d3ec9432297b9ec9f73"
    asked = []
    good = SourceFile(train.repository, train.path, train.local, sha256)
    assert good.locate(None, lambda url: asked.append(url) or str(path)) == path and asked == [train.url]
    with pytest.raises(ValueError, match="its SHA-256 is ed7002b4"):
        train.locate(None, lambda url: str(path))

    def offline(url):
        raise ConnectionError("no network")

    with pytest.raises(
        FileNotFoundError, match=r"train.json could not be downloaded \(ConnectionError: no network\).*--data-dir"
    ):
        train.locate(None, offline)


def test_unknown_config_is_rejected(sources, tmp_path):
    with pytest.raises(ValueError, match=r"'gpt-9' not found.*lexical"):
        CHARADES(config_name="gpt-9", data_dir=str(sources), cache_dir=str(tmp_path / "cache"))


def test_changed_files_invalidate_the_cache(sources, tmp_path):
    def count():
        builder = CHARADES(config_name="gpt-3.5-turbo", data_dir=str(sources), cache_dir=str(tmp_path / "cache"))
        builder.download_and_prepare()
        return len(builder.as_dataset("test_trivial"))

    assert count() == 16
    path = sources / "charades_cg" / "test_trivial.json"
    videos = json.loads(path.read_text())
    videos.popitem()
    path.write_text(json.dumps(videos))
    assert count() == 14


def test_local_videos_become_a_column(sources, tmp_path, capsys):
    videos = tmp_path / "videos"
    (videos / "more").mkdir(parents=True)
    (videos / "other.mp4").write_bytes(b"another video")
    command = ["--output-dir", str(tmp_path / "tree"), "--data-dir", str(sources), "--configs", "gpt-3.5-turbo"]
    assert main(CHARADES, [*command, "--with-videos", str(videos)]) == 2
    error = capsys.readouterr().err
    assert "lacks 32 of 32 videos: NOVELCOMPOSITION0, " in error and "TRAIN7" in error
    for split in SPLITS:
        for index in range(8):
            folder = videos if index < 4 else videos / "more"
            (folder / f"{split.upper().replace('_', '')}{index}.mp4").write_bytes(b"a video")
    assert main(CHARADES, [*command, "--with-videos", str(videos)]) == 0
    train = load_dataset(str(tmp_path / "tree"), split="train", cache_dir=str(tmp_path / "cache"))
    assert train[2]["video"]["path"] == str(videos / "TRAIN1.mp4")
    assert main(CHARADES, [*command, "--with-videos", str(videos), "--push-to-hub"]) == 2
    assert "contains local paths" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["name", "=file.jsonl", "name=", "../up=file.jsonl", "a/b=file.jsonl"])
def test_custom_config_names_must_be_plain(sources, tmp_path, text, capsys):
    assert main(CHARADES, ["--output-dir", str(tmp_path / "t"), "--data-dir", str(sources), "--negatives", text]) == 2
    assert "NAME=FILE" in capsys.readouterr().err


# ---- the real files --------------------------------------------------------------------------------------------------


def test_real_charades_cg_builds_with_the_known_counts(shared, tmp_path):
    tree = build_tree(CHARADES, tmp_path / "tree", data_dir=shared / "data", configs=["gpt-3.5-turbo"])
    dataset = load_dataset(str(tree), cache_dir=str(tmp_path / "cache"))
    assert {split: len(rows) for split, rows in dataset.items()} == {
        "train": 8281, "test_trivial": 3096, "novel_composition": 3442, "novel_word": 695,
    }  # fmt: skip
    for split, rows in read_original("charades_cg", shared / "data").items():
        assert (
            dataset[split].remove_columns("negative_flags").to_list()
            == rows.remove_columns("negative_flags").to_list()
        )
    markup = sum("markup" in flags for levels in dataset["train"]["negative_flags"] for flags in levels[:1])
    assert markup == 29
    assert "729 of the `train` videos" in (tree / "README.md").read_text()


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize(("builder", "train"), [(CHARADES, 8281), (ACTIVITYNET, 36724)])
def test_generated_configs_of_the_real_files_are_complete(shared, tmp_path, builder, train):
    tree = build_tree(builder, tmp_path / "tree", data_dir=shared / "data", configs=["lexical", "random"])
    for config in ("lexical", "random"):
        dataset = load_dataset(str(tree), config, cache_dir=str(tmp_path / "cache"))
        for split, rows in read_original(builder.spec.name, shared / "data", "none").items():
            found, names = (
                dataset[split],
                [name for name in FEATURES if "masked" not in name and "negative" not in name],
            )
            assert found.select_columns(names).to_list() == rows.select_columns(names).to_list()
            assert all(len(texts) == 3 for texts in found["negative_queries"])
        assert len(dataset["train"]) == train
