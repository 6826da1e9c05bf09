"""Talk with a model in the terminal: python chat.py --checkpoint=out/smollm2

    python chat.py --checkpoint=out/smollm2 --system='Be brief.' --temperature=0
    python chat.py --checkpoint=out/smollm2 --prompt='What is a llama?'

Answers appear as they are written. Conversations are rendered by the folder's own chat template. Keys and values stay
in the cache between turns: a turn reads only the tokens that are new. /help lists the commands.
"""

import configurator  # before torch and the others: Ctrl-C during their import is one line too

# isort: split
import contextlib
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import atomic
import lora
from chat_template import PROBE, ChatTemplate, Message, read_template
from device import memory_advice, pick_device, weight_dtype
from model import Cache, Llama, ModelConfig
from sample import check_drawing, generate
from sampler import hash_key
from tokenizer import TextStream, replace_lone_surrogates

QUOTES = '"""'  # begins and ends a message of several lines
ROOM_SHARE = 4  # old turns go before the answer has less room than a quarter of the context
DIM, NORMAL = "\033[2m", "\033[0m"


@dataclass(frozen=True)
class ChatConfig:
    """Settings of `python chat.py`."""

    checkpoint: str | None = None  # a run (its newest checkpoint), or a Hugging Face folder; None: out/demo
    adapter: str | None = None  # a LoRA adapter, of a run or from peft; without --checkpoint beside the base it names
    system: str | None = None  # the system message; None: what the template writes where there is none
    prompt: str = ""  # one message: its answer is printed, and that is all
    max_new_tokens: int = 1024  # of an answer, at most
    context: int | None = None  # tokens that model and cache look back, at most; None: all that the model can
    temperature: float = 0.7  # 0 or top_k=1: always the likeliest token
    top_k: int | None = None  # draw among the k likeliest tokens only
    top_p: float = 0.95  # ... among the likeliest that together have this probability
    min_p: float = 0.0  # ... among those that have at least this share of the likeliest one's probability
    seed: int = 1337  # of the random draws
    device: str = "auto"  # cpu, cuda, cuda:1, mps; auto: cuda if there is one
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"  # of weights and cache; auto: bfloat16 on CUDA, else float32
    bits: Literal[8, 4] | None = None  # quantize the weights while loading: faster on a CPU; None: as they are

    def check(self) -> None:
        """Raise ValueError for settings that cannot work."""
        check_drawing(self, "max_new_tokens", "context", "top_k")


# --- what the model has read ---


class Reader:
    """A model and its cache, and the ids whose keys and values the cache holds for certain."""

    def __init__(self, model: Llama, size: int):
        self.model = model
        self.cache = Cache(model, 1, size)
        self.held: list[int] = []
        self.was_held = 0  # tokens of the last prompt that were in the cache

    def generate(
        self, prompt: list[int], max_new_tokens: int, vocab_size: int, stops: Sequence[int], seed: int, **filters
    ) -> Iterator[int]:
        """Ids of an answer to `prompt`, one by one. Reads only the ids after the longest beginning that is held.

        Interrupted at any moment, `held` stays true: an id counts when the step that read it is over.
        """
        # At least one token is read: the logits after it are wanted.
        kept = min(common_beginning(self.held, prompt), len(prompt) - 1)
        self.cache.keep(kept)
        self.held = prompt[:kept]
        self.was_held = kept

        ids = list(prompt)
        steps = generate(
            self.model, [prompt], max_new_tokens, vocab_size, stops, seeds=[seed], cache=self.cache, **filters
        )
        for (token,) in steps:
            self.held = list(ids)  # all but the token that was just drawn
            ids.append(token)
            yield token
        self.held = ids[: self.cache.used]


def common_beginning(a: Sequence[int], b: Sequence[int]) -> int:
    """How many ids from the start on are the same: 2 for 5 6 7 and 5 6 8 9."""
    length = min(len(a), len(b))
    return next((i for i in range(length) if a[i] != b[i]), length)


# --- the conversation ---


class Conversation:
    """What was said, and how the model goes on.

    Attributes:
        system: the system message, or None.
        turns: all messages but the system's, in their order.
        first: the turns before it have gone: the model does not see them any more.
    """

    def __init__(self, cfg: ChatConfig, template: ChatTemplate, model: Llama, context: int):
        self.cfg = cfg
        self.template = template
        self.reader = Reader(model, context)
        self.context = context
        self.system = cfg.system
        self.answers = 0  # so far: each has random numbers of its own
        self.saved: set[Path] = set()  # files that /save has made
        self.reset()

    def reset(self) -> None:
        """Forget all turns; the system message stays."""
        self.turns: list[Message] = []
        self.first = 0

    def messages(self) -> list[Message]:
        """The whole conversation, turns that have gone included."""
        return with_system(self.system, self.turns)

    def say(self, text: str) -> None:
        """Take a user's message in, and print the answer as it comes."""
        message = {"role": "user", "content": replace_lone_surrogates(text)}
        self._answer([*self.turns, message])

    def retry(self) -> None:
        """Answer the last message anew."""
        if not self.turns:
            raise ValueError("nothing was answered yet: there is nothing to try again")
        self._answer(self.turns[:-1])

    def _answer(self, turns: list[Message]) -> None:
        """Print an answer to `turns`, whose last is the user's. They become the conversation's when it has an answer.

        Ctrl-C ends the answer: what is written of it stays. Raises ValueError where the template refuses the turns, or
        the last of them is too long.
        """
        prompt, first = self._prompt(turns)
        if first > self.first:
            note(f"(the context of {self.context} tokens is full: {first - self.first} old messages have gone)")

        tokenizer = self.template.tokenizer
        stream = TextStream(tokenizer, prompt)
        seed = hash_key(self.cfg.seed, self.answers)
        filters = {key: getattr(self.cfg, key) for key in ("temperature", "top_k", "top_p", "min_p")}
        stops = sorted(self.template.stop_ids)
        ids = self.reader.generate(prompt, self.cfg.max_new_tokens, tokenizer.vocab_size, stops, seed, **filters)

        start_s = time.perf_counter()
        pieces: list[str] = []
        written = 0
        interrupted = False
        try:
            with memory_advice(f"give a smaller --context than {self.context}"):
                for token in ids:
                    written += 1
                    pieces.append(stream.feed(token))
                    print(pieces[-1], end="", flush=True)
        except KeyboardInterrupt:
            interrupted = True
        pieces.append(stream.flush())
        print(pieces[-1], flush=True)
        took_s = time.perf_counter() - start_s

        self.answers += 1
        answer = "".join(pieces)
        if interrupted and not answer:
            note("(interrupted before the first word: nothing was changed)")
            return
        self.turns = [*turns, {"role": "assistant", "content": answer}]
        self.first = first
        self._report(len(prompt), written, interrupted, took_s)

    def _prompt(self, turns: list[Message]) -> tuple[list[int], int]:
        """The ids to answer, and the first of the turns in them: as many of the newest as leave room for an answer."""
        room = min(self.cfg.max_new_tokens, self.context // ROOM_SHARE)
        starts = [i for i in range(self.first, len(turns)) if turns[i]["role"] == "user"]
        for start in starts:
            messages = with_system(self.system, turns[start:])
            ids = self.template.encode(messages, generation_prompt=True)
            if len(ids) + room <= self.context:
                return ids, start

        # The last message alone may leave less room.
        if len(ids) >= self.context:
            reason = f"system message and last message have {len(ids)} tokens, the context {self.context}"
            raise ValueError(f"{reason}; shorten one of them")
        return ids, starts[-1]

    def _report(self, prompt_tokens: int, written: int, interrupted: bool, took_s: float) -> None:
        """The last line of a turn: how many tokens were read and written; and what ended an answer early."""
        from_cache = self.reader.was_held
        counts = f"read {prompt_tokens - from_cache:,} new tokens, {from_cache:,} from the cache"
        line = f"{counts}; wrote {written:,} in {took_s:.1f} s"
        if interrupted:
            line += "; interrupted"
        elif prompt_tokens + written == self.context:
            line += f"; stopped: the context of {self.context} tokens is full"
        elif written == self.cfg.max_new_tokens:
            line += f"; stopped: max_new_tokens is {written}"
        note(f"({line})")

    def save(self, name: str) -> None:
        """Write the conversation as {"messages": [...]}, which prepare_chat.py reads; .jsonl: in a single line."""
        if not name:
            raise ValueError("give a name: /save talk.json")
        path = Path(name).expanduser()
        if path.exists() and path not in self.saved:
            raise ValueError(f"{path} exists already; give another name")

        content = {"messages": self.messages()}
        if path.suffix == ".jsonl":
            atomic.write(path, (json.dumps(content, ensure_ascii=False) + "\n").encode())
        else:
            atomic.write_json(path, content)
        self.saved.add(path)
        note(f"({len(content['messages'])} messages written to {path})")


def with_system(system: str | None, turns: list[Message]) -> list[Message]:
    """The turns, after the system message if there is one."""
    if system is None:
        return turns
    return [{"role": "system", "content": system}, *turns]


def note(text: str) -> None:
    """A dim line on standard error: standard output has the answers alone."""
    if sys.stderr.isatty():
        text = DIM + text + NORMAL
    print(text, file=sys.stderr, flush=True)


# --- commands ---


def show_help(conversation: Conversation, argument: str) -> None:
    """this list"""
    for name, command in COMMANDS.items():
        note(f"  {name:<15} {command.__doc__}")
    note(f"A line that ends with \\ goes on in the next one; so does all between {QUOTES} and {QUOTES}.")
    note("Ctrl-C ends an answer, Ctrl-D the program.")


def reset(conversation: Conversation, argument: str) -> None:
    """begin anew; the system message stays"""
    conversation.reset()
    note("(a new conversation)")


def set_system(conversation: Conversation, argument: str) -> None:
    """set the system message to the text that follows; without a text: show it"""
    if argument:
        conversation.system = replace_lone_surrogates(argument)
    note(f"(system message: {conversation.system or 'that of the template, if it has one'})")


def save(conversation: Conversation, argument: str) -> None:
    """write the conversation to the file that follows"""
    conversation.save(argument)


def retry(conversation: Conversation, argument: str) -> None:
    """answer the last message anew"""
    conversation.retry()


def leave(conversation: Conversation, argument: str) -> None:
    """end the program"""
    raise EOFError


COMMANDS: dict[str, Callable[[Conversation, str], None]] = {
    "/help": show_help,
    "/reset": reset,
    "/system": set_system,
    "/save": save,
    "/retry": retry,
    "/exit": leave,
}


def obey(conversation: Conversation, text: str) -> None:
    """Run the command that a line names. Raises ValueError for an unknown one."""
    name, *rest = text.split(maxsplit=1)
    argument = rest[0].strip() if rest else ""
    command = COMMANDS.get(name)
    if command is None:
        advice = f"a message that begins with / stands between {QUOTES} and {QUOTES}"
        raise ValueError(f"no command {name:.40}; /help lists them ({advice})")
    command(conversation, argument)


# --- the terminal ---


def read_line(prompt: str) -> str:
    """A line that the user types; without a prompt where lines come from a file."""
    return input(prompt if sys.stdin.isatty() else "")


def rest_of_message(line: str) -> str:
    """The whole message that begins with this line.

    A line that ends with \\ goes on in the next one; a message that begins with three quotes goes on to the next three.
    """
    if line.startswith(QUOTES):
        text = line.removeprefix(QUOTES)
        while QUOTES not in text:
            text += "\n" + read_line("... ")
        return text.partition(QUOTES)[0].strip("\n")

    while line.endswith("\\"):
        line = line.removesuffix("\\") + "\n" + read_line("... ")
    return line


def talk(conversation: Conversation) -> None:
    """Read messages and commands, and answer them, until Ctrl-D or /exit. A mistake is one line, and all goes on."""
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401  arrows edit the line and bring back former ones

    while True:
        try:
            line = read_line("> ")
            text = rest_of_message(line)
            if line.startswith("/"):
                obey(conversation, text)
            elif text.strip():
                conversation.say(text)
        except EOFError:
            return
        except KeyboardInterrupt:
            print(file=sys.stderr)
            note("(Ctrl-D or /exit ends the program)")
        except (ValueError, OSError) as error:
            print(f"error: {error}", file=sys.stderr)


# --- from settings to a conversation ---


def load_template(folder: Path, shape: ModelConfig) -> ChatTemplate:
    """The folder's template, or ChatML with a note. Raises ValueError when the model has no rows for its tokens."""
    template = ChatTemplate.load(folder)
    largest = max(template.encode(PROBE, generation_prompt=True))
    if largest >= shape.vocab_size:
        token = template.tokenizer.hf.id_to_token(largest)
        reason = f"the template writes {token} (id {largest}), but the model's embedding has {shape.vocab_size} rows"
        raise ValueError(f"{folder}: {reason}; python grow.py --checkpoint={folder} adds the others")
    if read_template(folder) is None:
        note(f"({folder} has no chat template: ChatML is used; a model that was not trained on it only rambles)")
    return template


def load(cfg: ChatConfig) -> Conversation:
    """The conversation that the settings name; what can be wrong is found before the weights are read."""
    cfg.check()
    source = lora.find_source(cfg.checkpoint, cfg.adapter, bits=cfg.bits)
    shape = source.shape
    device = pick_device(cfg.device)
    dtype = weight_dtype(cfg.dtype, device)
    context = cfg.context or shape.block_size
    if context > shape.block_size:
        raise ValueError(f"context ({context}) is above the model's {shape.block_size}; lower --context")
    template = load_template(source.small_files, shape)
    if cfg.system is not None:
        template.encode(with_system(cfg.system, [{"role": "user", "content": "Hi"}]), generation_prompt=True)

    with memory_advice(f"give --dtype=bfloat16, or a smaller --context than {context}"):
        model = source.load(device, dtype).eval()
        return Conversation(cfg, template, model, context)


def main(cfg: ChatConfig) -> None:
    """Load, then answer one message, or talk."""
    conversation = load(cfg)
    if cfg.prompt:
        conversation.say(cfg.prompt)
        return
    if sys.stdin.isatty():
        note("(/help lists the commands)")
    talk(conversation)


if __name__ == "__main__":
    configurator.run(main, ChatConfig, show=False)
