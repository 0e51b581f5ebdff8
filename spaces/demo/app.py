"""The Space that shows a model: a video and a query in; moments, the cut, and saliency curves out.

    SHINE_MODEL=FOLDER_OR_REPOSITORY python app.py

Nothing is kept between users: every answer follows from what the page sends. Uploads and cuts are deleted after an hour.
"""

import os
import tempfile
from itertools import chain, islice
from math import ceil
from pathlib import Path

import av
import gradio as gr
from gradio.utils import get_upload_folder
from transformers import pipeline

from shine_hf.encoders.video_reader import frame_size, read_clips, read_film_strip, video_duration
from shine_hf.inference.pipeline import TASK, VideoMomentRetrievalPipeline
from shine_hf.plots import plot_moments
from shine_hf.shapes_cg.world import ShapesCG

MAX_SECONDS = float(os.environ.get("SHINE_DEMO_MAX_SECONDS", 900))
MAX_UPLOAD = os.environ.get("SHINE_DEMO_MAX_UPLOAD", "200mb")
MAX_COUNTER_QUERIES = 5
CUT_FPS, CUT_HEIGHT = 12, 360
# Players of this height (pixels) leave the figure in sight, whatever the form of the video.
PLAYER_HEIGHT = 320
COLUMNS = ["start (s)", "end (s)", "score"]


class Refusal(gr.Error):
    """What a visitor is told in a pop-up; the log of the server need not hear of it."""

    def __init__(self, message: str):
        super().__init__(message, print_exception=False)


def find_moments(find: VideoMomentRetrievalPipeline, video: str | None, query: str, counter_queries: str):
    """One request: the figure, the table of moments, and the file of the best moment."""
    if not video:
        raise Refusal("Upload a video or pick an example first.")
    if not (query or "").strip():
        raise Refusal("Type what to look for.")
    counters = dict.fromkeys(line.strip() for line in (counter_queries or "").splitlines() if line.strip())
    counters.pop(query.strip(), None)
    if len(counters) > MAX_COUNTER_QUERIES:
        raise Refusal(f"At most {MAX_COUNTER_QUERIES} counter-queries, please.")
    try:
        duration = video_duration(video)
        if duration > MAX_SECONDS:
            raise Refusal(f"The video is {duration:.0f} s long; this demo takes up to {MAX_SECONDS:.0f} s.")
        result, *others = find(video=video, query=[query.strip(), *counters], top_k=5)
        # As the pipeline does: a header may promise less than there is.
        duration = max(duration, (len(result["saliency"]) - 1) * result["clip_length"])
        figure = plot_moments(
            query.strip(),
            result["moments"],
            duration_seconds=duration,
            frames=read_film_strip(video, duration),
            saliency=result["saliency"],
            negative_saliency={text: other["saliency"] for text, other in zip(counters, others)},
            clip_length_seconds=result["clip_length"],
        )
        rows = [[round(moment[key], 2) for key in ("start", "end", "score")] for moment in result["moments"]]
        return figure, rows, cut(video, *rows[0][:2]) if rows else None
    except (ValueError, OSError) as error:
        raise _without_folder(error, video) from error


def cut(video: str, start: float, end: float) -> str:
    """The part of a video between two times (seconds), at least one frame, without sound, as an MP4 file that any browser plays."""
    height, width = frame_size(video, CUT_HEIGHT)
    first = int(start * CUT_FPS)
    clips = islice(read_clips(video, 1 / CUT_FPS, 1, (height, width)), first, max(first + 1, ceil(end * CUT_FPS)))
    if (opening := next(clips, None)) is None:
        raise ValueError(f"{video}: the video ends before {start:.1f} s")
    # In Gradio's own folder, where `delete_cache` finds it.
    Path(get_upload_folder()).mkdir(parents=True, exist_ok=True)
    target = Path(tempfile.mkdtemp(dir=get_upload_folder())) / "moment.mp4"
    with av.open(str(target), "w") as container:
        stream = container.add_stream("libx264", rate=CUT_FPS)
        stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
        for clip in chain([opening], clips):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(clip[0], "rgb24")))
        container.mux(stream.encode())
    return str(target)


def cut_chosen(video: str | None, rows, event: gr.SelectData) -> str:
    """The file of the moment in the row that was clicked."""
    if not video:
        raise Refusal("The video is gone; choose it again.")
    try:
        return cut(video, *map(float, rows[event.index[0]][:2]))
    except (ValueError, OSError) as error:
        raise _without_folder(error, video) from error


def _without_folder(error: Exception, video: str) -> Refusal:
    """Where the server keeps an upload says nothing to the visitor."""
    return Refusal(str(error).replace(str(Path(video).parent) + os.sep, ""))


def make_examples(folder: Path) -> list[list[str]]:
    """Held-out videos of Shapes-CG, rendered larger than the model sees them, with a query and its hard negatives each."""
    world = ShapesCG(test_trivial_videos=1, novel_composition_videos=2, size=192)
    examples = []
    for split in ("test_trivial", "novel_composition"):
        rows = {row["vid"]: row for row in world.rows(split)}
        for video in world.videos(split):
            row, path = rows[video.vid], folder / f"{video.vid}.mp4"
            world.write_video(video, path)
            examples.append([str(path), row["query"], "\n".join(row["negative_queries"])])
    return examples


def build_app(find: VideoMomentRetrievalPipeline, examples: list[list[str]]) -> gr.Blocks:
    """The page."""
    with gr.Blocks(title="Find a moment in a video", delete_cache=(600, 3600)) as app:
        gr.Markdown(
            "# Find a moment in a video\n"
            "Choose a video and say what to look for. Counter-queries differ from the query by a word or two: a model that reads "
            "every word scores them lower inside the moment."
        )
        with gr.Row():
            with gr.Column():
                video = gr.Video(label="Video", sources=["upload"], height=PLAYER_HEIGHT)
                query = gr.Textbox(label="Query", placeholder="a red star spins slowly above the box.")
                counters = gr.Textbox(
                    label="Counter-queries (optional, one per line)", lines=3, max_lines=MAX_COUNTER_QUERIES
                )
                button = gr.Button("Find the moment", variant="primary")
            with gr.Column():
                moment = gr.Video(
                    label="Best moment (click a row below for another)",
                    interactive=False,
                    autoplay=True,
                    height=PLAYER_HEIGHT,
                )
                table = gr.Dataframe(headers=COLUMNS, type="array", interactive=False, label="Moments, best first")
        figure = gr.Plot(label="Moments and saliency", show_label=False)
        if examples:
            gr.Examples(
                examples, [video, query, counters], label="Videos that the model has not seen", cache_examples=False
            )

        def ask(video, query, counters):
            return find_moments(find, video, query, counters)

        gr.on([button.click, query.submit], ask, [video, query, counters], [figure, table, moment], api_name="find")
        # What was found in the last video says nothing of this one.
        video.change(lambda: (None, None, None), outputs=[figure, table, moment], api_name=False, queue=False)
        table.select(cut_chosen, [video, table], moment, api_name=False)
    return app.queue(default_concurrency_limit=2, max_size=20)


def main() -> None:
    model = os.environ.get("SHINE_MODEL")
    if not model:
        raise SystemExit("set SHINE_MODEL to the folder or repository of a trained model, outputs/shapes_cg/… say")
    find = pipeline(TASK, model=model)
    _ = find.video_encoder, find.text_encoder  # Loaded now, and not by the first visitor.
    with tempfile.TemporaryDirectory() as folder:
        build_app(find, make_examples(Path(folder))).launch(max_file_size=MAX_UPLOAD, allowed_paths=[folder])


if __name__ == "__main__":
    main()
