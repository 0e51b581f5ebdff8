"""Figures: what they show, that nothing overlaps or is cut off, and that pyplot is not touched."""

import itertools
import math
import subprocess
import sys

import numpy as np
import pytest

pytest.importorskip("matplotlib")

from matplotlib.text import Text

from shine_hf.metrics import saliency_order
from shine_hf.plots import plot_moments, plot_saliency_hierarchy, plot_training_curves
from shine_hf.plots.moments import saliency_ranks
from shine_hf.plots.style import wrap

NEGATIVES = {
    "level 1: a person closes the red door slowly": 1.5,
    "level 2: a person eats a $5 sandwich": 1.0,
    "level 3: a dog sleeps under the table while the children are playing football in the garden behind the house": 0.5,
    "irrelevant: it rains": 0.0,
}


def texts_of(figure) -> list[Text]:
    """Return the texts that are drawn, without tick labels beyond the limits of their axis."""
    figure.canvas.draw()
    undrawn = set()
    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            low, high = sorted(axis.get_view_interval())
            for tick in (*axis.get_major_ticks(), *axis.get_minor_ticks()):
                if not low <= tick.get_loc() <= high:
                    undrawn |= {tick.label1, tick.label2}
    return [
        text for text in figure.findobj(Text) if text.get_visible() and text.get_text().strip() and text not in undrawn
    ]


def words_of(figure) -> str:
    return " ".join(text.get_text().replace("\n", " ") for text in texts_of(figure))


def assert_readable(figure) -> None:
    """Assert that no two texts overlap and none is cut off at the edge of the figure."""
    renderer = figure.canvas.get_renderer()
    texts = texts_of(figure)
    # For an annotation, use the box of its text without the connecting line.
    boxes = [Text.get_window_extent(text, renderer) for text in texts]
    for text, box in zip(texts, boxes):
        assert box.x0 >= 0 and box.y0 >= 0 and box.x1 <= figure.bbox.x1 and box.y1 <= figure.bbox.y1, text
    for (text, box), (other, other_box) in itertools.combinations(zip(texts, boxes), 2):
        across = min(box.x1, other_box.x1) - max(box.x0, other_box.x0)
        down = min(box.y1, other_box.y1) - max(box.y0, other_box.y0)
        assert across <= 0 or down <= 1, f"{text} overlaps {other}"


def made_up_scene(num_clips: int = 60) -> dict:
    times = np.linspace(0, 30, num_clips)
    bump = np.exp(-(((times - 12) / 4) ** 2))
    return {
        "query": "a person opens the red door slowly and walks into the kitchen, where nobody has been for a long time, and sits down",
        "moments": [{"start": 8.2, "end": 15.9, "score": 0.93}, (20, 22.0, 0.41), (28.9, 29.5, 0.1), (0, 30, 0.05)],
        "duration_seconds": 30.0,
        "windows": [[8.0, 16.5]],
        "frames": [(second, np.full((48, 64, 3), 8 * second, dtype=np.uint8)) for second in range(30)],
        "saliency": 2.2 * bump,
        "negative_saliency": {label: height * bump for label, height in NEGATIVES.items()},
    }


def test_moments_figure_shows_predictions_and_their_overlap():
    figure = plot_moments(**made_up_scene())
    assert_readable(figure)
    words = words_of(figure)
    for expected in (
        "annotated",
        "8.0–16.5 s",
        "predicted 1",
        "8.2–15.9 s",
        "score 0.93 · IoU 0.91",
        "20.0–22.0 s",
        "IoU 0.00",
    ):
        assert expected in words
    assert "predicted 4" not in words, "three moments are drawn by default"
    assert "level 1: a person closes the red door slowly" in words and "$5" in words
    strip, tracks, curves = figure.axes
    shades = [image.get_array()[0, 0, 0] for image in strip.images]
    assert shades == sorted(shades) and len(set(shades)) == len(shades) >= 3, "frames are in temporal order"
    bars = [(bar.get_x(), bar.get_x() + bar.get_width()) for bar in tracks.patches]
    assert np.allclose(bars, [(8.0, 16.5), (8.2, 15.9), (20, 22), (28.9, 29.5)])
    heights = {
        stair.get_edgecolor(): stair.get_data().values.max() for stair in curves.patches if hasattr(stair, "get_data")
    }
    assert len(heights) == 5, "each curve has its own color"
    assert max(heights.values()) == 1 and "highest" in words and "rank of the saliency" in words
    assert {axes.get_xlim() for axes in figure.axes} == {(0.0, 30.0)}, "all panels share the time axis"


def test_many_long_counter_queries_do_not_overlap():
    scene = made_up_scene()
    sentence = "a person who has waited for a long time in the kitchen closes the door and then {}"
    ends = ("sits", "sings", "cooks", "eats", "leaves", "laughs", "sleeps")
    scene["negative_saliency"] = {sentence.format(end): scene["saliency"] / (2 + i) for i, end in enumerate(ends)}
    figure = plot_moments(**scene)
    assert_readable(figure)
    words = words_of(figure)
    assert all(sentence.format(end) in words for end in ends), (
        "labels that differ only at the end stay distinguishable"
    )
    stairs = [stair for stair in figure.axes[-1].patches if hasattr(stair, "get_data")]
    assert len({stair.get_edgecolor() for stair in stairs}) == 8


LONG_ID = "video_" + 40 * "WMwm" + "_0001"


def test_no_text_leaves_the_figure():
    """Use sentences of any length, endless words, wide letters, math, and file names as result names."""
    queries = (LONG_ID, 60 * "a person opens the door and ", "WWW " * 80, "$x_1$ costs $5 and 100 %")
    for query in queries:
        scene = made_up_scene() | {"query": query, "negative_saliency": {query: made_up_scene()["saliency"]}}
        assert_readable(plot_moments(**scene))
    results = {
        name: {"positive>level1": 99.0, "chain": 3.0} for name in (LONG_ID, "a split of many words " * 9, "short")
    }
    assert_readable(plot_saliency_hierarchy(results))
    history = [
        {"step": 1, f"eval_{name}_mIoU": 3.0} for name in (LONG_ID[:70], "novel_composition_of_long_names" * 3, "b")
    ]
    assert_readable(plot_training_curves([*history, {"step": 1, "loss": 2.0}]))


def test_text_is_wrapped_at_spaces_or_inside_long_words_and_cut_with_an_ellipsis():
    assert wrap("a person opens the door", 10) == ["a person opens the door"]
    lines = wrap("a person opens the door", 0.8)
    assert len(lines) > 1 and " ".join(lines) == "a person opens the door"
    assert "".join(wrap(LONG_ID, 2, max_lines=99)) == LONG_ID
    cut = wrap(LONG_ID, 2, max_lines=2)
    assert len(cut) == 2 and cut[1].endswith("…") and wrap("", 2) == [""]


def test_saliency_is_shown_as_ranks():
    """Raw scores, e.g. -20 to 0, mean nothing to a reader. Ranks keep the order of clips and queries at any scale."""
    curves = {"the query": [-20.0, -3.0, -0.5], "other": [-20.0, -19.0, -4.0]}
    ranks = saliency_ranks(curves)
    assert ranks["the query"].tolist() == [0.1, 0.8, 1.0] and ranks["other"].tolist() == [0.1, 0.4, 0.6]
    stretched = saliency_ranks({label: np.exp(curve) for label, curve in curves.items()})
    assert all((stretched[label] == ranks[label]).all() for label in curves)
    assert saliency_ranks({"one": [3.0]})["one"].tolist() == [0.5]


def test_small_numbers_keep_significant_digits():
    scene = made_up_scene() | {"duration_seconds": 0.4, "windows": [], "moments": [(0.0, 0.04, 0.0052)]}
    words = words_of(plot_moments(**scene))
    assert "0.00–0.04 s" in words and "score 0.005" in words


def test_moments_figure_needs_no_optional_arguments():
    figure = plot_moments("a query", [(1, 4, 0.4)], duration_seconds=10)
    assert_readable(figure)
    assert len(figure.axes) == 1 and "IoU" not in words_of(figure)
    empty = plot_moments("a query", [], duration_seconds=10)
    assert_readable(empty)
    assert "no moment found" in words_of(empty)


@pytest.mark.parametrize("shape", [(24, 24, 3), (1080, 1920, 3), (1920, 1080, 3)])
def test_film_strip_keeps_the_aspect_ratio(shape):
    figure = plot_moments(
        "a query", [(1, 4, 0.4)], duration_seconds=10, frames=[(5.0, np.zeros(shape, dtype=np.uint8))]
    )
    strip = figure.axes[0].get_window_extent()
    tile_width = strip.width / len(figure.axes[0].images)
    assert tile_width / strip.height == pytest.approx(shape[1] / shape[0], rel=1e-6)
    assert 0.3 < strip.height / figure.dpi < 2.5


def test_several_windows_and_single_clip_videos_are_drawn():
    windows = [[0, 20], [50, 52], [60, 150]]
    figure = plot_moments("a query", [], duration_seconds=150, windows=windows, saliency=[1.0])
    assert_readable(figure)
    assert len(figure.axes[0].patches) == 3


def test_long_videos_have_clock_times():
    figure = plot_moments(
        "a goal", [(3990, 4020, 0.8)], duration_seconds=7500, windows=[[4000, 4001]], saliency=np.sin(np.arange(3750))
    )
    assert_readable(figure)
    words = words_of(figure)
    assert "1:06:30–1:07:00" in words and "15:00" in words and "2:00:00" in words and "(s)" not in words


def test_moments_figure_rejects_invalid_input():
    with pytest.raises(ValueError, match="duration"):
        plot_moments("a query", [], duration_seconds=0)
    with pytest.raises(ValueError, match="same number of clips"):
        plot_moments("a query", [], duration_seconds=9, saliency=[1, 2], negative_saliency={"level 1": [1, 2, 3]})
    with pytest.raises(ValueError, match="score for each clip"):
        plot_moments("a query", [], duration_seconds=9, saliency=[])


# In the order of the Trainer.
METRICS = ("R1@0.5", "R5@0.5", "level1>level2", "mAP@0.5", "mIoU", "positive>level1", "positive>level1_low")


def made_up_history() -> list[dict]:
    history = []
    for step in range(10, 1001, 10):
        decay = math.exp(-step / 300)
        history.append(
            {
                "step": step,
                "epoch": 1.0,
                "loss": 10 * decay,
                "learning_rate": 1e-4,
                "loss_span": decay,
                "loss_span_0": 9,
            }
        )
        if step % 200 == 0:
            for split, share in (("validation", 1), ("novel_word", 0.7), ("novel_composition", 0.69)):
                entry = {f"eval_{split}_{name}": 90 * share * (1 - decay) for name in METRICS}
                history.append({"step": step, **entry, f"eval_{split}_loss": 9 * decay})
    return history + [{"step": 1000, "train_runtime": 1.0, "train_loss": 3.0}]


def test_training_curves_have_a_panel_per_metric_and_a_line_per_split():
    figure = plot_training_curves(made_up_history())
    assert_readable(figure)
    panels = {axes.get_title(loc="left"): axes for axes in figure.axes}
    assert list(panels) == ["loss", "loss_span", "R1@0.5 (%)", "mIoU (%)", "positive>level1 (%)", "level1>level2 (%)"]
    assert len(panels["R1@0.5 (%)"].lines) == 3 and len(panels["loss"].lines) == 4
    assert len(panels["loss_span"].lines) == 1, "auxiliary layers are omitted"
    colors = [[line.get_color() for line in panels[name].lines] for name in ("loss", "mIoU (%)")]
    assert colors[0][1:] == colors[1] and len(set(colors[0])) == 4, "a split has the same color in every panel"
    validation = panels["R1@0.5 (%)"].lines[0]
    assert list(validation.get_xdata()) == [200, 400, 600, 800, 1000]
    assert validation.get_ydata()[-1] == pytest.approx(90 * (1 - math.exp(-1000 / 300)))


def test_training_curves_work_with_a_single_eval_set():
    figure = plot_training_curves([{"step": 5, "loss": 1.0}, {"step": 5, "eval_loss": 2.0, "eval_R1@0.5": 40.0}])
    assert_readable(figure)
    assert "evaluation" in words_of(figure)
    with pytest.raises(ValueError, match="neither losses nor metrics"):
        plot_training_curves([{"step": 1, "learning_rate": 0.1}])


def test_hierarchy_shows_intervals_and_names_every_result():
    rng = np.random.default_rng(0)
    results = {
        name: saliency_order(np.cumsum(rng.normal(loc=-drop, size=(200, 5)), axis=1), confidence=0.95)
        for name, drop in (("QD-DETR", 0.1), ("QD-DETR + SHINE", 3.0))
    }
    figure = plot_saliency_hierarchy(results)
    assert_readable(figure)
    words = words_of(figure)
    for expected in ("positive > level 1", "level 3 > irrelevant", "entire chain", "chance", "QD-DETR + SHINE"):
        assert expected in words
    assert "_low" not in words
    spans = {tuple(line.get_xdata()) for line in figure.axes[0].lines}
    result = results["QD-DETR"]
    assert (result["chain_low"], result["chain_high"]) in spans and (result["chain"],) in spans


def test_hierarchy_works_without_intervals_and_rejects_empty_results():
    figure = plot_saliency_hierarchy({"one": {"positive>irrelevant": 100.0, "chain": 100.0}})
    assert_readable(figure)
    with pytest.raises(ValueError, match="no results"):
        plot_saliency_hierarchy({})


def test_figures_are_saved_without_pyplot(tmp_path):
    path = tmp_path / "out.png"
    code = (
        "import sys; from shine_hf.plots import plot_moments; "
        "assert 'matplotlib' not in sys.modules; "
        f"plot_moments('a query', [(1, 4, 0.4)], duration_seconds=10).savefig({str(path)!r}); "
        "assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    assert path.read_bytes().startswith(b"\x89PNG")


def test_missing_matplotlib_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"shine-hf\[plots\]"):
        plot_moments("a query", [], duration_seconds=10)
