"""Set up all tests: no network, one thread per worker, and the path of the reference material."""

import os
import tempfile
from pathlib import Path

# huggingface_hub reads these at import time, so they are set before any test module is imported.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_XET", "1")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# The number of threads affects the last digits, and tests compare weights bit for bit.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Keep the tests' encoded sentences out of the developer's cache.
os.environ.setdefault("SHINE_HF_CACHE", tempfile.mkdtemp(prefix="shine_hf_tests_"))

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
SHARED = Path(os.environ.get("SHINE_SHARED", REPOSITORY.parent / "shared"))


@pytest.fixture(scope="session")
def shared() -> Path:
    """Return the folder with the real annotations and golden files, next to a developer's checkout. Without it, skip the test."""
    if not SHARED.is_dir():
        pytest.skip(f"no reference material at {SHARED} (it is not part of the repository)")
    return SHARED
