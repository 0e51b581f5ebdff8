"""Architecture rules: which rooms may import which, what an import costs, and that the public names exist."""

import ast
import graphlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import shine_hf

PACKAGE = Path(shine_hf.__file__).parent
# A room is a folder or a module of the package. Each may import itself and these.
FOUNDATION = {"version", "schema", "specs", "io"}
ALLOWED = {
    "version": set(),
    "schema": set(),
    "io": set(),
    "specs": {"io"},
    # Copied into model repositories, so it imports nothing.
    "modeling": set(),
    "losses": {"modeling"},
    "encoders": FOUNDATION,
    "features": FOUNDATION | {"encoders"},
    "metrics": FOUNDATION | {"features"},
    "negatives": FOUNDATION,
    "shapes_cg": FOUNDATION | {"encoders"},
    "data": FOUNDATION | {"modeling", "encoders", "features", "negatives"},
    "plots": FOUNDATION | {"metrics"},
    "inference": FOUNDATION | {"modeling", "encoders", "metrics", "plots"},
    "registration": {"inference"},
    "cards": FOUNDATION | {"encoders", "negatives", "data", "plots"},
    "hub": FOUNDATION | {"encoders", "features", "cards"},
    "builders": FOUNDATION | {"encoders", "negatives", "data", "cards", "hub"},
    "training": FOUNDATION | {"modeling", "losses", "features", "metrics", "data", "inference", "cards", "hub"},
    "conversion": FOUNDATION | {"modeling", "features", "metrics", "data", "inference"},
}
# The command line and the public names may import everything; nothing imports them.
ALLOWED["cli"] = ALLOWED["__init__"] = set(ALLOWED)


def module_name(path: Path) -> str:
    parts = ["shine_hf", *path.relative_to(PACKAGE).with_suffix("").parts]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def nodes_of(tree: ast.AST, for_types: bool) -> Iterator[ast.AST]:
    """Yield all nodes; without `for_types`, skip those under `if TYPE_CHECKING`."""
    for node in ast.iter_child_nodes(tree):
        if for_types or not (isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"):
            yield node
            yield from nodes_of(node, for_types)


def imported_names(name: str, for_types: bool) -> Iterator[str]:
    """Yield what a module imports: at the top or inside functions, relative or absolute, or by name."""
    path = MODULES[name]
    package = (name if path.name == "__init__.py" else name.rpartition(".")[0]).split(".")
    for node in nodes_of(ast.parse(path.read_text(encoding="utf-8")), for_types):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            yield from (f"{module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
            yield from (arg.value for arg in node.args[:1] if isinstance(arg, ast.Constant))


def imports(name: str, for_types: bool = True) -> set[str]:
    """Return the modules of the package that a module imports."""
    found = set()
    for imported in imported_names(name, for_types):
        if imported.split(".")[0] == "shine_hf":
            found.add(imported if imported in MODULES else imported.rpartition(".")[0])
    return found - {name}


def room(name: str) -> str:
    return (name.split(".") + ["__init__"])[1]


@pytest.mark.parametrize("name", MODULES)
def test_imports_stay_within_the_table(name):
    others = {room(imported) for imported in imports(name)} - {room(name)}
    assert others <= ALLOWED[room(name)], f"{name} imports {', '.join(sorted(others - ALLOWED[room(name)]))}"


def test_import_table_is_acyclic():
    rooms = {room_: others - {room_} for room_, others in ALLOWED.items() if room_ not in ("cli", "__init__")}
    assert set().union(*rooms.values()) <= rooms.keys()
    graphlib.TopologicalSorter(rooms).prepare()


def test_every_room_is_in_the_table():
    assert {room(name) for name in MODULES} == ALLOWED.keys()


def test_modules_have_no_import_cycle():
    """A package's `__init__` may import its own modules; that is not a cycle."""
    graph = {}
    for name, path in MODULES.items():
        graph[name] = {other for other in imports(name, for_types=False) if not name.startswith(f"{other}.")}
        if path.name == "__init__.py":
            graph[name] = {other for other in graph[name] if not other.startswith(f"{name}.")}
    graphlib.TopologicalSorter(graph).prepare()


def test_modeling_is_flat_and_relative():
    """Check that `modeling/` can be copied into model repositories, which only works with `from .x import …`."""
    assert not [path for path in (PACKAGE / "modeling").iterdir() if path.is_dir() and path.name != "__pycache__"]
    for path in (PACKAGE / "modeling").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom):
                assert node.level <= 1 and not (node.module or "").startswith("shine_hf"), path.name


def test_heavy_packages_are_imported_lazily():
    script = (
        "import sys, shine_hf\n"
        "from shine_hf.cli import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'transformers', 'datasets', 'spacy', 'openai', 'av', 'matplotlib', 'numpy'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        "import shine_hf.metrics\n"
        "heavy = {'torch', 'transformers', 'datasets', 'pandas', 'matplotlib'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        "from shine_hf import QDDetrConfig\n"
        "assert 'torch' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, cwd=PACKAGE.parent)


def test_all_public_names_can_be_imported():
    for name in shine_hf.__all__:
        assert getattr(shine_hf, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        shine_hf.nonsense  # noqa: B018
