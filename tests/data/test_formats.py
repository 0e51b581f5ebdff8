"""Made-up files in the exact formats of the public benchmarks, through `--dataset NAME --data-dir DIR` and `shine-hf data convert`."""

import csv
import json

import pytest
from datasets import load_dataset

from shine_hf.cli import main
from shine_hf.data.annotations import read_annotations, read_original
from shine_hf.data.arguments import DataArguments
from shine_hf.data.datasets import DATASETS
from shine_hf.data.loading import load_splits


def write_json(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")


def write_charades_sta(folder, durations="Charades_v1_{}.csv"):
    """Write `VID START END##SENTENCE` lines and the Charades annotations that hold the video lengths."""
    (folder / "charades_sta_train.txt").write_text(
        "AO8RW 0.0 6.9##a person is putting a book on a shelf.\nAO8RW 2.5 34.0##person sits.\nY6R7T 20.8 30.0##person begins to play.\n"
    )
    (folder / "charades_sta_test.txt").write_text("3MSZA 24.3 30.4##person turn a light on.\n")
    for part, videos in (("train", {"AO8RW": "33.67", "Y6R7T": "30.96"}), ("test", {"3MSZA": "30.96"})):
        with open(folder / durations.format(part), "w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["id", "subject", "descriptions", "actions", "length"])
            writer.writerows(
                [vid, "HR43", 'A person, "sitting"', "c141 0.0 9.0", length] for vid, length in videos.items()
            )


def write_activitynet_captions(folder):
    video = {
        "duration": 82.73,
        "timestamps": [[0.83, 19.86], [17.37, 60.81]],
        "sentences": ["A man sits. ", " He plays."],
    }
    for name in ("train", "val_1", "val_2"):
        write_json(folder / f"{name}.json", {f"v_{name}": video})


def write_tacos(folder):
    """Write the form that 2D-TAN distributes: timestamps are frames."""
    video = {
        "timestamps": [[294, 588], [588, 900]],
        "sentences": ["He takes a knife.", "He cuts."],
        "num_frames": 1470,
        "fps": 29.4,
    }
    for name in ("train", "val", "test"):
        write_json(folder / f"{name}.json", {f"s13-d21-{name}.avi": video})


def write_qvhighlights(folder):
    row = {"qid": 2579, "query": "A girl talks.", "duration": 150, "vid": "j7rJ_210.0_360.0", "relevant_windows": [[82, 86]],
           "relevant_clip_ids": [41, 42], "saliency_scores": [[4, 1, 1], [4, 2, 3]]}  # fmt: skip
    for name in ("train", "val", "test"):
        kept = ("qid", "query", "duration", "vid") if name == "test" else row
        (folder / f"highlight_{name}_release.jsonl").write_text(json.dumps({key: row[key] for key in kept}) + "\n")


def write_didemo(folder):
    item = {
        "annotation_id": 4, "description": "kid runs to the camera", "video": "1@N08_2_3.mov", "num_segments": 6, "dl_link": "https://…",
        "times": [[1, 1], [0, 1], [0, 1], [5, 5]], "reference_description": "",
    }  # fmt: skip
    for name in ("train", "val", "test"):
        write_json(folder / f"{name}_data.json", [item, item | {"annotation_id": 5}])


WRITERS = {
    "charades_sta": write_charades_sta,
    "activitynet_captions": write_activitynet_captions,
    "tacos": write_tacos,
    "qvhighlights": write_qvhighlights,
    "didemo": write_didemo,
}
FIRST_ROWS = {
    "charades_sta": ("AO8RW_STA_train_0", "AO8RW", "a person is putting a book on a shelf.", 33.67, [[0.0, 6.9]]),
    "activitynet_captions": ("v_train_train_0", "v_train", "A man sits.", 82.73, [[0.83, 19.86]]),
    "tacos": ("s13-d21-train.avi_train_0", "s13-d21-train.avi", "He takes a knife.", 50.0, [[10.0, 20.0]]),
    "qvhighlights": ("2579", "j7rJ_210.0_360.0", "A girl talks.", 150.0, [[82.0, 86.0]]),
    "didemo": ("4", "1@N08_2_3.mov", "kid runs to the camera", 30.0, [[0.0, 10.0]]),
}


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("inside", [True, False])
def test_original_files_of_known_datasets_are_read(tmp_path, name, inside):
    folder = tmp_path / name if inside else tmp_path
    folder.mkdir(exist_ok=True)
    WRITERS[name](folder)
    splits = load_splits(DataArguments(dataset=name, data_dir=str(tmp_path), negatives="none"))
    assert tuple(splits) == DATASETS[name].splits
    row = splits["train"][0]
    found = tuple(row[column] for column in ("qid", "vid", "query", "duration", "relevant_windows"))
    assert found == (*FIRST_ROWS[name][:4], [pytest.approx(window) for window in FIRST_ROWS[name][4]])


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("form", ["jsonl", "parquet"])
def test_convert_writes_rows_that_load_again(tmp_path, name, form, capsys, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    WRITERS[name](tmp_path)
    command = [
        "data",
        "convert",
        "--dataset",
        name,
        "--data-dir",
        str(tmp_path),
        "--output-dir",
        str(tmp_path / "out"),
        "--format",
        form,
    ]
    assert main(command) == 0
    assert f"train.{form}: " in capsys.readouterr().out
    originals = read_original(name, tmp_path, "none")
    for split, rows in originals.items():
        path = tmp_path / "out" / f"{split}.{form}"
        assert read_annotations(path).to_list() == rows.to_list()
        assert len(load_dataset("json" if form == "jsonl" else form, data_files=str(path))["train"]) == len(rows)


def test_known_formats_are_detected_without_a_dataset_name(tmp_path):
    write_activitynet_captions(tmp_path)
    write_charades_sta(tmp_path)
    spec = f"train={tmp_path / 'train.json'},val={tmp_path / 'charades_sta_test.txt'}"
    splits = load_splits(DataArguments(dataset=spec))
    assert splits["train"]["vid"][0] == "v_train" and splits["validation"]["qid"] == ["3MSZA_STA_val_0"]


def test_windows_after_the_end_are_flagged(tmp_path):
    write_charades_sta(tmp_path)
    assert read_original("charades_sta", tmp_path, "none")["train"]["annotation_flags"] == [
        [],
        ["window_after_end"],
        [],
    ]


@pytest.mark.parametrize(
    "content",
    [{"AO8RW": {"duration": 33.67, "actions": []}, "Y6R7T": {"duration": 30.96}}, {"AO8RW": 33.67, "Y6R7T": 30.96}],
)
def test_charades_durations_are_read_from_other_files(tmp_path, content):
    write_charades_sta(tmp_path, durations="unused_{}.csv")
    name = "charades.json" if isinstance(content["AO8RW"], dict) else "durations.json"
    write_json(tmp_path / name, content)
    assert read_annotations(tmp_path / "charades_sta_train.txt")["duration"][0] == 33.67


def test_missing_file_error_names_its_source(tmp_path):
    with pytest.raises(
        FileNotFoundError,
        match=r"Charades-STA: no charades_sta_train\.txt, nor .*Download the file of the split train: https://github.com/jiyanggao/TALL",
    ):
        read_original("charades_sta", tmp_path)
    with pytest.raises(FileNotFoundError, match="QVHighlights: no folder"):
        read_original("qvhighlights", tmp_path / "gone")
    write_charades_sta(tmp_path, durations="unused_{}.csv")
    with pytest.raises(FileNotFoundError, match=r"contain no durations.*Charades_v1_train\.csv.*prior\.allenai\.org"):
        read_original("charades_sta", tmp_path)


def test_missing_test_file_is_only_a_warning(tmp_path, caplog):
    write_qvhighlights(tmp_path)
    (tmp_path / "highlight_test_release.jsonl").unlink()
    assert list(read_original("qvhighlights", tmp_path)) == ["train", "validation"]
    assert "no highlight_test_release.jsonl" in caplog.text


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", "AO8RW 0.0 6.9##one.\nAO8RW 0.0##two.\n", r"a\.txt, line 2: expected VID START END##SENTENCE; found 'AO8RW 0.0##two.'"),
        ("a.txt", "NONE1 0.0 6.9##one.\n", r"a\.txt, line 1: no duration of video 'NONE1'"),
        ("a.txt", "AO8RW x 6.9##one.\n", r"a\.txt, line 1 .*field relevant_windows: expected .*found \[\[\"x\", \"6.9\"\]\]"),
        ("a.json", {"v": {"sentences": ["a"], "timestamps": [[0, 1]]}}, "video 'v': expected duration .seconds., or num_frames and fps"),
        ("a.json", {"v": {"sentences": ["a"], "timestamps": [[0]], "num_frames": 9, "fps": 3}}, r"timestamp 1: expected \[first frame, last frame\]"),
        ("a.json", {"v": {"sentences": ["a"], "timestamps": [[0, 1]], "num_frames": 9, "fps": 0}}, "expected duration"),
        ("a.json", {"v": {"sentences": "a", "timestamps": [[0, 1]], "duration": 9}}, "video 'v': expected the lists sentences and timestamps; sentences is not a list"),
        ("a.json", {"v": {"sentences": ["a"], "timestamps": [[0, 1]], "duration": None}}, "field duration: .*found null"),
        ("a.json", [{"description": "a", "video": "v", "times": []}], "item 1: expected annotation_id, video, description and times"),
    ],
)  # fmt: skip
def test_broken_benchmark_files_are_rejected(tmp_path, name, content, message):
    write_charades_sta(tmp_path)
    (tmp_path / name).write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(ValueError, match=message) as error:
        read_annotations(tmp_path / name)
    assert name in str(error.value)


def test_specs_list_the_released_negatives():
    released = {name: spec.authors_negatives.path for name, spec in DATASETS.items() if spec.authors_negatives}
    assert released == {
        "charades_cg": "data/charades_cg/charades_cg_gpt_train.jsonl",
        "activitynet_cg": "data/anet_cg/anet_cg_gpt_train.jsonl",
        "charades_sta": "data/charades_sta/charades_sta_gpt_train.jsonl",
    }


def test_authors_negatives_of_charades_sta_are_read(tmp_path):
    write_charades_sta(tmp_path)
    row = {
        "qid": "Y6R7T_STA_train_0",
        "query": "person begins to play.",
        "recomposed_queries": ["person stops to play."],
    }
    path = tmp_path / DATASETS["charades_sta"].authors_negatives.local
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(row) + "\n")
    splits = load_splits(DataArguments(dataset="charades_sta", data_dir=str(tmp_path), negatives="gpt-3.5-turbo"))
    assert splits["train"]["negative_queries"][2] == ["person stops to play."]
    with pytest.raises(ValueError, match="released none for tacos"):
        write_tacos(tmp_path)
        load_splits(DataArguments(dataset="tacos", data_dir=str(tmp_path), negatives="gpt-3.5-turbo"))


def test_real_charades_sta_test_set_is_read(shared):
    rows = read_annotations(shared / "data" / "shine" / "charades_sta" / "charades_sta_test.jsonl")
    assert len(rows) == DATASETS["charades_sta"].queries["test"] and rows["qid"][0] == "3MSZA_STA_test_0"


def test_data_command_lists_datasets_and_reports_errors(tmp_path, capsys):
    assert main(["data", "list"]) == 0
    listed = capsys.readouterr().out
    assert all(name in listed for name in DATASETS) and "charades_sta_train.txt" in listed
    assert main(["data", "convert", "--dataset", "nothing", "--output-dir", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert (
        error.count("\n") == 1 and "neither a file, a folder, a Hub name" in error and not (tmp_path / "out").exists()
    )
