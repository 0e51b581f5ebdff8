"""`shine-hf predict` with a video file."""

import pytest
import torch

from shine_hf import QDDetrConfig, QDDetrForMomentRetrieval
from shine_hf.cli import main
from shine_hf.encoders import video_encoder

from ..encoders.videos import gray, write_video

SPEC = "pixels:size=4,frames=2"


@pytest.fixture(scope="module")
def command(tmp_path_factory):
    folder = tmp_path_factory.mktemp("predict")
    write_video(folder / "film.mp4", [gray(20 * index) for index in range(12)], fps=4)
    torch.manual_seed(0)
    config = QDDetrConfig(video_dim=video_encoder(SPEC).dim, text_dim=12, hidden_size=16, num_attention_heads=2, clip_length=0.5,
                          video_encoder=SPEC, text_encoder="npz:")  # fmt: skip
    QDDetrForMomentRetrieval(config).save_pretrained(folder / "model")
    return ["predict", "--model", str(folder / "model"), "--video", str(folder / "film.mp4")]


def test_queries_with_text_features_that_are_named(command, tmp_path, capsys):
    plot = tmp_path / "plot.png"
    asked = [*command, "--query", "a red star", "a dog", "--top-k", "2", "--plot", str(plot)]
    assert main(asked) == 2 and "text_encoder" in capsys.readouterr().err
    assert main([*asked, "--text-features", "words:dim=12"]) == 0
    printed = capsys.readouterr().out
    assert printed.count(" s   score ") == 4 and "film.mp4: a dog" in printed and plot.stat().st_size > 10_000


def test_what_does_not_fit_together_is_said(command, capsys):
    assert main(command) == 2 and "give --query" in capsys.readouterr().err
    assert main([*command, "--split", "train"]) == 2 and "one or the other" in capsys.readouterr().err


def test_the_last_predictions_survive_a_failure(command, tmp_path, capsys):
    """Also one that comes after the first predictions."""
    output = tmp_path / "predictions.jsonl"
    output.write_text("of yesterday\n")
    wanted = [*command, "--query", "a dog", "--output", str(output)]
    assert main(wanted) == 2 and output.read_text() == "of yesterday\n"
    assert main([*wanted, "--text-features", "words:dim=12", "--plot", str(tmp_path / "p.nothing")]) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["predictions.jsonl"]
    assert output.read_text() == "of yesterday\n"
    assert main([*wanted, "--text-features", "words:dim=12"]) == 0 and '"pred_relevant_windows"' in output.read_text()
