"""A small model behind serve.py, in a thread of the test's process."""

import contextlib
import dataclasses
import threading
import time
from pathlib import Path

import torch
from tokenizer_kinds import made

import checkpoint
import serve
from chat_template import TEMPLATE_FILE, chatml
from model import Llama, ModelConfig
from serve import ServeConfig
from tokenizer import TURN_END, TURN_START, Tokenizer

SHAPE = ModelConfig(vocab_size=1, block_size=8192, n_layer=2, n_head=4, n_kv_head=2, n_embd=32, ffn_hidden=64)


def random_model(vocab_size: int) -> Llama:
    """Large weights, above all in attention, so that all that was read before counts."""
    torch.manual_seed(1)
    model = Llama(dataclasses.replace(SHAPE, vocab_size=vocab_size))
    for name, parameter in model.named_parameters():
        torch.nn.init.normal_(parameter, std=1 if "self_attn" in name else 0.3)
    return model.eval()


def tiny_tokenizer(kind: str = "characters") -> Tokenizer:
    """With the two tokens of ChatML."""
    return Tokenizer(made(kind)).with_special_tokens([TURN_START, TURN_END])


def tiny_folder(folder: Path, with_template: bool = True, kind: str = "characters") -> Path:
    """A random model in a folder, with ChatML or without a template."""
    tokenizer = tiny_tokenizer(kind)
    model = random_model(tokenizer.vocab_size)
    folder.mkdir(parents=True)
    checkpoint.write_model(folder, dict(model.named_parameters()), checkpoint.small_files(model, tokenizer, {}))
    if with_template:
        (folder / TEMPLATE_FILE).write_text(chatml(tokenizer))
    return folder


@dataclasses.dataclass
class Running:
    """A server that runs."""

    address: str
    port: int
    state: serve.State
    server: serve.Server

    def wait(self, condition, seconds: float = 60) -> None:
        """Wait until condition() holds."""
        end_s = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end_s, "it did not come to that"
            time.sleep(0.01)


def slow_down(running: Running, monkeypatch, seconds: float) -> None:
    """Each step of the engine takes so long at least: an answer lasts on a fast machine, too."""
    engine = running.state.engine
    real_step = engine.step

    def step() -> None:
        time.sleep(seconds)
        real_step()

    monkeypatch.setattr(engine, "step", step)


@contextlib.contextmanager
def serving(folder: Path, **settings):
    """A Running, on a free port."""
    usual = {"checkpoint": str(folder), "port": 0, "device": "cpu", "rows": 4, "queue": 32}
    cfg = ServeConfig(**{**usual, **settings})
    bound = serve.listen(cfg)
    state = serve.load(cfg)
    state.engine.start()
    server = serve.Server(state, cfg)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]}, daemon=True)
    port = bound.getsockname()[1]
    thread.start()
    running = Running(f"http://127.0.0.1:{port}", port, state, server)
    running.wait(lambda: server.started)
    try:
        yield running
    finally:
        server.should_exit = True
        server.force_exit = True
        thread.join(60)
        state.engine.stop()
