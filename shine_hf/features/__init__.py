"""Video and text features by key, in every layout that the field uses. Importing the package registers the kinds of stores."""

from . import detect, scenes, simulated  # noqa: F401
