"""A local Hub for tests, and clients that use it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable

import pytest

from .hub_server import WRITE_TOKEN, HubServer


@pytest.fixture
def hub():
    """An empty Hub."""
    with HubServer() as server:
        yield server


@pytest.fixture
def online(hub, monkeypatch, tmp_path):
    """Connect this process to the local Hub with a write token; record the pauses between attempts instead of waiting."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", hub.endpoint)
    template = f"{hub.endpoint}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub-cache"))
    monkeypatch.setenv("HF_TOKEN", WRITE_TOKEN)
    pauses: list[float] = []
    monkeypatch.setattr("time.sleep", pauses.append)
    return pauses


@pytest.fixture
def run_client(hub, tmp_path) -> Callable[[str], str]:
    """Return a function that runs Python code against the local Hub in a fresh process and returns its output.

    `huggingface_hub` and `datasets` read the Hub's URL on import, so another Hub needs a fresh process.
    """

    def run(code: str) -> str:
        environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("HF_")},
            "HF_ENDPOINT": hub.endpoint,
            "HF_HOME": str(tmp_path / "hf-home"),
            "HF_TOKEN": WRITE_TOKEN,
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
        }
        done = subprocess.run(
            [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run
