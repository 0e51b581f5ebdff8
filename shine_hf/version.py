"""The version of the package: read by pyproject.toml, printed by the command line, written into cards."""

__version__ = "0.1.0"
