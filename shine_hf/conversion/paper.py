"""The numbers that this project quotes from the papers, with their source. The other cells of the table stay empty."""

from __future__ import annotations

from collections.abc import Mapping

SHINE_SOURCE = "SHINE, ECCV 2024 (arXiv:2407.05118): QD-DETR with SHINE, in percent"

# Dataset -> split -> metric -> percent.
SHINE_NUMBERS: Mapping[str, Mapping[str, Mapping[str, float]]] = {
    "charades_cg": {"novel_composition": {"R1@0.5": 50.23, "mIoU": 44.14}},
    "activitynet_cg": {},
}

# The base model of the same tables, without SHINE.
QD_DETR_NUMBERS: Mapping[str, Mapping[str, Mapping[str, float]]] = {
    "charades_cg": {"novel_composition": {"R1@0.5": 42.30, "mIoU": 38.55}},
    "activitynet_cg": {},
}
