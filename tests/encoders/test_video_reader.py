import logging
import random
import wave
from fractions import Fraction

import av
import numpy as np
import pytest
from PIL import Image

from shine_hf.encoders.container import to_seconds
from shine_hf.encoders.video_reader import read_clips, read_film_strip, video_duration

from .videos import gray, write_video


def levels(clips) -> list[list[int]]:
    """Return the mean brightness of each frame of each clip."""
    return [[round(float(frame.mean())) for frame in clip] for clip in clips]


def close(found: list[list[int]], expected: list[list[int]]) -> bool:
    return np.shape(found) == np.shape(expected) and np.abs(np.subtract(found, expected)).max() <= 4


def test_seconds_are_those_of_exact_arithmetic():
    rng = random.Random(0)
    for _ in range(1000):
        ticks, base = rng.randrange(-(10**12), 10**12), Fraction(rng.randrange(1, 2000), rng.randrange(1, 100_000))
        assert to_seconds(ticks, base) == float(ticks * base)


def test_sampled_frames_are_those_on_screen_at_the_sampling_times(tmp_path):
    path = write_video(tmp_path / "a.mp4", [gray(20 * i) for i in range(12)], fps=4)
    clips = list(read_clips(path, clip_length=1.0, frames_per_clip=2))
    assert clips[0].shape == (2, 32, 48, 3) and clips[0].dtype == np.uint8
    # Sampling times 0.25 and 0.75 of each second: frames 1 and 3, 5 and 7, 9 and 11 at 4 fps.
    assert close(levels(clips), [[20, 60], [100, 140], [180, 220]])
    assert video_duration(path) == pytest.approx(3.0, abs=0.01)


def test_low_frame_rate_repeats_frames(tmp_path):
    path = write_video(tmp_path / "slow.mp4", [gray(0), gray(100), gray(200)], fps=1)
    assert close(levels(read_clips(path, 0.5, 2)), [[0, 0], [0, 0], [100, 100], [100, 100], [200, 200], [200, 200]])


def test_variable_frame_rate_follows_time_stamps(tmp_path):
    # Ten frames in the first second, then one that lasts three seconds, then one more.
    times = [*np.arange(10) / 10, 1.0, 4.0]
    path = write_video(tmp_path / "vfr.mkv", [*[gray(20)] * 10, gray(120), gray(220)], fps=10, times=times)
    assert close(levels(read_clips(path, 1.0, 1))[:4], [[20], [120], [120], [120]])


def test_clip_exists_if_one_of_its_frames_does(tmp_path):
    # 2.25 s: the first sampling time of the third clip (2.125 s) is in the video; later ones repeat the last frame.
    path = write_video(tmp_path / "rest.mp4", [gray(20 * i) for i in range(9)], fps=4)
    assert close(levels(read_clips(path, 1.0, 4))[2:], [[160, 160, 160, 160]])
    # 2.02 s: there is no third clip.
    path = write_video(tmp_path / "tiny_rest.mp4", [gray(i) for i in range(101)], fps=50)
    assert len(list(read_clips(path, 1.0, 4))) == 2


def test_single_frame_is_one_clip(tmp_path):
    path = write_video(tmp_path / "one.mp4", [gray(90)], fps=25)
    assert close(levels(read_clips(path, 2.0, 3)), [[90, 90, 90]])


@pytest.mark.parametrize("rotation", [90, 180, -90])
def test_frames_are_rotated_upright(tmp_path, rotation):
    frame = np.zeros((32, 48, 3), np.uint8)
    frame[:16, :24] = 255
    path = write_video(tmp_path / "turned.mp4", [frame] * 4, rotation=rotation)
    expected = np.rot90(frame, rotation // 90 % 4)
    (clip,) = read_clips(path, 1.0, 1)
    assert clip[0].shape == expected.shape
    assert np.abs(clip[0].astype(int) - expected).mean() < 5
    # The requested size is that of the upright frame.
    assert next(read_clips(path, 1.0, 1, frame_size=(8, 12))).shape == (1, 8, 12, 3)


def test_odd_sizes_audio_and_wrong_extensions_are_read(tmp_path):
    path = write_video(tmp_path / "odd.mp4", [gray(50, 31, 45)] * 4, audio=1)
    path = path.rename(tmp_path / "odd.jpg")
    (clip,) = read_clips(path, 1.0, 2)
    assert clip.shape == (2, 31, 45, 3) and close(levels([clip]), [[50, 50]])


def test_downscaling_averages_pixels(tmp_path):
    frame = np.zeros((32, 32, 3), np.uint8)
    frame[:, ::2] = 200
    path = write_video(tmp_path / "stripes.mp4", [frame] * 4)
    (clip,) = read_clips(path, 1.0, 1, frame_size=(8, 8))
    assert np.abs(clip.astype(int) - 100).max() < 25


def test_missing_empty_and_non_video_files_are_rejected(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere\.mp4"):
        next(read_clips(tmp_path / "nowhere.mp4", 1.0, 1))
    for name, content, message in (
        ("empty.mp4", b"", "empty"),
        ("text.mp4", b"this is no video\n" * 100, "not a readable video"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=f"{name}.*{message}"):
            next(read_clips(tmp_path / name, 1.0, 1))
        with pytest.raises(ValueError, match=name):
            video_duration(tmp_path / name)


def test_audio_files_and_still_images_are_rejected(tmp_path):
    with wave.open(str(tmp_path / "sound.mp4"), "wb") as file:
        file.setnchannels(1), file.setsampwidth(2), file.setframerate(8000), file.writeframes(bytes(16000))
    Image.new("RGB", (16, 16)).save(tmp_path / "still.png")
    (tmp_path / "notes.txt").write_text("A text file, which FFmpeg plays as an animation of letters.\n" * 20)
    write_video(tmp_path / "song.mp4", [gray(9)], codec="mjpeg", audio=1, cover=True)
    complete = write_video(tmp_path / "complete.mp4", [gray(9)] * 8, options={"movflags": "faststart"})
    (tmp_path / "cut.mp4").write_bytes(complete.read_bytes()[:200])
    messages = {
        "sound.mp4": "contains only audio",
        "song.mp4": "contains only audio",
        "still.png": "but an image",
        "notes.txt": "a text or a list",
        "cut.mp4": "interrupted download",
    }
    for name, message in messages.items():
        with pytest.raises(ValueError, match=f"{name}: no video.*{message}"):
            next(read_clips(tmp_path / name, 1.0, 1))


def test_playlist_cannot_open_other_files(tmp_path):
    write_video(tmp_path / "secret.ts", [gray(10)] * 8, fps=25)
    playlists = {
        "list.m3u8": "#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\nsecret.ts\n#EXT-X-ENDLIST\n",
        "list.ffconcat": "ffconcat version 1.0\nfile secret.ts\n",
    }
    for name, text in playlists.items():
        (tmp_path / name).write_text(text)
        with pytest.raises(ValueError, match=name):
            next(read_clips(tmp_path / name, 1.0, 1))


def test_readable_part_of_a_truncated_file_is_used_with_a_warning(tmp_path, caplog):
    rng = np.random.default_rng(0)
    frames = [rng.integers(0, 255, (32, 48, 3), dtype=np.uint8) for _ in range(40)]
    path = write_video(tmp_path / "complete.mp4", frames, options={"movflags": "faststart"})
    content = path.read_bytes()
    (tmp_path / "cut.mp4").write_bytes(content[: len(content) // 2])
    with caplog.at_level(logging.WARNING):
        clips = list(read_clips(tmp_path / "cut.mp4", 1.0, 1))
    assert 3 <= len(clips) <= 7 and "cut.mp4" in caplog.text and "10.0 s" in caplog.text
    # If the index is at the end, nothing can be read.
    path = write_video(tmp_path / "index_last.mp4", frames)
    (tmp_path / "cut.mp4").write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(ValueError, match=r"cut\.mp4: not a readable video"):
        next(read_clips(tmp_path / "cut.mp4", 1.0, 1))


def test_damaged_packets_are_skipped(tmp_path, caplog):
    rng = np.random.default_rng(0)
    frames = [rng.integers(0, 255, (32, 48, 3), dtype=np.uint8) for _ in range(40)]
    path = write_video(tmp_path / "damaged.mkv", frames)
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 200] = bytes(200)
    path.write_bytes(content)
    with caplog.at_level(logging.WARNING):
        assert 5 <= len(list(read_clips(path, 1.0, 1))) <= 11


def test_damaged_beginning_does_not_shift_times(tmp_path):
    complete = write_video(tmp_path / "complete.mkv", [gray(20 * i) for i in range(12)], fps=1, gop=1)
    damaged = tmp_path / "damaged.mkv"
    with av.open(str(complete)) as source, av.open(str(damaged), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        decoded = 0
        for packet in source.demux(video=0):
            if packet.size:
                # All frames are keyframes, so only what is overwritten is lost.
                assert packet.is_keyframe
                content = bytes(packet) if decoded >= 5 else bytes(packet.size)
                copied = av.Packet(content)
                copied.pts, copied.dts, copied.time_base = packet.pts, packet.dts, packet.time_base
                copied.is_keyframe, copied.stream = True, stream
                target.mux(copied)
                decoded += 1
    # The first readable frame is shown from the start.
    assert close(levels(read_clips(damaged, 1.0, 1))[:11], [[20 * max(i, 5)] for i in range(11)])


def test_hidden_frames_of_a_trimmed_file_do_not_shift_times(tmp_path):
    # Phones trim like this: all packets since the last keyframe stay in the file, and an edit list marks the visible start.
    complete = write_video(tmp_path / "complete.mp4", [gray(20 * i) for i in range(12)], fps=1)
    trimmed = tmp_path / "trimmed.mp4"
    with (
        av.open(str(complete)) as source,
        av.open(str(trimmed), "w", options={"avoid_negative_ts": "disabled"}) as target,
    ):
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.dts is not None:
                shift = int(3 / packet.time_base)
                packet.pts, packet.dts, packet.stream = packet.pts - shift, packet.dts - shift, stream
                target.mux(packet)
    with av.open(str(trimmed)) as container:
        assert sum(packet.is_discard for packet in container.demux(video=0)) == 3
    assert close(levels(read_clips(trimmed, 1.0, 1)), [[20 * i] for i in range(3, 12)])


def test_film_strip_has_the_requested_length_and_small_frames(tmp_path):
    path = write_video(tmp_path / "tall.mp4", [gray(20 * i, 300, 200) for i in range(12)], fps=4)
    strip = read_film_strip(path, 3.0, frames=4, max_height=30)
    assert [time for time, _ in strip] == [0.375, 1.125, 1.875, 2.625]
    assert {frame.shape for _, frame in strip} == {(30, 20, 3)}
    # The header claims one second of three.
    assert len(read_film_strip(path, 1.0, frames=4)) == 4


def test_clock_may_start_after_zero(tmp_path):
    path = write_video(
        tmp_path / "late.mkv", [gray(20 * i) for i in range(12)], times=[100 + i / 4 for i in range(12)]
    )
    assert close(levels(read_clips(path, 1.0, 2)), [[20, 60], [100, 140], [180, 220]])
    assert video_duration(path) == pytest.approx(3.0, abs=0.01)


def test_longer_audio_does_not_extend_the_video(tmp_path):
    """Matroska stores one duration for the entire file."""
    path = write_video(tmp_path / "sound.mkv", [gray(20 * i) for i in range(4)], audio=40)
    assert video_duration(path) == pytest.approx(1.0, abs=0.05)


def test_joined_recordings_continue_when_the_clock_restarts(tmp_path):
    path = write_video(tmp_path / "a.ts", [gray(20 * i) for i in range(12)])
    path.write_bytes(2 * path.read_bytes())
    once = [[20, 60], [100, 140], [180, 220]]
    assert close(levels(read_clips(path, 1.0, 2)), once + once)


def test_stream_without_time_stamps_follows_its_frame_rate(tmp_path):
    path = write_video(tmp_path / "bare.h264", [gray(2 * i) for i in range(100)])
    clips = levels(read_clips(path, 1.0, 1))
    # FFmpeg assumes 25 frames per second.
    assert video_duration(path) == pytest.approx(4.0) and close(clips, [[24], [74], [124], [174]])


def test_raw_stream_without_header_logs_no_warning(tmp_path, caplog):
    path = write_video(
        tmp_path / "bare.m1v", [gray(2 * i) for i in range(100)], fps=25, codec="mpeg1video", time_base=25
    )
    assert len(list(read_clips(path, 1.0, 1))) == 4 and not caplog.text


def test_truncated_file_with_one_duration_logs_a_warning(tmp_path, caplog):
    rng = np.random.default_rng(0)
    path = write_video(tmp_path / "cut.mkv", [rng.integers(0, 255, (32, 48, 3), dtype=np.uint8) for _ in range(40)])
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert 3 <= len(list(read_clips(path, 1.0, 1))) <= 7
    assert "the header says 10.0 s" in caplog.text


def test_reader_yields_clips_before_the_video_is_decoded(tmp_path):
    """The reader is a generator: the first clip is available before the rest is decoded."""
    path = write_video(tmp_path / "long.mp4", [gray(i % 200) for i in range(200)], fps=10)
    reader = read_clips(path, 1.0, 1)
    assert next(reader).shape == (1, 32, 48, 3)
    reader.close()


@pytest.mark.parametrize(("clip_length", "frames"), [(0, 1), (-1.0, 1), (1.0, 0)])
def test_sizes_must_be_positive(tmp_path, clip_length, frames):
    with pytest.raises(ValueError, match="must be positive"):
        next(read_clips(tmp_path / "x.mp4", clip_length, frames))
