"""Measure the structure of the package and fail where it is over a limit.

    python tools/structure.py

The table has one row per measure, and every place that breaks a limit is listed below it. Modules and their
lines are counted without `__init__` files. A single client is one other module that imports the module; the
command modules, which only the entry point imports, are not counted.
"""

import ast
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

PACKAGE = "sgnet_nnunet"
BENCHMARKS = "benchmarks"
ENTRY_POINT = "sgnet_nnunet.cli.app"

LAYERS: dict[str, frozenset[str]] = {
    "networks": frozenset(),
    "planning": frozenset({"networks"}),
    "plugin": frozenset(),
    "dataset": frozenset(),
    "phantom": frozenset({"dataset"}),
    "inference": frozenset({"networks", "planning", "plugin"}),
    "training": frozenset({"networks", "inference"}),
    "evaluation": frozenset({"dataset", "inference"}),
    "report": frozenset({"evaluation", "inference"}),
    "demo": frozenset({"dataset", "phantom", "inference", "evaluation", "report"}),
    "patient": frozenset({"dataset", "inference", "report"}),
    "study": frozenset({"dataset", "evaluation", "report"}),
    "cli": frozenset(
        {"dataset", "phantom", "inference", "evaluation", "report", "patient", "plugin", "demo", "study"}
    ),
}
"""Folders of the package, and modules next to them, with those of this table that each may import.

The other modules next to the folders, such as `nifti`, import none of the table's, and are imported by all.
`__init__`, which has the public names, imports any.
"""

FunctionNode = ast.FunctionDef | ast.AsyncFunctionDef
BRANCHES = (ast.If, ast.IfExp, ast.For, ast.AsyncFor, ast.While, ast.ExceptHandler, ast.match_case)


@dataclass(frozen=True)
class Source:
    """A module of the package.

    Attributes:
        path: File, relative to the repository.
        name: Dotted name, `sgnet_nnunet.networks.gates`; that of the package for an `__init__` file.
        lines: Number of lines.
        tree: The parsed file.
    """

    path: Path
    name: str
    lines: int
    tree: ast.Module

    @property
    def is_package(self) -> bool:
        """Whether this is an `__init__` file."""
        return self.path.name == "__init__.py"


@dataclass(frozen=True)
class Measure:
    """One row of the table.

    Attributes:
        name: What is measured.
        value: The measured number.
        limit: Largest value allowed, or the smallest for a percentage.
        at_least: Whether `limit` is the smallest value allowed.
        places: Where the limit is broken, or the items that are counted.
    """

    name: str
    value: float
    limit: float
    at_least: bool = False
    places: list[str] = field(default_factory=list)

    @property
    def kept(self) -> bool:
        """Whether the value is within the limit."""
        return self.value >= self.limit if self.at_least else self.value <= self.limit


def read_sources(root: Path) -> list[Source]:
    """Return the modules of the package below `root`, sorted by path.

    Raises:
        SyntaxError: If a file is not valid Python.
    """
    sources = []
    for path in sorted((root / PACKAGE).rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        parts = path.relative_to(root).with_suffix("").parts
        name = ".".join(part for part in parts if part != "__init__")
        sources.append(Source(path.relative_to(root), name, text.count("\n"), ast.parse(text)))
    return sources


def measure(root: Path) -> list[Measure]:
    """Return every measure of the package below `root`."""
    sources = read_sources(root)
    modules = [source for source in sources if not source.is_package]
    stems = Counter(source.path.stem for source in modules)
    twice = sorted(stem for stem, number in stems.items() if number > 1)
    single = single_clients(sources)
    functions = list(_functions(sources))
    lengths = {place: _length(node) for place, node in functions}
    complexities = {place: _complexity(node) for place, node in functions}
    untyped = [place for place, node in functions if not _typed(node)]
    documented = list(_public(sources))
    bare = [place for place, has in documented if not has]
    against = imports_against_layers(sources)
    stars, prints = _found(sources, _is_star_import), _found(sources, _is_print)
    longest = {str(source.path): source.lines for source in modules}
    benchmark_lines = sum(
        path.read_text(encoding="utf-8").count("\n") for path in (root / BENCHMARKS).rglob("*.py")
    )
    return [
        Measure("modules", len(modules), 114),
        Measure("lines of the package", sum(longest.values()), 26_165),
        Measure("lines of the longest module", max(longest.values()), 600, places=_over(longest, 600)),
        Measure("lines of benchmarks/", benchmark_lines, 3_190),
        Measure("file names used twice", len(twice), 0, places=twice),
        Measure("modules with a single client", len(single), 20, places=single),
        Measure("functions typed, %", _share(untyped, functions), 100, at_least=True, places=untyped),
        Measure("public things documented, %", _share(bare, documented), 95, at_least=True, places=bare),
        Measure("lines of the longest function", max(lengths.values()), 60, places=_over(lengths, 60)),
        Measure("complexity", max(complexities.values()), 15, places=_over(complexities, 15)),
        Measure("imports against the layers", len(against), 0, places=against),
        Measure("star imports", len(stars), 0, places=stars),
        Measure("prints", len(prints), 0, places=prints),
    ]


def single_clients(sources: list[Source]) -> list[str]:
    """Return "module <- client" for each module that exactly one other module of the package imports."""
    names = {source.name for source in sources}
    clients: dict[str, set[str]] = defaultdict(set)
    for source in sources:
        for node in ast.walk(source.tree):
            for imported in _imported(node, names):
                if imported != source.name:
                    clients[imported].add(source.name)
    single = {name: min(users) for name, users in clients.items() if len(users) == 1}
    return sorted(f"{name} <- {client}" for name, client in single.items() if client != ENTRY_POINT)


def imports_against_layers(sources: list[Source]) -> list[str]:
    """Return "file:line module" for each import that `LAYERS` does not allow, those inside functions too.

    A folder that is not in the table is returned as well.
    """
    names = {source.name for source in sources}
    folders = [source for source in sources if source.is_package and source.name != PACKAGE]
    places = [f"{each.path} not in LAYERS" for each in folders if _layer(each.name) not in LAYERS]
    for source in sources:
        own = _layer(source.name)
        allowed = LAYERS if source.name == PACKAGE else {own, *LAYERS.get(own, ())}
        places += [
            f"{source.path}:{getattr(node, 'lineno', 0)} {name}"
            for node in ast.walk(source.tree)
            for name in _imported(node, names)
            if _layer(name) in LAYERS and _layer(name) not in allowed
        ]
    return places


def _layer(module: str) -> str:
    """Return the first part of a module's name below the package."""
    return module.removeprefix(PACKAGE).lstrip(".").partition(".")[0]


def _imported(node: ast.AST, names: set[str]) -> Iterator[str]:
    """Yield the modules of the package that an import statement names."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names if alias.name in names)
    if isinstance(node, ast.ImportFrom) and node.module in names:
        for alias in node.names:
            submodule = f"{node.module}.{alias.name}"
            yield submodule if submodule in names else node.module


def _functions(sources: list[Source]) -> Iterator[tuple[str, FunctionNode]]:
    for source in sources:
        for node in ast.walk(source.tree):
            if isinstance(node, FunctionNode):
                yield f"{source.path}:{node.lineno} {node.name}", node


def _length(node: FunctionNode) -> int:
    """Return the lines of a function; of a command, whose options are its signature, those of its body."""
    first = node.body[0].lineno if _is_command(node) else node.lineno
    return (node.end_lineno or first) - first + 1


def _is_command(node: FunctionNode) -> bool:
    """Whether a function's arguments are options: `Annotated` with a call, such as `typer.Option(...)`."""
    annotations = [argument.annotation for argument in _arguments(node) if argument.annotation]
    return any(
        isinstance(annotation, ast.Subscript)
        and ast.unparse(annotation.value) == "Annotated"
        and any(isinstance(child, ast.Call) for child in ast.walk(annotation))
        for annotation in annotations
    )


def _complexity(node: FunctionNode) -> int:
    """Return the number of paths through a function, nested functions and boolean operators included."""
    total = 1
    for child in ast.walk(node):
        total += isinstance(child, BRANCHES)
        if isinstance(child, ast.BoolOp):
            total += len(child.values) - 1
        if isinstance(child, ast.comprehension):
            total += 1 + len(child.ifs)
    return total


def _arguments(node: FunctionNode) -> list[ast.arg]:
    arguments = node.args
    optional = [argument for argument in (arguments.vararg, arguments.kwarg) if argument]
    return [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs, *optional]


def _typed(node: FunctionNode) -> bool:
    named = [argument for argument in _arguments(node) if argument.arg not in {"self", "cls"}]
    return node.returns is not None and all(argument.annotation for argument in named)


def _public(sources: list[Source]) -> Iterator[tuple[str, bool]]:
    """Yield modules, classes, functions and methods with a public name, and whether each has a docstring."""
    for source in sources:
        yield str(source.path), ast.get_docstring(source.tree) is not None
        yield from _public_in(source.path, source.tree)


def _public_in(path: Path, owner: ast.Module | ast.ClassDef) -> Iterator[tuple[str, bool]]:
    for node in owner.body:
        if isinstance(node, FunctionNode | ast.ClassDef) and not node.name.startswith("_"):
            yield f"{path}:{node.lineno} {node.name}", ast.get_docstring(node) is not None
            if isinstance(node, ast.ClassDef):
                yield from _public_in(path, node)


def _is_star_import(node: ast.AST) -> bool:
    return isinstance(node, ast.ImportFrom) and any(alias.name == "*" for alias in node.names)


def _is_print(node: ast.AST) -> bool:
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"


def _found(sources: list[Source], matches: Callable[[ast.AST], bool]) -> list[str]:
    return [
        f"{source.path}:{getattr(node, 'lineno', 0)}"
        for source in sources
        for node in ast.walk(source.tree)
        if matches(node)
    ]


def _over(values: dict[str, int], limit: int) -> list[str]:
    ordered = sorted(values.items(), key=lambda item: -item[1])
    return [f"{place} ({value})" for place, value in ordered if value > limit]


def _share(missing: list[str], everything: Sequence[object]) -> float:
    return 100 * (1 - len(missing) / max(len(everything), 1))


def main(root: Path) -> int:
    """Print the measures and return the exit status: 1 if a limit is broken."""
    measures = measure(root)
    width = max(len(each.name) for each in measures)
    for each in measures:
        sign = ">=" if each.at_least else "<="
        verdict = "" if each.kept else "  OVER THE LIMIT"
        sys.stdout.write(f"{each.name:<{width}}  {each.value:>8,.6g}  {sign} {each.limit:,}{verdict}\n")
    for each in measures:
        if not each.kept and each.places:
            sys.stdout.write(f"\n{each.name}:\n" + "".join(f"  {place}\n" for place in each.places))
    return int(not all(each.kept for each in measures))


if __name__ == "__main__":
    sys.exit(main(Path(__file__).resolve().parents[1]))
