"""Freed memory is kept where it helps: when a recipe is trained on a CPU."""

import subprocess
import sys

import pytest

PAGE_FAULTS = """
import resource, sys, torch
from shine_hf.training.memory import keep_freed_memory
if sys.argv[1] == "keep" and not keep_freed_memory():
    sys.exit(3)
for _ in range(2):
    torch.ones(2**24)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    torch.ones(2**24)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def page_faults(mode: str) -> int:
    result = subprocess.run([sys.executable, "-c", PAGE_FAULTS, mode], capture_output=True, text=True)
    if result.returncode == 3:
        pytest.skip("no glibc here")
    return int(result.stdout)


@pytest.mark.slow
def test_freed_pages_are_reused():
    # 64 MiB is 16,384 pages of 4 KiB, or 32 of 2 MiB.
    assert page_faults("keep") <= page_faults("give back") / 4
