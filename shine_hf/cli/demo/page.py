"""Write the result page of the demo: eight queries, the moments that the models find, and the number of hits."""

from __future__ import annotations

import base64
import html
import io
import os
from collections.abc import Sequence
from pathlib import Path

from ...io import atomic_file
from .examples import HIT_IOU, Example

COMPARISON_NOTE = "Each model was trained once, and briefly, so this does not measure what SHINE gains. For differences over several seeds, see docs/results.md."
STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #222; max-width: 76rem; margin: 2rem auto; padding: 0 1rem }
h1 { font-size: 1.6rem; margin-bottom: .2rem }
pre { background: #f5f5f5; padding: .8rem; overflow-x: auto; font-size: .8rem }
section { border-top: 1px solid #ddd; padding: 1rem 0 }
section h2 { font-size: 1.1rem; margin: 0 0 .3rem }
.models { display: grid; grid-template-columns: repeat(auto-fit, minmax(32rem, 1fr)); gap: 1rem }
figure { margin: 0 } figure img { width: 100%; border: 1px solid #eee }
.hit, .miss { border-radius: .3rem; padding: .1rem .5rem; color: white; font-weight: 600 }
.hit { background: #00724f } .miss { background: #b3401b }
.count { font-size: 1.2rem; font-weight: 600 } .quiet { color: #666 }
"""


def write_page(path: Path, examples: Sequence[Example], models: Sequence[str], summary: str) -> Path:
    """Write a self-contained HTML file. Only the videos are links.

    Args:
        path: The file.
        examples: The examples, in this order.
        models: Titles of the models, from left to right.
        summary: The table of all test queries, as text.

    Returns:
        The path.
    """
    counts = "".join(
        f'<p class="count">{_text(model)}: {sum(example.is_hit(model) for example in examples)} of {len(examples)} found</p>'
        for model in models
    )
    if len(models) > 1:
        counts += f'<p class="quiet">{_text(COMPARISON_NOTE)}</p>'
    sections = "".join(_section(number, example, models, path.parent) for number, example in enumerate(examples, 1))
    page = f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>SHINE on Shapes-CG</title><style>{STYLE}</style></head><body>
<h1>What the demo's model finds</h1>
<p>Queries with word pairs that never occur together in training, in videos that were not used for training. They are evenly spaced over the
test split, so hits and misses appear as they come. A hit means that the best moment has an IoU of {HIT_IOU} or more with the annotated one.</p>
{counts}
<details><summary>All test queries</summary><pre>{_text(summary)}</pre></details>
{sections}
</body></html>
"""
    with atomic_file(path) as file:
        file.write(page)
    return path


def _section(number: int, example: Example, models: Sequence[str], folder: Path) -> str:
    windows = " and ".join(_play(start, end, example.video, folder) for start, end in example.windows)
    figures = "".join(_figure(example, model, len(models) > 1, folder) for model in models)
    return f"""<section><h2>{number}. {_text(example.query)}</h2>
<p class="quiet">{_text(example.video.name)}, annotated {windows}</p>
<div class="models">{figures}</div></section>
"""


def _figure(example: Example, model: str, is_named: bool, folder: Path) -> str:
    best = example.results[model].moments[0]
    verdict = "hit" if example.is_hit(model) else "miss"
    buffer = io.BytesIO()
    figure = example.results[model].plot(windows=example.windows, others=example.others[model])
    figure.savefig(buffer, format="png", dpi=100)
    picture = base64.b64encode(buffer.getvalue()).decode()
    name = f"{_text(model)}: " if is_named else ""
    return f"""<figure><figcaption>{name}<span class="{verdict}">{verdict}</span>
found {_play(best.start, best.end, example.video, folder)}, IoU {example.iou(model):.2f}, score {best.score:.2f}</figcaption>
<img alt="Moments and saliency of: {_text(example.query)}" src="data:image/png;base64,{picture}"></figure>
"""


def _play(start: float, end: float, video: Path, folder: Path) -> str:
    """Return a link that plays a part of the video."""
    where = html.escape(Path(os.path.relpath(video, folder)).as_posix(), quote=True)
    return f'<a href="{where}#t={start:.2f},{end:.2f}">{start:.1f}-{end:.1f} s</a>'


def _text(text: str) -> str:
    return html.escape(text, quote=True)
