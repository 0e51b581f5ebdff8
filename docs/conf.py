"""Sphinx configuration. `make docs` builds the site in docs/_build/html, without network access, and fails on any warning."""

import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import shine_hf

project = "shine_hf"
author = copyright = "The shine_hf authors"
version = release = shine_hf.__version__

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_copybutton"]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = "shine_hf"
html_static_path = ["_static"]
html_css_files = ["wide.css"]
html_theme_options = {
    "source_repository": "https://github.com/shine-hf/shine_hf/",
    "source_branch": "main",
    "source_directory": "docs/",
}

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3
# Notebooks are stored with their outputs; tests/docs executes them.
nb_execution_mode = "off"

autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented_params"
autodoc_default_options = {"members": True, "show-inheritance": True}
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
default_role = "code"

_REFERENCE = re.compile(r"\[`~?([\w.]+)`\](?!\()")
_LINK = re.compile(r"\[([^\]`]+)\]\((https?://[^)]+)\)")
_CODE = re.compile(r"(?<![`:\w])`([^`\n]+)`(?!`)")


def markdown_to_rst(app, what, name, obj, options, lines) -> None:
    """Translate the Markdown in docstrings: code spans, links, references and fenced code."""
    translated = []
    indent = None
    for line in _tables_to_rst(lines):
        if line.lstrip().startswith("```"):
            if indent is None:
                indent = len(line) - len(line.lstrip())
                language = line.strip().strip("`") or "python"
                translated += ["", f"{' ' * indent}.. code-block:: {language}", ""]
            else:
                indent = None
                translated.append("")
            continue
        if indent is not None:
            translated.append(f"    {line}")
            continue
        line = _REFERENCE.sub(lambda match: f"``{match[1].rpartition('.')[2]}``", line)
        line = _LINK.sub(r"`\1 <\2>`__", line)
        translated.append(_CODE.sub(lambda match: match[0] if " <http" in match[1] else f"``{match[1]}``", line))
    lines[:] = translated


def _tables_to_rst(lines: list[str]) -> list[str]:
    """Translate Markdown tables into list tables."""
    translated, in_table = [], False
    for line in lines:
        is_row = line.lstrip().startswith("|")
        margin = " " * (len(line) - len(line.lstrip()))
        if is_row and not in_table:
            translated += ["", f"{margin}.. list-table::", f"{margin}    :header-rows: 1", ""]
        if in_table and not is_row:
            translated.append("")
        in_table = is_row
        if not is_row:
            translated.append(line)
        elif not re.fullmatch(r"[\s|:-]+", line):
            cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
            translated += [
                f"{margin}    {'-' if number else '* -'} {cell}".replace("    - ", "      - ", 1)
                for number, cell in enumerate(cells)
            ]
    return translated


def setup(app) -> None:
    app.connect("autodoc-process-docstring", markdown_to_rst, priority=100)
