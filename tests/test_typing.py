"""Every public function and method of the package is fully annotated."""

import ast
from collections.abc import Iterator

import pytest

from .test_architecture import MODULES, PACKAGE


def public_functions(node: ast.AST, prefix: str = "") -> Iterator[tuple[str, ast.FunctionDef, bool]]:
    """Yield the name and node of each public function and method, and whether it takes `self` or `cls`."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.ClassDef) and not child.name.startswith("_"):
            yield from public_functions(child, f"{child.name}.")
        elif isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            is_static = any(isinstance(d, ast.Name) and d.id == "staticmethod" for d in child.decorator_list)
            if not child.name.startswith("_") or child.name in ("__init__", "__call__"):
                yield prefix + child.name, child, bool(prefix) and not is_static
        elif isinstance(child, ast.If | ast.Try):
            yield from public_functions(child, prefix)


def unannotated(function: ast.FunctionDef, is_method: bool) -> list[str]:
    arguments = function.args
    named = [*arguments.posonlyargs, *arguments.args][is_method:] + arguments.kwonlyargs
    missing = [argument.arg for argument in named if argument.annotation is None]
    return missing + ["return"] * (function.returns is None and function.name != "__init__")


@pytest.mark.parametrize("name", MODULES)
def test_public_functions_are_annotated(name):
    tree = ast.parse(MODULES[name].read_text(encoding="utf-8"))
    found = {
        function_name: missing
        for function_name, function, is_method in public_functions(tree)
        if (missing := unannotated(function, is_method))
    }
    assert not found, f"{name}: {found}"


def test_package_ships_py_typed():
    assert (PACKAGE / "py.typed").exists()
    assert '"py.typed"' in (PACKAGE.parent / "pyproject.toml").read_text(encoding="utf-8")
