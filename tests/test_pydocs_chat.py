"""Questions and answers from docstrings: answers are what inspect and doctest find, and no file is on both sides."""

import doctest
import hashlib
import importlib
import inspect
import json
import operator
import re
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from conftest import REPO
from test_prepare_chat import model, read_all  # noqa: F401  the first is a fixture
from test_prepare_wiki import tree
from test_pydocs import installed  # noqa: F401  a fixture

import configurator
import prepare_chat
from corpus import pydocs, pydocs_chat, sources
from corpus.pydocs_chat import ABOUT, ABOUT_PARAMETER, QUESTIONS, conversations, first_sentence, public_name
from corpus.split import Splitter
from prepare_chat import SPLITS, ChatConfig
from shards import verify
from tokenizer import Tokenizer

# --- what is asked about one docstring, by hand ---

NUMPY = """Limit the values in an array.

    Given an interval, values outside of it are clipped.

    Parameters
    ----------
    a : array_like
        Array with elements to clip. It is not changed.
    low, high : float
        Smallest and largest value, see :func:`numpy.clip`.
    *args : object
        i.e. nothing

    Returns
    -------
    clipped : ndarray
        The elements of `a`, e.g. 8 where they were larger. More.

    Examples
    --------
    >>> from thing import clip
    >>> thing.other(1)
    1

    >>> thing.clip([1, 9],
    ...            2, 8)
    array([2, 8])

    >>> thing.clip(1)
"""
GOOGLE = """Limit the values in an array

    Args:
        a (array_like): Array with elements to clip. It is not changed.
        low (float): Smallest value,
            see :func:`numpy.clip`.
        high: Largest.
        *args (object): Nothing at all

    Returns:
        ndarray: The elements of ``a``, e.g. 8 where they were larger.

    Example::

        >>> thing.clip([1, 9],
        ...            2, 8)
        array([2, 8])
"""
SPHINX = """clip(a, low, high) -> array

    *Limit* the values in an array.

    :param a: Array with elements to clip. It is not changed.
    :param float low: Smallest value,
        see :func:`numpy.clip`.
    :type low: float
    :param high: Largest.
    :returns: The elements of :attr:`~thing.a`, e.g. 8 where they were larger.
"""
EXAMPLE = ">>> thing.clip([1, 9],\n...            2, 8)\narray([2, 8])"


def asked(tmp_path: Path, text: str, definition: str = "def clip():") -> dict[str, str]:
    """{question: answer} of all turns about one object of the module `thing`, with "it" for its name."""
    (tmp_path / "thing.py").write_text(f'{definition}\n    """{text}"""\n')
    name = definition.split()[1].rstrip(":").removesuffix("()")
    found = {}
    for line, turns in conversations(str(tmp_path / "thing.py"), "thing-1.0/thing.py"):
        assert line == 2
        found |= {question.replace(f"thing.{name}", "it"): answer for question, answer in turns}
    return found


def kind_of_question(question: str, object_kind: str = "function") -> str:
    """summary, parameters, returns, example, or the name of a parameter: which template a question is of."""
    if question in [template.format(x="it") for template in ABOUT[object_kind]]:
        return "summary"
    for kind, (alone, after) in QUESTIONS.items():
        if question in [template.format(x="it") for template in (*alone, *after)]:
            return kind
    for template in ABOUT_PARAMETER:
        match = re.fullmatch(re.escape(template).replace(r"\{p\}", r"(\w+)").replace(r"\{x\}", "it"), question)
        if match:
            return match[1]
    raise AssertionError(question)


@pytest.mark.parametrize("style", ["numpy", "google", "sphinx"])
def test_what_is_asked_about_one_function(tmp_path, monkeypatch, style):
    monkeypatch.setattr(pydocs_chat, "MOST_PARAMETERS", 9)
    text = {"numpy": NUMPY, "google": GOOGLE, "sphinx": SPHINX}[style]
    found = {kind_of_question(question): answer for question, answer in asked(tmp_path, text).items()}
    expected = {
        "summary": "Limit the values in an array.",
        "parameters": "It takes a, low and high." if style == "sphinx" else "It takes a, low, high and args.",
        "returns": "The elements of `a`, e.g. 8 where they were larger.",
        "example": EXAMPLE,
        "a": "Array with elements to clip.",
        "low": "Smallest value, see `numpy.clip`.",
    }
    if style == "numpy":
        expected["low"] = expected["high"] = "Smallest and largest value, see `numpy.clip`."
    if style == "google":
        expected["args"] = "Nothing at all."
    if style == "sphinx":
        expected["returns"] = "The elements of `thing.a`, e.g. 8 where they were larger."
        del expected["example"]
    assert found == expected


def test_every_second_conversation_or_so_has_a_further_question_and_nothing_is_asked_twice(tmp_path):
    body = "\n".join(f'def clip{k}():\n    """{GOOGLE.replace("clip(", f"clip{k}(")}"""' for k in range(60))
    (tmp_path / "thing.py").write_text(body)
    found = [turns for _, turns in conversations(str(tmp_path / "thing.py"), "thing-1.0/thing.py")]
    lengths = [len(turns) for turns in found]
    assert set(lengths) == {1, 2} and 30 <= lengths.count(2) <= 58  # three of four: an object has three other facts
    first = [turns[0][0] for turns in found]
    assert len(set(first)) == len(first)
    followed = {turns[1][0] for turns in found if len(turns) == 2}
    assert followed == {question for _, after in QUESTIONS.values() for question in after}
    for number in range(60):
        of_it = [turns for turns in found if re.search(rf"clip{number}\b", turns[0][0])]
        answers = [answer for turns in of_it for _, answer in turns]
        answers = [answer for answer in answers if "takes" in answer or ">>>" in answer]
        assert len(answers) <= 2  # either after the first answer, or by themselves


@pytest.mark.parametrize(
    "definition, kind",
    [("def clip():", "function"), ("class Clip:", "class"), ("@property\ndef clip():", "property")],
)
def test_actions_are_asked_what_they_do_and_things_what_they_are(tmp_path, definition, kind):
    (tmp_path / "thing.py").write_text(f'{definition}\n    """Some text that answers."""\n')
    ((_, [(question, answer)]),) = conversations(str(tmp_path / "thing.py"), "thing-1.0/thing.py")
    assert answer == "Some text that answers."
    assert kind_of_question(re.sub(r"thing\.[Cc]lip", "it", question), kind) == "summary"


def test_what_nobody_can_import_is_not_asked_about(tmp_path):
    text = '"""Some text that answers."""'
    (tmp_path / "thing.py").write_text(
        f"def _private():\n    {text}\nclass _Private:\n    def method():\n        {text}\n"
        f"def outer():\n    def inner():\n        {text}\n    class Inner:\n        def method():\n            {text}\n"
        f"def __dunder__():\n    {text}\n"
        f"if True:\n    def twice():\n        {text}\nelse:\n    def twice():\n        {text}\n"
    )
    found = list(conversations(str(tmp_path / "thing.py"), "thing-1.0/thing.py"))
    assert [(line, "thing.twice" in turns[0][0]) for line, turns in found] == [(16, True)]


# --- sentences ---

SENTENCES = {
    "One line only": "One line only.",
    "Two lines\nof one sentence. And more.": "Two lines of one sentence.",
    "A first paragraph.\n\nA second.": "A first paragraph.",
    "See e.g. Knuth, Vol. 2 and so on. More.": None,  # "See": a pointer elsewhere
    "Use e.g. A or i.e. B here. More.": "Use e.g. A or i.e. B here.",
    "Version 1.2 of it is read. More.": "Version 1.2 of it is read.",
    "Sort by the `key`.  Stable.": "Sort by the `key`.",
    "The :class:`~a.b.C` and :meth:`d <x.d>` of ``e`` [1]_.": "The `a.b.C` and `x.d` of `e`.",
    "A `link <https://example.org>`_ stays a word.": "A link stays a word.",
    "This is *very* good and x*y*z stays.": "This is very good and x*y*z stays.",
    "One of the following:\n\n- a": None,
    "One of the following\n- a\n- b": "One of the following.",
    "Return (unclosed text. More": None,
    "Open `code. More": None,
    "Is it a question?": None,
    "Two words": None,
    "Copyright 2020 by someone.": None,
    "Returns ... something.": None,
    "- a list of items.": None,
    "": None,
    "word " * 100: None,  # longer than an answer may be
}


@pytest.mark.parametrize("text", SENTENCES)
def test_first_sentence(text):
    assert first_sentence(text.splitlines()) == SENTENCES[text]


# --- names ---


def test_names_are_those_that_a_user_imports(tmp_path, monkeypatch):
    files = {
        "nlpack/__init__.py": "from ._core import shown, other as renamed\nfrom .sub import *\n"
        "from nlpack._deep import far\nfrom .listed import *",
        "nlpack/listed.py": "__all__ = ['inside']\n__all__ += ['later']\n"
        "def inside(): pass\ndef later(): pass\ndef outside(): pass",
        "nlpack/_core.py": "def shown(): pass\ndef other(): pass\ndef hidden(): pass",
        "nlpack/_deep/__init__.py": "from .file import *",
        "nlpack/_deep/file.py": "def far(): pass",
        "nlpack/sub/__init__.py": "from .mod import starred\nfrom . import mod",
        "nlpack/sub/mod.py": "def starred(): pass\ndef shown(): pass\nclass Own:\n  def method(self): pass",
    }
    for path, text in files.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)
    cases = {
        ("nlpack._core", "shown"): "nlpack.shown",
        ("nlpack._core", "other"): None,
        ("nlpack._core", "hidden"): None,
        ("nlpack._deep.file", "far"): "nlpack.far",
        ("nlpack.sub.mod", "starred"): "nlpack.starred",
        ("nlpack.sub.mod", "shown"): "nlpack.sub.mod.shown",  # nlpack.shown is another
        ("nlpack.sub.mod", "Own.method"): "nlpack.sub.mod.Own.method",
        ("nlpack.listed", "inside"): "nlpack.inside",
        ("nlpack.listed", "later"): "nlpack.later",
        ("nlpack.listed", "outside"): "nlpack.listed.outside",
        ("nlpack.sub", ""): "nlpack.sub",
        ("nlpack._core", ""): None,
    }
    assert {case: public_name(tmp_path, *case) for case in cases} == cases

    monkeypatch.syspath_prepend(str(tmp_path))
    for (module, inner), name in cases.items():
        if name is not None and inner:
            defined = operator.attrgetter(inner)(importlib.import_module(module))
            assert imported(name) is defined


def imported(name: str) -> object:
    """The object of a dotted name, found by import."""
    parts = name.split(".")
    for count in range(len(parts), 0, -1):
        try:
            thing = importlib.import_module(".".join(parts[:count]))
            return operator.attrgetter(".".join(parts[count:]))(thing) if parts[count:] else thing
        except ModuleNotFoundError:
            continue
    raise AssertionError(name)


# --- the real docstrings, against inspect and doctest ---


def letters(text: str) -> str:
    """A text without anything that markup adds or takes away."""
    text = re.sub(r":[\w:+-]+:(?=`)", "", text)
    text = re.sub(r"`[^`<]*<([^`>]*)>`", r"\1", text)
    return re.sub(r"[^A-Za-z0-9]", "", text)


def without_comments(code: str) -> str:
    """Without lines that are comments or blank, which doctest leaves out in some places."""
    return "".join(f"{line}\n" for line in code.splitlines() if line.strip() and not line.startswith("#"))


@pytest.mark.parametrize("package", ["json", "statistics", "numpy/lib", "networkx/classes"])
def test_answers_are_in_what_inspect_and_doctest_show_of_the_object_of_the_question(package):
    own = package.split("/")[0]
    version = dict(pydocs.python_packages()).get(own)
    files = pydocs.python_files(*((own, version) if version else ("python", "3.11.7")))
    pattern = re.compile(rf"{package}(/\w+)*\.py" if version else rf"{package}(/\w+)?\.py")
    n_examples = n_answers = 0
    for path, name in files:
        if not pattern.fullmatch(name.partition("/")[2]):
            continue
        for _, turns in conversations(path, name):
            words = re.findall(rf"\b{own}(?:\.\w+)*", turns[0][0])
            shown = inspect.getdoc(imported(words[0]))
            if shown is None:
                continue  # a decorator took it away
            for _, answer in turns:
                n_answers += 1
                if answer.startswith(">>>"):
                    parsed = doctest.DocTestParser().get_examples(shown)
                    there = "".join(each.source + each.want for each in parsed)
                    said = "\n".join(re.sub(r"^(>>> |\.\.\. |\.\.\.$)", "", line) for line in answer.split("\n"))
                    assert without_comments(said) in without_comments(there), answer
                    n_examples += 1
                elif not answer.startswith("It takes "):
                    assert letters(answer) in letters(shown), (answer, shown)
                else:
                    names = re.split(", | and ", answer.removeprefix("It takes ").removesuffix("."))
                    assert all(name in shown for name in names)
    assert n_answers >= 10
    assert n_examples > 5 or not version


# --- through prepare_chat.py ---


def thing_module(number: int) -> str:
    return "".join(
        f'def f{number}_{k}():\n    """Count {number} of the {k}th kind and give {hashlib.md5(b"%d" % k).hexdigest()}.'
        f'\n\n    :param size: how many of {number * 7 + k} are wanted\n    """\n'
        for k in range(12)
    )


@pytest.fixture
def packages(installed, tmp_path, monkeypatch):  # noqa: F811
    """Two packages are all that there is."""
    files = {f"nl_top/m{number}.py": thing_module(number) for number in range(12)}
    installed("nl-top", "1.0", (), {"nl_top/__init__.py": "", **files})
    installed("nl-bare", "2.0", (), {"nl_bare.py": "def f(): pass\n"})
    found = {"nl-top": "1.0", "nl-bare": "2.0"}
    monkeypatch.setattr(pydocs, "python_packages", lambda: list(found.items()))
    monkeypatch.setattr(sources, "PART_BYTES", 3000)
    monkeypatch.setattr(sys, "argv", ["prepare_chat.py"])
    return found


SETTINGS = {"source": "pydocs", "split_by": "file", "val_fraction": 0.2, "dedup_threshold": 1.0, "num_workers": 1}


def prepare(model: Path, out: Path, **settings) -> Path:  # noqa: F811
    prepare_chat.main(ChatConfig(**(SETTINGS | {"tokenizer": str(model), "data_dir": str(out)} | settings)))
    return out


def test_every_conversation_is_in_the_shards_and_no_file_is_on_both_sides(packages, model, tmp_path):  # noqa: F811
    out = prepare(model, tmp_path / "data")
    expected = [turns for f in pydocs.python_files("nl-top", "1.0") for _, turns in conversations(*f)]
    rows = pq.read_table(out / "conversations").to_pylist()
    assert [row["text"] for row in rows] == ["\n\n".join(text for turn in turns for text in turn) for turns in expected]
    assert rows[0]["id"].startswith("nl-top-1.0/nl_top/m0.py#2-")

    files = {split: set() for split in SPLITS}
    read = Tokenizer.load(out)
    for split in SPLITS:
        for ids, _ in read_all(out, split):
            files[split].add(re.search(r"nl_top\.(m\d+)\.", read.decode(ids))[1])
    assert files["train"] and files["val"] and not files["train"] & files["val"]
    assert len(files["train"] | files["val"]) == 12
    assert sum(len(read_all(out, split)) for split in SPLITS) == len(expected)
    of_text = Splitter("file", 0.2, tmp_path)  # prepare_wiki.py holds out the same files
    assert all(of_text.is_val(f"nl-top-1.0/nl_top/{file}.py#L1-0") for file in files["val"])
    assert not any(of_text.is_val(f"nl-top-1.0/nl_top/{file}.py#L1-0") for file in files["train"])
    assert verify(out) == []


def test_two_workers_write_the_bytes_of_one(packages, model, tmp_path):  # noqa: F811
    one, two = prepare(model, tmp_path / "one"), prepare(model, tmp_path / "two", num_workers=2)
    assert tree(one) == tree(two)


def test_packages_without_docstrings_are_one_line(packages, model, tmp_path):  # noqa: F811
    del packages["nl-top"]
    with pytest.raises(ValueError, match="source=pydocs: no docstring of the installed packages answers a question"):
        prepare(model, tmp_path / "data")


def test_a_split_by_file_wants_ids_that_name_one(model, tmp_path):  # noqa: F811
    rows = [{"id": str(k), "instruction": f"Question {k}", "output": f"Answer {k}"} for k in range(20)]
    (tmp_path / "in.json").write_text(json.dumps(rows))
    with pytest.raises(ValueError, match="split_by=file needs ids that name a file, not '0'; set --id_column=None"):
        prepare(model, tmp_path / "data", source=str(tmp_path / "in.json"), id_column="id")
    assert not list((tmp_path / "data").rglob("*.bin"))


def test_the_configs_hold_out_the_same_files():
    text, chat = (
        {key: value for key, value, _ in configurator.read_config_file(f"{REPO}/config/{name}.py")}
        for name in ("data_pydocs", "chat_pydocs")
    )
    for key in ("source", "val_fraction", "split_by"):
        assert text[key] == chat[key]
    assert chat["tokenizer"] == text["data_dir"] == "data/pydocs"
    demo = {key: value for key, value, _ in configurator.read_config_file(f"{REPO}/config/demo.py")}
    assert chat["max_tokens"] == demo["block_size"]


def test_the_chat_demo_goes_on_from_the_demo():
    demo, chat, sft = (
        {key: value for key, value, _ in configurator.read_config_file(f"{REPO}/config/{name}.py")}
        for name in ("demo", "chat_pydocs", "sft_demo")
    )
    assert sft["init_from"] == demo["out_dir"] and chat["data_dir"] == f"data/{sft['data']}"
    recipe = (REPO / "Makefile").read_text().partition("\nchat-demo:")[2].partition("\n\n")[0]
    commands = (
        "prepare_chat.py config/chat_pydocs.py",
        "train.py config/sft_demo.py",
        f"--checkpoint={sft['out_dir']}",
    )
    assert [recipe.count(command) for command in commands] == [1, 1, 2]
