"""The README, docs/results.md and RESULTS.md repeat numbers of the studies: each must be in a table that a study wrote."""

import re

import pytest

from benchmarks.study.spec import RESULTS

from ..conftest import REPOSITORY

PAGES = ["README.md", "docs/results.md", "benchmarks/RESULTS.md"]
# "62.3 ± 3.5", "+0.9 to +8.3"
_MEASURED = re.compile(r"\d+\.\d ± \d+\.\d|[+-]\d+\.\d to [+-]\d+\.\d")


def measured(*pages) -> set[str]:
    return {found for page in pages for found in _MEASURED.findall(page.read_text(encoding="utf-8"))}


@pytest.mark.parametrize("page", PAGES)
def test_every_interval_and_deviation_is_in_a_table_of_a_study(page):
    found = measured(REPOSITORY / page)
    assert found, f"{page} has no results, or they are written in another way"
    assert found <= measured(*RESULTS.glob("*/README.md"))
