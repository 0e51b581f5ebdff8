"""Time stamps of a video: a jump counts only if it persists."""

import logging
from pathlib import Path

import av
import numpy as np
import pytest

from shine_hf.encoders.video_clock import BestEffort, Clock, Frame, usual_interval
from shine_hf.encoders.video_reader import read_clips, video_duration

from .videos import gray, write_video

HOURS = 37_600.0
FPS, FRAMES = 25, 200


def times(stamps, interval=1 / FPS):
    clock = Clock(interval)
    return clock, [begin for begin, _, _ in clock.run(Frame(stamp, interval) for stamp in stamps)]


def even(count=FRAMES, start=0.0):
    return [start + index / FPS for index in range(count)]


def restamp(source: Path, target: Path, change) -> Path:
    """Copy a video, with `change(index, seconds)` as the new time stamp of each frame."""
    with av.open(str(source)) as read, av.open(str(target), "w") as write:
        stream = write.add_stream_from_template(read.streams.video[0])
        packets = [packet for packet in read.demux(video=0) if packet.size]
        for index, packet in enumerate(packets):
            packet.pts = round(change(index, float(packet.pts * packet.time_base)) / packet.time_base)
            # Containers require increasing decoding time stamps.
            packet.dts = min(packet.pts, packet.dts) if target.suffix != ".mp4" else packet.pts
            packet.stream = stream
            write.mux(packet)
    return target


@pytest.fixture(scope="module")
def eight_seconds(tmp_path_factory):
    """Write an eight-second video without B-frames whose shade changes every second."""
    frames = [gray(30 * (index // FPS)) for index in range(FRAMES)]
    return write_video(
        tmp_path_factory.mktemp("clock") / "even.mkv", frames, fps=FPS, codec_options={"bf": "0"}, gop=FPS
    )


@pytest.mark.parametrize("where", [0, 1, 3, 100, 196, 198, 199])
@pytest.mark.parametrize("size", [HOURS, -HOURS, 40.0, -12.0])
@pytest.mark.parametrize("count", [1, 2, 4])
def test_outlier_time_stamps_are_ignored(where, size, count):
    stamps = even()
    for index in range(where, min(where + count, FRAMES)):
        stamps[index] += size
    _, found = times(stamps)
    assert len(found) == FRAMES and np.all(np.diff(found) >= 0)
    assert found[-1] == pytest.approx((FRAMES - 1) / FPS, abs=0.5)


@pytest.mark.parametrize("gap", [1.5, 3.5, 30.0, 600.0])
def test_persistent_gap_counts(gap):
    clock, found = times([*even(100), *even(100, start=4 + gap)])
    assert found[-1] == pytest.approx(8 + gap - 1 / FPS) and not clock.ignored_jumps


def test_no_frame_lasts_for_hours():
    clock, found = times([*even(100), *even(100, start=HOURS)])
    assert found[-1] == pytest.approx(8 - 1 / FPS)
    assert clock.ignored_jumps == [(pytest.approx(4.0), pytest.approx(HOURS - 4, abs=0.1))]


def test_short_gap_before_the_last_frame_counts():
    assert times([*even(25), 4.0])[1][-1] == pytest.approx(4.0)
    assert times([*even(25), 400.0])[1][-1] == pytest.approx(1.0)


def test_slide_show_follows_its_time_stamps():
    slides = [0.0, 20.0, 45.0, 60.0, 210.0, 220.0]
    assert times(slides, usual_interval(slides, 0.04))[1] == slides


def test_joined_recordings_continue_the_clock():
    for start in (0.0, 3.5, 100.0 - 4 - HOURS):
        assert times([*even(100), *even(100, start=start)])[1] == pytest.approx(even(), abs=0.05)


def test_unordered_and_missing_time_stamps_are_repaired():
    swapped = even()
    swapped[10], swapped[11] = swapped[11], swapped[10]
    for stamps in (swapped, [None] * FRAMES, [None if index % 7 else stamp for index, stamp in enumerate(even())]):
        _, found = times(stamps)
        assert np.all(np.diff(found) >= 0) and found[-1] == pytest.approx(8 - 1 / FPS, abs=0.1)


def test_negative_and_late_starts_begin_at_zero():
    for start in (-3.0, 100.0):
        assert times(even(start=start))[1] == pytest.approx(even())


def test_usual_interval_ignores_jumps():
    assert usual_interval([*even(10), HOURS], 1.0) == pytest.approx(1 / FPS)
    assert usual_interval([3.0], 0.5) == 0.5


def test_decoding_stamps_replace_presentation_stamps_that_run_backwards():
    choose = BestEffort()
    assert [choose(pts, dts) for pts, dts in [(1, 2), (4, 3), (3, 4), (5, 5), (2, 6), (8, 7), (None, 8), (9, None)]][
        2:
    ] == [4, 5, 6, 7, 8, 9]


@pytest.mark.parametrize("suffix", [".mkv", ".ts", ".mp4"])
@pytest.mark.parametrize("where", [0, 100, 199], ids=["first", "middle", "last"])
def test_one_frame_stamped_hours_away_is_ignored(eight_seconds, tmp_path, suffix, where, caplog):
    if suffix == ".mp4" and where == 100:
        pytest.skip("an MP4 file cannot hold time stamps that go back")
    # This clock only moves forward, so a wrong first stamp puts all other frames hours away.
    path = restamp(
        eight_seconds,
        tmp_path / f"dvr{suffix}",
        lambda index, time: time + HOURS if (index == where) != (where == 0 and suffix == ".mp4") else time,
    )
    with caplog.at_level(logging.WARNING):
        clips = list(read_clips(path, 1.0, 1))
    assert len(clips) == 8
    assert np.abs([clip.mean() - 30 * second for second, clip in enumerate(clips)]).max() < 5
    assert video_duration(path) == pytest.approx(8.0, abs=0.1)
    if where:
        assert f"dvr{suffix}: the clock of the file jumps by" in caplog.text


def test_persistent_gap_in_a_file_counts(eight_seconds, tmp_path):
    path = restamp(eight_seconds, tmp_path / "gap.mkv", lambda index, time: time + 20 * (index >= 100))
    assert len(list(read_clips(path, 1.0, 1))) == 28
    assert video_duration(path) == pytest.approx(28.0, abs=0.1)


def test_avi_with_b_frames_and_a_gap_is_read(tmp_path):
    """AVI has no presentation time stamps; FFmpeg reports the decoding time stamps instead."""
    frames = [gray(2 * index) for index in range(100)]
    kept = [*range(50), *range(90, 100)]
    path = write_video(
        tmp_path / "gap.avi",
        [frames[index] for index in kept],
        times=[index / FPS for index in kept],
        fps=FPS,
        codec_options={"bf": "3"},
        time_base=FPS,
    )
    clips = list(read_clips(path, 0.4, 1))
    assert len(clips) == 10 and video_duration(path) == pytest.approx(4.0, abs=0.15)
    # The last frame stays on screen during the gap.
    assert np.abs(np.diff([clip.mean() for clip in clips[5:9]])).max() < 12


@pytest.mark.parametrize("case", ["h264_avi_gap/vfr_h264.avi", "two_video_tracks/two.mkv"])
def test_files_from_public_reports_are_read(shared, case):
    path = shared / "cases" / case
    assert len(list(read_clips(path, 1.0, 1))) == 8 and video_duration(path) == pytest.approx(8.0, abs=0.1)


def test_wrong_duration_in_the_header_is_ignored(tmp_path, caplog):
    path = write_video(
        tmp_path / "true.avi", [gray(index) for index in range(100)], fps=FPS, codec="mpeg4", time_base=FPS
    )
    content = bytearray(path.read_bytes())
    header = content.index(b"strh")
    for frames, word in ((25, "says 1.0 s"), (250, "says 10.0 s")):
        # Offset of the length field in the stream header, in frames.
        content[header + 40 : header + 44] = frames.to_bytes(4, "little")
        (tmp_path / "false.avi").write_bytes(content)
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            assert len(list(read_clips(tmp_path / "false.avi", 1.0, 1))) == 4
        assert word in caplog.text and "last 4.0 s" in caplog.text
