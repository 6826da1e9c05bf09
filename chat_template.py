"""Conversations to text and token ids, by the chat template of a folder.

    template = ChatTemplate.load("out/smollm2")
    messages = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello!"}]
    template.render(messages)             # the text, as transformers' apply_chat_template(tokenize=False)
    template.encode(messages)             # its ids, as apply_chat_template(tokenize=True)
    template.encode_scored(messages)      # its ids, and which of them a model is trained on

A template is a jinja program in `chat_template.jinja` or tokenizer_config.json. It comes from elsewhere, so it runs in
jinja's sandbox. A folder without a template gets ChatML. Trainer, chat and data job all use this one renderer.
docs/finetuning.md follows one conversation by hand.
"""

import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import jinja2
import jinja2.ext
import numpy as np
from jinja2.sandbox import ImmutableSandboxedEnvironment

from errors import one_line, read_json, refuse_lfs_pointer
from tokenizer import TURN_END, TURN_START, Tokenizer
from tokenizer_files import NAMED

Message = dict[str, Any]  # {"role": "user", "content": "Hi"}; other keys reach the template as they are
KnownPieces = dict[str, list[int]]
TrainOn = Literal["assistant", "last", "all"]

TEMPLATE_FILE, CONFIG_FILE = "chat_template.jinja", "tokenizer_config.json"

# What a model without a template of its own learns: each message between two tokens, its role in the first line.
CHATML = f"""\
{{% for message in messages %}}
{TURN_START}{{{{ message['role'] }}}}
{{{{ message['content'] }}}}{TURN_END}
{{% endfor %}}
{{% if add_generation_prompt %}}
{TURN_START}assistant
{{% endif %}}
"""

# A short conversation that shows how a template ends an answer.
PROBE = [
    {"role": "user", "content": "First question"},
    {"role": "assistant", "content": "First answer"},
    {"role": "user", "content": "Second question"},
    {"role": "assistant", "content": "Second answer"},
]

# Put around a special token that a message spells, while the template runs (the same characters as in transformers).
MARK_START, MARK_END = "\U000f0000", "\U000f0001"


# --- the sandbox ---


class GenerationTag(jinja2.ext.Extension):
    """{% generation %}...{% endgeneration %}, which marks answers in some templates, is read and has no effect."""

    tags = {"generation"}

    def parse(self, parser: jinja2.parser.Parser) -> jinja2.nodes.Node:
        """The statements between the two tags, with variables of their own as in transformers."""
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return jinja2.nodes.Scope(body).set_lineno(line)


class Namespace(jinja2.utils.Namespace):
    """jinja's namespace without names that begin with "_", which lead to Python's own attributes."""

    def __init__(*args: Any, **values: Any) -> None:
        self, *pairs = args  # so that a template may name a value "self"
        jinja2.utils.Namespace.__init__(self)
        for name, value in dict(*pairs, **values).items():
            self[name] = value

    def __setitem__(self, name: str, value: Any) -> None:
        if str(name).startswith("_"):
            raise jinja2.exceptions.SecurityError(f"a template may not set {name!r}: it begins with an underscore")
        jinja2.utils.Namespace.__setitem__(self, name, value)


class Dictionaries:
    """What a template sees as `dict`: makes dictionaries, and shows nothing else of the class."""

    def __call__(self, *args: Any, **values: Any) -> dict[Any, Any]:
        return dict(*args, **values)

    def fromkeys(self, *args: Any) -> dict[Any, Any]:
        return dict.fromkeys(*args)


def to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """JSON as it is; jinja's own filter would write < as \\u003c for web pages."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def raise_exception(message: str) -> None:
    """What a template calls to refuse a conversation."""
    raise jinja2.exceptions.TemplateError(message)


def compile_template(source: str, date: datetime | None) -> jinja2.Template:
    """The template, with the settings, filters and functions that transformers gives it.

    date: what strftime_now tells a template that writes the date; None: the time of the call.
    """
    extensions = [GenerationTag, jinja2.ext.loopcontrols]
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=extensions)
    environment.filters["tojson"] = to_json
    environment.globals["raise_exception"] = raise_exception
    environment.globals["strftime_now"] = lambda format: (date or datetime.now()).strftime(format)
    environment.globals["dict"] = Dictionaries()
    environment.globals["namespace"] = Namespace
    return environment.from_string(source)


# --- which template ---


def read_template(folder: Path) -> tuple[str, Path] | None:
    """A folder's template and the file that holds it; None when it has none.

    chat_template.jinja counts before tokenizer_config.json, where "chat_template" is the text, or several with names
    ({"name": "default", "template": ...}), of which the default is taken.
    """
    file = folder / TEMPLATE_FILE
    if file.is_file():
        refuse_lfs_pointer(file)
        with one_line(f"{file}: not readable as text: "):
            return file.read_text(encoding="utf-8"), file

    file = folder / CONFIG_FILE
    found = read_json(file).get("chat_template") if file.is_file() else None
    if found is None:
        return None

    if isinstance(found, list):
        with one_line(f"{file}: chat_template is not a list of names and templates: "):
            found = {entry["name"]: entry["template"] for entry in found}
    if isinstance(found, dict):
        if "default" not in found:
            known = ", ".join(map(str, found))
            raise ValueError(f"{file}: none of its chat templates is the default, only {known:.80}; rename one")
        found = found["default"]
    if not isinstance(found, str):
        raise ValueError(f"{file}: chat_template is {found!r:.80}, not a text")
    return found, file


def chatml(tokenizer: Tokenizer) -> str:
    """ChatML for this tokenizer; it begins with bos where every text of the tokenizer does."""
    if tokenizer.bos is None:
        return CHATML
    return tokenizer.hf.id_to_token(tokenizer.bos) + CHATML


# --- conversations to ids ---


@dataclass
class ChatTemplate:
    """The chat template of a folder, and the ids of conversations by it.

    Attributes:
        source: the template's text, jinja.
        tokenizer: what makes ids of the rendered text. Where the folder had no template it has ChatML's two tokens,
            with new ids if need be: then the model must grow as well (vocabulary.py).
        where: the file that holds the template, for messages.
        date: what a template that writes the date of today is told; None: today. Give one where equal work must give
            equal bytes.
        special: variables of the template: bos_token, eos_token and so on, those that the folder names.
        end_of_turn: the id that ends an answer.
        stop_ids: all ids at which an answer ends: end_of_turn, and the tokenizer's own ends of a text.
    """

    source: str
    tokenizer: Tokenizer
    where: str = "the chat template"
    date: datetime | None = None

    def __post_init__(self) -> None:
        """Compile the template and see how it ends an answer. Raises ValueError for one that cannot be used."""
        self.special = {key: self.tokenizer.named[key] for key in NAMED if key in self.tokenizer.named}
        with one_line(f"{self.where} is not a template that jinja reads: "):
            self._compiled = compile_template(self.source, self.date)
        self.end_of_turn = self._find_end_of_turn()
        self.stop_ids = frozenset([self.end_of_turn, *self.tokenizer.stops])

    @classmethod
    def load(cls, folder: str | Path, date: datetime | None = None) -> "ChatTemplate":
        """The template of a model's or a data folder: its own, or ChatML. Raises ValueError, in one line."""
        folder = Path(folder)
        tokenizer = Tokenizer.load(folder)
        found = read_template(folder)
        if found is None:
            tokenizer = tokenizer.with_special_tokens([TURN_START, TURN_END])
            return cls(chatml(tokenizer), tokenizer, f"ChatML for {folder}", date)

        source, file = found
        return cls(source, tokenizer, str(file), date)

    def _find_end_of_turn(self) -> int:
        """The special token that the template writes after an answer, in the middle and at the end.

            First answer<|im_end|>\\n<|im_start|>user\\nSecond question...Second answer<|im_end|>\\n

        has <|im_end|> after both.
        """
        text = self.render(PROBE)
        ends = []
        for i in (1, 3):
            _, _, after = text.partition(PROBE[i]["content"])
            before_next = after.partition(PROBE[i + 1]["content"])[0] if i == 1 else after
            special = [j for j in self.tokenizer.encode_rendered(before_next) if j in self._special_ids]
            ends.append(special[0] if special else None)

        if None in ends or ends[0] != ends[1]:
            reason = f"no special token of the tokenizer ends each answer (after the last comes {after[:40]!r})"
            advice = "add it to the tokenizer and the model: python grow.py --help"
            raise ValueError(f"{self.where}: {reason}; {advice}")
        return ends[0]

    @cached_property
    def _special_ids(self) -> frozenset[int]:
        added = self.tokenizer.hf.get_added_tokens_decoder()
        return frozenset(i for i, token in added.items() if token.special)

    @cached_property
    def _special_pattern(self) -> re.Pattern[str]:
        """Finds special tokens in a text, the longest first."""
        added = self.tokenizer.hf.get_added_tokens_decoder()
        spellings = [added[i].content for i in self._special_ids]
        longest_first = sorted(spellings, key=len, reverse=True)
        return re.compile("|".join(map(re.escape, longest_first)))

    @property
    def sha256(self) -> str:
        """Of the template's text: two data sets with the same one were made by the same template."""
        return hashlib.sha256(self.source.encode()).hexdigest()

    def files(self) -> dict[str, bytes]:
        """The small files that make a folder of this template and tokenizer, as transformers opens them."""
        config = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            **self.tokenizer.special,
            "clean_up_tokenization_spaces": False,
            "chat_template": self.source,  # for programs that do not know chat_template.jinja
        }
        return {
            "tokenizer.json": self.tokenizer.json.encode(),
            CONFIG_FILE: (json.dumps(config, indent=1) + "\n").encode(),
            TEMPLATE_FILE: self.source.encode(),
        }

    def render(self, messages: Sequence[Message], generation_prompt: bool = False, **variables: Any) -> str:
        """The text of a conversation, equal to that of transformers' apply_chat_template(tokenize=False).

        generation_prompt: end with what stands before the next answer. variables: what else the template reads, such
        as enable_thinking=False. Keys of a message whose value is None count as absent. Raises ValueError when the
        template refuses the conversation.
        """
        present = [{key: value for key, value in message.items() if value is not None} for message in messages]
        values = {"tools": None, "documents": None, **self.special, **variables}
        with one_line(f"{self.where} refuses this conversation: "):
            return self._compiled.render(messages=present, add_generation_prompt=generation_prompt, **values)

    def encode(self, messages: Sequence[Message], generation_prompt: bool = False, **variables: Any) -> list[int]:
        """The ids of a conversation, equal to those of apply_chat_template(tokenize=True).

        A message that spells a special token ("what does <|im_end|> mean?") does not end there: it is ordinary text,
        as with sanitize_control_tokens=True of transformers. (By default transformers makes it the token.)
        """
        return self._encode(messages, generation_prompt, variables, known={})

    def _encode(
        self, messages: Sequence[Message], generation_prompt: bool, variables: dict[str, Any], known: KnownPieces
    ) -> list[int]:
        """The same; known: pieces of text that were encoded before, with their ids."""
        if not any(self._special_pattern.search(text) for text in texts_of(messages)):
            return self.tokenizer.encode_rendered(self.render(messages, generation_prompt, **variables), known)

        marked = [mark(message, self._special_pattern) for message in messages]
        return self._encode_marked(self.render(marked, generation_prompt, **variables))

    def _encode_marked(self, text: str) -> list[int]:
        """Ids of a rendered text in which special tokens that messages spell stand between marks.

        The text is cut at the marks, and its pieces are encoded one by one, after a newline whose ids are taken away
        again: SentencePiece would put a space before the first word of a text.
        """
        spelled = f"{MARK_START}({self._special_pattern.pattern}){MARK_END}"
        # a template may cut a message between its marks: single ones are left out
        pieces = re.split(f"{spelled}|[{MARK_START}{MARK_END}]", text)
        newline = self.tokenizer.encode_rendered("\n")

        ids = self.tokenizer.encode_rendered(pieces[0])
        for number, piece in enumerate(pieces[1:], start=1):
            if not piece:
                continue
            is_message_text = number % 2 == 1
            encode = self.tokenizer.encode if is_message_text else self.tokenizer.encode_rendered
            with_newline = encode("\n" + piece)
            if with_newline[: len(newline)] == newline:
                ids += with_newline[len(newline) :]
            else:
                ids += encode(piece)
        return ids

    def encode_scored(
        self, messages: Sequence[Message], train_on: TrainOn = "assistant", **variables: Any
    ) -> tuple[np.ndarray, np.ndarray]:
        """The ids of a conversation, uint32 (n,), and whether each is scored, bool (n,).

        Scored are the assistant's messages ("assistant"), the last of them ("last"), or every token ("all"). A message
        is scored from after its header to its end-of-turn token, that included:

            <|im_start|>user\\nHi<|im_end|>\\n<|im_start|>assistant\\nHello!<|im_end|>\\n
                                                                   ----------------

        The header is the generation prompt: what a model is given when it has to answer. Raises ValueError where the
        template refuses the conversation, no message is the assistant's, or the ids before an answer are not those of
        the generation prompt: a model trained on them would be asked with others.
        """
        known: KnownPieces = {}  # a conversation of n turns is encoded once, not n times
        ids = self._encode(messages, False, variables, known)
        if train_on == "all":
            return np.array(ids, np.uint32), np.ones(len(ids), bool)

        turns = [i for i, message in enumerate(messages) if message.get("role") == "assistant"]
        if not turns:
            raise ValueError("no message is the assistant's: nothing to train on")
        if train_on == "last":
            turns = turns[-1:]

        scored = np.zeros(len(ids), bool)
        for turn in turns:
            header = self._encode(messages[:turn], True, variables, known)
            begin = len(header)
            if ids[:begin] != header:
                reason = "the ids before it are not those of the template's generation prompt"
                raise ValueError(f"message {turn + 1} cannot be scored: {reason}")
            end = next((i for i in range(begin, len(ids)) if ids[i] in self.stop_ids), None)
            if end is None:
                raise ValueError(f"message {turn + 1} cannot be scored: the template writes no end after it")
            scored[begin : end + 1] = True
        return np.array(ids, np.uint32), scored


def texts_of(value: Any) -> Iterator[str]:
    """All strings in messages, but not the keys."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        yield from texts_of(list(value.values()))
    elif isinstance(value, list | tuple):
        for item in value:
            yield from texts_of(item)


def mark(value: Any, pattern: re.Pattern[str]) -> Any:
    """A message with marks around each special token that it spells; marks that it had are taken out."""
    if isinstance(value, str):
        clean = value.replace(MARK_START, "").replace(MARK_END, "")
        return pattern.sub(rf"{MARK_START}\g<0>{MARK_END}", clean)
    if isinstance(value, dict):
        return {key: mark(item, pattern) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [mark(item, pattern) for item in value]
    return value
