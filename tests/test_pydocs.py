"""A corpus from docstrings: those that `ast` finds, of the pinned packages, as the source of prepare_wiki.py."""

import ast
import dataclasses
import importlib.metadata
import importlib.util
import inspect
import json
import operator
import sys
import sysconfig
from pathlib import Path

import pytest
from conftest import REPO

import configurator
import prepare_wiki
from corpus import pydocs, sources
from corpus.clean import normalise
from corpus.documents import Document, read_documents
from corpus.pydocs import docstrings, python_files, python_packages

# --- the docstrings of a file ---

MODULE = '''\
"""The module's docstring.

    With indentation.
"""
import typing

raise_on_import = 1 / ZERO


def one_line():
    "One line only."


class Outer:
    """Outer class.

        Deeper line.
    """

    class Inner:
        """Inner class."""

        async def coroutine(self):
            r"""Raw \\d docstring."""

            def local():
                """A local function."""

    def no_docstring(self):
        return """not a docstring"""

    @property
    def prop(self):
        """A property."""


if typing.TYPE_CHECKING:

    def conditional():
        """Under if."""

else:

    def conditional():
        """Under else."""


try:

    def tried():
        """Under try."""

except ImportError:

    def handler():
        """Under except."""

finally:

    def final():
        """Under finally."""


for _ in ():

    def looped():
        """Under for."""


with open("x"):

    def inside():
        """Under with."""


match 1:
    case 1:

        def cased():
            """Under case."""


@typing.overload
def overloaded(a: int) -> int:
    """Same text."""


@typing.overload
def overloaded(a: str) -> str:
    """Same text."""


def overloaded(a):
    """The real one."""


def f_string():
    f"""Not a docstring {1}."""


def joined():
    "Joined " """docstring."""


def empty():
    """"""


def after_a_statement():
    pass
    """Not a docstring."""


UNICODE = lambda: None  # 机器学习


def chinese():
    """机器学习是人工智能的一个分支。"""
'''


def every_docstring(source: str) -> list[tuple[int, str]]:
    """(line, text) of every docstring, by walking over all nodes."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            text = ast.get_docstring(node)
            if text:
                found.append((node.body[0].lineno, text))
    return sorted(found)


def piece_of(path: Path, name: str = "thing-1.2/pkg/mod.py") -> tuple[str, str]:
    return str(path), name


def test_docstrings_are_those_that_ast_finds_with_names_and_unique_ids(tmp_path):
    (tmp_path / "mod.py").write_text(MODULE, encoding="utf-8")
    documents = list(docstrings(*piece_of(tmp_path / "mod.py")))
    found = [(int(document.id.split("#L")[1].split("-")[0]), document.text) for document in documents]
    assert found == every_docstring(MODULE) and len(found) == 20
    assert len({document.id for document in documents}) == len(documents)
    assert all(document.id.startswith("thing-1.2/pkg/mod.py#L") for document in documents)
    assert {document.url for document in documents} == {"https://pypi.org/project/thing/1.2/"}
    titles = {document.text: document.title.removeprefix("pkg.mod") for document in documents}
    assert titles["The module's docstring.\n\nWith indentation."] == ""
    assert titles["Inner class."] == ".Outer.Inner"
    assert titles["Raw \\d docstring."] == ".Outer.Inner.coroutine"
    assert titles["A local function."] == ".Outer.Inner.coroutine.local"
    assert titles["Under else."] == titles["Under if."] == ".conditional"
    assert titles["Under case."] == ".cased"
    assert sum(document.text == "Same text." for document in documents) == 2


@pytest.mark.parametrize("package", ["json", "asyncio", "importlib", "unittest"])
def test_docstrings_of_the_standard_library_are_those_that_ast_finds(package):
    paths = sorted((Path(sysconfig.get_paths()["stdlib"]) / package).glob("*.py"))
    for path in paths:
        source = path.read_text(encoding="utf-8")
        found = [document.text for document in docstrings(*piece_of(path))]
        quoted = '"""' in source or "'''" in source  # others are not looked at
        assert found == [text for _, text in every_docstring(source) if quoted], path
    assert len(paths) > 3


def test_text_and_title_are_what_inspect_shows_of_the_imported_module(tmp_path):
    path = Path(sysconfig.get_paths()["stdlib"]) / "textwrap.py"
    spec = importlib.util.spec_from_file_location("textwrap", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    documents = list(docstrings(*piece_of(path, "python-3.11.7/textwrap.py")))
    for document in documents:
        names = document.title.split(".")
        assert names[0] == "textwrap" and document.url == "https://docs.python.org/3.11/"
        thing = operator.attrgetter(".".join(names[1:]))(module) if names[1:] else module
        assert inspect.getdoc(thing) == document.text, document.title
    assert len(documents) > 8


def test_the_module_is_never_imported(tmp_path, monkeypatch):
    (tmp_path / "mod.py").write_text('"""Text."""\nopen("marker", "w")\nraise SystemExit("imported")\n')
    monkeypatch.chdir(tmp_path)
    assert [document.text for document in docstrings(*piece_of(tmp_path / "mod.py"))] == ["Text."]
    assert not (tmp_path / "marker").exists() and "mod" not in sys.modules


@pytest.mark.parametrize(
    "source",
    [b'"""Text."""\nprint "Python 2"\n', b'"""Text."""\n{% template %}\n', b'"""Nul."""\0\n', b'"""\xff\xfe"""\n', b""]
    + [b'"""Deep."""\nx = ' + b"-" * 5000 + b"1\n"],
    ids=["python2", "template", "nul", "bytes", "empty", "deep"],
)
def test_a_file_that_this_python_cannot_parse_has_no_docstrings(tmp_path, source, recwarn):
    (tmp_path / "mod.py").write_bytes(source)
    assert list(docstrings(*piece_of(tmp_path / "mod.py"))) == []


def test_a_file_of_another_encoding_and_with_bad_escapes_is_read_in_silence(tmp_path, recwarn):
    (tmp_path / "mod.py").write_bytes('# coding: latin-1\n"""caf\xe9 \\d"""\n'.encode("latin-1"))
    assert [document.text for document in docstrings(*piece_of(tmp_path / "mod.py"))] == ["caf\xe9 \\d"]
    assert not recwarn.list


def test_names_of_packages_leave_out_init(tmp_path):
    (tmp_path / "__init__.py").write_text('"""Text."""\n')
    (document,) = docstrings(*piece_of(tmp_path / "__init__.py", "a-b-1.0/pkg/sub/__init__.py"))
    assert document.title == "pkg.sub" and document.url == "https://pypi.org/project/a-b/1.0/"


def test_help_topics_are_documents_one_for_each_entry():
    from pydoc_data.topics import topics

    path = Path(sysconfig.get_paths()["stdlib"]) / "pydoc_data/topics.py"
    documents = list(docstrings(*piece_of(path, "python-3.11.7/pydoc_data/topics.py")))
    assert {document.title: document.text for document in documents} == topics
    assert len({document.id for document in documents}) == len(topics)


# --- packages ---


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """Make packages that importlib.metadata finds: (name, version, requirements, files)."""

    def install(name: str, version: str, requires: tuple[str, ...] = (), files: dict[str, str] | None = None) -> None:
        info = tmp_path / f"{name.replace('-', '_')}-{version}.dist-info"
        info.mkdir()
        head = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
        extras = "".join(f"Provides-Extra: {e}\n" for e in ("fast", "slow"))
        (info / "METADATA").write_text(head + extras + "".join(f"Requires-Dist: {r}\n" for r in requires))
        for path, text in (files or {}).items():
            (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / path).write_text(text)
        (info / "RECORD").write_text("".join(f"{path},,\n" for path in files or {}))

    monkeypatch.syspath_prepend(str(tmp_path))
    return install


def closure(tmp_path: Path, text: str) -> list[str]:
    (tmp_path / "wanted.txt").write_text(text)
    found = python_packages(tmp_path / "wanted.txt")
    assert found[0][0] == "python"
    return [name for name, _ in found[1:]]


def test_packages_are_the_closure_over_requirements_extras_and_markers(tmp_path, installed):
    installed("nl-top", "1.0", ("nl_dep>=1", "nl-fast; extra == 'fast'", "nl-slow; extra == 'slow'"))
    installed("nl-dep", "1.5", ("nl-old; python_version < '3'", "nl-new; python_version >= '3'"))
    installed("nl-new", "2.0", ("nl-top", "nl-nested[fast]"))  # a circle
    installed("nl-nested", "1.0", ("nl-leaf; extra == 'fast'",))
    for name in ("nl-fast", "nl-slow", "nl-old", "nl-leaf", "nl-unrelated"):
        installed(name, "3.0")
    plain = ["nl-dep", "nl-leaf", "nl-nested", "nl-new", "nl-top"]
    assert closure(tmp_path, "# a comment\n\nNL_Top==1.0\n") == plain
    assert closure(tmp_path, "nl-top[fast]==1.0\n") == sorted([*plain, "nl-fast"])
    assert dict(python_packages(tmp_path / "wanted.txt"))["nl-dep"] == "1.5"


def test_a_package_that_is_not_installed_is_named_with_the_remedy(tmp_path, installed):
    installed("nl-top", "1.0", ("nl-absent",))
    with pytest.raises(ValueError, match="nl-absent is not installed; run: pip install -r requirements.txt"):
        closure(tmp_path, "nl-top\n")


def test_requirements_bring_their_closure_and_no_development_packages():
    found = dict(python_packages(REPO / "requirements.txt"))
    assert {"torch", "numpy", "datasets", "pandas", "huggingface-hub"} <= set(found)  # the last two are not listed
    assert not {"transformers", "pytest", "hypothesis", "ruff", "pip"} & set(found)
    assert not set(pydocs.LATER) & set(found) and "gguf" in pydocs.LATER  # the demo's figures are of a corpus without
    assert all(importlib.metadata.version(name) == version for name, version in found.items() if name != "python")


def test_files_are_those_of_a_package_without_tests(tmp_path, installed):
    files = {
        "nl_top/__init__.py": '"""Top."""',
        "nl_top/tests/test_a.py": '"""Test."""',
        "nl_top/data.txt": "x",
        "nl_top/mod.py": '"""Mod."""',
        "../outside.py": '"""Outside."""',
    }
    installed("nl-top", "1.0", (), files)
    (tmp_path / "nl_top/unlisted.py").write_text('"""Unlisted."""')
    found = python_files("nl-top", "1.0")
    assert [name for _, name in found] == ["nl-top-1.0/nl_top/__init__.py", "nl-top-1.0/nl_top/mod.py"]
    assert [document.text for file in found for document in docstrings(*file)] == ["Top.", "Mod."]
    python = {name.removeprefix("python-3.11.7/") for _, name in python_files("python", "3.11.7")}
    assert {"json/decoder.py", "abc.py"} <= python
    assert not any(name.startswith(("test/", "site-packages/")) or "/test/" in name for name in python)


# --- the source ---

TINY = {"nl-top": "1.0", "nl-dep": "2.0"}


@pytest.fixture
def tiny(installed, tmp_path, monkeypatch):
    """Two packages are all that there is; returns them as the dictionary that says so."""
    overloads = 'def f():\n    """Same."""\n' * 2
    files = {"nl_top/__init__.py": '"""Top."""', "nl_top/b.py": MODULE, "nl_top/a.py": overloads}
    installed("nl-top", "1.0", (), files)
    odd = {"nl_dep.py": '"""A line\u2028separator, a surrogate \\ud800\n\n  and <a tag>."""', "nl_empty.py": ""}
    installed("nl-dep", "2.0", (), odd)
    packages = dict(TINY)
    monkeypatch.setattr(pydocs, "python_packages", lambda: list(packages.items()))
    return packages


def expected(packages: dict[str, str]) -> list[Document]:
    """All documents, read one file after the other; no file can hold a lone surrogate."""
    found = [d for package in packages.items() for file in python_files(*package) for d in docstrings(*file)]
    return [dataclasses.replace(d, text=d.text.replace("\ud800", "?")) for d in found]


@pytest.mark.parametrize("part_bytes", [1, sources.PART_BYTES])
def test_the_source_has_every_document_once_in_the_order_of_packages_and_files(tiny, monkeypatch, part_bytes):
    monkeypatch.setattr(sources, "PART_BYTES", part_bytes)
    pieces, identity = sources.find_pieces("pydocs")
    parts = list(sources.cut_parts(pieces))
    found = [document for part in parts for document in sources.read_part(part)]
    assert found == expected(tiny) and len(found) == len({document.id for document in found}) == 24
    names = [document.id.split("#L")[0] for document in found]
    assert list(dict.fromkeys(names)) == [
        "nl-top-1.0/nl_top/__init__.py",
        "nl-top-1.0/nl_top/a.py",
        "nl-top-1.0/nl_top/b.py",
        "nl-dep-2.0/nl_dep.py",
    ]
    assert found[-1].text == "A line\u2028separator, a surrogate ?\n\nand <a tag>."
    assert identity == {"packages": TINY}
    assert len(parts) == 1 if part_bytes > 1 else len(parts) == 5


SETTINGS = {"source": "pydocs", "split_by": "file", "num_workers": 1, "until": "documents"}


def test_prepare_wiki_writes_them_and_ids_name_the_python_file(tiny, tmp_path):
    prepare_wiki.main(prepare_wiki.PrepareConfig(**SETTINGS, data_dir=str(tmp_path / "data")))
    parts = sorted((tmp_path / "data/documents").iterdir())
    found = [Document(*row) for part in parts for row in read_documents(part, ("id", "title", "url", "text"))]
    assert found == [dataclasses.replace(document, text=normalise(document.text)) for document in expected(tiny)]
    files = {prepare_wiki.source_file(document.id) for document in found}
    assert files == {name for package in tiny.items() for _, name in python_files(*package) if "empty" not in name}


@pytest.mark.parametrize("change", ["version", "package"])
def test_other_packages_are_noticed_and_named(tiny, tmp_path, change):
    cfg = prepare_wiki.PrepareConfig(**SETTINGS, data_dir=str(tmp_path / "data"))
    prepare_wiki.main(cfg)
    assert json.loads((tmp_path / "data/manifest.json").read_text())["source"] == {"packages": TINY}
    prepare_wiki.main(cfg)  # the same packages: it goes on
    if change == "version":
        tiny["nl-dep"] = "2.1"
    else:
        del tiny["nl-dep"]
    to = "2.1" if change == "version" else "absent"
    with pytest.raises(ValueError, match=f"another state of the source .packages: nl-dep 2.0 -> {to}.*delete"):
        prepare_wiki.main(cfg)


def test_the_config_of_the_demo_names_the_source():
    config = {key: value for key, value, _ in configurator.read_config_file(f"{REPO}/config/data_pydocs.py")}
    assert config["source"] == "pydocs" and config["split_by"] == "file"
