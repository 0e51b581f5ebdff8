"""Demo Space for a model: takes a video and a query, and shows playable moments, frames, and saliency.

    SHINE_MODEL=FOLDER_OR_REPOSITORY python app.py

Every answer depends only on the request. The features of the last videos stay in memory; uploads and clips are deleted after an hour.
"""

import os
import tempfile
from collections.abc import Sequence
from itertools import chain, islice
from math import ceil
from pathlib import Path

import av
import gradio as gr
from gradio.utils import get_upload_folder
from transformers import pipeline

from shine_hf.encoders.video_reader import frame_size, read_clips, video_duration
from shine_hf.inference.pipeline import TASK, VideoMomentRetrievalPipeline
from shine_hf.inference.retriever import RetrievalResult
from shine_hf.plots.moments import saliency_ranks
from shine_hf.shapes_cg.world import ShapesCG

MAX_SECONDS = float(os.environ.get("SHINE_DEMO_MAX_SECONDS", 900))
MAX_UPLOAD = os.environ.get("SHINE_DEMO_MAX_UPLOAD", "200mb")
MAX_COUNTER_QUERIES = 5
CUT_FPS, CUT_HEIGHT = 12, 360
# At this player height (pixels), the rest of the page stays visible for any aspect ratio.
PLAYER_HEIGHT = 320
PLAY = "▶ play"
MOMENT_COLUMNS = ["", "start (s)", "end (s)", "score"]
SENTENCE_COLUMNS = ["sentence", "saliency rank inside the best moment (%)"]


class Refusal(gr.Error):
    """An error shown to the visitor in a pop-up and not logged."""

    def __init__(self, message: str):
        super().__init__(message, print_exception=False)


def find_moments(find: VideoMomentRetrievalPipeline, video: str | None, query: str, counter_queries: str):
    """Answer one request: the figure, the table of moments, the table of sentences, and the file of the best moment."""
    if not video:
        raise Refusal("Upload a video or pick an example first.")
    query = (query or "").strip()
    if not query:
        raise Refusal("Describe what to look for.")
    counters = dict.fromkeys(line.strip() for line in (counter_queries or "").splitlines() if line.strip())
    counters.pop(query, None)
    if len(counters) > MAX_COUNTER_QUERIES:
        raise Refusal(f"At most {MAX_COUNTER_QUERIES} counter-queries, please.")
    try:
        duration = video_duration(video)
        if duration > MAX_SECONDS:
            raise Refusal(f"The video is {duration:.0f} s long; this demo takes up to {MAX_SECONDS:.0f} s.")
        sentences = [query, *counters]
        found = find(video=video, query=sentences, top_k=5)
        result, *others = (
            RetrievalResult.from_dict(one | {"query": text}, video) for one, text in zip(found, sentences)
        )
        figure = result.plot(others=others, max_moments=5)
        moments = [[PLAY, round(m.start, 2), round(m.end, 2), round(m.score, 2)] for m in result.moments]
        best = cut(video, result.moments[0].start, result.moments[0].end) if moments else None
        return figure, moments, compare_sentences(result, others), best
    except (ValueError, OSError) as error:
        raise _without_folder(error, video) from error


def compare_sentences(result: RetrievalResult, others: Sequence[RetrievalResult]) -> list[list]:
    """Return each sentence with the mean rank of its saliency inside the best moment of the query, in percent, best first."""
    if not result.moments:
        return []
    best = result.moments[0]
    first = int(best.start / result.clip_length)
    inside = slice(first, max(first + 1, ceil(best.end / result.clip_length)))
    curves = {one.query: one.saliency for one in (result, *others)}
    ranks = {text: round(100 * float(of_clips[inside].mean()), 1) for text, of_clips in saliency_ranks(curves).items()}
    return sorted(([text, rank] for text, rank in ranks.items()), key=lambda row: -row[1])


def cut(video: str, start: float, end: float) -> str:
    """Write the part of a video between two times (in seconds; at least one frame, without audio) to an MP4 file that any browser can play."""
    height, width = frame_size(video, CUT_HEIGHT)
    first = int(start * CUT_FPS)
    clips = islice(read_clips(video, 1 / CUT_FPS, 1, (height, width)), first, max(first + 1, ceil(end * CUT_FPS)))
    if (opening := next(clips, None)) is None:
        raise ValueError(f"{video}: the video ends before {start:.1f} s")
    # Write into Gradio's own folder, which `delete_cache` cleans up.
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
    """Return the file of the moment in the row that was clicked."""
    if not video:
        raise Refusal("The video has been deleted; choose it again.")
    try:
        return cut(video, *map(float, rows[event.index[0]][1:3]))
    except (ValueError, OSError) as error:
        raise _without_folder(error, video) from error


def _without_folder(error: Exception, video: str) -> Refusal:
    """Return the error message without the server's upload folder."""
    return Refusal(str(error).replace(str(Path(video).parent) + os.sep, ""))


def make_examples(folder: Path) -> list[list[str]]:
    """Write held-out videos of Shapes-CG, rendered larger than the model sees them. Return each with a query and its hard negatives."""
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
    """Build the page."""
    with gr.Blocks(title="Find a moment in a video", delete_cache=(600, 3600)) as app:
        gr.Markdown(
            "# Find a moment in a video\n"
            "Choose a video and describe what to look for. Counter-queries differ from the query by a word or two: a model that reads "
            "every word gives them less saliency inside the moment."
        )
        with gr.Row():
            video = gr.Video(label="Video", sources=["upload"], height=PLAYER_HEIGHT)
            moment = gr.Video(label="Moment", interactive=False, autoplay=True, height=PLAYER_HEIGHT)
        with gr.Row():
            query = gr.Textbox(
                label="Query", placeholder="a red star spins slowly above the box.", lines=3, max_lines=3
            )
            counters = gr.Textbox(
                label="Counter-queries (optional, one per line)", lines=3, max_lines=MAX_COUNTER_QUERIES
            )
        button = gr.Button("Find the moment", variant="primary")
        if examples:
            gr.Examples(
                examples, [video, query, counters], label="Examples that the model has not seen", cache_examples=False
            )
        with gr.Row():
            table = gr.Dataframe(
                headers=MOMENT_COLUMNS,
                type="array",
                interactive=False,
                label="Moments, best first: click one to play it",
            )
            sentences = gr.Dataframe(
                headers=SENTENCE_COLUMNS,
                type="array",
                interactive=False,
                wrap=True,
                column_widths=["75%", "25%"],
                label="The query and its counter-queries",
            )
        figure = gr.Plot(label="Moments and saliency", show_label=False)

        def ask(video, query, counters):
            return find_moments(find, video, query, counters)

        outputs = [figure, table, sentences, moment]
        gr.on([button.click, query.submit], ask, [video, query, counters], outputs, api_name="find")
        # Results of the previous video do not apply to this one.
        video.change(lambda: (None,) * 4, outputs=outputs, api_name=False, queue=False)
        table.select(cut_chosen, [video, table], moment, api_name=False)
    return app.queue(default_concurrency_limit=2, max_size=20)


def main() -> None:
    model = os.environ.get("SHINE_MODEL")
    if not model:
        raise SystemExit("set SHINE_MODEL to the folder or repository of a trained model, e.g. outputs/shapes_cg/…")
    find = pipeline(TASK, model=model, kept_videos=8)
    _ = find.video_encoder, find.text_encoder  # Load them now so the first visitor does not wait.
    with tempfile.TemporaryDirectory() as folder:
        build_app(find, make_examples(Path(folder))).launch(max_file_size=MAX_UPLOAD, allowed_paths=[folder])


if __name__ == "__main__":
    main()
