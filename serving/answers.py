"""What a client gets: the JSON objects of OpenAI's API, whole or in pieces."""

import json
import secrets
import time
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from serving.engine import End, TokenLogprob, Written
from tokenizer import Tokenizer

Json = dict[str, Any]

DONE = b"data: [DONE]\n\n"
STILL_THERE = b": still there\n\n"  # a comment, which clients skip; it keeps connections open that wait for a row


def error_object(message: str, kind: str, param: str | None = None, code: str | None = None) -> Json:
    """OpenAI's error."""
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def event(content: Json) -> bytes:
    """One event of a stream."""
    return b"data: " + json.dumps(content, separators=(",", ":")).encode() + b"\n\n"


# --- tokens as text ---


@lru_cache
def byte_of_character() -> dict[str, int]:
    """Of each character by which byte-level BPEs (GPT-2, Llama 3) spell a byte, that byte.

    Printable bytes of Latin-1 are spelled by themselves, the others by characters from U+0100 on, in their order.
    """
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = [byte for byte in range(256) if byte not in printable]
    spelled = {chr(byte): byte for byte in printable}
    return spelled | {chr(0x100 + place): byte for place, byte in enumerate(others)}


def token_bytes(tokenizer: Tokenizer, token: int) -> list[int]:
    """The bytes of UTF-8 that a token stands for, which may be a part of a character."""
    text = tokenizer.decode([token])
    spelling = tokenizer.hf.id_to_token(token) or ""
    if "\ufffd" in text:
        if spelling.startswith("<0x"):
            return [int(spelling[3:5], 16)]
        table = byte_of_character()
        if all(character in table for character in spelling):
            return [table[character] for character in spelling]
    return list(text.encode())


def token_object(tokenizer: Tokenizer, found: TokenLogprob) -> Json:
    """A token and its log-probability, as a chat shows them."""
    return {
        "token": tokenizer.decode([found.token]),
        "logprob": found.logprob,
        "bytes": token_bytes(tokenizer, found.token),
    }


# --- choices ---


@dataclass
class Choice:
    """One answer of a request, as far as it has come."""

    index: int
    text: str = ""
    logprobs: list[Written] = field(default_factory=list)
    end: End | None = None
    characters: int = 0  # of the tokens with log-probabilities that a stream has sent


@dataclass(frozen=True)
class Shape:
    """How an endpoint writes answers: a chat in messages, a completion as text."""

    tokenizer: Tokenizer
    model: str
    is_chat: bool
    with_logprobs: bool
    id: str = field(default_factory=lambda: secrets.token_hex(12))
    created: int = field(default_factory=lambda: int(time.time()))

    def _frame(self, stream: bool, choices: list[Json]) -> Json:
        if self.is_chat:
            prefix, kind = "chatcmpl-", "chat.completion.chunk" if stream else "chat.completion"
        else:
            prefix, kind = "cmpl-", "text_completion"
        return {
            "id": prefix + self.id,
            "object": kind,
            "created": self.created,
            "model": self.model,
            "choices": choices,
        }

    def whole(self, choices: list[Choice], usage: Json) -> Json:
        """The complete answers."""
        objects = []
        for choice in choices:
            text = {"message": {"role": "assistant", "content": choice.text, "refusal": None}}
            if not self.is_chat:
                text = {"text": choice.text}
            reason = choice.end.reason
            logprobs = self._logprobs(choice.logprobs, 0)
            objects.append({"index": choice.index, **text, "logprobs": logprobs, "finish_reason": reason})
        return {**self._frame(False, objects), "usage": usage}

    def first(self, index: int) -> Json:
        """What a chat's stream begins with: whose message it is."""
        choice = {
            "index": index,
            "delta": {"role": "assistant", "content": ""},
            "logprobs": None,
            "finish_reason": None,
        }
        return self._frame(True, [choice])

    def piece(self, choice: Choice, text: str, logprobs: list[Written]) -> Json:
        """More text of an answer."""
        content = {"delta": {"content": text}} if self.is_chat else {"text": text}
        found = self._logprobs(logprobs, choice.characters)
        choice.characters += sum(len(self.tokenizer.decode([written.token])) for written in logprobs)
        return self._frame(True, [{"index": choice.index, **content, "logprobs": found, "finish_reason": None}])

    def last(self, choice: Choice) -> Json:
        """The end of an answer."""
        content = {"delta": {}} if self.is_chat else {"text": ""}
        reason = choice.end.reason
        return self._frame(True, [{"index": choice.index, **content, "logprobs": None, "finish_reason": reason}])

    def usage(self, usage: Json) -> Json:
        """The last chunk of a stream that was asked for it."""
        return {**self._frame(True, []), "usage": usage}

    def _logprobs(self, logprobs: list[Written], characters: int) -> Json | None:
        """characters: of the tokens before these."""
        if not self.with_logprobs:
            return None
        if self.is_chat:
            return {"content": [self._in_chat(written) for written in logprobs], "refusal": None}

        tokens = [self.tokenizer.decode([written.token]) for written in logprobs]
        offsets = []
        for token in tokens:
            offsets.append(characters)
            characters += len(token)
        return {
            "tokens": tokens,
            "token_logprobs": [written.logprob for written in logprobs],
            "top_logprobs": [
                {self.tokenizer.decode([found.token]): found.logprob for found in written.likeliest}
                for written in logprobs
            ],
            "text_offset": offsets,
        }

    def _in_chat(self, written: Written) -> Json:
        likeliest = [token_object(self.tokenizer, found) for found in written.likeliest]
        return {**token_object(self.tokenizer, written), "top_logprobs": likeliest}


def usage_of(prompts: list[list[int]], choices: list[Choice]) -> Json:
    """How many tokens were read and written. A prompt counts once, however many answers it has."""
    ends = [choice.end for choice in choices if choice.end is not None]
    prompt_tokens = sum(len(prompt) for prompt in prompts)
    new_tokens = sum(end.new_tokens for end in ends)

    per_prompt = max(1, len(choices) // len(prompts))
    first_choices = choices[::per_prompt]
    cached = sum(choice.end.reused_tokens for choice in first_choices if choice.end is not None)
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": new_tokens,
        "total_tokens": prompt_tokens + new_tokens,
        "prompt_tokens_details": {"cached_tokens": cached},
    }
