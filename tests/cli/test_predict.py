"""`shine-hf predict` with a video file."""

import numpy as np
import pytest
import torch

from shine_hf import QDDetrConfig, QDDetrForMomentRetrieval
from shine_hf.cli import main
from shine_hf.cli.predict import plot_results
from shine_hf.encoders import video_encoder

from ..encoders.videos import gray, write_video

SPEC = "pixels:size=4,frames=2"


@pytest.fixture(scope="module")
def command(tmp_path_factory):
    folder = tmp_path_factory.mktemp("predict")
    write_video(folder / "video_file.mp4", [gray(20 * index) for index in range(12)], fps=4)
    torch.manual_seed(0)
    config = QDDetrConfig(video_dim=video_encoder(SPEC).dim, text_dim=12, hidden_size=16, num_attention_heads=2, clip_length=0.5,
                          video_encoder=SPEC, text_encoder="npz:")  # fmt: skip
    QDDetrForMomentRetrieval(config).save_pretrained(folder / "model")
    return ["predict", "--model", str(folder / "model"), "--video", str(folder / "video_file.mp4")]


def test_named_text_features_are_used_for_queries(command, tmp_path, capsys):
    plot = tmp_path / "plot.png"
    asked = [*command, "--query", "a red star", "a dog", "--top-k", "2", "--plot", str(plot)]
    assert main(asked) == 2 and "text_encoder" in capsys.readouterr().err
    assert main([*asked, "--text-features", "words:dim=12"]) == 0
    printed = capsys.readouterr().out
    assert printed.count(" s   score ") == 4 and "video_file.mp4: a dog" in printed and plot.stat().st_size > 10_000


def test_video_encoder_can_be_replaced(command, capsys):
    asked = [*command, "--query", "a dog", "--text-features", "words:dim=12", "--video-encoder"]
    assert main([*asked, SPEC]) == 0
    assert main([*asked, "slowfast:gone.pyth"]) == 2
    assert "no file of SlowFast weights gone.pyth" in capsys.readouterr().err


def test_conflicting_options_are_rejected(command, capsys):
    assert main(command) == 2 and "pass --query" in capsys.readouterr().err
    assert main([*command, "--split", "train"]) == 2 and "one or the other" in capsys.readouterr().err


def test_previous_predictions_survive_a_failure(command, tmp_path, capsys):
    """Keep the old file even if the run fails after its first predictions."""
    output = tmp_path / "predictions.jsonl"
    output.write_text("of yesterday\n")
    wanted = [*command, "--query", "a dog", "--output", str(output)]
    assert main(wanted) == 2 and output.read_text() == "of yesterday\n"
    assert main([*wanted, "--text-features", "words:dim=12", "--plot", str(tmp_path / "p.nothing")]) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["predictions.jsonl"]
    assert output.read_text() == "of yesterday\n"
    assert main([*wanted, "--text-features", "words:dim=12"]) == 0 and '"pred_relevant_windows"' in output.read_text()


@pytest.fixture(scope="module")
def stored(command, tmp_path_factory):
    """The model with stored features of two videos whose ids start with a dash, as YouTube ids may."""
    folder = tmp_path_factory.mktemp("stored")
    rng = np.random.default_rng(0)
    for vid, clips in (("-1Wv8yTT", 9), ("--x_0", 5)):
        np.savez(folder / f"{vid}.npz", features=rng.normal(size=(clips, video_encoder(SPEC).dim)).astype("f"))
    return [*command[:3], "--video-features", f"npz:{folder}", "--text-features", "words:dim=12"]


@pytest.mark.parametrize("vid", [["--vid", "-1Wv8yTT"], ["--vid=-1Wv8yTT"], ["--vid", "--x_0"]])
def test_video_ids_may_start_with_a_dash(stored, vid, tmp_path, capsys):
    plot = tmp_path / "plot.png"
    assert main([*stored, *vid, "--query", "a red star", "a dog", "--plot", str(plot)]) == 0
    name = vid[-1].removeprefix("--vid=")
    assert f"{name}: a red star" in capsys.readouterr().out and plot.stat().st_size > 10_000


def test_figure_of_a_split_shows_queries_of_one_video(tmp_path):
    """Queries of other videos have other clips: mixing them raised an error, or drew a wrong figure if the lengths agreed."""
    results = [
        {"vid": vid, "query": f"query {index}", "moments": [], "saliency": [0.0] * clips, "clip_length": 1.0}
        for index, (vid, clips) in enumerate((("a", 3), ("b", 5), ("a", 3)))
    ]
    plot_results(results, None, tmp_path / "plot.svg")
    drawn = (tmp_path / "plot.svg").read_text()
    assert "query 0" in drawn and "query 2" in drawn and "query 1" not in drawn
