"""A corpus that needs no download: the docstrings of Python and of the packages that requirements.txt pins.

    python prepare_wiki.py config/data_pydocs.py        (its source is 'pydocs')

The Python files are read with `ast` and never imported. corpus/sources.py makes parts of them.
"""

import ast
import gc
import importlib.metadata
import inspect
import platform
import sysconfig
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from corpus.documents import Document, short_hash

REQUIREMENTS = Path(__file__).resolve().parents[1] / "requirements.txt"
# Not read, though requirements.txt has them: they came later, and the demo's corpus and figures stay what they were.
LATER = ("gguf", "prometheus_client", "starlette", "uvicorn")
DEFINITIONS = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


# --- packages and their files ---


def python_packages(requirements: Path = REQUIREMENTS) -> list[tuple[str, str]]:
    """Python and the closure of a requirements file without LATER, sorted (name, version), whatever else is there."""
    from packaging.requirements import Requirement  # here: the processes that read docstrings need neither
    from packaging.utils import canonicalize_name

    lines = requirements.read_text(encoding="utf-8").splitlines()
    named = [Requirement(line) for line in lines if line.strip() and not line.startswith("#")]
    wanted = [requirement for requirement in named if requirement.name not in LATER]
    versions: dict[str, str] = {}
    done: set[tuple[str, str]] = set()  # (package, extra) whose requirements were added to `wanted`

    while wanted:
        requirement = wanted.pop()
        name = canonicalize_name(requirement.name)
        for extra in {"", *requirement.extras}:
            if (name, extra) in done:
                continue
            done.add((name, extra))

            try:
                package = importlib.metadata.distribution(name)
            except importlib.metadata.PackageNotFoundError:
                raise ValueError(f"the package {name} is not installed; run: pip install -r requirements.txt") from None
            versions[name] = package.version

            for inner in map(Requirement, package.requires or []):
                if inner.marker is None or inner.marker.evaluate({"extra": extra}):
                    wanted.append(inner)

    return [("python", platform.python_version()), *sorted(versions.items())]


def python_files(package: str, version: str) -> list[tuple[str, str]]:
    """(path, package-version/path) of the Python files of an installed package, or of 'python', tests left out."""
    if package == "python":
        root = Path(sysconfig.get_paths()["stdlib"])
        files = [path.relative_to(root) for path in root.rglob("*.py")]
        files = [path for path in files if path.parts[0] not in ("site-packages", "dist-packages")]
    else:
        distribution = importlib.metadata.distribution(package)
        root = Path(distribution.locate_file(""))
        files = [Path(str(path)) for path in distribution.files or []]
        files = [path for path in files if path.suffix == ".py" and path.parts[0] != ".."]

    named = []
    for path in sorted(set(files), key=str):
        is_test = bool({"test", "tests"} & set(path.parts))
        if not is_test and (root / path).is_file():
            named.append((str(root / path), f"{package}-{version}/{path.as_posix()}"))
    return named


# --- the docstrings of a file ---


def docstrings(path: str, name: str) -> Iterator[Document]:
    """The docstrings of modules, classes and functions in one Python file.

    name: package-version/path, as python_files gives it. Ids are numpy-2.4.6/numpy/linalg/_linalg.py#L94-<hash>, titles
    numpy.linalg._linalg.solve. Of pydoc_data/topics.py the entries of its dictionary are the documents. A file that
    this Python cannot parse (a template, a file for another version) has none.
    """
    source = Path(path).read_bytes()
    has_long_strings = b'"""' in source or b"'''" in source
    if not has_long_strings and not name.endswith("pydoc_data/topics.py"):
        return  # no docstring of several lines: parsing is most of the cost
    tree = parse(source)
    if tree is None:
        return

    package, _, inner_path = name.partition("/")
    module = inner_path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
    project, version = package.rsplit("-", 1)
    if project == "python":
        url = f"https://docs.python.org/{version[:4]}/"
    else:
        url = f"https://pypi.org/project/{project}/{version}/"

    for found in sorted(walk(tree, module)):
        yield Document(f"{name}#L{found.line}-{short_hash(found.text)}", found.title, url, found.text)


def parse(source: bytes) -> ast.Module | None:
    """The syntax tree of a file; None for what this Python cannot parse."""
    gc.disable()  # a large tree without cycles: looking for them doubled the time
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return ast.parse(source)
    except (SyntaxError, ValueError, RecursionError):
        return None
    finally:
        gc.enable()


class Docstring(NamedTuple):
    """One docstring, at its place in a file."""

    line: int
    title: str  # module.Class.method
    text: str
    kind: str  # of what it describes: module, class, function, property, local (defined in a function), or topic


def walk(node: ast.AST, name: str, outer: str = "") -> Iterator[Docstring]:
    """Yield each docstring in `node`, whose own title is `name`; outer: the kind of what it stands in.

    Only statements are visited: expressions hold no docstrings, and are most of a tree.
    """
    kind = kind_of(node, outer) if isinstance(node, ast.Module | DEFINITIONS) else outer
    if isinstance(node, ast.Module | DEFINITIONS):
        text = ast.get_docstring(node, clean=False)
        if text:
            yield Docstring(node.body[0].lineno, name, inspect.cleandoc(text), kind)

    if isinstance(node, ast.Assign) and name == "pydoc_data.topics" and isinstance(node.value, ast.Dict):
        for key, value in zip(node.value.keys, node.value.values, strict=True):
            yield Docstring(value.lineno, ast.literal_eval(key), ast.literal_eval(value), "topic")

    for field in ("body", "handlers", "orelse", "finalbody", "cases"):
        for child in getattr(node, field, []) or []:
            child_name = f"{name}.{child.name}" if isinstance(child, DEFINITIONS) else name
            yield from walk(child, child_name, kind)


def kind_of(node: ast.AST, outer: str) -> str:
    """The kind of a module or definition that stands in something of the kind `outer`."""
    if isinstance(node, ast.Module):
        return "module"
    if outer in ("function", "property", "local"):
        return "local"
    if isinstance(node, ast.ClassDef):
        return "class"
    decorators = [ast.unparse(decorator) for decorator in node.decorator_list]
    return "property" if any(decorator.endswith("property") for decorator in decorators) else "function"
