"""Span conversions and overlaps against values computed by hand."""

import pytest
import torch

from shine_hf.modeling.spans import (
    generalized_temporal_iou,
    inverse_sigmoid,
    span_to_window,
    temporal_iou,
    window_to_span,
)


def test_spans_and_windows_are_inverse():
    spans = torch.tensor([[0.5, 0.2], [0.25, 0.5]])
    windows = torch.tensor([[0.4, 0.6], [0.0, 0.5]])
    torch.testing.assert_close(span_to_window(spans), windows)
    torch.testing.assert_close(window_to_span(windows), spans)


@pytest.mark.parametrize(
    ("window", "other", "iou", "giou"),
    [
        ([0.0, 4.0], [2.0, 6.0], 1 / 3, 1 / 3),
        ([0.0, 4.0], [1.0, 2.0], 1 / 4, 1 / 4),
        ([0.0, 1.0], [3.0, 4.0], 0.0, -1 / 2),
        ([1.0, 2.0], [1.0, 2.0], 1.0, 1.0),
        ([1.0, 1.0], [1.0, 1.0], 0.0, 0.0),
    ],
)
def test_iou_and_giou_of_known_windows(window, other, iou, giou):
    window, other = torch.tensor(window), torch.tensor(other)
    for a, b in ((window, other), (other, window)):
        assert temporal_iou(a, b).item() == pytest.approx(iou)
        assert generalized_temporal_iou(a, b).item() == pytest.approx(giou)


def test_inverse_sigmoid_is_clamped():
    probability = torch.tensor([0.0, 0.2, 0.9, 1.0])
    assert inverse_sigmoid(probability)[1:3].sigmoid().tolist() == pytest.approx([0.2, 0.9])
    assert inverse_sigmoid(probability)[[0, 3]].tolist() == pytest.approx([-6.9078, 6.9078], abs=1e-3)
