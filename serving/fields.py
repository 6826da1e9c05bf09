"""What a client may ask for: the JSON bodies of OpenAI's API, checked field by field.

A field that is not known, or cannot be served, is refused by name: a client that asks for JSON or for tools must not
get plain text as if nothing were. docs/serving.md has the table.
"""

import difflib
import json
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NoReturn

from chat_template import ChatTemplate, Message
from sampler import hash_key
from serving.engine import Drawing
from tokenizer import Tokenizer

Body = dict[str, Any]

MAX_CHOICES = 16  # answers to one request: its prompts times n
MAX_STOPS = 16
LONGEST_STOP = 256  # characters; the beginnings of stop strings are looked for after each token
MAX_TOP_LOGPROBS = 20
LARGEST_COUNT = 2**31 - 1
DEFAULT_COMPLETION_TOKENS = 16  # OpenAI's, where a completion does not say max_tokens

ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}

# Fields of both endpoints, of each, and those that are read and change nothing.
COMMON = {
    "model", "stream", "stream_options", "temperature", "top_p", "top_k", "min_p", "stop", "seed", "n", "max_tokens",
    "frequency_penalty", "presence_penalty", "logit_bias", "logprobs",
}  # fmt: skip
CHAT_FIELDS = COMMON | {"messages", "max_completion_tokens", "top_logprobs"}
COMPLETION_FIELDS = COMMON | {"prompt"}
WITHOUT_EFFECT = {
    "user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key", "prompt_cache_retention",
    "parallel_tool_calls",
}  # fmt: skip

# What is not served, and the values that ask for nothing.
REFUSED: dict[str, tuple[Any, ...]] = {
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "response_format": ({"type": "text"},),
    "modalities": (["text"],),
    "audio": (),
    "prediction": (),
    "reasoning_effort": ("none",),
    "verbosity": ("medium",),
    "web_search_options": (),
    "echo": (False,),
    "suffix": ("",),
    "best_of": (1,),
}


class Refusal(Exception):
    """Why a request is not served: what OpenAI's error object says, and the HTTP status."""

    def __init__(
        self,
        message: str,
        param: str | None = None,
        code: str | None = None,
        status: int = 400,
        headers: dict[str, str] | None = None,
    ):
        super().__init__(message)
        self.message = message
        self.param = param
        self.code = code
        self.status = status
        self.headers = headers or {}


@dataclass(frozen=True)
class Served:
    """What the server has: a model's name, its tokenizer, its template, and the limits."""

    name: str
    tokenizer: Tokenizer
    template: ChatTemplate | None  # None: the folder has none
    without_template: str  # what to do then
    context: int  # tokens of prompt and answer together
    max_new_tokens: int  # of an answer
    vocab_size: int  # V, rows of the embedding


@dataclass(frozen=True)
class Wanted:
    """A request that was checked."""

    prompts: list[list[int]]
    n: int  # answers to each prompt
    max_new_tokens: int
    drawing: Drawing
    seed: int
    stop_ids: frozenset[int]
    stops: list[str]
    frequency_penalty: float
    presence_penalty: float
    logit_bias: dict[int, float] = field(default_factory=dict)
    top_logprobs: int | None = None
    stream: bool = False
    include_usage: bool = False

    def seed_of(self, choice: int) -> int:
        """Each answer has random numbers of its own; the first one's are those of n = 1."""
        return hash_key(self.seed, choice)


# --- JSON ---


def parse(data: bytes) -> Body:
    """The object in a body. Raises Refusal."""
    try:
        body = json.loads(data.decode("utf-8"), parse_constant=refuse_constant)
    except RecursionError:
        raise Refusal("the body is nested too deeply") from None
    except ValueError as error:  # UnicodeDecodeError, JSONDecodeError, and integers of more than 4300 digits
        raise Refusal(f"the body is not JSON in UTF-8: {str(error):.200}") from None
    if not isinstance(body, dict):
        raise Refusal(f"the body is a JSON {type_name(body)}, not an object")
    return {key: value for key, value in body.items() if value is not None}  # null is as if the field were absent


def refuse_constant(name: str) -> NoReturn:
    """NaN and Infinity are no JSON, though Python reads them."""
    raise ValueError(f"{name} is no number of JSON")


def type_name(value: Any) -> str:
    """What JSON calls a value."""
    names = {dict: "object", list: "array", str: "string", bool: "boolean", type(None): "null"}
    return names.get(type(value), "number")


def wrong_type(key: str, value: Any, wanted: str) -> Refusal:
    """The error for a value of another type."""
    return Refusal(f"'{key}' must be {wanted}, not {type_name(value)}", key, "invalid_type")


# --- single fields ---


def integer(body: Body, key: str, default: int | None, low: int, high: int) -> int | None:
    """A whole number from low to high."""
    value = body.get(key, default)
    if value is None:
        return None
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        raise wrong_type(key, value, "an integer")
    if not low <= value <= high:
        raise Refusal(f"'{key}' must be from {low} to {high}, not {short(value)}", key, "invalid_value")
    return value


def number(body: Body, key: str, default: float, low: float, high: float) -> float:
    """A number from low to high."""
    return checked_number(key, body.get(key, default), low, high)


def checked_number(key: str, value: Any, low: float, high: float) -> float:
    """The value, if it is a number from low to high."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise wrong_type(key, value, "a number")
    if not low <= value <= high:  # also what is beyond float, which JSON reads as infinite
        raise Refusal(f"'{key}' must be from {low:g} to {high:g}, not {short(value)}", key, "invalid_value")
    return float(value)


def short(value: Any) -> str:
    """A value for a message: it may have thousands of digits."""
    text = str(value)
    return text if len(text) <= 40 else text[:40] + "..."


def boolean(body: Body, key: str) -> bool:
    """true or false; absent: false."""
    value = body.get(key, False)
    if not isinstance(value, bool):
        raise wrong_type(key, value, "a boolean")
    return value


def checked_text(key: str, value: Any) -> str:
    """The value, if it is a string that has a UTF-8 form: half of a surrogate pair (\\ud83d alone) has none."""
    if not isinstance(value, str):
        raise wrong_type(key, value, "a string")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise Refusal(f"'{key}' has half of a surrogate pair, which is no character", key, "invalid_value") from None
    return value


def stop_strings(body: Body) -> list[str]:
    """The strings before which an answer ends: one, or a list."""
    value = body.get("stop", [])
    strings = [value] if isinstance(value, str) else value
    if not isinstance(strings, list):
        raise wrong_type("stop", value, "a string or an array of strings")
    if len(strings) > MAX_STOPS:
        raise Refusal(f"'stop' has {len(strings)} strings; {MAX_STOPS} is the limit", "stop", "invalid_value")
    for text in strings:
        checked_text("stop", text)
        if not 0 < len(text) <= LONGEST_STOP:
            reason = f"a string of 'stop' has {len(text)} characters; it must have 1 to {LONGEST_STOP}"
            raise Refusal(reason, "stop", "invalid_value")
    return strings


def logit_bias(body: Body, vocab_size: int) -> dict[int, float]:
    """What is added to the logits of tokens: {"id": number}."""
    value = body.get("logit_bias", {})
    if not isinstance(value, dict):
        raise wrong_type("logit_bias", value, "an object")
    biases = {}
    for key, bias in value.items():
        is_id = key.isascii() and key.isdigit() and len(key) < 10 and int(key) < vocab_size
        if not is_id:
            raise Refusal(
                f"'logit_bias' has the key {short(key)!r}, which is no token id", "logit_bias", "invalid_value"
            )
        biases[int(key)] = checked_number("logit_bias", bias, -100, 100)
    return biases


def include_usage(body: Body, stream: bool) -> bool:
    """Whether a stream ends with a chunk that counts tokens."""
    options = body.get("stream_options")
    if options is None:
        return False
    if not isinstance(options, dict):
        raise wrong_type("stream_options", options, "an object")
    if not stream:
        raise Refusal("'stream_options' is for requests with stream=true", "stream_options", "invalid_value")
    unknown = sorted(options.keys() - {"include_usage", "include_obfuscation"})
    if unknown:
        raise Refusal(
            f"'stream_options' has the unknown field {short(unknown[0])!r}", "stream_options", "unknown_field"
        )
    return boolean(options, "include_usage")


# --- whole bodies ---


def check_keys(body: Body, known: set[str]) -> None:
    """Raise Refusal for a field that is unknown, or asks for what is not served."""
    for key, value in body.items():
        if key in known or key in WITHOUT_EFFECT:
            continue
        if key in REFUSED:
            asks_for_nothing = any(type(value) is type(neutral) and value == neutral for neutral in REFUSED[key])
            if not asks_for_nothing:
                raise Refusal(f"'{key}' is not supported by this server", key, "unsupported_parameter")
            continue
        near = difflib.get_close_matches(key[:100], known, n=1)
        hint = f"; did you mean '{near[0]}'?" if near else ""
        raise Refusal(f"unknown field {short(key)!r}{hint}", None, "unknown_field")


def check_model(body: Body, served: Served) -> None:
    """Raise Refusal for another model than the one that is served. Without a name it is meant."""
    name = checked_text("model", body.get("model", served.name))
    if name != served.name:
        raise Refusal(f"no model {short(name)!r} here; this is {served.name!r}", "model", "model_not_found", status=404)


def wanted_of(body: Body, served: Served, prompts: list[list[int]], stop_ids: frozenset[int], **own: Any) -> Wanted:
    """What both endpoints ask for alike. own: the fields of Wanted that each reads in its own way."""
    for prompt in prompts:
        check_prompt(prompt, served)
    n = integer(body, "n", 1, 1, MAX_CHOICES)
    if n * len(prompts) > MAX_CHOICES:
        raise Refusal(
            f"{n * len(prompts)} answers are wanted at once; {MAX_CHOICES} is the limit", "n", "invalid_value"
        )

    stream = boolean(body, "stream")
    seed = integer(body, "seed", None, -(2**63), 2**64 - 1)
    return Wanted(
        prompts=prompts,
        n=n,
        drawing=Drawing(
            temperature=number(body, "temperature", 1.0, 0, 2),
            top_k=integer(body, "top_k", None, 1, LARGEST_COUNT),
            top_p=above_zero("top_p", number(body, "top_p", 1.0, 0, 1)),
            min_p=number(body, "min_p", 0.0, 0, 1),
        ),
        seed=secrets.randbits(64) if seed is None else seed % 2**64,
        stop_ids=stop_ids,
        stops=stop_strings(body),
        frequency_penalty=number(body, "frequency_penalty", 0.0, -2, 2),
        presence_penalty=number(body, "presence_penalty", 0.0, -2, 2),
        logit_bias=logit_bias(body, min(served.vocab_size, served.tokenizer.vocab_size)),
        stream=stream,
        include_usage=include_usage(body, stream),
        **own,
    )


def above_zero(key: str, value: float) -> float:
    """The value; with top_p = 0 no token would be left, and OpenAI's server means the likeliest."""
    return value if value > 0 else 1e-9


def check_prompt(prompt: list[int], served: Served) -> None:
    """Raise Refusal for a prompt that leaves no room, or has an id that the embedding has no row for."""
    if len(prompt) >= served.context:
        message = f"the prompt has {len(prompt)} tokens, the context {served.context}; shorten the prompt"
        raise Refusal(message, code="context_length_exceeded")
    if max(prompt) >= served.vocab_size:
        raise Refusal(f"the prompt has a token of id {max(prompt)}; the model has {served.vocab_size}", "prompt")


def read_chat(data: bytes, served: Served) -> Wanted:
    """A body of /v1/chat/completions."""
    body = parse(data)
    check_keys(body, CHAT_FIELDS)
    check_model(body, served)
    if served.template is None:
        raise Refusal(served.without_template, code="no_chat_template")

    limit = served.max_new_tokens
    old_name = integer(body, "max_tokens", None, 1, LARGEST_COUNT)
    new_name = integer(body, "max_completion_tokens", old_name, 1, LARGEST_COUNT)
    top_logprobs = integer(body, "top_logprobs", 0, 0, MAX_TOP_LOGPROBS)
    wants_logprobs = boolean(body, "logprobs")
    if top_logprobs and not wants_logprobs:
        raise Refusal("'top_logprobs' is for requests with logprobs=true", "top_logprobs", "invalid_value")

    return wanted_of(
        body,
        served,
        [encode_messages(read_messages(body), served.template)],
        served.template.stop_ids,
        max_new_tokens=min(limit, new_name or limit),
        top_logprobs=top_logprobs if wants_logprobs else None,
    )


def read_messages(body: Body) -> list[Message]:
    """The conversation, in the form that a template takes."""
    messages = body.get("messages")
    if not isinstance(messages, list):
        raise wrong_type("messages", messages, "an array of messages")
    if not messages:
        raise Refusal("'messages' is empty", "messages", "invalid_value")
    return [read_message(f"messages[{i}]", message) for i, message in enumerate(messages)]


def read_message(place: str, message: Any) -> Message:
    """One message: a role, and a text or parts of it."""
    if not isinstance(message, dict):
        raise wrong_type(place, message, "an object")
    present = {key: value for key, value in message.items() if value is not None}
    # what a client sends back of an answer that it got; empty or null
    answer_fields = {"refusal", "annotations", "audio", "function_call", "tool_calls"}
    unknown = sorted(
        key for key in present.keys() - {"role", "content", "name"} if key not in answer_fields or present[key]
    )
    if unknown:
        raise Refusal(f"'{place}' has the field {short(unknown[0])!r}, which is not supported", place, "unknown_field")

    role = present.get("role")
    if not isinstance(role, str) or role not in ROLES:
        known = ", ".join(ROLES)
        raise Refusal(
            f"'{place}.role' is {short(repr(role))}; it must be one of {known}", f"{place}.role", "invalid_value"
        )
    return {"role": ROLES[role], "content": read_content(f"{place}.content", present.get("content"))}


def read_content(place: str, content: Any) -> str:
    """The text of a message: a string, or parts of type text."""
    if isinstance(content, str):
        return checked_text(place, content)
    if not isinstance(content, list) or not content:
        raise wrong_type(place, content, "a string, or an array of parts that is not empty,")
    texts = []
    for part in content:
        if not isinstance(part, dict):
            raise wrong_type(place, part, "an array of objects; one of its parts is")
        if part.get("type") != "text":
            kind = short(repr(part.get("type")))
            raise Refusal(f"'{place}' has a part of type {kind}; only text is supported", place, "invalid_value")
        texts.append(checked_text(f"{place}.text", part.get("text")))
    return "".join(texts)


def encode_messages(messages: list[Message], template: ChatTemplate) -> list[int]:
    """The ids that the model answers. Raises Refusal where the template refuses the conversation."""
    return refusing_errors("messages", lambda: template.encode(messages, generation_prompt=True))


def refusing_errors(param: str, encode: Callable[[], list[int]]) -> list[int]:
    """encode(), with a ValueError of template or tokenizer as a Refusal."""
    try:
        return encode()
    except ValueError as error:
        raise Refusal(str(error), param, "invalid_value") from None


def read_completion(data: bytes, served: Served) -> Wanted:
    """A body of /v1/completions."""
    body = parse(data)
    check_keys(body, COMPLETION_FIELDS)
    check_model(body, served)
    max_tokens = integer(body, "max_tokens", DEFAULT_COMPLETION_TOKENS, 1, LARGEST_COUNT)
    return wanted_of(
        body,
        served,
        read_prompts(body, served),
        served.tokenizer.stops,
        max_new_tokens=min(served.max_new_tokens, max_tokens),
        top_logprobs=integer(body, "logprobs", None, 0, MAX_TOP_LOGPROBS),
    )


def read_prompts(body: Body, served: Served) -> list[list[int]]:
    """The prompts of a completion: a text, ids, or a list of either."""
    value = body.get("prompt", "")
    is_ids = isinstance(value, list) and bool(value) and all(isinstance(item, int) for item in value)
    prompts = [value] if isinstance(value, str) or is_ids else value
    if not isinstance(prompts, list):
        raise wrong_type("prompt", value, "a string, an array of strings, an array of ids, or an array of these")
    if not 0 < len(prompts) <= MAX_CHOICES:
        raise Refusal(
            f"'prompt' has {len(prompts)} prompts; 1 to {MAX_CHOICES} are possible", "prompt", "invalid_value"
        )
    return [read_prompt(prompt, served) for prompt in prompts]


def read_prompt(prompt: Any, served: Served) -> list[int]:
    """The ids of one prompt; of an empty one, those of the start of a document."""
    if isinstance(prompt, str):
        text = checked_text("prompt", prompt)
        ids = refusing_errors("prompt", lambda: served.tokenizer.encode_prompt(text))
        return ids or [served.tokenizer.start]

    if not isinstance(prompt, list) or not prompt:
        raise wrong_type("prompt", prompt, "made of strings or of arrays of ids that are not empty,")
    for token in prompt:
        is_id = isinstance(token, int) and not isinstance(token, bool)
        if not is_id or not 0 <= token < served.vocab_size:
            raise Refusal(f"'prompt' has {short(token)}, which is no token id", "prompt", "invalid_value")
    return prompt
