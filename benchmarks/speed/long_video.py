"""Measure peak memory and speed of the pipeline on a long video file.

    python benchmarks/speed/long_video.py [--hours 2]

A minute of moving noise is encoded and repeated. A small QD-DETR with random weights answers three queries on pixel features of one-second
clips; memory and time do not depend on the weights. Prints one JSON line.
"""

import argparse
import json
import resource
import sys
import tempfile
import time
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

WIDTH, HEIGHT, FPS = 640, 360, 25


def write_blocks(path: Path, seconds: float) -> None:
    """Write a video of moving blocks, as H.264."""
    rng = np.random.default_rng(0)
    picture = np.kron(rng.integers(0, 255, (HEIGHT // 20, WIDTH // 20, 3), np.uint8), np.ones((20, 20, 1), np.uint8))
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=FPS, options={"preset": "veryfast"})
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for index in range(round(seconds * FPS)):
            frame = np.roll(picture, (index, 2 * index), axis=(0, 1))
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, "rgb24")))
        container.mux(stream.encode())


def repeat(source: Path, target: Path, times: int) -> None:
    """Write a video that repeats another one, without re-encoding it."""
    with av.open(str(target), "w") as output:
        stream = None
        for turn in range(times):
            with av.open(str(source)) as container:
                stream = stream or output.add_stream_from_template(container.streams.video[0])
                for packet in container.demux(video=0):
                    if packet.dts is None:
                        continue
                    shift = int(Fraction(60 * turn) / packet.time_base)
                    packet.pts, packet.dts, packet.stream = packet.pts + shift, packet.dts + shift, stream
                    output.mux(packet)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hours", type=float, default=2.0)
    hours = parser.parse_args().hours

    import torch

    from shine_hf.encoders import video_encoder
    from shine_hf.inference.pipeline import VideoMomentRetrievalPipeline
    from shine_hf.modeling import QDDetrConfig, QDDetrForMomentRetrieval

    torch.manual_seed(0)
    encoder = video_encoder("pixels:")
    model = QDDetrForMomentRetrieval(
        QDDetrConfig(video_dim=encoder.dim, text_dim=512, hidden_size=128, clip_length=1.0, max_video_length=64)
    )
    find = VideoMomentRetrievalPipeline(model=model, device="cpu", video_encoder=encoder, text_encoder="words:dim=512")
    kilobytes = 1 if sys.platform != "darwin" else 1 / 1024
    with tempfile.TemporaryDirectory() as folder:
        minute, film = Path(folder) / "minute.mp4", Path(folder) / "film.mp4"
        write_blocks(minute, seconds=60)
        repeat(minute, film, round(60 * hours))
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * kilobytes
        begin = time.perf_counter()
        results = find(video=film, query=["a red star", "the dog barks", "someone waves"], top_k=5)
        seconds = time.perf_counter() - begin
        after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * kilobytes
    report = {
        "video_hours": hours,
        "clips": len(results[0]["saliency"]),
        "seconds": round(seconds, 1),
        "times_real_time": round(3600 * hours / seconds, 1),
        "peak_memory_before_mb": round(before / 1024),
        "peak_memory_mb": round(after / 1024),
    }
    print(json.dumps(report))


if __name__ == "__main__":
    main()
