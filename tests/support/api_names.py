"""Finds every name of TensorRT that source files use, and asks real bindings for it.

``python api_names.py MODULE HINTS FILE…`` prints them as JSON. Nothing is listed by hand: types are followed from
the imported module through calls, whose results the bindings state in their docstrings. Where one version does not
state a type, HINTS (JSON, file → variable → classes) says what another version stated: it is the ``types`` of an
earlier answer.

A use may stand under a condition. ``hasattr(x, "name")`` holds where x has the name. ``capability is not None``
holds where engines are compiled ahead of time, which EngineOptions enforces. A use is active where its conditions
hold, and optional where the code asks for it with hasattr or with getattr and a default.
"""

from __future__ import annotations

import ast
import importlib
import json
import re
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

_RESULT = re.compile(r"^(?:\d+\. )?\w+\(.*\) -> (.+)$", re.MULTILINE)
_PROPERTY = re.compile(r"-> (.+)$", re.MULTILINE)
_NAME = re.compile(r"tensorrt(?:_\w+)?\.(?:tensorrt\w*\.)?(\w+)")
_ROUNDS = 6  # of inference; chains in the code are shorter


@dataclass(frozen=True)
class Use:
    """One place that uses a name."""

    file: str
    line: int
    owner: str
    name: str
    exists: bool
    active: bool
    optional: bool


@dataclass(frozen=True)
class Instance:
    """An object of a class of the bindings."""

    cls: type


@dataclass(frozen=True)
class Several:
    """A list of equal things."""

    item: Any


@dataclass(frozen=True)
class Method:
    """A function of the bindings, known by its docstring."""

    results: tuple[str, ...]


class Analysis:
    """The names of one file, against one module of bindings."""

    def __init__(
        self,
        tree: ast.Module,
        file: str,
        bindings: ModuleType,
        aliases: set[str],
        hints: dict[str, list[str]],
    ) -> None:
        self.bindings, self.file = bindings, file
        self.functions = {n.name: n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef)}
        self.types: dict[str, set[Any]] = {name: {bindings} for name in aliases}
        for key, classes in hints.items():
            known = {Instance(getattr(bindings, name)) for name in classes if hasattr(bindings, name)}
            self.types.setdefault(key, set()).update(known)
        self.ahead_of_time = hasattr(bindings, "ComputeCapability")
        self.uses: set[Use] = set()
        for _ in range(_ROUNDS):
            for node in ast.walk(tree):
                self.infer(node)
        self.conditions = self.find_conditions(tree)
        for node in ast.walk(tree):
            self.collect(node)

    # What the names stand for.

    def infer(self, node: ast.AST) -> None:
        if isinstance(node, ast.Assign):
            for target in node.targets:
                self.assign(target, node.value)
        elif isinstance(node, ast.For | ast.comprehension):
            self.bind(node.target, self.items(node.iter))

    def assign(self, target: ast.expr, value: ast.expr) -> None:
        if isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple):
            for one, its_value in zip(target.elts, value.elts, strict=True):
                self.assign(one, its_value)
        elif isinstance(target, ast.Tuple):
            for one in target.elts:
                self.bind(one, self.items(value))
        else:
            self.bind(target, self.types_of(value))

    def bind(self, target: ast.expr, types: set[Any]) -> None:
        if key := _key(target):
            self.types.setdefault(key, set()).update(types)

    def items(self, iterable: ast.expr) -> set[Any]:
        return {found.item for found in self.types_of(iterable) if isinstance(found, Several)}

    def types_of(self, node: ast.expr) -> set[Any]:
        if isinstance(node, ast.Tuple | ast.List):
            return set()
        if isinstance(node, ast.ListComp | ast.SetComp | ast.GeneratorExp):
            return {Several(found) for found in self.types_of(node.elt)}
        if isinstance(node, ast.Call):
            return self.results(node)
        if isinstance(node, ast.IfExp):
            return self.types_of(node.body) | self.types_of(node.orelse)
        if isinstance(node, ast.Attribute) and (owners := self.types_of(node.value)):
            return {found for owner in owners for found in self.attribute(owner, node.attr)}
        return self.types.get(_key(node) or "", set())

    def results(self, call: ast.Call) -> set[Any]:
        called = call.func
        local = called.attr if isinstance(called, ast.Attribute) else getattr(called, "id", "")
        if local in self.functions and not self.types_of(called):
            returned = [
                n.value for n in ast.walk(self.functions[local]) if isinstance(n, ast.Return) and n.value
            ]
            return {found for value in returned for found in self.types_of(value)}
        if local == "getattr" and len(call.args) > 1 and isinstance(call.args[1], ast.Constant):
            owners = self.types_of(call.args[0])
            return {found for owner in owners for found in self.attribute(owner, call.args[1].value)}
        found: set[Any] = set()
        for callee in self.types_of(called):
            if isinstance(callee, type):
                found.add(Instance(callee))
            elif isinstance(callee, Method):
                found.update(self.parse(text) for text in callee.results)
        return found - {None}

    def attribute(self, owner: Any, name: str) -> set[Any]:
        holder = owner.cls if isinstance(owner, Instance) else owner
        if isinstance(holder, Several | Method) or not hasattr(holder, name):
            return set()
        value = getattr(holder, name)
        if isinstance(value, property):
            text = _PROPERTY.search(getattr(value.fget, "__doc__", None) or "")
            return {self.parse(text[1])} - {None} if text else set()
        if isinstance(value, type):
            return {value}
        if callable(value):
            return {Method(tuple(_RESULT.findall(getattr(value, "__doc__", None) or "")))}
        return {Instance(type(value))} if type(value).__module__.startswith("tensorrt") else set()

    def parse(self, text: str) -> Any:
        name = _NAME.search(text)
        found = getattr(self.bindings, name[1], None) if name else None
        if not isinstance(found, type):
            return None
        return (
            Several(Instance(found))
            if re.match(r"(typing\.)?(List|list|Sequence)\b", text)
            else Instance(found)
        )

    # Under which conditions code runs.

    def find_conditions(self, tree: ast.Module) -> dict[ast.AST, tuple[bool, ...]]:
        """Return for every node whether the conditions above it hold for these bindings."""
        found: dict[ast.AST, tuple[bool, ...]] = {}
        for _ in range(_ROUNDS):  # a function runs only where one of its calls does
            calls: dict[str, list[bool]] = {}
            for node, holds in found.items():
                if (
                    isinstance(node, ast.Call)
                    and isinstance(node.func, ast.Name)
                    and node.func.id in self.functions
                ):
                    calls.setdefault(node.func.id, []).append(all(holds))
            found = {}
            self.visit(tree, (), found, {name for name, states in calls.items() if not any(states)})
        return found

    def visit(
        self, node: ast.AST, above: tuple[bool, ...], found: dict[ast.AST, tuple[bool, ...]], unused: set[str]
    ) -> None:
        found[node] = above
        if isinstance(node, ast.FunctionDef) and node.name in unused:
            above = (*above, False)
        for name, field in ast.iter_fields(node):
            block = field if isinstance(field, list) else [field]
            inside = above
            if isinstance(node, ast.If | ast.IfExp) and name in ("body", "orelse"):
                holds = self.evaluate(node.test)
                inside = above if holds is None else (*above, holds == (name == "body"))
            for child in block:
                if not isinstance(child, ast.AST):
                    continue
                self.visit(child, inside, found, unused)
                if isinstance(child, ast.If) and isinstance(child.body[-1], ast.Return | ast.Raise):
                    holds = self.evaluate(child.test)  # what follows runs where it does not leave here
                    inside = inside if holds is None else (*inside, not holds)

    def evaluate(self, test: ast.expr) -> bool | None:
        if isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not):
            holds = self.evaluate(test.operand)
            return None if holds is None else not holds
        if (asked := _asked(test)) and (owners := self.types_of(asked[0])):
            return any(_has(owner, asked[1]) for owner in owners)
        text = ast.unparse(test)
        return {
            "capability is not None": self.ahead_of_time,
            "capability is None": not self.ahead_of_time,
        }.get(text)

    # Every use.

    def collect(self, node: ast.AST) -> None:
        if isinstance(node, ast.Attribute):
            self.note(node, node.value, node.attr, optional=False)
        elif asked := _asked(node):
            self.note(node, asked[0], asked[1], optional=True)
        elif isinstance(node, ast.ClassDef):
            for base in node.bases:
                for method in node.body:  # what native code calls back
                    if isinstance(method, ast.FunctionDef) and not method.name.startswith("_"):
                        self.note(method, base, method.name, optional=False)

    def note(self, node: Any, value: ast.expr, name: str, optional: bool) -> None:
        owners = {owner for owner in self.types_of(value) if not isinstance(owner, Several | Method)}
        if owners:
            active = all(self.conditions[node])
            exists = any(_has(owner, name) for owner in owners)
            owner = " or ".join(sorted(map(_title, owners)))
            self.uses.add(Use(self.file, node.lineno, owner, name, exists, active, optional))


def _key(node: ast.expr) -> str | None:
    """``x`` and ``self.x`` are one name throughout a file."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "self":
        return f"self.{node.attr}"
    return None


def _asked(node: ast.AST) -> tuple[ast.expr, str] | None:
    """Return object and name of ``hasattr(x, "n")`` and ``getattr(x, "n", default)``."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
        length = {"hasattr": 2, "getattr": 3}.get(node.func.id)
        if length == len(node.args) and isinstance(node.args[1], ast.Constant):
            return node.args[0], node.args[1].value
    return None


def _has(owner: Any, name: str) -> bool:
    return hasattr(owner.cls if isinstance(owner, Instance) else owner, name)


def _title(owner: Any) -> str:
    return owner.cls.__name__ if isinstance(owner, Instance) else owner.__name__.rsplit(".", 1)[-1]


def find_aliases(trees: list[ast.Module]) -> set[str]:
    """Return the names that the module of a compiler is bound to: imported, or by a name that is computed."""
    return {name for tree in trees for node in ast.walk(tree) for name in _aliases(node)}


def _aliases(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (a.asname or a.name for a in node.names if a.name.startswith("tensorrt"))
    if isinstance(node, ast.Assign) and isinstance(node.value, ast.Call):
        called = ast.unparse(node.value.func)
        if called == "importlib.import_module" and not isinstance(node.value.args[0], ast.Constant):
            yield from (target.id for target in node.targets if isinstance(target, ast.Name))


def analyse(sources: dict[str, str], bindings: ModuleType, hints: dict[str, Any]) -> dict[str, Any]:
    """Return every use in ``sources`` (file name → text), and what the variables are."""
    trees = {file: ast.parse(text) for file, text in sources.items()}
    aliases = find_aliases(list(trees.values()))
    found = {
        file: Analysis(tree, file, bindings, aliases, hints.get(file, {})) for file, tree in trees.items()
    }
    uses = sorted(
        (use for one in found.values() for use in one.uses), key=lambda u: (u.file, u.line, u.owner, u.name)
    )
    types = {
        file: {
            key: [t.cls.__name__ for t in types if isinstance(t, Instance)]
            for key, types in one.types.items()
        }
        for file, one in found.items()
    }
    return {"version": bindings.__version__, "uses": list(map(asdict, uses)), "types": types}


if __name__ == "__main__":
    texts = {Path(name).name: Path(name).read_text(encoding="utf-8") for name in sys.argv[3:]}
    print(json.dumps(analyse(texts, importlib.import_module(sys.argv[1]), json.loads(sys.argv[2]))))
