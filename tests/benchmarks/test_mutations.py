"""The mutations match the current code, and each one fails a test (slow)."""

import pytest

from benchmarks.mutations import MUTATIONS, REPOSITORY, run, table


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: f"{mutation.file}: {mutation.new}")
def test_each_mutation_matches_exactly_one_place(mutation):
    text = (REPOSITORY / "shine_hf" / mutation.file).read_text(encoding="utf-8")
    assert text.count(mutation.old) == 1
    assert mutation.new != mutation.old
    assert all((REPOSITORY / test).exists() for test in mutation.tests)


def test_table_lists_uncaught_mutations():
    rows = table([(MUTATIONS[0], "tests/golden/test_network.py::test_x", 1.0), (MUTATIONS[1], None, 1.0)]).splitlines()
    assert "golden/test_network.py::test_x" in rows[2]
    assert "**nothing**" in rows[3]


@pytest.mark.slow
@pytest.mark.timeout(0)
def test_each_mutation_is_caught():
    assert not [f"{mutation.file}: {mutation.new}" for mutation, caught_by, _ in run(MUTATIONS) if caught_by is None]
