"""Run the notebooks of the documentation and store their outputs: `python scripts/run_notebooks.py [NAME.ipynb ...] [--folder DIR]`.

Without names, all notebooks in docs/notebooks are run. Progress bars and warnings (stderr) are not stored.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient

NOTEBOOKS = Path(__file__).resolve().parent.parent / "docs" / "notebooks"


def run(path: Path, folder: Path) -> None:
    """Run a notebook in a folder, and write it back with its outputs."""
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(notebook, timeout=None, resources={"metadata": {"path": str(folder)}}).execute()
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)  # Execution times.
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
    nbformat.write(notebook, path)


def main() -> None:
    """Run the notebooks given on the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("notebooks", nargs="*", type=Path, default=sorted(NOTEBOOKS.glob("*.ipynb")))
    parser.add_argument("--folder", type=Path, help="where to run them (default: a temporary folder)")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        for path in args.notebooks:
            print(path)
            run(path, args.folder or Path(temporary))


if __name__ == "__main__":
    main()
