"""The local Hub, for trainings that push."""

from ..hub.conftest import hub, online, run_client  # noqa: F401
