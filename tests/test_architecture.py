"""The rules of the house that a machine can check: who imports whom, and what an import costs."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import shine_hf

PACKAGE = Path(shine_hf.__file__).parent
# Folder or module -> what of shine_hf it may import. Everything may import itself.
ALLOWED = {
    "modeling": set(),
    "options": set(),
    "losses": {"modeling"},
    "metrics": set(),
    "negatives": {"data", "options"},
    "encoders": {"options"},
    "visualization": {"metrics"},
    "conversion": {"modeling"},
    "data": {"modeling", "encoders", "negatives", "options"},
    "training": {"modeling", "losses", "metrics", "data", "encoders", "visualization", "hub"},
    "inference": {"modeling", "encoders", "data"},
    "hub": {"metrics", "data", "negatives", "modeling", "visualization"},
}
FILES = sorted(PACKAGE.rglob("*.py"))


def imported(path: Path) -> set[str]:
    """First parts below shine_hf of everything that a file imports, relative or absolute, lazily or not."""
    package = ["shine_hf", *path.relative_to(PACKAGE).parts[:-1]]
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            names = [f"{module}.{alias.name}" for alias in node.names]
        found |= {name.split(".")[1] for name in names if name.startswith("shine_hf.")}
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_one_way(path):
    room = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    if room in ("cli", "__init__"):
        return
    others = imported(path) - {room, "__version__"}
    if path == PACKAGE / "modeling" / "__init__.py":
        # Registers the pipeline with transformers, as it does the models.
        others -= {"inference"}
    assert others <= ALLOWED[room], f"{path.name} imports {others - ALLOWED[room]}"


def test_modeling_is_flat_and_relative():
    """The folder is copied into model repositories, which only works for `from .x import …`."""
    assert not [path for path in (PACKAGE / "modeling").iterdir() if path.is_dir() and path.name != "__pycache__"]
    for path in (PACKAGE / "modeling").glob("*.py"):
        if path.name == "__init__.py":
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom):
                assert node.level <= 1 and not (node.module or "").startswith("shine_hf"), path.name


def test_nothing_heavy_is_imported_until_it_is_needed():
    script = (
        "import sys, shine_hf\n"
        "from shine_hf.cli import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'transformers', 'datasets', 'spacy', 'openai', 'av', 'matplotlib', 'numpy'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        "from shine_hf import QDDetrConfig\n"
        "assert 'torch' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, cwd=PACKAGE.parent)


def test_every_public_name_can_be_imported():
    for name in shine_hf.__all__:
        assert getattr(shine_hf, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        shine_hf.nonsense  # noqa: B018
