"""Measure the frames per second of feature extraction with 0, 1 and 2 decoding workers, and of decoding only.

    OMP_NUM_THREADS=1 python -m benchmarks.speed.extraction [VIDEO…] [--encoder clip:MODEL] [--clip-length 2]

Without videos, four generated videos of one minute each are used; without `--encoder`, a randomly initialized CLIP of the size of ViT-B/32.
All frames of the videos count, not only the encoded ones.
"""

from __future__ import annotations

import argparse
import resource
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks.speed.long_video import write_blocks
from shine_hf.encoders import video_encoder
from shine_hf.encoders.extract import extract_features
from shine_hf.encoders.sampling import import_av
from shine_hf.encoders.video_base import read_batches
from shine_hf.encoders.video_reader import video_duration

MADE_UP_VIDEOS = 4


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("videos", nargs="*", type=Path)
    parser.add_argument("--encoder", help="spec of a video encoder")
    parser.add_argument("--clip-length", type=float, default=2.0, metavar="SECONDS")
    parser.add_argument(
        "--seconds", type=float, default=60.0, help="length of each made-up video (default: %(default)s)"
    )
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        videos = args.videos or made_up_videos(folder, args.seconds)
        encoder = video_encoder(args.encoder or f"clip:{random_clip(folder / 'clip')}")
        frames, seconds = sum(map(count_frames, videos)), sum(map(video_duration, videos))
        print(f"{len(videos)} videos, {seconds:,.0f} s, {frames:,} frames; {encoder.spec.partition(':')[0]}:")

        def decode() -> None:
            for video in videos:
                for _ in read_batches(video, args.clip_length, encoder.parts):
                    pass

        def extract(workers: int) -> None:
            target = folder / f"workers_{workers}"
            extract_features(videos, target, encoder, args.clip_length, workers=workers, progress=False)

        # Do not time imports and the first call of the encoder.
        warm_up = folder / "warm_up.mp4"
        write_blocks(warm_up, seconds=1)
        extract_features([warm_up], folder / "warm_up", encoder, args.clip_length, progress=False)
        decoder_seconds = _seconds(decode)
        _report("decoder", decoder_seconds, frames, seconds, decoder_seconds)
        for workers in (0, 1, 2):
            took = _seconds(lambda: extract(workers))  # noqa: B023
            _report(f"extraction, {workers} workers", took, frames, seconds, decoder_seconds)


def _seconds(action: Callable[[], None]) -> float:
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def _report(name: str, took: float, frames: int, seconds: float, decoder_seconds: float) -> None:
    peak = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)) / 1024
    print(
        f"{name:<22} {took:7.1f} s  {frames / took:8,.0f} frames/s  {decoder_seconds / took:5.2f} of the decoder  "
        f"{seconds / took:6.1f} x real time  peak {peak:,.0f} MiB",
        flush=True,
    )


def made_up_videos(folder: Path, seconds: float) -> list[Path]:
    """Write videos of moving blocks."""
    videos = [folder / f"video{index}.mp4" for index in range(MADE_UP_VIDEOS)]
    write_blocks(videos[0], seconds)
    for video in videos[1:]:
        shutil.copy(videos[0], video)
    return videos


def count_frames(path: Path) -> int:
    """Return the number of frames of a video, counted by packets."""
    with import_av().open(str(path)) as container:
        return sum(packet.size > 0 for packet in container.demux(video=0))


def random_clip(folder: Path) -> Path:
    """Save a randomly initialized CLIP of the size of ViT-B/32 with its image processor."""
    import json

    from transformers import CLIPConfig, CLIPModel

    CLIPModel(CLIPConfig()).save_pretrained(folder)
    settings = {"size": {"shortest_edge": 224}, "crop_size": {"height": 224, "width": 224}, "do_center_crop": True}
    colors = {"image_mean": [0.481, 0.458, 0.408], "image_std": [0.269, 0.261, 0.276], "resample": 3}
    (folder / "preprocessor_config.json").write_text(json.dumps(settings | colors))
    return folder


if __name__ == "__main__":
    main()
