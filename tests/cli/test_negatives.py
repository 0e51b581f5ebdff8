import json
import signal
import subprocess
import sys
import time

import pytest
from datasets import Dataset

from shine_hf.cli import main

from ..negatives.llm.llm_server import LLMServer

QUERIES = [
    "person opens the door.",
    "person closes the window.",
    "person eats a sandwich.",
    "person drinks a coffee.",
    "a man throws the red ball.",
    "a woman washes a dirty cup.",
    "person puts a book on the table.",
    "person takes a phone from the shelf.",
]


@pytest.fixture
def rows_file(tmp_path):
    path = tmp_path / "rows.jsonl"
    rows = [
        {
            "qid": f"q{i}_{j}",
            "vid": f"v{i}",
            "query": query,
            "duration": 30.0,
            "relevant_windows": [[10.0 * j, 10.0 * j + 9]],
        }
        for i, query in enumerate(QUERIES)
        for j in range(3)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture
def compositional(tmp_path):
    """Write a tiny dataset with test splits in the layout of Charades-CG."""
    folder = tmp_path / "data" / "charades_cg"
    folder.mkdir(parents=True)

    def write(name, vid, queries, **columns):
        video = {"sentences": queries, "timestamps": [[0.0, 5.0]] * len(queries), "duration": 30.0, **columns}
        (folder / f"{name}.json").write_text(json.dumps({vid: video}), encoding="utf-8")

    write("train", "TRAIN", QUERIES * 3)
    write("test_trivial", "TRIV", ["person closes the door."])
    write("novel_composition", "COMP", ["person eats a book."], novels=[{"v-n": [["eat", "book"]]}])
    write("novel_word", "WORD", ["person washes the window."], news=[{"NOUN": ["window"]}])
    return ["--dataset", "charades_cg", "--data-dir", str(tmp_path / "data")]


def shine(*arguments):
    return main(["negatives", *map(str, arguments)])


def read(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_tag_writes_tags_and_mask_writes_templates(rows_file, tmp_path, capsys):
    assert shine("tag", "--dataset", rows_file, "--limit", 2, "--output", tmp_path / "tags.jsonl") == 0
    tags = read(tmp_path / "tags.jsonl")
    assert len(tags) == 2
    assert tags[0]["parts_of_speech"] == ["NOUN", "VERB", "DET", "NOUN", "PUNCT"]
    assert "en_ud_ewt_pos_small" in capsys.readouterr().out
    assert shine("mask", "--dataset", rows_file, "--ratios", "0.3,1.0", "--output", tmp_path / "masks.parquet") == 0
    masks = Dataset.from_parquet(str(tmp_path / "masks.parquet"))
    assert masks.column_names == ["qid", "query", "masked_queries"]
    assert masks[0]["masked_queries"] == ["person <mask> the door.", "<mask> <mask> the <mask>."]


@pytest.mark.parametrize("generator", ["lexical", "balanced", "random_words"])
def test_generate_is_reproducible_and_records_its_settings(rows_file, tmp_path, generator, capsys):
    command = ["generate", "--dataset", rows_file, "--generator", generator, "--no-progress"]
    assert shine(*command, "--seed", 1, "--output", tmp_path / "a.jsonl") == 0
    assert shine(*command, "--seed", 1, "--limit", 5, "--output", tmp_path / "b.jsonl") == 0
    rows = read(tmp_path / "a.jsonl")
    assert list(rows[0]) == ["qid", "query", "masked_queries", "negative_queries", "negative_flags", "source"]
    assert len(rows) == len(QUERIES) * 3
    assert all(len(set(row["negative_queries"])) == 3 for row in rows)
    # The vocabulary covers all training queries, so a subset of the rows gets the same negatives.
    assert read(tmp_path / "b.jsonl")[:2] == rows[:2]
    provenance = json.loads((tmp_path / "a.jsonl.provenance.json").read_text(encoding="utf-8"))
    assert provenance["generator"] == generator
    assert provenance["seed"] == 1
    assert provenance["tagger"].startswith("en_ud_ewt_pos_small 1.0.0 sha256:")
    assert "clean at all levels" in capsys.readouterr().out


def test_generated_negatives_can_be_validated_exported_and_counted(rows_file, tmp_path, capsys):
    made = tmp_path / "made.jsonl"
    shine("generate", "--dataset", rows_file, "--generator", "lexical", "--no-progress", "--output", made)
    data = ["--dataset", rows_file, "--negatives", made]
    rows = read(made)
    rows[0]["negative_queries"][0] = rows[0]["query"]
    made.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    capsys.readouterr()
    assert shine("validate", *data, "--output", tmp_path / "checked.jsonl") == 0
    assert "equals_query" in capsys.readouterr().out
    assert "equals_query" in read(tmp_path / "checked.jsonl")[0]["negative_flags"][0]
    assert shine("validate", *data, "--checks", "markup", "--output", tmp_path / "checked.jsonl") == 0
    assert read(tmp_path / "checked.jsonl")[0]["negative_flags"] == [[], [], []]

    assert shine("export", *data, "--output", tmp_path / "complete.parquet") == 0
    complete = Dataset.from_parquet(str(tmp_path / "complete.parquet"))
    assert complete["relevant_windows"][1] == [[10.0, 19.0]]
    assert complete["source"][0] == "lexical"
    assert complete["tagger"][0].startswith("en_ud_ewt_pos_small")

    capsys.readouterr()
    assert shine("stats", *data, "--sample", 2, "--compare", made, "--figure", tmp_path / "change.png") == 0
    output = capsys.readouterr().out
    assert "masked VERB" in output
    assert "words changed" in output and "given away by words" in output
    assert output.count(f"{made}: ") == 6
    assert (tmp_path / "change.png").read_bytes().startswith(b"\x89PNG")


def test_repair_replaces_only_flagged_negatives(rows_file, tmp_path):
    made, repaired = tmp_path / "gpt.jsonl", tmp_path / "clean.jsonl"
    command = ["generate", "--dataset", rows_file, "--generator", "lexical", "--no-progress"]
    shine(*command, "--output", made)
    rows = read(made)
    rows[3]["negative_queries"][1] = rows[3]["query"]
    made.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    assert shine(*command, "--repair", made, "--output", repaired) == 0
    after = read(repaired)
    assert {row["source"] for row in after} == {"gpt-clean"}
    changed = [
        (i, k)
        for i, row in enumerate(after)
        for k in range(3)
        if row["negative_queries"][k] != rows[i]["negative_queries"][k]
    ]
    assert changed == [(3, 1)]
    assert after[3]["negative_flags"] == [[], [], []]


def test_test_set_leakage_is_reported_and_can_be_avoided(compositional, tmp_path, capsys):
    free, careful = tmp_path / "free.jsonl", tmp_path / "careful.jsonl"
    command = ["generate", *compositional, "--generator", "lexical", "--no-progress", "--output"]
    assert shine(*command, free) == 0
    capsys.readouterr()
    assert shine("validate", *compositional, "--negatives", free) == 0
    assert "novel_word: 1 of 1 novel words occur in the negatives" in capsys.readouterr().out
    assert shine(*command, careful, "--avoid-test-words") == 0
    tests = {"person closes the door.", "person eats a book.", "person washes the window."}
    for row in read(careful):
        for negative, flags in zip(row["negative_queries"], row["negative_flags"]):
            assert flags or negative not in tests
            assert flags or "window" not in negative.split() or "window" in row["query"]


def test_test_splits_get_negatives_from_the_training_vocabulary(compositional, tmp_path):
    output = tmp_path / "test.jsonl"
    command = ["generate", *compositional, "--split", "novel_word", "--generator", "lexical", "--no-progress"]
    assert shine(*command, "--output", output) == 0
    [row] = read(output)
    assert row["qid"] == "WORD_word_0"
    words = {word for query in QUERIES for word in query.rstrip(".").split()}
    assert {word for negative in row["negative_queries"] for word in negative.rstrip(".").split()} <= words


def test_user_errors_are_one_line(rows_file, compositional, tmp_path, capsys):
    def error(*arguments):
        assert shine(*arguments) == 2
        message = capsys.readouterr().err
        assert message.count("\n") == 1
        return message

    output = ["--output", tmp_path / "x.jsonl"]
    assert ".parquet or .jsonl" in error("mask", "--dataset", rows_file, "--output", tmp_path / "x.csv")
    assert "no dataset 'nowhere'" in error("mask", "--dataset", "nowhere", *output)
    assert "needs --data-dir" in error("mask", "--dataset", "charades_cg", *output)
    assert "no split 'dev'" in error("mask", *compositional, "--split", "dev", *output)
    assert "--limit must be" in error("mask", "--dataset", rows_file, "--limit", 0, *output)
    assert "cannot parse the mask ratios" in error("mask", "--dataset", rows_file, "--ratios", "many", *output)
    generate = ["generate", "--dataset", rows_file, *output, "--generator"]
    assert "unknown checks: spelling" in error(*generate, "lexical", "--checks", "spelling")
    assert "have no negatives" in error("validate", "--dataset", rows_file)
    assert "needs --model" in error(*generate, "openai_chat")
    assert "needs --cache" in error(*generate, "openai_chat", "--model", "m")
    assert "--dry-run is for language models" in error(*generate, "lexical", "--dry-run")
    assert "needs a dataset with test splits" in error(*generate, "lexical", "--avoid-test-words")
    assert not (tmp_path / "x.jsonl").exists()


@pytest.fixture
def chat(rows_file, tmp_path, monkeypatch):
    """The arguments of a run with a language model, without its endpoint."""
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    command = ["generate", "--dataset", rows_file, "--generator", "openai_chat", "--model", "m", "--no-progress"]
    return [*command, "--cache", tmp_path / "a.sqlite", "--output", tmp_path / "gpt.jsonl", "--base-url"]


def test_language_model_run_records_its_provenance(chat, tmp_path, capsys):
    with LLMServer() as server:
        prices = ["--input-price", 0.5, "--output-price", 1.5]
        assert shine(*chat, server.url, *prices, "--dry-run") == 0
        assert "24 requests" in capsys.readouterr().out and server.stats()["requests"] == 0
        assert shine(*chat, server.url, *prices) == 0
        asked = server.stats()["requests"]
        assert shine(*chat, server.url, *prices) == 0
        assert server.stats()["requests"] == asked >= 24
        capsys.readouterr()
        # Nothing needs repair, so no question would be asked.
        assert shine(*chat, server.url, "--dry-run", "--repair", tmp_path / "gpt.jsonl", "--checks", "missing") == 0
        assert capsys.readouterr().out.startswith("0 requests")
    provenance = json.loads((tmp_path / "gpt.jsonl.provenance.json").read_text(encoding="utf-8"))
    assert provenance["model_versions"] == ["m-0001"]
    assert provenance["answered_on"][0].startswith("20")
    assert provenance["usd_per_million_tokens"] == [0.5, 1.5]
    export = ["export", "--dataset", chat[2], "--negatives", tmp_path / "gpt.jsonl", "--cache", tmp_path / "a.sqlite"]
    assert shine(*export, "--output", tmp_path / "all.jsonl") == 0
    assert read(tmp_path / "all.jsonl")[0]["model_versions"] == ["m-0001"] * 3


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
def test_signal_stops_the_run_with_one_line_and_the_same_command_resumes(chat, tmp_path, number):
    with LLMServer(latency_seconds=0.3) as server:
        command = [
            sys.executable,
            "-c",
            "import sys; from shine_hf.cli import main; sys.exit(main())",
            "negatives",
            *chat,
        ]
        command = [str(word) for word in [*command, server.url, "--concurrency", "2"]]
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        while server.stats()["requests"] < 4:
            time.sleep(0.1)
        process.send_signal(number)
        message = process.communicate(timeout=60)[1]
        assert process.returncode == 128 + number
        assert message.count("\n") == 1 and f"stopped by {number.name}. All answers received are in" in message
        delivered = sum(map(len, server.stats()["answers"].values()))
        server.configure(latency_seconds=0.0)
        assert shine(*chat, server.url) == 0
        assert all(len(ids) == 1 for ids in server.stats()["answers"].values())
        assert server.stats()["requests"] > delivered >= 2


def test_endpoint_error_explains_how_to_resume(chat, capsys):
    with LLMServer(model="another") as server:
        assert shine(*chat, server.url) == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    assert "404: The model 'm' does not exist" in message and "run the same command again to resume" in message


def test_input_and_output_price_must_be_given_together(chat, capsys):
    assert shine(*chat, "http://127.0.0.1:1/v1", "--input-price", 1) == 2
    assert "both --input-price and --output-price" in capsys.readouterr().err
    assert shine(*chat, "http://127.0.0.1:1/v1", "--max-cost", 1) == 2
    assert "needs --input-price and --output-price" in capsys.readouterr().err


@pytest.mark.parametrize("action", ["tag", "mask", "generate", "validate", "export", "stats"])
def test_every_action_has_examples(action, capsys):
    with pytest.raises(SystemExit):
        shine(action, "--help")
    assert f"shine-hf negatives {action} --" in capsys.readouterr().out.split("examples:")[1]


def test_help_imports_no_heavy_package():
    code = (
        "import sys; from shine_hf.cli import main\n"
        "try: main(['negatives', 'generate', '--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'spacy', 'openai', 'datasets', 'transformers', 'scipy'} & sys.modules.keys()\n"
        "sys.exit(str(heavy) if heavy else 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
