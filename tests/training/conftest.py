"""The local Hub, for training runs that push."""

from ..hub.conftest import hub, online, run_client  # noqa: F401
