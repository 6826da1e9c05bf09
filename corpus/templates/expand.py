"""MediaWiki's templates: wikitext with {{{parameters}}}, {{templates}} and {{#functions:}} to wikitext without them.

Pure: no files, no tables; `Expansion` says where definitions come from. The rules are mediawiki.org's: Help:Templates,
Help:Magic words, Help:Extension:ParserFunctions, and what its preprocessor does where they are silent.

    tree = parse("{{#if:{{{label|}}}|{{{label}}}|{{{1}}}}}")
    expand(tree, {"1": "Tokyo"}, expansion)                          "Tokyo"
    expand(tree, {"1": "Tokyo", "label": "the city"}, expansion)     "the city"

Elements (<nowiki>, <math>, <ref> ...) and "\\0<number>\\0" pass through as they are; nothing inside them is read.
"""

import datetime
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from corpus.templates.parser_functions import BLANK, FUNCTIONS, TITLE_FUNCTIONS, VARIABLES, decoded

DEEPEST = 100  # levels of calls inside calls; MediaWiki's limits of templates and of its preprocessor are 100 as well
LONGEST = 2**21  # characters of one text; MediaWiki's limit is 2 MiB
CHARACTERS_A_NODE = 1000  # that many characters of text cost as much of the budget as a node

# Elements whose content is not wikitext, or not for readers. The content of others, <poem> for one, is read.
ELEMENTS = "nowiki|pre|math|chem|ce|ref|references|gallery|source|syntaxhighlight|timeline|score|graph|hiero|imagemap"
ELEMENTS += "|templatedata|templatestyles|mapframe|maplink|inputbox|categorytree|section|indicator|charinsert"
ELEMENT = rf"(?i:<({ELEMENTS})(?=[\s/>])[^<>]*>)"

# What the next interesting mark may be, by the innermost construct that is open. At most three "}" are taken at once,
# so that a long run of them is read once.
OPENING = rf"-\{{+|\{{\{{+|\[\[+|{ELEMENT}"
MARKS = {
    "": re.compile(OPENING),
    "[": re.compile(rf"{OPENING}|\]\]"),
    "-{": re.compile(rf"{OPENING}|\}}-"),
    "{": re.compile(rf"{OPENING}|\}}\}}\}}?|\||\n=*|="),
}
CLOSING = {"{": "}}", "[": "]]", "-{": "}-"}
# Of the calls in articles nine in ten: no other construct and no heading in it. It is parsed five times as fast.
FLAT_CALL = re.compile(r"\{\{((?>(?:[^{}\[<\n]++|\n(?!=))*))\}\}")
BLOCK_MARKS = ("{|", "*", "#", ":", ";")  # what begins with these begins a line of its own
LONGEST_TITLE = 255  # characters, MediaWiki's bytes
COLON = re.compile("[:：]")
NO_TITLE = re.compile(r"[\[\]{}<>|\n\0]")  # characters that no title has

# Templates of almost every wiki that stand for marks; a wiki's own definition comes first.
SIGNS = {"((": "{{", "))": "}}", "(": "{", ")": "}", "!(": "[", ")!": "]", "!!": "||", "!-": "|-", "(!": "{|"}
SIGNS |= {"!)": "|}", "!+": "|+"}


class Unknown(ValueError):
    """A template or function that nothing defines; `name` is its name as written."""

    def __init__(self, name: str) -> None:
        super().__init__(f"nothing defines {name!r}")
        self.name = name


class TooMuch(ValueError):
    """A template that calls itself, or that wants more than the budget."""


# --- what a tree is made of ---


# Trees are shared and never changed. `frozen=True` would say so, but making a node would take four times as long.
@dataclass(slots=True)
class Parameter:
    """{{{name|default}}}; default is None where there is no bar."""

    name: "Tree"
    default: "Tree | None"


@dataclass(slots=True)
class Argument:
    """`name=value` between two bars, or `value` alone, whose name is None."""

    name: "Tree | None"
    value: "Tree"


@dataclass(slots=True)
class Call:
    """{{name|argument|...}}: a template, a variable, or a function, whose first argument is then part of the name."""

    name: "Tree"
    arguments: tuple[Argument, ...]
    begins_line: bool  # a newline stands before it


Node = str | Parameter | Call
Tree = tuple[Node, ...]


@dataclass
class Expansion:
    """What is needed to expand the calls of one page."""

    find: Callable[[str], Tree | None]  # a template's tree by its name as written
    twins: Mapping[str, Callable[[dict[str, str], str], str]]  # by name: (arguments, language of the wiki) -> text
    language: str  # of the wiki, "en"
    title: str  # of the page, with its namespace
    budget: int = 1_000_000  # nodes that may still be expanded, MediaWiki's limit: it falls with each of them
    now: datetime.date | None = None  # the day of the dump, for {{CURRENTYEAR}} and the like
    depth: int = 0  # of calls in calls, while expanding


# --- template pages ---

INCLUSION = re.compile(rf"(?i)<!--|</?(noinclude|includeonly|onlyinclude)(?=[\s/>])[^<>]*>|{ELEMENT}")
ONLY = "onlyinclude"


def template_body(wikitext: str) -> str:
    """The part of a template page that takes the place of a call: no comments, no <noinclude>, only <onlyinclude>.

    A comment alone on its lines takes them with it. An element that is never closed reaches to the end.
    """
    only_wanted = f"<{ONLY}>" in wikitext and f"</{ONLY}>" in wikitext
    is_wanted = not only_wanted
    closings = Closings(wikitext)
    pieces: list[str] = []
    position = 0

    while mark := INCLUSION.search(wikitext, position):
        start = mark.start()
        end = mark.end()
        tag = (mark[1] or "").lower()
        is_closing = mark[0].startswith("</")
        is_empty = mark[0].endswith("/>")
        kept = ""
        wants_next = is_wanted

        if mark[0] == "<!--":
            start, end = comment_span(wikitext, start, position)
        elif mark[2]:  # <nowiki> and the like
            end = closings.after(mark[2], end) if not is_empty else end
            kept = wikitext[start : end or mark.end()]
            end = end or mark.end()
        elif tag == "noinclude" and not is_closing and not is_empty:
            end = closings.after(tag, end) or len(wikitext)
        elif tag == ONLY and only_wanted:
            wants_next = not is_closing

        if is_wanted:
            pieces += [wikitext[position:start], kept]
        position = end
        is_wanted = wants_next

    if is_wanted:
        pieces.append(wikitext[position:])
    return "".join(pieces)


def comment_span(text: str, start: int, least: int) -> tuple[int, int]:
    """Where a comment that begins at `start` begins and ends: with its whole line, if nothing else stands on it.

    Blanks before `least` belong to something else already.
    """
    closed = text.find("-->", start + 4)
    if closed < 0:
        return start, len(text)
    end = closed + 3

    before = start
    while before > least and text[before - 1] in " \t":
        before -= 1
    after = end
    while True:  # several comments may share the line
        while after < len(text) and text[after] in " \t":
            after += 1
        if not text.startswith("<!--", after):
            break
        closed = text.find("-->", after + 4)
        if closed < 0:
            break
        after = closed + 3
    is_alone = before > 0 and text[before - 1] == "\n" and text.startswith("\n", after)
    return (before, after + 1) if is_alone else (start, end)


class Closings:
    """Where elements of a text end. A closing tag that was missing once is not looked for again."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.missing: set[str] = set()

    def after(self, name: str, position: int) -> int | None:
        """The place after the next </name>, or None."""
        name = name.lower()
        if name in self.missing:
            return None
        closing = re.compile(rf"(?i)</{name}\s*>").search(self.text, position)
        if closing is None:
            self.missing.add(name)
            return None
        return closing.end()


# --- wikitext to a tree ---


class Opened:
    """A construct that was opened and not yet closed."""

    def __init__(self, mark: str, count: int, prefix: str, begins_line: bool) -> None:
        self.mark = mark  # "{", "[" or "-{"
        self.count = count  # of braces or brackets that are still open
        self.prefix = prefix  # "-" where -{{{ may turn out to be a -{ and a {{
        self.begins_line = begins_line
        self.clear()

    def clear(self) -> None:
        """Forget what was read; braces may be left, as in {{{{1}}}}."""
        self.parts: list[list[Node]] = [[]]  # what stood between the bars
        self.names: list[list[Node] | None] = [None]  # and before the first "=" of each
        self.in_heading = False  # a line == of this kind == names no argument

    def opening(self, count: int) -> str:
        """The last `count` of the marks that opened it."""
        return self.mark if self.mark == "-{" else self.mark * count

    def as_text(self, count: int) -> list[Node]:
        """What was read, as text: the last `count` opening marks, and all parts."""
        nodes: list[Node] = [self.opening(count)]
        for number, (name, part) in enumerate(zip(self.names, self.parts, strict=True)):
            if number:
                nodes.append("|")
            if name is not None:
                nodes += [*name, "="]
            nodes += part
        return nodes


def parse(wikitext: str) -> Tree:
    """The tree of a wikitext without comments, see `template_body`: text, parameters and calls.

    Marks pair as in MediaWiki's preprocessor: three braces before two, and what is open inside hides what is outside,
    so that the bars of [[a|b]] and -{a|b}- part no arguments. What is not closed stays text. Time is linear.
    """
    flat = FLAT_CALL.fullmatch(wikitext)
    if flat:
        return (flat_call(flat[1]),)

    found: list[Node] = []  # outside all constructs
    stack: list[Opened] = []
    closings = Closings(wikitext)
    out = found  # where what is read goes: a part of the innermost construct
    position = 0

    while mark := MARKS[stack[-1].mark if stack else ""].search(wikitext, position):
        if mark.start() > position:
            out.append(wikitext[position : mark.start()])
        token = mark[0]
        position = mark.end()
        top = stack[-1] if stack else None

        if token[0] == "<":
            end = position if token.endswith("/>") else closings.after(mark[1], position)
            if end is None:
                out.append(token)
            else:
                out.append(wikitext[mark.start() : end])
                position = end

        elif token[0] in "{[-":
            if len(stack) >= DEEPEST:
                out.append(token)
                continue
            prefix = "-" if token[0] == "-" and len(token) > 2 else ""
            opened = token.removeprefix(prefix)
            kind = "-{" if opened == "-{" else opened[0]
            begins_line = not prefix and mark.start() > 0 and wikitext[mark.start() - 1] == "\n"
            stack.append(Opened(kind, len(opened), prefix, begins_line))
            out = stack[-1].parts[0]

        elif token == "|":
            top.parts.append([])
            top.names.append(None)
            out = top.parts[-1]

        elif token == "=":
            is_first = len(top.parts) > 1 and top.names[-1] is None and not top.in_heading
            if is_first:
                top.names[-1] = out
                top.parts[-1] = out = []
            else:
                out.append("=")

        elif token[0] == "\n":
            top.in_heading = len(token) > 2
            if len(token) == 2:
                position -= 1  # "=" alone may follow a name
                out.append("\n")
            else:
                out.append(token)

        else:
            count = min(len(token), top.count) if top.mark == "{" else 2
            position = mark.start() + count
            construct = closed(top, count)
            out = where_next(stack, count, found)
            out += construct

    if position < len(wikitext):
        out.append(wikitext[position:])
    for opened in stack:
        found.append(opened.prefix)
        found += opened.as_text(opened.count)
    return joined(found)


def flat_call(inside: str) -> Call:
    """The call {{inside}}, where `inside` matches FLAT_CALL: "cvt|180|km|abbr=on"."""
    title, *parts = inside.split("|")
    arguments = []
    for part in parts:
        before, equals, behind = part.partition("=")
        name, value = (text_tree(before), behind) if equals else (None, part)
        arguments.append(Argument(name, text_tree(value)))
    return Call(text_tree(title), tuple(arguments), begins_line=False)


def text_tree(text: str) -> Tree:
    """The tree of a text without marks."""
    return (text,) if text else ()


def where_next(stack: list[Opened], count: int, found: list[Node]) -> list[Node]:
    """Where reading goes on after `count` marks closed the innermost construct; braces that it has left stay open.

    Of the five in {{{{{1}}}}}, three are closed first, and two are left; of the three in -{{{a}}, one, with its "-".
    """
    top = stack[-1]
    left = 0 if top.mark == "-{" else top.count - count
    if left >= 2:
        top.count = left
        top.clear()
        return top.parts[0]

    stack.pop()
    out = stack[-1].parts[-1] if stack else found
    if left == 1 and top.prefix:
        stack.append(Opened("-{", 2, "", False))
        return stack[-1].parts[0]
    out.append(top.prefix + top.mark * left)
    return out


def closed(top: Opened, count: int) -> list[Node]:
    """The construct `top`, closed by `count` marks."""
    if top.mark != "{":
        return [*top.as_text(count), CLOSING[top.mark]]

    title = joined(top.parts[0])
    arguments = []
    for name, part in zip(top.names[1:], top.parts[1:], strict=True):
        arguments.append(Argument(None if name is None else joined(name), joined(part)))

    if count == 2:
        begins_line = top.begins_line and top.count == 2
        return [Call(title, tuple(arguments), begins_line)]
    if not arguments:
        return [Parameter(title, None)]
    return [Parameter(title, whole(arguments[0]))]


def whole(argument: Argument) -> Tree:
    """An argument with its name, where "=" names nothing."""
    if argument.name is None:
        return argument.value
    return joined([*argument.name, "=", *argument.value])


def joined(nodes: list[Node]) -> Tree:
    """The nodes as a tree: neighbouring texts are one."""
    tree: list[Node] = []
    texts: list[str] = []
    for node in nodes:
        if isinstance(node, str):
            texts.append(node)
            continue
        if text := "".join(texts):
            tree.append(text)
        texts = []
        tree.append(node)
    if text := "".join(texts):
        tree.append(text)
    return tuple(tree)


# --- a tree to text ---


def expand(tree: Tree, arguments: dict[str, str], expansion: Expansion) -> str:
    """The text of a template's tree, called with these arguments: {"1": "Tokyo", "label": "the city"}.

    Only what is used is expanded: the branch of an #if that is taken. Raises Unknown where nothing defines a template
    or says what a function shows, TooMuch where a template calls itself or the budget is spent. A result that begins
    with a list or table has no newline before it, see `on_new_line`.
    """
    expansion.depth = 0
    try:
        return Frame(tree, arguments, {}, None, expansion).text(tree)
    except RecursionError:
        raise TooMuch("templates are nested too deeply") from None


def on_new_line(text: str) -> str:
    """What a call in the middle of a line shows: a list or table that it begins with begins a new line (T2529)."""
    return "\n" + text if text.startswith(BLOCK_MARKS) else text


class Frame:
    """One call of a template: its arguments, each expanded when it is first used."""

    __slots__ = ("tree", "values", "waiting", "caller", "expansion")

    def __init__(
        self,
        tree: Tree,
        values: dict[str, str],
        waiting: dict[str, tuple[Tree, bool]],
        caller: "Frame | None",
        expansion: Expansion,
    ) -> None:
        self.tree = tree
        self.values = values  # of the arguments that were used
        self.waiting = waiting  # the others: their trees, and whether they have a name and so lose their outer spaces
        self.caller = caller  # whose parameters the arguments name
        self.expansion = expansion

    def text(self, tree: Tree) -> str:
        """The text of a tree, with the arguments of this frame."""
        if len(tree) == 1 and type(tree[0]) is str:
            return tree[0]
        expansion = self.expansion
        expansion.depth += 1
        if expansion.depth > DEEPEST:
            raise TooMuch("templates are nested too deeply")

        pieces = []
        for node in tree:
            if type(node) is str:
                pieces.append(node)
            elif type(node) is Parameter:
                pieces.append(self.parameter(node))
            else:
                text = self.call(node)
                pieces.append(text if node.begins_line else on_new_line(text))
        text = "".join(pieces)

        expansion.depth -= 1
        expansion.budget -= len(tree) + len(text) // CHARACTERS_A_NODE
        if expansion.budget < 0 or len(text) > LONGEST:
            raise TooMuch("the budget is spent")
        return text

    def parameter(self, node: Parameter) -> str:
        """The value of {{{name|default}}}; it stays as it is without a value and a default."""
        written = self.text(node.name)
        name = written.strip(BLANK)
        value = self.value(name)
        if value is not None:
            return value
        if node.default is not None:
            return self.text(node.default)
        return "{{{" + written + "}}}"

    def value(self, name: str) -> str | None:
        """The argument of this name, or None; a named one without its outer spaces."""
        value = self.values.get(name)
        if value is not None:
            return value
        if name not in self.waiting:
            return None

        tree, is_named = self.waiting.pop(name)
        value = self.caller.text(tree)
        if is_named:
            value = value.strip(BLANK)
        self.values[name] = value
        return value

    def all_values(self) -> dict[str, str]:
        """All arguments, their outer spaces removed."""
        for name in list(self.waiting):
            self.value(name)
        return {name: value.strip() for name, value in self.values.items()}

    def call(self, node: Call) -> str:
        """What a call shows: a variable, a function, or a template, looked for in this order."""
        written = self.text(node.name)
        name = written.strip(BLANK)
        if ":" in name:
            name = without_prefix(name, ("safesubst",))
            if without_prefix(name, ("subst",)) != name:
                return self.literal(written, node)

        if not node.arguments:
            variable = VARIABLES.get(name)
            if variable is not None:
                text = variable(self.expansion)
                if text is None:
                    raise Unknown(name)
                return text

        if ":" in name or "：" in name:
            name = without_prefix(name, ("msg", "raw", "msgnw"))
            function_name, first = function_parts(name)
            function = FUNCTIONS.get(function_name.lower()) or TITLE_FUNCTIONS.get(function_name)
            if function is not None:
                arguments = Arguments(self, first, node.arguments)
                text = function(arguments)
                if text is None:
                    is_twin = function_name.lower() in ("#invoke", "#python")
                    raise Unknown(f"{function_name}:{first[:LONGEST_TITLE]}" if is_twin else function_name)
                return text
            if function_name.startswith("#"):
                raise Unknown(function_name[:LONGEST_TITLE])

        return self.template(name, written, node)

    def template(self, name: str, written: str, node: Call) -> str:
        """What a template shows that is called with the arguments of `node`."""
        if ":" in name:
            name = without_prefix(name, ("template",))
        name = decoded(name).partition("#")[0].strip()
        if not name or len(name) > LONGEST_TITLE or NO_TITLE.search(name):
            return self.literal(written, node)
        if name.startswith(":"):
            raise Unknown(name)

        tree = self.expansion.find(name)
        if tree is None:
            if name in SIGNS:
                return SIGNS[name]
            raise Unknown(name)

        frame: Frame | None = self
        while frame is not None:
            if frame.tree is tree:
                raise TooMuch(f"the template {name!r} calls itself")
            frame = frame.caller

        inner = Frame(tree, {}, self.waiting_arguments(node.arguments), self, self.expansion)
        return inner.text(tree)

    def waiting_arguments(self, arguments: tuple[Argument, ...]) -> dict[str, tuple[Tree, bool]]:
        """The arguments by name, those without one numbered from 1; of equal names the last counts."""
        self.expansion.budget -= len(arguments)
        waiting: dict[str, tuple[Tree, bool]] = {}
        number = 0
        for argument in arguments:
            if argument.name is None:
                number += 1
                waiting[str(number)] = (argument.value, False)
            else:
                name = self.text(argument.name).strip(BLANK)
                waiting[name] = (argument.value, True)
        return waiting

    def literal(self, written: str, node: Call) -> str:
        """The call as text, its parameters replaced: what MediaWiki shows of a call whose name is no title."""
        parts = [written, *(self.text(whole(argument)) for argument in node.arguments)]
        return "{{" + "|".join(parts) + "}}"


def without_prefix(name: str, prefixes: tuple[str, ...]) -> str:
    """`name` without a prefix like "safesubst:", in any case."""
    begin, colon, rest = name.partition(":")
    return rest.strip(BLANK) if colon and begin.strip(BLANK).lower() in prefixes else name


def function_parts(name: str) -> tuple[str, str]:
    """The name of a function and its first argument: "#if: x" -> "#if", "x". The wide colon counts too."""
    colon = COLON.search(name)
    return (name[: colon.start()], name[colon.end() :].strip(BLANK)) if colon else ("", "")


class Arguments:
    """The arguments of a function, from 0, expanded when they are asked for. The first one stood behind the colon."""

    __slots__ = ("frame", "first", "rest")

    def __init__(self, frame: Frame, first: str, rest: tuple[Argument, ...]) -> None:
        self.frame = frame
        self.first = first
        self.rest = rest
        frame.expansion.budget -= len(rest)  # a #switch reads the names of its cases, which are no nodes

    def __len__(self) -> int:
        return 1 + len(self.rest)

    @property
    def expansion(self) -> Expansion:
        """Of the page."""
        return self.frame.expansion

    def text(self, number: int) -> str:
        """An argument without its outer spaces; "" where it is absent."""
        if number == 0:
            return self.first
        if number > len(self.rest):
            return ""
        return self.frame.text(whole(self.rest[number - 1])).strip(BLANK)

    def texts(self) -> list[str]:
        """All arguments."""
        return [self.text(number) for number in range(len(self))]

    def name(self, number: int) -> str | None:
        """What stands before the first "=" of an argument, not the first one; None where it has none."""
        name = self.rest[number - 1].name
        return None if name is None else self.frame.text(name).strip(BLANK)

    def value(self, number: int) -> str:
        """What stands behind the first "=" of an argument, not the first one; all of it where it has none."""
        return self.frame.text(self.rest[number - 1].value).strip(BLANK)

    def of_template(self) -> dict[str, str]:
        """The arguments of the template that calls the function."""
        return self.frame.all_values()

    def named(self, start: int) -> dict[str, str]:
        """The arguments from number `start` on, by name, as a template has them."""
        waiting = self.frame.waiting_arguments(self.rest[start - 1 :])
        return {name: self.frame.text(tree).strip() for name, (tree, _) in waiting.items()}
