"""A conversation: the cache changes nothing but what is read, old turns go, Ctrl-C ends an answer, commands."""

import dataclasses
import io
import json
import re
import signal
import subprocess
import sys

import pytest
import torch
from tokenizer_kinds import made

import chat
import checkpoint
import configurator
import sample
from chat import ChatConfig, common_beginning
from chat_template import TEMPLATE_FILE, chatml
from model import Llama, ModelConfig
from tokenizer import TURN_END, TURN_START, Tokenizer

pytestmark = pytest.mark.usefixtures("unwritten_is_nan")

SHAPE = ModelConfig(vocab_size=1, block_size=256, n_layer=2, n_head=4, n_kv_head=2, n_embd=32, ffn_hidden=64)
NEW = 8  # max_new_tokens: a random model seldom ends an answer itself


def write_folder(folder, tokenizer: Tokenizer, template: str | None, rows: int | None = None):
    """A small random model in a folder; with large weights of attention, so that all that was read before counts."""
    torch.manual_seed(1)
    model = Llama(dataclasses.replace(SHAPE, vocab_size=rows or tokenizer.vocab_size))
    for name, parameter in model.named_parameters():
        torch.nn.init.normal_(parameter, std=1 if "self_attn" in name else 0.3)
    folder.mkdir()
    checkpoint.write_model(folder, dict(model.named_parameters()), checkpoint.small_files(model, tokenizer, {}))
    if template is not None:
        (folder / TEMPLATE_FILE).write_text(template)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """ChatML over characters: what a model writes becomes the same ids when it is read again."""
    tokenizer = Tokenizer(made("characters")).with_special_tokens([TURN_START, TURN_END])
    return write_folder(tmp_path_factory.mktemp("chat") / "tiny", tokenizer, chatml(tokenizer))


@pytest.fixture
def begin(folder):
    """A conversation, greedy unless told otherwise, and the list of how many tokens each step of its model read."""

    def begin(**settings):
        usual = {"checkpoint": str(folder), "temperature": 0, "max_new_tokens": NEW, "device": "cpu"}
        conversation = chat.load(ChatConfig(**{**usual, **settings}))
        read = []
        conversation.reader.model.register_forward_pre_hook(lambda _, args: read.append(args[0].shape[1]))
        return conversation, read

    return begin


@pytest.fixture
def type_in(monkeypatch):
    """talk() with these lines, then Ctrl-D."""

    def type_in(conversation, *lines):
        monkeypatch.setattr(sys, "stdin", io.StringIO("".join(line + "\n" for line in lines)))
        chat.talk(conversation)

    return type_in


def fresh_answer(conversation, messages) -> str:
    """What the model answers to these messages when it reads all of them at once, without chat.py."""
    template = conversation.template
    prompt = template.encode(messages, generation_prompt=True)
    steps = sample.generate(
        conversation.reader.model, [prompt], NEW, template.tokenizer.vocab_size, template.stop_ids, temperature=0
    )
    new = [token for (token,) in steps]
    return template.tokenizer.decode(prompt + new)[len(template.tokenizer.decode(prompt)) :]


def contents(conversation) -> list[str]:
    return [message["content"] for message in conversation.messages()]


def test_a_common_beginning():
    assert common_beginning([5, 6, 7], [5, 6, 8, 9]) == 2
    assert common_beginning([], [5]) == common_beginning([6], [5]) == 0
    assert common_beginning([5, 6], [5, 6, 7]) == common_beginning([5, 6, 7], [5, 6]) == 2


def test_a_turn_reads_what_is_new_and_answers_as_if_it_read_all(begin, capsys):
    """Three turns: texts equal fresh runs; the model's own steps and the printed line agree about what was read."""
    conversation, read = begin(system="be brief")
    held = 0
    for question in ("what is it?", "why?", "and then?"):
        read.clear()
        conversation.say(question)
        steps = list(read)
        shown = capsys.readouterr()

        *before, answer = conversation.messages()
        assert answer["content"] == fresh_answer(conversation, before) == shown.out.removesuffix("\n")
        prompt = len(conversation.template.encode(before, generation_prompt=True))
        assert steps == [prompt - held] + [1] * (NEW - 1)
        assert f"read {prompt - held} new tokens, {held} from the cache; wrote {NEW}" in shown.err
        held = prompt + NEW - 1  # the last token of an answer is drawn, but not read
    assert len(set(contents(conversation)[2::2])) == 3


def test_another_system_message_is_read_with_all_that_follows(begin, capsys):
    conversation, read = begin(system="be brief")
    conversation.say("one")
    chat.obey(conversation, "/system be long")
    read.clear()
    conversation.say("two")
    *before, answer = conversation.messages()
    ids = conversation.template.encode(before, generation_prompt=True)
    same = len(f"{TURN_START}system\nbe ") - len(TURN_START) + 1
    assert before[0] == {"role": "system", "content": "be long"} and len(before) == 4
    assert read[0] == len(ids) - same
    assert answer["content"] == fresh_answer(conversation, before)


def test_retry_reads_one_token_and_draws_anew(begin):
    conversation, read = begin(temperature=1)
    conversation.say("one")
    first = contents(conversation)
    read.clear()
    conversation.retry()
    second = contents(conversation)
    assert read == [1] * len(read)
    assert len(second) == 2 and second[0] == first[0] and second[1] != first[1]

    again, _ = begin(temperature=1)
    again.say("one")
    again.retry()
    assert contents(again) == second, "the seed says what is drawn"


def test_the_oldest_turns_go_when_the_context_is_full(begin, capsys):
    """The system message and the newest turns stay; /save loses nothing; the answer is that of the shorter talk."""
    conversation, read = begin(system="be brief", context=110)
    notes = []
    for k in range(5):
        conversation.say(f"question {k}")
        notes.append("old messages have gone" in capsys.readouterr().err)

    assert notes[0] is False and any(notes)
    assert conversation.first > 0 and conversation.turns[conversation.first]["role"] == "user"
    assert contents(conversation)[1::2] == [f"question {k}" for k in range(5)]

    seen = chat.with_system("be brief", conversation.turns[conversation.first :])
    assert seen[-1]["content"] == fresh_answer(conversation, seen[:-1])
    template = conversation.template
    assert len(template.encode(seen[:-1], generation_prompt=True)) + NEW <= 110
    one_turn_more = chat.with_system("be brief", conversation.turns[conversation.first - 2 : -1])
    assert len(template.encode(one_turn_more, generation_prompt=True)) + NEW > 110, "no turn goes without need"


def test_a_message_longer_than_the_context_is_refused_and_forgotten(begin, type_in, capsys):
    conversation, _ = begin(context=110)
    type_in(conversation, "one", "x" * 200, "two")
    assert re.search(r"last message have \d{3} tokens, the context 110; shorten", capsys.readouterr().err)
    assert contents(conversation)[::2] == ["one", "two"]


def test_an_answer_ends_where_the_context_is_full(begin, capsys):
    conversation, _ = begin(context=64, max_new_tokens=60)
    conversation.say("x")
    error = capsys.readouterr().err
    prompt = conversation.template.encode(conversation.turns[:1], generation_prompt=True)
    assert f"wrote {64 - len(prompt)} in " in error
    assert "stopped: the context of 64 tokens is full" in error


@pytest.mark.parametrize("step", [0, 1, 3])
def test_ctrl_c_ends_the_answer_and_the_talk_goes_on(begin, type_in, capsys, step):
    """The signal comes while the model computes a step: layers after the first have not read its token."""
    conversation, read = begin()
    conversation.reader.model.model.fused = None  # the signal comes between two layers
    conversation.reader.cache.keys.fill_(torch.nan)  # a slot that is used before it is written shows
    conversation.reader.cache.values.fill_(torch.nan)
    conversation.say("one")
    read.clear()

    def interrupt(*_):
        if len(read) == step + 1:
            read.append(0)
            signal.raise_signal(signal.SIGINT)

    hook = conversation.reader.model.model.layers[1].register_forward_pre_hook(interrupt)
    type_in(conversation, "two", "three")
    hook.remove()

    texts = contents(conversation)
    assert ("interrupted" in capsys.readouterr().err) and texts[0] == "one"
    if step == 0:
        assert texts[2] == "three" and len(texts) == 4, "nothing was answered: the message is taken back"
    else:
        assert texts[2] == "two" and len(texts[3]) == step and texts[4] == "three"
    *before, answer = conversation.messages()
    assert answer["content"] == fresh_answer(conversation, before), "what was not read to the end is read again"


def test_messages_of_several_lines(begin, type_in):
    conversation, _ = begin()
    type_in(conversation, "a\\", "b\\", "c", "", '"""', "/reset", "d\\", "", 'e"""', '"""f"""')
    assert contents(conversation)[::2] == ["a\nb\nc", "/reset\nd\\\n\ne", "f"]


def test_commands(begin, type_in, tmp_path, capsys):
    """/save gives what prepare_chat.py reads, and overwrites no file but its own; a mistake is one line."""
    conversation, _ = begin()
    file = tmp_path / "talk.jsonl"
    other = tmp_path / "other.json"
    other.write_text("mine")
    lines = ["/retry", "/nothing", "/save", f"/save {other}", "/system be\\", "brief", "one", f"/save {file}"]
    type_in(conversation, *lines, "two", f"/save {file}", "/help", "/reset", "/system", "/exit", "three")
    error = capsys.readouterr().err

    for expected in ("nothing to try again", "no command /nothing", "give a name", f"{other} exists already"):
        assert f"error: {expected}" in error or expected in error
    assert error.count("error: ") == 4 and other.read_text() == "mine"
    assert "(system message: be\nbrief)" in error
    assert all(name in error for name in chat.COMMANDS)
    assert contents(conversation) == ["be\nbrief"], "/reset forgets, /exit ends"

    (line,) = file.read_text().splitlines()
    messages = json.loads(line)["messages"]
    assert [message["role"] for message in messages] == ["system", "user", "assistant", "user", "assistant"]
    assert [messages[i]["content"] for i in (0, 1, 3)] == ["be\nbrief", "one", "two"]


@pytest.fixture
def run_here(monkeypatch, capsys):
    """python chat.py in this process."""

    def run_here(*args):
        monkeypatch.setattr(sys, "argv", ["chat.py", *args])
        code = 0
        try:
            configurator.run(chat.main, ChatConfig, show=False)
        except SystemExit as leave:
            code = leave.code
        return subprocess.CompletedProcess(args, code, *capsys.readouterr())

    return run_here


def test_one_prompt(folder, run_here, begin):
    done = run_here(f"--checkpoint={folder}", "--prompt=one", "--temperature=0", f"--max_new_tokens={NEW}")
    conversation, _ = begin()
    assert done.returncode == 0, done.stderr
    assert done.stdout == fresh_answer(conversation, [{"role": "user", "content": "one"}]) + "\n"


def test_a_base_model_gets_chatml_with_a_note(tmp_path, run_here):
    """A BPE of ours has reserved the tokens; another tokenizer has not: grow.py is named."""
    ready = write_folder(tmp_path / "ready", Tokenizer(made("ours")), None)
    done = run_here(f"--checkpoint={ready}", "--prompt=one", "--max_new_tokens=2")
    assert done.returncode == 0 and "has no chat template: ChatML is used" in done.stderr

    other = write_folder(tmp_path / "other", Tokenizer(made("characters")), None)
    done = run_here(f"--checkpoint={other}", "--prompt=one")
    assert done.returncode == 1 and done.stderr.count("\n") == 1
    assert TURN_END in done.stderr and f"python grow.py --checkpoint={other}" in done.stderr


def test_a_tokenizer_without_the_tokens_of_its_template(tmp_path, run_here):
    tokenizer = Tokenizer(made("characters"))
    bare = write_folder(tmp_path / "bare", tokenizer, chatml(tokenizer))
    done = run_here(f"--checkpoint={bare}", "--prompt=one")
    assert done.returncode == 1 and done.stderr.count("\n") == 1 and "python grow.py" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--context=257"], "context (257) is above the model's 256"),
        (["--context=0"], "context (0) must be at least 1"),
        (["--temperature=-1"], "temperature (-1.0) must be at least 0"),
        (["--top_p=0"], "top_p (0.0) must be above 0"),
        (["--max_new_tokens=0"], "max_new_tokens (0) must be at least 1"),
    ],
)
def test_settings_that_cannot_work(folder, run_here, arguments, message):
    done = run_here(f"--checkpoint={folder}", *arguments)
    assert done.returncode == 1 and message in done.stderr and done.stderr.count("\n") == 1
