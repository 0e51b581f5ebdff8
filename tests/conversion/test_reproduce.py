"""`shine-hf reproduce` on made-up files in the layouts of the authors, VSLNet and MS-2D-TAN."""

import argparse
import gzip
import json

import h5py
import numpy as np
import pytest
import torch
from transformers import AutoModel

from shine_hf.cli import main
from shine_hf.conversion.reproduce import FORMS, SPLITS, check_downloads, format_table, reproduce

from ..made_up import write_charades_cg
from .originals import OPTIONS, qd_detr_names, save

AUTHORS = {
    "test_trivial": ("test", "test"),
    "novel_composition": ("novel_composition", "composition"),
    "novel_word": ("novel_word", "word"),
}


def rows_of(split, videos=3, prefix=""):
    infix = AUTHORS[split][1]
    return [
        {
            "qid": f"{prefix}{split[:3].upper()}{video}_{infix}_{query}", "query": f"person does thing {query}.", "duration": 6.5 + video,
            "vid": f"{prefix}{split[:3].upper()}{video}", "relevant_windows": [[0.5 + query, 4.0 + query]],
        }
        for video in range(videos)
        for query in range(2)
    ]  # fmt: skip


@pytest.fixture
def downloads(tmp_path):
    """Return a function that writes the downloads of a dataset and returns the command's options."""

    def write(dataset, text_rows=4):
        rng = np.random.default_rng(0)
        name, kind, rows_per_second, width = {
            "charades_cg": ("charades_cg", "i3d", 2, 10), "activitynet_cg": ("anet_cg", "c3d", 1, 12),
        }[dataset]  # fmt: skip
        prefix = "v_" if kind == "c3d" else ""
        rows = [row for split in SPLITS for row in rows_of(split, prefix=prefix)]
        (tmp_path / "SHINE" / "data" / name).mkdir(parents=True)
        for split, (file, _) in AUTHORS.items():
            lines = [json.dumps(row) for row in rows_of(split, prefix=prefix)]
            (tmp_path / "SHINE" / "data" / name / f"{name}_{file}.jsonl").write_text("\n".join(lines) + "\n")
        durations = {row["vid"]: row["duration"] for row in rows}
        features = {
            vid: rng.normal(size=(int(s * rows_per_second), width)).astype("float32") for vid, s in durations.items()
        }
        folder = tmp_path / "features" / f"{kind}_features"
        folder.mkdir(parents=True)
        if kind == "i3d":
            for vid, array in features.items():
                np.save(folder / f"{vid}.npy", array)
        else:
            with h5py.File(folder / "activitynet_c3d_fc6_stride_1s.hdf5", "w") as file:
                for vid, array in features.items():
                    file[vid] = array
        texts = tmp_path / "text" / "text_features"
        texts.mkdir(parents=True)
        for index, row in enumerate(rows):
            # Lengths differ, so the two masks differ too; the batch axis is the one that CLIP leaves.
            array = rng.normal(size=(1, text_rows + index % 3, 6)).astype("float32")
            np.savez(texts / f"{row['qid']}.npz", last_hidden_state=array)
        options = argparse.Namespace(**{**vars(OPTIONS), "max_v_l": -1, "clip_length": 0.5 if kind == "i3d" else 1})
        save(tmp_path / "checkpoints" / name / "model_best.ckpt", qd_detr_names(video=width), options)
        return [
            "reproduce", dataset, "--checkpoint", str(tmp_path / "checkpoints"), "--video-features", str(tmp_path / "features"),
            "--text-features", str(tmp_path / "text"), "--data-dir", str(tmp_path / "SHINE"), "--output-dir", str(tmp_path / "out"),
            "--device", "cpu",
        ]  # fmt: skip

    return write


@pytest.mark.parametrize("dataset", ["charades_cg", "activitynet_cg"])
def test_downloads_produce_the_results_table(downloads, tmp_path, capsys, dataset):
    assert main(downloads(dataset)) == 0
    printed = capsys.readouterr().out
    assert printed.count("found  ") == 4 and "| novel_composition | R1@0.5 |" in printed
    assert ("| 50.23 |" in printed) == (dataset == "charades_cg")
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert list(results) == list(FORMS) and all(list(found) == list(SPLITS) for found in results.values())
    moments = {}
    for form in FORMS:
        lines = (tmp_path / "out" / f"{form}_novel_word.jsonl").read_text().splitlines()
        moments[form] = [json.loads(line)["pred_relevant_windows"] for line in lines]
        assert [json.loads(line)["qid"] for line in lines] == [
            row["qid"] for row in rows_of("novel_word", prefix="v_" if dataset == "activitynet_cg" else "")
        ]
    # The public code rounds to clips for Charades only.
    ends = [end for windows in moments["corrected"] for _, end, _ in windows]
    assert all((2 * end).is_integer() for end in ends) == (dataset == "charades_cg")
    model = AutoModel.from_pretrained(tmp_path / "out" / "model")
    assert not model.config.batch_coupled_text_mask and model.config.clip_length == (
        0.5 if dataset == "charades_cg" else 1
    )


def test_public_code_mode_depends_on_the_batch_and_corrected_mode_does_not(downloads, tmp_path):
    """Candidate scores differ between the modes because the queries of the batch differ in length."""
    arguments = downloads("charades_cg")
    found = check_downloads(
        "charades_cg", arguments[3], arguments[5], arguments[7], arguments[9], report=lambda line: None
    )
    reproduce(found, tmp_path / "out", device="cpu", progress=False)
    corrected, coupled = (
        [json.loads(line)["pred_saliency_scores"] for line in (tmp_path / "out" / f"{form}_test_trivial.jsonl").open()]
        for form in FORMS
    )
    assert corrected != coupled


def test_files_with_other_names_are_found(downloads, tmp_path):
    arguments = downloads("activitynet_cg")
    folder = tmp_path / "features" / "c3d_features"
    (folder / "activitynet_c3d_fc6_stride_1s.hdf5").rename(folder / "activitynet_c3d.hdf5")
    checkpoint = tmp_path / "checkpoints" / "anet_cg" / "model_best.ckpt"
    checkpoint.rename(checkpoint.with_name("shine.pth"))
    assert main([*arguments, "--check-only"]) == 0
    (folder / "more.h5").touch()
    assert main([*arguments, "--check-only"]) == 2


def test_original_annotations_are_accepted(downloads, tmp_path):
    arguments = downloads("charades_cg")
    data = write_charades_cg(tmp_path / "original")
    (data / "charades_cg" / "novel_word.json.gz").write_bytes(
        gzip.compress((data / "charades_cg" / "novel_word.json").read_bytes())
    )
    (data / "charades_cg" / "novel_word.json").unlink()
    seen = []
    with pytest.raises(FileNotFoundError, match="2 of the downloads for Charades-CG"):
        check_downloads("charades_cg", arguments[3], arguments[5], arguments[7], data, report=seen.append)
    # The files are found and read, but the features belong to other videos.
    assert seen[1].startswith("found    annotations") and "novel_word.json.gz" in seen[1]
    assert all(line.startswith("missing") for line in seen[2:])


def test_every_missing_file_is_reported_with_its_source(downloads, tmp_path, capsys):
    arguments = downloads("charades_cg")
    (tmp_path / "text" / "text_features" / "TES0_test_1.npz").unlink()
    (tmp_path / "features" / "i3d_features" / "NOV2.npy").unlink()
    (tmp_path / "checkpoints" / "charades_cg" / "model_best.ckpt").unlink()
    assert main(arguments) == 2
    printed = capsys.readouterr()
    missing = [line for line in printed.out.splitlines() if line.startswith("missing")]
    assert len(missing) == 3 and "github.com/zxccade/SHINE" in missing[0]
    assert "lacks 1 of" in missing[1] and "NOV2.npy" in missing[1] and "VSLNet" in missing[1]
    assert "TES0_test_1.npz" in missing[2] and "zxccade/SHINE" in missing[2]
    assert (
        printed.err
        == "shine-hf reproduce: error: 3 of the downloads for Charades-CG are missing or incomplete (see above)\n"
    )
    assert not (tmp_path / "out").exists()


def test_missing_activitynet_annotations_and_videos_are_reported(downloads, tmp_path):
    arguments = downloads("activitynet_cg")
    with h5py.File(tmp_path / "features" / "c3d_features" / "activitynet_c3d_fc6_stride_1s.hdf5", "a") as file:
        del file["v_TES1"]
    seen = []
    with pytest.raises(FileNotFoundError, match="1 of the downloads"):
        check_downloads("activitynet_cg", arguments[3], arguments[5], arguments[7], arguments[9], report=seen.append)
    assert "lacks 1 of" in seen[2] and "v_TES1" in seen[2] and "MS-2D-TAN" in seen[2]
    (tmp_path / "SHINE/data/anet_cg/anet_cg_novel_word.jsonl").unlink()
    with pytest.raises(FileNotFoundError):
        check_downloads("activitynet_cg", arguments[3], arguments[5], arguments[7], arguments[9], report=seen.append)
    assert "anet_cg_novel_word.jsonl or novel_word.json" in seen[-1] and "zxccade/SHINE" in seen[-1]


def test_ambiguous_checkpoints_are_listed_and_other_networks_rejected(downloads, tmp_path, capsys):
    arguments = downloads("charades_cg")
    for name in ("a", "b"):
        save(tmp_path / "checkpoints" / name / "model_best.ckpt", qd_detr_names())
    assert main([*arguments, "--check-only"]) == 2
    assert "several checkpoints; name one of them" in capsys.readouterr().out
    torch.save({"model": {"backbone": torch.zeros(1)}}, tmp_path / "other.ckpt")
    arguments[3] = str(tmp_path / "other.ckpt")
    assert main([*arguments, "--check-only"]) == 0
    assert main(arguments) == 2 and "not entries of a shine checkpoint" in capsys.readouterr().err


def test_features_of_another_width_are_rejected_with_their_name(downloads, tmp_path, capsys):
    arguments = downloads("charades_cg")
    np.save(tmp_path / "features" / "i3d_features" / "TES0.npy", np.zeros((12, 2048), dtype="float32"))
    assert main(arguments) == 2
    assert "TES0" in capsys.readouterr().err


def test_cells_without_a_paper_result_stay_empty():
    results = {
        form: {split: dict.fromkeys(("R1@0.5", "R1@0.7", "mIoU"), 12.345) for split in SPLITS} for form in FORMS
    }
    table = format_table("charades_cg", results)
    assert "| novel_composition | mIoU | 12.35 | 12.35 | 44.14 |" in table
    assert "| novel_word | mIoU | 12.35 | 12.35 |  |" in table and "arXiv:2407.05118" in table
