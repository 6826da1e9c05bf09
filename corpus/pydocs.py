"""A corpus that needs no download: the docstrings of Python and of the packages that requirements.txt pins.

    python docstrings.py
    python prepare_wiki.py config/data_pydocs.py

Writes data/pydocs.jsonl, a document a line, and beside it data/pydocs.packages.json, what it was made from. While these
packages are the installed ones the file stays as it is, so that a data folder made from it can be continued.
"""

import configurator  # before the others: Ctrl-C during their import is one line too

# isort: split
import ast
import gc
import importlib.metadata
import inspect
import json
import os
import platform
import shlex
import sysconfig
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import atomic
from corpus.documents import Document, short_hash
from corpus.pool import map_parts

REQUIREMENTS = Path(__file__).resolve().parents[1] / "requirements.txt"


@dataclass(frozen=True)
class DocstringsConfig:
    """Settings of `python docstrings.py`."""

    out: str = "data/pydocs.jsonl"  # file to write
    num_workers: int | None = None  # processes; None: one for each CPU core

    def check(self) -> None:
        """Raise ValueError for settings that cannot work."""
        if not self.out.endswith(".jsonl"):
            raise ValueError(f"out ({self.out}) must end with .jsonl, by which prepare_wiki.py knows the format")
        if self.num_workers is not None and self.num_workers < 1:
            raise ValueError(f"num_workers ({self.num_workers}) must be at least 1")


def main(cfg: DocstringsConfig) -> None:
    """Write the file, unless it is there and made from the packages that are installed now."""
    cfg.check()
    out, packages = Path(cfg.out), python_packages()
    note = out.with_suffix(".packages.json")
    source = f" --source={shlex.quote(cfg.out)}" if cfg.out != DocstringsConfig.out else ""
    then = f"next: python prepare_wiki.py config/data_pydocs.py{source}"
    if out.is_file() and note.is_file() and json.loads(note.read_text(encoding="utf-8")) == dict(packages):
        print(f"{out} is there, made from the packages that are installed; {then}")
        return
    files = [file for package in packages for file in python_files(*package)]
    jobs = [(file, os.path.getsize(file[0])) for file in files]
    found = map_parts(json_lines, jobs, cfg.num_workers or os.cpu_count() or 1, "docstrings")
    with atomic.new_file(out) as temporary:
        temporary.write_text("".join(found), encoding="utf-8")
        note.unlink(missing_ok=True)  # killed between the two files, no note of other packages stands beside this one
    atomic.write_json(note, dict(packages))
    count = sum(lines.count("\n") for lines in found)
    print(f"wrote {out}: {count:,} documents, {out.stat().st_size / 1e6:.1f} MB; {then}")


def json_lines(file: tuple[str, str]) -> str:
    """The docstrings of one of python_files as JSON objects, one a line; ASCII, which can spell any Python string."""
    return "".join(json.dumps(vars(document)) + "\n" for document in docstrings(*file))


def python_packages(requirements: Path = REQUIREMENTS) -> list[tuple[str, str]]:
    """Python and the closure of a requirements file as sorted (name, version), whatever else is installed."""
    lines = requirements.read_text(encoding="utf-8").splitlines()
    wanted = [Requirement(line) for line in lines if line.strip() and not line.startswith("#")]
    versions, done = dict[str, str](), set[tuple[str, str]]()
    while wanted:
        requirement = wanted.pop()
        name = canonicalize_name(requirement.name)
        for extra in {"", *requirement.extras} - {extra for known, extra in done if known == name}:
            done.add((name, extra))
            try:
                package = importlib.metadata.distribution(name)
            except importlib.metadata.PackageNotFoundError:
                raise ValueError(f"the package {name} is not installed; run: pip install -r requirements.txt") from None
            versions[name] = package.version
            inner = map(Requirement, package.requires or [])
            wanted += [i for i in inner if i.marker is None or i.marker.evaluate({"extra": extra})]
    return [("python", platform.python_version()), *sorted(versions.items())]


def python_files(package: str, version: str) -> list[tuple[str, str]]:
    """(path, package-version/path) of the Python files of an installed package, or of 'python', tests left out."""
    if package == "python":
        root = Path(sysconfig.get_paths()["stdlib"])
        found = [path.relative_to(root) for path in root.rglob("*.py")]
        found = [path for path in found if path.parts[0] not in ("site-packages", "dist-packages")]
    else:
        distribution = importlib.metadata.distribution(package)
        root = Path(distribution.locate_file(""))
        found = [Path(str(path)) for path in distribution.files or [] if path.suffix == ".py" and path.parts[0] != ".."]
    found = [path for path in found if not {"test", "tests"} & set(path.parts) and (root / path).is_file()]
    return [(str(root / path), f"{package}-{version}/{path.as_posix()}") for path in sorted(set(found), key=str)]


def docstrings(path: str, name: str) -> Iterator[Document]:
    """Yield the docstrings of modules, classes and functions in one Python file, read with `ast`, never imported.

    Of pydoc_data/topics.py the entries of its dictionary are the documents. A file that this Python cannot parse (a
    template, a file for another version) has none.
    """
    source = Path(path).read_bytes()
    if b'"""' not in source and b"'''" not in source and not name.endswith("pydoc_data/topics.py"):
        return  # no docstring of several lines: parsing is most of the cost
    tree = _parse(source)
    if tree is None:
        return
    package, _, inner = name.partition("/")
    module = inner.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
    project, version = package.rsplit("-", 1)
    url = f"https://pypi.org/project/{project}/{version}/"
    if project == "python":
        url = f"https://docs.python.org/{version[:4]}/"
    for line, title, text in sorted(_walk(tree, module)):
        yield Document(f"{name}#L{line}-{short_hash(text)}", title, url, text)


def _parse(source: bytes) -> ast.Module | None:
    gc.disable()  # a large tree without cycles: looking for them doubled the time
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return ast.parse(source)
    except (SyntaxError, ValueError, RecursionError):
        return None
    finally:
        gc.enable()


def _walk(node: ast.AST, name: str) -> Iterator[tuple[int, str, str]]:
    """Statements only: expressions hold no docstrings, and are most of a tree."""
    if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
        if text := ast.get_docstring(node, clean=False):
            yield node.body[0].lineno, name, inspect.cleandoc(text)
    if isinstance(node, ast.Assign) and name == "pydoc_data.topics" and isinstance(node.value, ast.Dict):
        for key, value in zip(node.value.keys, node.value.values, strict=True):
            yield value.lineno, ast.literal_eval(key), ast.literal_eval(value)
    for field in ("body", "handlers", "orelse", "finalbody", "cases"):
        for child in getattr(node, field, []) or []:
            inner = getattr(child, "name", None)
            inner = inner if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) else None
            yield from _walk(child, f"{name}.{inner}" if inner else name)


if __name__ == "__main__":
    configurator.run(main, DocstringsConfig)
