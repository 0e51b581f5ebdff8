"""The local Hub, for stores read from it."""

from ..hub.conftest import hub, online, run_client  # noqa: F401
