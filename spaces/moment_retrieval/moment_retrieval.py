"""Video moment retrieval and highlight detection for `evaluate.load`, with the metrics of the official QVHighlights scorer."""

import datasets
import evaluate

from shine_hf.metrics import evaluate_submission

_DESCRIPTION = """\
Recall (R1, R5), mean IoU and mean average precision of predicted moments, by length of the moment, and highlight detection (mAP, HIT@1),
in percent, as computed by the official scorer of QVHighlights.
"""

_INPUTS = """
Args:
    predictions: One dict per query with `qid` and `pred_relevant_windows` ([[start, end, score], ...] in seconds, best first),
        `pred_saliency_scores` (one per clip of 2 s), or both. Other keys are ignored.
    references: One dict per query, in the order of the predictions, with `qid` and `relevant_windows` ([[start, end], ...]), and for
        highlights `duration`, `relevant_clip_ids` and `saliency_scores`. Other keys are ignored.
Returns:
    `MR-{full,long,middle,short}-{R1@t,R5@t,mIoU,mAP@t,mAP}` and `HL-min-{Fair,Good,VeryGood}-{mAP,Hit1}`.
Examples:
    >>> metric = evaluate.load("shine/moment_retrieval")
    >>> metric.compute(
    ...     predictions=[{"qid": "1", "pred_relevant_windows": [[0.0, 9.0, 0.8]]}],
    ...     references=[{"qid": "1", "relevant_windows": [[0.0, 10.0]]}],
    ... )["MR-full-mIoU"]
    90.0
"""

_CITATION = """\
@inproceedings{lei2021detecting,
  title = {Detecting Moments and Highlights in Videos via Natural Language Queries},
  author = {Lei, Jie and Berg, Tamara L. and Bansal, Mohit},
  booktitle = {Advances in Neural Information Processing Systems},
  year = {2021}
}
"""


_NUMBERS = datasets.List(datasets.Value("float64"))
_PREDICTION = {
    "qid": datasets.Value("string"),
    "pred_relevant_windows": datasets.List(_NUMBERS),
    "pred_saliency_scores": _NUMBERS,
}
_REFERENCE = {
    "qid": datasets.Value("string"),
    "relevant_windows": datasets.List(_NUMBERS),
    "duration": datasets.Value("float64"),
    "relevant_clip_ids": datasets.List(datasets.Value("int64")),
    "saliency_scores": datasets.List(_NUMBERS),
}


class MomentRetrieval(evaluate.Metric):
    """Collect rows of predictions and references over batches and processes, and score them together."""

    def _info(self):
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_INPUTS,
            features=datasets.Features({"predictions": _PREDICTION, "references": _REFERENCE}),
            reference_urls=["https://arxiv.org/abs/2107.09609", "https://github.com/jayleicn/moment_detr"],
        )

    def add(self, *, prediction=None, reference=None):
        """Add one prediction and one reference."""
        super().add(prediction=_row(prediction, _PREDICTION), reference=_row(reference, _REFERENCE))

    def add_batch(self, *, predictions=None, references=None):
        """Add a batch of predictions and as many references."""
        super().add_batch(
            predictions=[_row(row, _PREDICTION) for row in predictions],
            references=[_row(row, _REFERENCE) for row in references],
        )

    def _compute(self, predictions, references):
        return evaluate_submission(predictions, references)


def _row(row, features):
    """Convert a row of a submission or annotation file to the fixed columns: numeric qids as text, missing values as None."""
    if row.get("qid") is None:
        raise ValueError(f"a row without qid: {row!r:.200}")
    return {name: row.get(name) for name in features} | {"qid": str(row["qid"])}
