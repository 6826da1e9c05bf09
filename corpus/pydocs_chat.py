"""Questions and answers about Python, made of the docstrings that corpus/pydocs.py finds.

    python prepare_chat.py config/chat_pydocs.py        (its source is 'pydocs')

Of the docstring of numpy.clip, in short:

    Clip (limit) the values in an array.            What does numpy.clip do?
                                                    Clip (limit) the values in an array.
    Parameters                                      Which parameters does numpy.clip have?
    ----------                                      It takes a, a_min and a_max.
    a : array_like
        Array containing elements to clip.          What is the parameter a of numpy.clip?
    a_min, a_max : array_like or None               Array containing elements to clip.
        Minimum and maximum value.
                                                    Show an example of numpy.clip.
    >>> np.clip(a, 1, 8)                            >>> np.clip(a, 1, 8)
    array([1, 1, 2, 3, 4, 5, 6, 7, 8, 8])           array([1, 1, 2, 3, 4, 5, 6, 7, 8, 8])

Answers are whole sentences or whole examples, without the markup of reStructuredText. What cannot be answered so is not
asked. How a question is worded is drawn by a hash of the object's name.
"""

import ast
import functools
import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from corpus.documents import short_hash
from corpus.pydocs import DEFINITIONS, Docstring, parse, walk

LONGEST_ANSWER = 280  # characters: with the question some 110 tokens of the demo's tokenizer
LONGEST_EXAMPLE = 10  # lines
MOST_PARAMETERS = 2  # of one object that are asked about by name: else half of all questions would be on parameters

# {kind of the object: how its first sentence is asked for}
ABOUT_ACTION = (
    "What does {x} do?",
    "What is {x} for?",
    "Explain {x}.",
    "Tell me what {x} does.",
    "What is the purpose of {x}?",
)
ABOUT_THING = ("What is {x}?", "What is {x} for?", "Explain {x}.", "Describe {x}.", "Tell me about {x}.")
ABOUT_MODULE = ("What is the module {x}?", "What is the module {x} for?", "Describe the module {x}.")
ABOUT = {"function": ABOUT_ACTION, "class": ABOUT_THING, "property": ABOUT_THING, "module": ABOUT_MODULE}

# {what is asked: how, and how it is asked after a first answer}
QUESTIONS = {
    "parameters": (
        (
            "Which parameters does {x} have?",
            "What are the parameters of {x}?",
            "Which arguments does {x} take?",
            "List the parameters of {x}.",
        ),
        ("Which parameters does it have?", "And its parameters?", "Which arguments does it take?"),
    ),
    "returns": (
        ("What does {x} return?", "What is the result of {x}?", "What do I get from {x}?"),
        ("What does it return?", "And what does it return?"),
    ),
    "example": (
        ("Show an example of {x}.", "Give me an example of {x}.", "How do I use {x}?", "Show me how to use {x}."),
        ("And an example?", "Can you show an example?", "Show me an example."),
    ),
}
ABOUT_PARAMETER = (
    "What is the parameter {p} of {x}?",
    "What does the parameter {p} of {x} mean?",
    "Explain the argument {p} of {x}.",
    "What is {p} in {x}?",
)


def conversations(path: str, name: str) -> Iterator[tuple[int, list[tuple[str, str]]]]:
    """Yield (line of the docstring, [(question, answer), ...]) for what one Python file says.

    name: package-version/path, as pydocs.python_files gives it. Asked about is what a user can import: no private
    names, no functions inside functions.
    """
    source = Path(path).read_bytes()
    tree = parse(source) if b'"""' in source or b"'''" in source else None
    if tree is None:
        return

    inner_path = name.partition("/")[2]
    module = inner_path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
    root = Path(path.removesuffix(inner_path))
    titles = set()
    for docstring in sorted(walk(tree, module)):
        if docstring.kind not in ABOUT or docstring.title in titles:
            continue  # of what is defined twice, for two systems, the first counts
        titles.add(docstring.title)
        shown = public_name(root, module, docstring.title.removeprefix(module).removeprefix("."))
        if shown is not None:
            for turns in ask(shown, docstring):
                yield docstring.line, turns


def ask(name: str, docstring: Docstring) -> Iterator[list[tuple[str, str]]]:
    """The conversations about one object: every second time, a first answer is followed by a further question."""
    facts = facts_of(name, docstring)
    summary = first_sentence(summary_lines(docstring.text))
    asked = "" if summary is None else choose(ABOUT[docstring.kind], name, "summary").format(x=name)

    follow_up = choose((*facts, None), name, "follow-up") if summary is not None else None
    if summary is not None and is_answer(asked, summary):
        turns = [(asked, summary)]
        if follow_up is not None:
            turns.append((choose(QUESTIONS[follow_up][1], name, follow_up), facts[follow_up]))
        yield turns

    for what, answer in facts.items():
        if what != follow_up:
            yield [(choose(QUESTIONS[what][0], name, what).format(x=name), answer)]

    described = {}
    for parameter, lines in parameters(docstring.text).items():
        sentence = first_sentence(lines)
        if sentence is not None:
            described[parameter] = sentence
    by_hash = sorted(described, key=lambda parameter: short_hash(f"{name} {parameter}"))
    for parameter in by_hash[:MOST_PARAMETERS]:
        question = choose(ABOUT_PARAMETER, name, parameter).format(p=parameter, x=name)
        yield [(question, described[parameter])]


def facts_of(name: str, docstring: Docstring) -> dict[str, str]:
    """{what can be asked of an object, a key of QUESTIONS: the answer}."""
    found = {
        "parameters": parameter_list(list(parameters(docstring.text))),
        "returns": first_sentence(returned(docstring.text)),
        "example": example(name.rpartition(".")[2], docstring.text),
    }
    if docstring.kind == "module":
        found = {}
    return {what: answer for what, answer in found.items() if answer is not None}


def choose(options: tuple, *key: str) -> object:
    """One of the options, drawn by a hash of the key."""
    return options[int(short_hash(" ".join(key)), 16) % len(options)]


def is_answer(question: str, answer: str) -> bool:
    """Whether an answer says more than its question."""
    said = set(re.findall(r"\w+", question.lower()))
    return bool(set(re.findall(r"\w+", answer.lower())) - said)


# --- names that a user can import ---


def public_name(root: Path, module: str, inner_name: str) -> str | None:
    """The name by which a user finds an object: numpy.clip, though it is defined in numpy._core.fromnumeric.

    root: the folder of the packages; inner_name: Class.method, or "" for the module itself. None where a part of the
    shortest name begins with an underscore.
    """
    first, _, more = inner_name.partition(".")
    name = f"{module}.{inner_name}" if inner_name else module
    packages = module.split(".")
    for depth in range(1, len(packages)):
        package = ".".join(packages[:depth])
        if first and binds(root, package, first, module):
            name = f"{package}.{inner_name}"
            break
    return name if is_public(name) else None


def is_public(name: str) -> bool:
    """Whether no part of a dotted name begins with an underscore; None is no name, and conftest belongs to tests."""
    parts = name.split(".")
    return not any(part.startswith("_") or part in ("None", "conftest") for part in parts)


@functools.lru_cache(maxsize=4096)
def binds(root: Path, place: str, name: str, module: str, depth: int = 8) -> bool:
    """Whether `name` in a package or module is what `module` defines, after at most `depth` imports.

    numpy has clip from numpy._core, which has it, with all else, from numpy._core.fromnumeric.
    """
    if place == module:
        return True
    if not depth:
        return False
    imported = imports(root, place)
    if name in imported.sources:
        return binds(root, imported.sources[name], name, module, depth - 1)
    for source in imported.stars:
        exported = imports(root, source).exported
        if (exported is None or name in exported) and binds(root, source, name, module, depth - 1):
            return True
    return False


@dataclass(frozen=True)
class Imports:
    """What a file imports and exports."""

    sources: dict[str, str]  # {name: module that it comes from}
    stars: list[str]  # modules of which it takes all
    exported: list[str] | None  # its __all__; None: it has none, or computes it


@functools.lru_cache(maxsize=1024)
def imports(root: Path, place: str) -> Imports:
    """The imports of a package or module; none where it has no file below `root`."""
    path = root / place.replace(".", "/")
    is_package = path.is_dir()
    path = path / "__init__.py" if is_package else path.with_suffix(".py")

    tree = parse(path.read_bytes()) if path.is_file() else ast.Module([], [])
    found = Imports({}, [], exports(tree))
    for node in imports_in(tree) if tree is not None else ():
        # One dot is the package itself, or that of a module; two are the one above.
        parts = place.split(".")
        up = node.level - 1 if is_package else node.level
        base = parts[: len(parts) - up] if node.level else []
        source = ".".join([*base, *filter(None, [node.module])])
        for alias in node.names:
            if alias.name == "*":
                found.stars.append(source)
            elif alias.asname in (None, alias.name):
                found.sources[alias.name] = source
    return found


def imports_in(node: ast.AST) -> Iterator[ast.ImportFrom]:
    """The `from ... import ...` of a module, also those under `if` and `try`; not those in functions and classes."""
    for field in ("body", "handlers", "orelse", "finalbody"):
        for child in getattr(node, field, []) or []:
            if isinstance(child, ast.ImportFrom):
                yield child
            elif not isinstance(child, DEFINITIONS):
                yield from imports_in(child)


def exports(tree: ast.Module | None) -> list[str] | None:
    """What a module's __all__ lists; None where there is none, or where it is computed."""
    names = None
    for node in tree.body if tree is not None else ():
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        if not any(isinstance(target, ast.Name) and target.id == "__all__" for target in targets):
            continue
        try:
            listed = list(ast.literal_eval(node.value))
        except ValueError:
            return None
        names = [*(names or []), *listed]
    return names


# --- the parts of a docstring ---

UNDERLINE = re.compile(r"[-=~]{3,}\s*")
GOOGLE_HEADING = re.compile(r"(Args|Arguments|Parameters|Returns|Return|Examples?|Keyword Args|Raises|Yields)::?\s*")
FIELD = re.compile(r":(?P<kind>\w+)(?P<what>[^:`]*):(?: +|$)(?P<text>.*)")  # :param int size: how many
SIGNATURE = re.compile(r"[\w.]+\(.*\)\s*(?:->.*|[-:].*)?|.*->.*")  # a first line such as "clip(a, b) -> array"
NUMPY_ITEM = re.compile(r"(?P<names>[*\w]+(?:, *[*\w]+)*)(?: ?:(?: .*)?)?")  # a_min, a_max : array_like
GOOGLE_ITEM = re.compile(
    r"`{0,2}(?P<names>\*{0,2}\w+)`{0,2} *(?:\([^:]*\))? ?:(?: +(?P<text>.*)|$)"
)  # size (int): how many


def indent_of(line: str) -> int:
    """The number of spaces that a line begins with."""
    return len(line) - len(line.lstrip())


def section(text: str, *names: str) -> tuple[str, list[str]]:
    """("numpy" or "google", the lines below a heading that is one of `names`, dedented); none without such a heading.

    Of numpydoc, `Returns` and a line of dashes, up to the next heading; of Google, `Returns:`, up to the next line
    that is not indented further.
    """
    lines = text.splitlines()
    for number, line in enumerate(lines):
        heading = line.strip().rstrip(":")
        if heading not in names:
            continue
        below = lines[number + 1 :]
        if below and UNDERLINE.fullmatch(below[0].strip()) and not line.rstrip().endswith(":"):
            return "numpy", dedent(until_heading(below[1:]))
        if GOOGLE_HEADING.fullmatch(line.strip()) and line.rstrip().endswith(":"):
            return "google", dedent(while_deeper(below, indent_of(line)))
    return "", []


def until_heading(lines: list[str]) -> list[str]:
    """The lines before the next one that is underlined."""
    for number in range(len(lines) - 1):
        is_heading = lines[number].strip() and UNDERLINE.fullmatch(lines[number + 1].strip())
        if is_heading and indent_of(lines[number]) == indent_of(lines[number + 1]):
            return lines[:number]
    return lines


def while_deeper(lines: list[str], indent: int) -> list[str]:
    """The lines before the first that is not blank and not indented further than `indent`."""
    for number, line in enumerate(lines):
        if line.strip() and indent_of(line) <= indent:
            return lines[:number]
    return lines


def dedent(lines: list[str]) -> list[str]:
    """The lines without the indentation that all share, and without blank lines around them."""
    filled = [number for number, line in enumerate(lines) if line.strip()]
    if not filled:
        return []
    common = min(indent_of(lines[number]) for number in filled)
    return [line[common:].rstrip() for line in lines[filled[0] : filled[-1] + 1]]


def items(lines: list[str]) -> Iterator[tuple[str, list[str]]]:
    """Each line at the left margin with the indented ones below it: of a dedented section."""
    heads = [number for number, line in enumerate(lines) if line and not line[0].isspace()]
    for head, end in itertools.pairwise([*heads, len(lines)]):
        yield lines[head], dedent(lines[head + 1 : end])


def parameters(text: str) -> dict[str, list[str]]:
    """{parameter: the lines that describe it}, by numpydoc, Google or Sphinx; a star before a name is left out."""
    found: dict[str, list[str]] = {}
    style, lines = section(text, "Parameters", "Args", "Arguments")
    for head, body in items(lines):
        match = (NUMPY_ITEM if style == "numpy" else GOOGLE_ITEM).fullmatch(head)
        if match is None:
            continue
        first = match.groupdict().get("text")
        described = [first, *body] if first else body
        for name in match["names"].split(","):
            found[name.strip().lstrip("*")] = described

    for kind, what, described in sphinx_fields(text):
        if kind in ("param", "parameter", "arg") and what:
            found[what.split()[-1].lstrip("*\\")] = described
    return {name: described for name, described in found.items() if name.isidentifier() and is_public(name)}


def returned(text: str) -> list[str]:
    """The lines that say what a function returns; none if it returns several things, or says only of which type."""
    for kind, _, described in sphinx_fields(text):
        if kind in ("return", "returns"):
            return described

    style, lines = section(text, "Returns", "Return")
    if style == "numpy":
        described = [body for _, body in items(lines)]
        return described[0] if len(described) == 1 else []
    if lines and re.match(r"[\w\[\], .`~:]{1,40}: ", lines[0]):  # bool: whether it is
        lines = [lines[0].partition(": ")[2], *lines[1:]]
    return lines


def sphinx_fields(text: str) -> Iterator[tuple[str, str, list[str]]]:
    """(kind, what, lines) of each field: ("param", "int size", ["how many"]) of ":param int size: how many"."""
    lines = text.splitlines()
    for number, line in enumerate(lines):
        match = FIELD.fullmatch(line.strip())
        if match is not None:
            below = while_deeper(lines[number + 1 :], indent_of(line))
            yield match["kind"], match["what"].strip(), [match["text"], *dedent(below)]


def parameter_list(names: list[str]) -> str | None:
    """A sentence that names parameters: "It takes a, b and c."; None where there are none."""
    if not names:
        return None
    *others, last = names
    listed = f"{', '.join(others)} and {last}" if others else last
    answer = f"It takes {listed}."
    return answer if len(answer) <= LONGEST_ANSWER else None


def example(name: str, text: str) -> str | None:
    """The first doctest that uses `name`, with its output, up to the next blank line; None if there is none.

    An import is no use, and one with directives for a test runner is no example for a reader.
    """
    for block in re.split(r"\n[ \t]*\n", text):
        lines = block.splitlines()
        begin = next((number for number, line in enumerate(lines) if line.lstrip().startswith(">>> ")), None)
        if begin is None:
            continue
        lines = lines[begin:]
        shown = dedent([line for line in lines if line.strip() != "```"])
        code = [line[4:] for line in shown if line.startswith((">>> ", "... "))]
        used = [line for line in code if not line.startswith(("from ", "import ", "#"))]
        is_used = re.search(rf"\b{re.escape(name)}\b", "\n".join(used)) is not None
        answer = "\n".join(shown)
        is_short = len(shown) <= LONGEST_EXAMPLE and len(answer) <= LONGEST_ANSWER
        is_plain = shown[0].startswith(">>> ") and "<BLANKLINE>" not in answer and "doctest:" not in answer
        if is_used and is_short and is_plain:
            return answer
    return None


# --- sentences ---

ROLE = re.compile(r":[\w:+-]+:`(?:[^`<]*<)?~?!?([^`>]*)>?`")  # :class:`~torch.nn.Linear`, :meth:`copy <x.copy>`
REFERENCE = re.compile(r" ?\[\d+\]_|(?<=\w)_\b(?=[ .,])")  # [1]_
LINK = re.compile(r"`([^`<]+?) *<[^`>]+>`_{1,2}")  # `the docs <https://...>`_
CROSS_REFERENCE = re.compile(r"\[`~?([^`\]]*)`\](?:\([^)]*\))?")  # [`~Dataset.map`], of Hugging Face
END = re.compile(r"[.!?][\"')\]]*(?= +[A-Z\"'`(\[0-9]|$)")
ABBREVIATION = re.compile(r"(?:\b(?:e\.g|i\.e|etc|vs|cf|resp|Eq|Fig|al|approx|incl|no|St|Dr|Mr|[A-Za-z])|\.)\.$")
# What no reader wants as an answer: licences, notes of maintainers, pointers elsewhere, leftovers of markup.
UNWANTED = re.compile(
    r"^(?:see|same as|as above|ditto|copyright|licen[sc]ed?|todo|fixme|xxx|deprecated|unused|ignored|not used|"
    r"internal|refer to|this (?:file|module) is (?:auto|generated)|auto-?generated|generated protocol)\b|"
    r"\b(?:see|described|defined|given|listed|mentioned) (?:above|below)|"
    r"::|\]\[|\.\.\.|\\[a-z]+\{|https?://|\|\w+\||</?\w+>|%\(\w+\)|\{\w*\}|(?:^|\s)[-=*#]{3,}",
    re.IGNORECASE,
)


def summary_lines(text: str) -> list[str]:
    """The first paragraph, or the second where the first is a signature."""
    paragraphs = [paragraph.splitlines() for paragraph in re.split(r"\n[ \t]*\n", text)[:2]]
    first = paragraphs[0]
    if SIGNATURE.fullmatch(first[0].strip()) and "." not in first[0].strip()[:-1].partition(")")[2]:
        rest = first[1:]
        first = rest or (paragraphs[1] if len(paragraphs) > 1 else [])
    return dedent(first)


def first_sentence(lines: list[str]) -> str | None:
    """The first sentence of the first paragraph, without markup; None where that is no sentence that answers."""
    paragraph: list[str] = []
    for line in lines:
        if not line.strip() or (paragraph and re.match(r"\s*(?:[-*+•] |\d+[.)] |\.\. |:\w+)", line)):
            break
        paragraph.append(line.strip())
    text = re.sub(r"^\([\w\[\], .|]{1,60}\):? +(?=[A-Z])", "", plain(" ".join(paragraph)))  # (str, optional) The name

    sentence = text
    for match in END.finditer(text):
        if not ABBREVIATION.search(text[: match.start() + 1]):
            sentence = text[: match.end()]
            break
    if re.search(r"[\w)`\"'\]]$", sentence):
        sentence += "."
    is_whole = re.search(r"[.!][\"')\]]*$", sentence) is not None
    is_prose = re.match(r"[`\"'(]?[A-Za-z]", sentence) is not None and len(sentence.split()) >= 3
    is_balanced = all(sentence.count(a) == sentence.count(b) for a, b in ("()", "[]", "{}"))
    is_balanced = is_balanced and sentence.count("`") % 2 == 0 and sentence.count('"') % 2 == 0
    is_short = len(sentence) <= LONGEST_ANSWER
    if is_whole and is_prose and is_balanced and is_short and not UNWANTED.search(sentence):
        return sentence
    return None


def plain(text: str) -> str:
    """Text without the markup of reStructuredText: names and code stand between backticks, blanks are single."""
    text = CROSS_REFERENCE.sub(r"`\1`", text)
    text = ROLE.sub(r"`\1`", text)
    text = LINK.sub(r"\1", text)
    text = REFERENCE.sub("", text)
    text = re.sub(r"`{2,}", "`", text)
    text = re.sub(r"(?<![\w*`])\*{1,2}(\w[^*`]*?)\*{1,2}(?![\w*`])", r"\1", text)  # *this*, not x*y*z
    text = text.replace("\\ ", "")
    return " ".join(text.split())
