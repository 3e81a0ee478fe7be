"""Every name the package calls on `xp` exists in the real CuPy, with the arguments given; that needs no GPU."""

import ast
import inspect
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import strict_xp

import xpcnn

PACKAGE = Path(xpcnn.__file__).parent
SOURCES = sorted(PACKAGE.rglob("*.py"))

UFUNC_KEYWORDS = {"out", "dtype", "casting"}
# CuPy declares these with **kwargs: what they accept stands in their source.
HIDDEN_KEYWORDS = {"einsum": {"dtype", "optimize"}, "pad": {"constant_values"}}


class Use(NamedTuple):
    """One mention of a name on `xp`, and how it was called, if it was."""

    name: str
    line: int
    positional: int = 0
    keywords: tuple[str, ...] = ()


def is_namespace(node: ast.expr) -> bool:
    """Tell whether an expression is an array module: `xp`, `anything.xp` or `array_namespace(anything)`."""
    if isinstance(node, ast.Call):
        return isinstance(node.func, (ast.Name, ast.Attribute)) and last_name(node.func) == "array_namespace"
    return isinstance(node, (ast.Name, ast.Attribute)) and last_name(node) == "xp"


def last_name(node: ast.Name | ast.Attribute) -> str:
    return node.id if isinstance(node, ast.Name) else node.attr


def name_on_namespace(node: ast.AST) -> str | None:
    """Return `lib.stride_tricks.as_strided` for `xp.lib.stride_tricks.as_strided`, None if this is no such name."""
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
        if is_namespace(node):
            return ".".join(reversed(parts))
    return None


def uses(tree: ast.AST) -> Iterator[Use]:
    inner: set[int] = set()  # `xp.lib` inside `xp.lib.stride_tricks` is no use of its own
    for node in ast.walk(tree):  # outer nodes come before those they contain
        if isinstance(node, ast.Call) and (name := name_on_namespace(node.func)):
            inner.add(id(node.func))
            # What `*args` and `**kwargs` hold cannot be known here.
            positional = sum(not isinstance(argument, ast.Starred) for argument in node.args)
            yield Use(name, node.lineno, positional, tuple(k.arg for k in node.keywords if k.arg))
        if isinstance(node, ast.Attribute) and (name := name_on_namespace(node)):
            inner.add(id(node.value))
            if id(node) not in inner:
                yield Use(name, node.lineno)


def find(module: Any, name: str) -> Any:
    """Return what a dotted name stands for, None if nothing: no name in use stands for None but newaxis."""
    for part in name.split("."):
        module = getattr(module, part, None)
    return module


def objection(module: Any, use: Use) -> str | None:
    """Return why a module cannot serve a use, None if it can."""
    function = find(module, use.name)
    if function is None:
        return None if use.name == "newaxis" else "does not exist"
    if not (use.positional or use.keywords):
        return None
    if hasattr(function, "nin"):  # a ufunc
        unknown = set(use.keywords) - UFUNC_KEYWORDS
        crowded = use.positional > function.nargs
    else:
        try:
            parameters = inspect.signature(function).parameters.values()
        except ValueError:  # compiled, and keeps its signature to itself
            return None
        named = {p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
        unknown = set(use.keywords) - named - HIDDEN_KEYWORDS.get(use.name, set())
        places = sum(p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) for p in parameters)
        crowded = use.positional > places and not any(p.kind is p.VAR_POSITIONAL for p in parameters)
    if unknown:
        return f"does not accept {', '.join(sorted(unknown))}"
    return f"does not take {use.positional} positional arguments" if crowded else None


def objections(module: Any, source: str) -> list[str]:
    found = ((use, objection(module, use)) for use in uses(ast.parse(source)))
    return [f"line {use.line}: xp.{use.name} {reason}" for use, reason in found if reason]


def path_id(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


@pytest.mark.parametrize("path", SOURCES, ids=path_id)
def test_every_name_exists_in_cupy(path: Path) -> None:
    cupy = pytest.importorskip("cupy")
    assert objections(cupy, path.read_text()) == []


# These also speak to CUDA itself, which nothing stands in for.
TO_CUDA = {PACKAGE / "backend" / f"{name}.py" for name in ("cublas", "cuda", "cuda_graph", "nccl")}


@pytest.mark.parametrize("path", [path for path in SOURCES if path not in TO_CUDA], ids=path_id)
def test_every_name_exists_on_the_make_believe_device(path: Path) -> None:
    assert objections(strict_xp.xp, path.read_text()) == []


PLANTED = [
    ("xp.vecdot(x, y)", "xp.vecdot does not exist"),
    ("y = self.xp.errstate", "xp.errstate does not exist"),
    ("device.xp.insert(x, 0, 1)", "xp.insert does not exist"),
    ("array_namespace(x).lib.stride_tricks.nothing(x)", "xp.lib.stride_tricks.nothing does not exist"),
    ("xp.lib.stride_tricks.as_strided(x, s, t, writeable=False)", "does not accept writeable"),
    ("xp.sum(x, where=mask)", "does not accept where"),
    ("xp.max(x, initial=0)", "does not accept initial"),
    ("xp.add(x, y, where=mask)", "does not accept where"),
    ("backend.array_namespace(x).einsum('i->', x, order='C')", "does not accept order"),
    ("xp.take(x, i, 0, out, 'clip')", "does not take 5 positional arguments"),
]


@pytest.mark.parametrize(("source", "reason"), PLANTED)
def test_a_planted_name_is_found_out(source: str, reason: str) -> None:
    assert len(objections(strict_xp.xp, source)) == 1
    cupy = pytest.importorskip("cupy")
    (found,) = objections(cupy, source)
    assert reason in found


def test_names_are_collected_from_every_way_to_write_them() -> None:
    source = (
        "a = xp.float32\nb = f(d.xp.lib.stride_tricks.as_strided(x, s), array_namespace(xp.sum(x, axis=0)).pi)\nxp.add"
    )
    assert sorted(uses(ast.parse(source))) == [
        Use("add", 3),
        Use("float32", 1),
        Use("lib.stride_tricks.as_strided", 2, 2),
        Use("pi", 2),
        Use("sum", 2, 1, ("axis",)),
    ]


def strict_functions() -> dict[str, inspect.Signature]:
    members = {name: getattr(strict_xp.xp, name) for name in vars(strict_xp.xp)}
    members["lib.stride_tricks.as_strided"] = strict_xp.xp.lib.stride_tricks.as_strided
    return {name: f.__signature__ for name, f in members.items() if hasattr(f, "__signature__")}


@pytest.mark.parametrize("name", vars(strict_xp.xp))
def test_the_make_believe_device_offers_nothing_cupy_lacks(name: str) -> None:
    cupy = pytest.importorskip("cupy")
    assert hasattr(cupy, name)


@pytest.mark.parametrize(("name", "signature"), strict_functions().items(), ids=strict_functions())
def test_the_make_believe_device_accepts_nothing_cupy_refuses(name: str, signature: inspect.Signature) -> None:
    cupy = pytest.importorskip("cupy")
    ours = signature.parameters.values()
    places = [p for p in ours if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    keywords = tuple(p.name for p in ours if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY))
    in_cupy = find(cupy, name)
    if hasattr(in_cupy, "nin"):
        assert [p.name for p in places[in_cupy.nin :]] == ["out"]
        keywords = tuple(k for k in keywords if k not in ("x1", "x2"))
    assert objection(cupy, Use(name, 0, len(places), keywords)) is None
    if hasattr(in_cupy, "nin"):
        return
    theirs = list(inspect.signature(in_cupy).parameters.values())
    if theirs[0].kind is not theirs[0].VAR_POSITIONAL:  # else every place is as good as another
        by_name = [p.name for p in places if p.kind is p.POSITIONAL_OR_KEYWORD]
        assert [p.name for p in theirs[len(places) - len(by_name) : len(places)]] == by_name


def imported(tree: ast.AST) -> Iterator[str]:
    """Yield the top-level name of every module a file imports, be it through importlib."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.partition(".")[0]
        elif isinstance(node, ast.Call) and isinstance(node.func, (ast.Name, ast.Attribute)):
            by_name = last_name(node.func) in ("import_module", "__import__") and node.args
            if by_name and isinstance(node.args[0], ast.Constant):
                yield str(node.args[0].value).partition(".")[0]


def test_only_the_backend_imports_cupy() -> None:
    importing = [path_id(path) for path in SOURCES if {"cupy", "cupyx"} & {*imported(ast.parse(path.read_text()))}]
    assert importing == ["backend/cuda.py"]


def test_importing_the_package_imports_nothing_optional() -> None:
    code = "import sys, xpcnn; print(*sorted({'cupy', 'matplotlib', 'PIL'} & {*sys.modules}))"
    environment = os.environ | {"PYTHONPATH": str(PACKAGE.parent)}
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert result.stdout.split() == []
