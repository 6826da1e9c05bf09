"""From the rows of instruction data to conversations, or the name of what is wrong with a row.

A conversation is a list of messages as OpenAI writes them, which chat templates read:

    [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "2 + 2?"}, {"role": "assistant", ...}]

The formats, told apart by their keys:

    openai     {"messages": [{"role": "user", "content": "2 + 2?"}, {"role": "assistant", "content": "4"}]}
    sharegpt   {"conversations": [{"from": "human", "value": "2 + 2?"}, {"from": "gpt", "value": "4"}]}
    alpaca     {"instruction": "Add the numbers.", "input": "2, 2", "output": "4"}

To add a format, write the function that reads its messages and one entry in CHAT_FORMATS, in the middle of this file.
"""

import html
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from corpus.clean import one_form

Message = dict[str, Any]  # "role" and "content"; with tools perhaps "tool_calls", "tool_call_id", "name"

# Why a conversation is dropped; reports count and show examples by these names. The first that applies counts.
REASONS = {
    "unknown_format": "the keys of the row are those of no format",
    "preference_pair": "the row has a chosen and a rejected answer: data for preference training",
    "broken_message": "a message has no role, no text, or more than text (an image, a weight)",
    "unknown_role": "a role is none of system, user, assistant, tool, or another name of them",
    "no_answer": "there is no turn of the assistant",
    "wrong_order": "roles do not alternate: [system], then user, assistant, user, assistant ...",
    "unanswered": "the last turn is not the assistant's",
    "empty_prompt": "a turn of the user is blank",
    "empty_answer": "a turn of the assistant is blank",
    "not_in_template": "the template leaves out what the conversation has: a system message, tools, calls of them",
    "template": "the template refuses the conversation, or its turns cannot be told apart in the token ids",
    "nothing_scored": "no token is scored",
    "too_long": "the conversation has more tokens than --max_tokens",
}
ROLES = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bing": "assistant",
    "bard": "assistant",
    "model": "assistant",
    "tool": "tool",
    "observation": "tool",
    "function": "tool",
}
# Which role may follow which; "" is the beginning. After a system message comes the user.
NEXT = {
    "": ("system", "user"),
    "system": ("user",),
    "user": ("assistant",),
    "assistant": ("user", "tool"),
    "tool": ("tool", "assistant"),
}
KEPT_KEYS = ("tool_calls", "tool_call_id", "name")  # of a message, beside role and content
# What Alpaca and its translations write where there is nothing: "<noinput>", "No input.", "&lt;无输入&gt;".
PLACEHOLDERS = {"noinput", "nooutput", "无输入", "没有输入", "无需输入", "无输出", "没有输出"}
AROUND_PLACEHOLDERS = re.compile(r"""[\s<>"'`“”‘’.。]+""")


class Dropped(ValueError):
    """A row is no conversation to learn from."""

    def __init__(self, reason: str, detail: str = ""):
        """reason: a key of REASONS; detail: what was found, for the report."""
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason
        self.detail = detail


# --- texts ---


def tidy(text: str) -> str:
    """The text of a message in one Unicode form, without control characters and without blanks around it.

    Inside, all spaces and blank lines stay: an answer may be code.
    """
    return one_form(text).strip()


def is_placeholder(text: str) -> bool:
    """Whether a text says that there is none: "<noinput>"."""
    words = AROUND_PLACEHOLDERS.sub("", html.unescape(text))
    return words.casefold() in PLACEHOLDERS


def text_of(content: Any, where: str) -> str:
    """The text of a message: a string, or a list of strings and of {"type": "text", "text": ...}; None is blank."""
    if content is None:
        return ""
    if isinstance(content, str):
        return tidy(content)
    if not isinstance(content, list):
        raise Dropped("broken_message", f"{where} is {type(content).__name__}, not text")

    texts = []
    for part in content:
        text = part if isinstance(part, str) else None
        if isinstance(part, dict) and part.get("type", "text") == "text":
            text = part.get("text")
        if not isinstance(text, str):
            kind = part.get("type") if isinstance(part, dict) else type(part).__name__
            raise Dropped("broken_message", f"{where} has a part of type {kind}, not text")
        texts.append(text)
    return tidy("".join(texts))


# --- messages ---


def read_message(entry: Any, place: int) -> Message:
    """A message of role and content, or of from and value. place: its number in the row, from 0."""
    if not isinstance(entry, dict):
        raise Dropped("broken_message", f"message {place} is {type(entry).__name__}, not an object")
    name = entry.get("role") or entry.get("from")
    if not isinstance(name, str):
        raise Dropped("broken_message", f"message {place} has no role (keys: {', '.join(sorted(entry))})")
    role = ROLES.get(name.strip().lower())
    if role is None:
        raise Dropped("unknown_role", f"message {place} is of {name!r}")

    # Weights say which answers are learnt from; a different choice than --train_on is not made in silence.
    for key in ("weight", "loss_weight", "function_call"):
        if entry.get(key) not in (None, 1):
            raise Dropped("broken_message", f"message {place} has {key}={entry[key]!r}")
    content = entry.get("content")
    if content is None:
        content = entry.get("value")
    message: Message = {"role": role, "content": text_of(content, f"message {place}")}
    for key in KEPT_KEYS:
        if entry.get(key):
            message[key] = entry[key]
    return message


def messages_of(value: Any) -> list[Message]:
    """The messages in a list, or in JSON that spells one (csv files have only text)."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            raise Dropped("broken_message", "the messages are text that is no JSON") from None
    if not isinstance(value, list):
        raise Dropped("broken_message", f"the messages are {type(value).__name__}, not a list")
    return [read_message(entry, place) for place, entry in enumerate(value)]


def with_system(fields: dict[str, Any], messages: list[Message]) -> list[Message]:
    """The messages, after the row's own system text if it has one."""
    system = text_of(fields.get("system"), "system")
    return [{"role": "system", "content": system}, *messages] if system else messages


# --- formats ---


def read_openai(fields: dict[str, Any]) -> list[Message]:
    """{"messages": [{"role": ..., "content": ...}]}."""
    return messages_of(fields["messages"])


def read_sharegpt(fields: dict[str, Any]) -> list[Message]:
    """{"conversations": [{"from": ..., "value": ...}]}, perhaps {"system": ...} beside it."""
    return with_system(fields, messages_of(fields["conversations"]))


def read_alpaca(fields: dict[str, Any]) -> list[Message]:
    """{"instruction": ..., "input": ..., "output": ...}: the user's message is instruction, blank line, input.

    "input" may be absent; "system" and "history", [[question, answer], ...] of earlier turns, may stand beside it.
    """
    messages: list[Message] = []
    for pair in fields.get("history") or []:
        if not isinstance(pair, list) or len(pair) != 2:
            raise Dropped("broken_message", f"history has {json.dumps(pair)[:80]}, not [question, answer]")
        question, answer = pair
        messages.append({"role": "user", "content": text_of(question, "history")})
        messages.append({"role": "assistant", "content": text_of(answer, "history")})

    parts = [text_of(fields["instruction"], "instruction"), text_of(fields.get("input"), "input")]
    prompt = "\n\n".join(part for part in parts if part and not is_placeholder(part))
    answer = text_of(fields["output"], "output")
    messages.append({"role": "user", "content": prompt})
    messages.append({"role": "assistant", "content": "" if is_placeholder(answer) else answer})
    return with_system(fields, messages)


@dataclass(frozen=True)
class ChatFormat:
    """A format of instruction data: a row that has all of `keys` is of it, and `read` gives its messages."""

    keys: tuple[str, ...]
    read: Callable[[dict[str, Any]], list[Message]]


CHAT_FORMATS = {  # of several that fit, the first
    "openai": ChatFormat(("messages",), read_openai),
    "sharegpt": ChatFormat(("conversations",), read_sharegpt),
    "alpaca": ChatFormat(("instruction", "output"), read_alpaca),
}


def format_of(fields: dict[str, Any]) -> str:
    """The key of CHAT_FORMATS of a row. Raises Dropped for a row of none, and for a pair of preferences."""
    if "chosen" in fields and "rejected" in fields:
        raise Dropped("preference_pair")
    for name, chat_format in CHAT_FORMATS.items():
        if all(fields.get(key) is not None for key in chat_format.keys):
            return name
    keys = ", ".join(sorted(key for key, value in fields.items() if value is not None))
    raise Dropped("unknown_format", f"keys: {keys or 'none'}")


# --- checks ---


def check_order(messages: list[Message]) -> None:
    """Raise Dropped unless the roles alternate as NEXT says, from a first turn of the user to one of the assistant."""
    roles = [message["role"] for message in messages]
    if "assistant" not in roles:
        raise Dropped("no_answer", f"roles: {', '.join(roles) or 'none'}")
    for before, role in zip(["", *roles], roles, strict=False):
        if role not in NEXT[before]:
            place = f"{role} after {before}" if before else f"{role} first"
            raise Dropped("wrong_order", place)
    if roles[-1] != "assistant":
        raise Dropped("unanswered", f"the last turn is of {roles[-1]}")


def check_texts(messages: list[Message]) -> None:
    """Raise Dropped for a blank turn. An answer that calls a tool needs no text, and a tool may give none."""
    for place, message in enumerate(messages):
        if message["content"] or message.get("tool_calls") or message["role"] == "tool":
            continue
        reason = "empty_answer" if message["role"] == "assistant" else "empty_prompt"
        raise Dropped(reason, f"message {place}")


def declared_tools(fields: dict[str, Any]) -> list[dict[str, Any]]:
    """The tools that a row says may be called: a list of objects, or JSON that spells one. Empty for most rows."""
    tools = fields.get("tools") or []
    if isinstance(tools, str):
        try:
            tools = json.loads(tools)
        except (ValueError, RecursionError):
            raise Dropped("broken_message", "the tools are text that is no JSON") from None
    if not isinstance(tools, list) or not all(isinstance(tool, dict) for tool in tools):
        raise Dropped("broken_message", "the tools are not a list of objects")
    return tools


@dataclass(frozen=True)
class Conversation:
    """Messages to learn from, and the tools that the assistant may call in them."""

    format: str  # a key of CHAT_FORMATS
    messages: list[Message]
    tools: list[dict[str, Any]]

    def text(self) -> str:
        """The text by which conversations are compared: all turns, without the system message.

        Many conversations share a long system message. With it, short ones that differ in question and answer would
        count as near duplicates.
        """
        return "\n\n".join(strings_of(message) for message in self.messages if message["role"] != "system")


def strings_of(message: Message) -> str:
    """All that a message says: its text, and its calls of tools as JSON."""
    calls = message.get("tool_calls")
    return message["content"] + (json.dumps(calls, ensure_ascii=False) if calls else "")


def read_conversation(fields: dict[str, Any]) -> Conversation:
    """The conversation in a row. Raises Dropped, which says why it is none to learn from."""
    name = format_of(fields)
    messages = CHAT_FORMATS[name].read(fields)
    if messages and messages[0] == {"role": "system", "content": ""}:
        messages = messages[1:]  # many rows have an empty one
    check_order(messages)
    check_texts(messages)
    return Conversation(name, messages, declared_tools(fields))
