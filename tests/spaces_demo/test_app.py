"""The demo as visitors use it: a running server, a real (tiny) model, real files."""

import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from shine_hf.encoders.video_reader import read_clips, video_duration

from ..encoders.videos import gray, write_video

gr = pytest.importorskip("gradio")
gradio_client = pytest.importorskip("gradio_client")


def ask(server, tmp_path, video, query="a red star", counters="a blue star\n\na red star\nthe dog barks"):
    client = gradio_client.Client(server, verbose=False, download_files=str(tmp_path))
    return client.predict(gradio_client.handle_file(video), query, counters, api_name="/find")


def test_upload_returns_moments_and_a_cut(server, find, video_file, tmp_path):
    figure, table, sentences, moment = ask(server, tmp_path, video_file)
    expected = find(video=video_file, query="a red star", top_k=5)["moments"]
    assert table["headers"] == ["", "start (s)", "end (s)", "score"]
    rows = [[round(best[key], 2) for key in ("start", "end", "score")] for best in expected]
    assert [row[1:] for row in table["data"]] == [pytest.approx(row, abs=0.011) for row in rows]
    assert {row[0] for row in table["data"]} == {"▶ play"}
    ranks = {sentence: rank for sentence, rank in sentences["data"]}
    assert set(ranks) == {"a red star", "a blue star", "the dog barks"}
    assert list(ranks.values()) == sorted(ranks.values(), reverse=True) and all(0 <= r <= 100 for r in ranks.values())
    assert figure["type"] == "matplotlib" and figure["plot"].startswith("data:image")
    length = rows[0][1] - rows[0][0]
    assert video_duration(moment) == pytest.approx(length, abs=0.2)


def test_concurrent_visitors_get_their_own_answers(server, find, video_file, tmp_path):
    other = write_video(tmp_path / "other.mp4", [gray(200), gray(10)] * 6, fps=4)
    (tmp_path / "one").mkdir(), (tmp_path / "two").mkdir()
    jobs = [(tmp_path / "one", video_file, "a red star"), (tmp_path / "two", other, "the dog barks")] * 3
    with ThreadPoolExecutor(2) as pool:
        answers = list(pool.map(lambda job: ask(server, *job, ""), jobs))
    for (_, video, query), (_, table, _, _) in zip(jobs, answers):
        best = find(video=video, query=query, top_k=1)["moments"][0]
        assert table["data"][0][1:] == pytest.approx([best["start"], best["end"], best["score"]], abs=0.011)


def test_errors_are_shown_without_server_paths(server, video_file, tmp_path):
    notes = tmp_path / "notes.mp4"
    notes.write_text("this is not a video")
    # Either Gradio's own message for files that the browser cannot play, or ours: an error, not a result.
    with pytest.raises(Exception, match=r"not a video|[Ii]nvalid") as caught:
        ask(server, tmp_path, notes)
    assert "/gradio" not in str(caught.value) and str(tmp_path) not in str(caught.value)
    with pytest.raises(gradio_client.exceptions.AppError, match="Describe what to look for"):
        ask(server, tmp_path, video_file, query=" ")
    with pytest.raises(gradio_client.exceptions.AppError, match="At most 5"):
        ask(server, tmp_path, video_file, counters="\n".join(f"query {i}" for i in range(6)))


def test_long_videos_are_rejected_before_encoding(app, find, video_file, monkeypatch):
    monkeypatch.setattr(app, "MAX_SECONDS", 5.0)
    monkeypatch.setattr(type(find), "__call__", lambda *args, **kwargs: pytest.fail("the video was encoded anyway"))
    with pytest.raises(gr.Error, match=r"8 s long; this demo takes up to 5 s"):
        app.find_moments(find, str(video_file), "a red star", "")
    with pytest.raises(gr.Error, match="Upload a video"):
        app.find_moments(find, None, "a red star", "")


def test_cut_shows_its_part_of_the_video(app, video_file):
    path = app.cut(str(video_file), 2.0, 4.0)
    assert video_duration(path) == pytest.approx(2.0, abs=0.05)
    levels = [clip.mean() for clip in read_clips(path, 0.5, 1)]
    # The video gets lighter by 32 levels per second; H.264 keeps gray within a few levels.
    assert levels == pytest.approx([72, 88, 104, 120], abs=8)
    # An empty moment becomes a single frame, and one after the end the last frame.
    assert video_duration(app.cut(str(video_file), 3.0, 3.0)) == pytest.approx(1 / app.CUT_FPS, abs=0.05)
    shutil.rmtree(Path(path).parent)
    # E.g. if a row of another video's table was clicked.
    with pytest.raises(ValueError, match=r"ends before 100\.0 s"):
        app.cut(str(video_file), 100.0, 110.0)


def test_click_cuts_the_moment_of_its_row(app, video_file):
    event = gr.SelectData(None, {"index": [1, 0], "value": 1.0})
    path = app.cut_chosen(str(video_file), [["▶ play", 0.0, 8.0, 0.9], ["▶ play", 1.0, 2.5, 0.2]], event)
    assert video_duration(path) == pytest.approx(1.5, abs=0.05)
    shutil.rmtree(Path(path).parent)


def test_examples_can_be_run(app, find, tmp_path):
    examples = app.make_examples(tmp_path)
    assert len({video for video, _, _ in examples}) == 3
    for _, query, counters in examples:
        assert len(counters.splitlines()) == 3 and query not in counters.splitlines()
    video, query, counters = examples[0]
    _, rows, sentences, moment = app.find_moments(find, video, query, counters)
    assert rows and len(sentences) == 4 and Path(moment).is_file()
    shutil.rmtree(Path(moment).parent)
