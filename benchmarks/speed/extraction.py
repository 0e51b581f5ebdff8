"""Measure feature extraction: frames per second with 0, 1 and 2 decoding workers, and for the decoder without an encoder.

    OMP_NUM_THREADS=1 python benchmarks/speed/extraction.py VIDEO… [--encoder clip:MODEL] [--clip-length 2]

Without `--encoder`, a randomly initialized CLIP of the size of ViT-B/32 is used. Frames are counted in the videos, not after sampling.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from pathlib import Path

from shine_hf.encoders import video_encoder
from shine_hf.encoders.extract import extract_features
from shine_hf.encoders.sampling import import_av
from shine_hf.encoders.video_base import read_batches
from shine_hf.encoders.video_reader import video_duration


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("videos", nargs="+", type=Path)
    parser.add_argument("--encoder", help="spec of a video encoder")
    parser.add_argument("--clip-length", type=float, default=2.0, metavar="SECONDS")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        encoder = video_encoder(args.encoder or f"clip:{random_clip(Path(folder) / 'clip')}")
        frames, seconds = sum(map(count_frames, args.videos)), sum(map(video_duration, args.videos))
        print(f"{len(args.videos)} videos, {seconds:,.0f} s, {frames:,} frames; {encoder.spec.partition(':')[0]}:")

        def report(name: str, start: float) -> None:
            took = time.perf_counter() - start
            peak = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
            print(
                f"{name:<28} {took:7.1f} s  {frames / took:8,.0f} frames/s  {seconds / took:6.1f} x real time  peak {peak / 1024:,.0f} MiB",
                flush=True,
            )

        start = time.perf_counter()
        batches = [
            len(batch[0]) for video in args.videos for batch in read_batches(video, args.clip_length, encoder.parts)
        ]
        report(f"decoder ({sum(batches):,} clips)", start)
        for workers in (0, 1, 2):
            start = time.perf_counter()
            target = Path(folder) / f"workers_{workers}"
            extract_features(args.videos, target, encoder, args.clip_length, workers=workers, progress=False)
            report(f"extraction, {workers} workers", start)


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
