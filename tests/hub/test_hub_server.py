"""The local Hub against the real clients: what they push, they can load."""

import json

from datasets import Dataset

from shine_hf.hub.commit import publish_folder

from .hub_server import Repository, StoredFile

CARD = """---
configs:
- config_name: lexical
  default: true
  data_files:
  - {split: train, path: lexical/train-*.parquet}
  - {split: novel_word, path: lexical/novel_word-*.parquet}
- config_name: random
  data_files:
  - {split: train, path: random/train-*.parquet}
---
# Rows
"""

LOADS = """
import json
from datasets import load_dataset
loaded = load_dataset("shine/rows")
rows = {split: rows.to_list() for split, rows in loaded.items()}
random = load_dataset("shine/rows", "random", split="train").to_list()
streamed = list(load_dataset("shine/rows", split="train", streaming=True))
pinned = load_dataset("shine/rows", "random", revision="REVISION", split="train").to_list()
print(json.dumps([rows, random, streamed, pinned]))
"""


def rows(text, count=3):
    return [{"qid": f"q{i}", "query": f"{text} {i}", "relevant_windows": [[0.5, i + 1.0]]} for i in range(count)]


def write(folder, split, rows):
    Dataset.from_list(rows).to_parquet(folder / f"{split}-00000-of-00001.parquet")


def test_published_dataset_loads_by_config_streamed_and_pinned(hub, online, run_client, tmp_path):
    for name in ("lexical", "random"):
        (tmp_path / "tree" / name).mkdir(parents=True)
        write(tmp_path / "tree" / name, "train", rows(name))
    write(tmp_path / "tree" / "lexical", "novel_word", rows("new", 2))
    (tmp_path / "tree" / "README.md").write_text(CARD)
    first = publish_folder(tmp_path / "tree", "shine/rows", message="One", private=True, endpoint=hub.endpoint)
    write(tmp_path / "tree" / "random", "train", rows("changed", 4))
    publish_folder(tmp_path / "tree", "shine/rows", message="Two", endpoint=hub.endpoint)

    loaded, random, streamed, pinned = json.loads(run_client(LOADS.replace("REVISION", first.sha)))
    assert loaded == {"train": rows("lexical"), "novel_word": rows("new", 2)}
    assert random == rows("changed", 4) and streamed == rows("lexical") and pinned == rows("random")


def test_dataset_pushed_by_the_datasets_library_loads(hub, run_client):
    loaded = run_client(
        "from datasets import Dataset, load_dataset\n"
        "Dataset.from_dict({'query': ['one', 'two']}).push_to_hub('shine/pushed', split='train', private=True)\n"
        "print(load_dataset('shine/pushed', split='train')['query'][:])"
    )
    assert loaded.strip() == "['one', 'two']" and hub.repository("shine/pushed").private


def test_object_ids_equal_those_of_git():
    # `git hash-object` of "hello\n".
    assert StoredFile(b"hello\n", lfs=False).oid == "ce013625030ba8dba906f756967f9e9ca394464a"
    repository = Repository()
    assert repository.resolve("main") in repository.commits and repository.resolve("gone") is None
