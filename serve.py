"""Answer over HTTP, in the manner of OpenAI's API, with a web page: python serve.py --checkpoint=out/smollm2

    python serve.py --checkpoint=out/smollm2 --port=8000        then open http://127.0.0.1:8000
    python serve.py --checkpoint=out/demo                       a model that continues texts, without conversations
    python serve.py --adapter=out/lora --rows=16 --context=2048
    python serve.py --checkpoint=out/smollm2 --host=0.0.0.0 --api_key=...      for other machines

Many answers are written at once, and each is what it would be alone. Ctrl-C lets running answers end, a second one does
not. docs/serving.md has the fields, the limits and the figures.
"""

import configurator  # before torch and the others: Ctrl-C during their import is one line too

# isort: split
import asyncio
import ipaddress
import os
import signal
import socket
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

try:
    import h11
    import prometheus_client  # noqa: F401
    import starlette  # noqa: F401
    import uvicorn
    from uvicorn.protocols.http.h11_impl import H11Protocol
except ImportError as error:
    sys.exit(f"error: {error}; run: pip install -r requirements.txt")

import checkpoint
import lora
from chat import load_template
from chat_template import ChatTemplate, read_template
from device import memory_advice, pick_device, weight_dtype
from errors import one_line
from serving.app import LOOPBACK_NAMES, Limits, State, make_app
from serving.engine import Engine
from serving.fields import Served
from tokenizer import Tokenizer

DEFAULT_CONTEXT = 4096  # where the model's is longer: each row of the cache has room for so many tokens
MAX_CONNECTIONS = 500  # at once; a process may mostly have 1,024 files open
KEY_VARIABLE = "NONLLAMA_API_KEY"


@dataclass(frozen=True)
class ServeConfig:
    """Settings of `python serve.py`."""

    checkpoint: str | None = None  # a run (its newest checkpoint), or a Hugging Face folder; None: out/demo
    adapter: str | None = None  # a LoRA adapter, of a run or from peft; without --checkpoint beside the base it names
    name: str | None = None  # the model's name in the API; None: that of the folder
    host: str = "127.0.0.1"  # address to listen on; 0.0.0.0: all of this machine
    port: int = 8000  # 0: any that is free
    api_key: str | None = None  # clients must send it; None: that of the environment's NONLLAMA_API_KEY, or none
    hosts: str = ""  # more names that the Host header may have, separated by commas; on 127.0.0.1 others are refused
    cors: str = ""  # origins of web pages that may ask, separated by commas: https://a.example; *: all
    rows: int = 8  # answers that are written at once
    queue: int = 64  # answers that may wait for a row; more are refused with 503
    exact: bool = True  # each answer has the bits that it would have alone; False: faster for a few answers
    context: int | None = None  # tokens of prompt and answer together; None: the model's, at most 4096
    max_new_tokens: int = 1024  # of an answer, at most
    max_body_bytes: int = 1 << 20  # of a request
    patience_s: float = 30.0  # a client that sends or reads nothing for so long is given up
    device: str = "auto"  # cpu, cuda, cuda:1, mps; auto: cuda if there is one
    bits: Literal[8, 4] | None = None  # quantize the weights while loading: faster on a CPU; None: as they are
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"  # of weights and cache; auto: bfloat16 on CUDA, else float32

    def check(self) -> None:
        """Raise ValueError for settings that cannot work."""
        for key in ("rows", "queue", "max_new_tokens", "max_body_bytes"):
            if getattr(self, key) < 1:
                raise ValueError(f"{key} ({getattr(self, key)}) must be at least 1")
        if self.context is not None and self.context < 2:
            raise ValueError(f"context ({self.context}) must be at least 2: a token to read and one to write")
        if not 0 <= self.port < 2**16:
            raise ValueError(f"port ({self.port}) must be from 0 to 65535")
        if not 0 < self.patience_s < float("inf"):
            raise ValueError(f"patience_s ({self.patience_s}) must be above 0 and finite")
        for origin in names_in(self.cors):
            if origin != "*" and ("://" not in origin or origin.count("/") != 2):
                raise ValueError(f"--cors={origin}: an origin is written https://a.example, without a path")
        if self.api_key is not None and not (self.api_key.isascii() and self.api_key.strip() == self.api_key != ""):
            raise ValueError("the API key must be ASCII, without spaces around it, and not empty")


def names_in(text: str) -> list[str]:
    """a and b of "a, b"."""
    return [name.strip() for name in text.split(",") if name.strip()]


# --- from settings to a server ---


def load_chat_template(folder: Path, shape: Any) -> tuple[ChatTemplate | None, str]:
    """The folder's template; without one None, and what to do about it."""
    if read_template(folder) is not None:
        return load_template(folder, shape), ""
    advice = "use /v1/completions, or make an assistant of it: docs/finetuning.md"
    return None, f"{folder.name} has no chat template, it only continues texts; {advice}"


def load(cfg: ServeConfig) -> State:
    """The engine and what it serves; what can be wrong is found before the weights are read."""
    cfg.check()
    source = lora.find_source(cfg.checkpoint, cfg.adapter, bits=cfg.bits)
    shape = source.shape
    device = pick_device(cfg.device)
    dtype = weight_dtype(cfg.dtype, device)
    context = cfg.context or min(shape.block_size, DEFAULT_CONTEXT)
    if context > shape.block_size:
        raise ValueError(f"context ({context}) is above the model's {shape.block_size}; lower --context")
    folder = source.small_files
    tokenizer = Tokenizer.load(folder)
    checkpoint.check_vocabulary(shape, tokenizer)
    template, without_template = load_chat_template(folder, shape)

    with memory_advice(f"give --dtype=bfloat16, fewer --rows than {cfg.rows}, or a smaller --context than {context}"):
        model = source.load(device, dtype).eval()
        engine = Engine(model, tokenizer, cfg.rows, context, cfg.queue, exact=cfg.exact)

    served = Served(
        name=cfg.name or Path(cfg.adapter or cfg.checkpoint or "out/demo").resolve().name,
        tokenizer=tokenizer,
        template=template,
        without_template=without_template,
        context=context,
        max_new_tokens=cfg.max_new_tokens,
        vocab_size=shape.vocab_size,
    )
    return State(engine, served, limits_of(cfg), created=int(time.time()))


def limits_of(cfg: ServeConfig) -> Limits:
    """Who may ask, by the settings."""
    own_names = LOOPBACK_NAMES if is_loopback(cfg.host) else set()
    hosts = own_names | {name.lower() for name in names_in(cfg.hosts)}
    return Limits(
        max_body_bytes=cfg.max_body_bytes,
        patience_s=cfg.patience_s,
        api_key=cfg.api_key or os.environ.get(KEY_VARIABLE) or None,
        hosts=frozenset(hosts) if hosts else None,
        origins=tuple(names_in(cfg.cors)),
    )


def is_loopback(host: str) -> bool:
    """Whether an address can be reached from this machine alone."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def listen(cfg: ServeConfig) -> socket.socket:
    """A socket that listens on the address. Raises ValueError for one that is taken, or not of this machine."""
    family = socket.AF_INET6 if ":" in cfg.host else socket.AF_INET
    with one_line(f"--host={cfg.host} --port={cfg.port} cannot be listened on: ", OSError):
        return socket.create_server((cfg.host, cfg.port), family=family, backlog=MAX_CONNECTIONS)


def address_of(bound: socket.socket) -> str:
    """What to open in a browser."""
    host, port, *_ = bound.getsockname()
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


# --- uvicorn, with two habits of our own ---


class Protocol(H11Protocol):
    """Closes connections whose request does not arrive: a head that comes byte by byte, or not at all.

    (uvicorn waits for the first byte, and for the end of a head, for ever. Bodies: app.read_body.)
    """

    patience_s = 30.0
    head_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:
        """A client has come."""
        super().connection_made(transport)
        self._wait_for_head()

    def data_received(self, data: bytes) -> None:
        """Bytes have come."""
        super().data_received(data)
        head_is_missing = self.conn.their_state is h11.IDLE
        if not head_is_missing:
            self._stop_waiting()
        elif self.head_timer is None:
            self._wait_for_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """The client has gone."""
        self._stop_waiting()
        super().connection_lost(exc)

    def _wait_for_head(self) -> None:
        self.head_timer = self.loop.call_later(self.patience_s, self.transport.abort)

    def _stop_waiting(self) -> None:
        if self.head_timer is not None:
            self.head_timer.cancel()
            self.head_timer = None


class Server(uvicorn.Server):
    """Ends as it should: running answers are written to their end, unless a second signal comes."""

    def __init__(self, state: State, cfg: ServeConfig):
        protocol = type("PatientProtocol", (Protocol,), {"patience_s": cfg.patience_s})
        config = uvicorn.Config(
            make_app(state),
            http=protocol,
            ws="none",
            lifespan="off",
            log_level="error",  # by default it warns of each request that is no HTTP
            access_log=False,
            server_header=False,
            proxy_headers=False,
            limit_concurrency=MAX_CONNECTIONS,
            timeout_keep_alive=int(max(1, min(cfg.patience_s, 60))),
        )
        super().__init__(config)
        self.state = state

    def handle_exit(self, sig: int, frame: Any) -> None:
        """Ctrl-C or SIGTERM."""
        if self.should_exit:
            self.force_exit = True
        self.should_exit = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """What uvicorn does after the first signal."""
        engine = self.state.engine
        engine.close()
        if engine.running:
            say(f"closing: {engine.running} running answers are written to their end; Ctrl-C stops at once")
        await super().shutdown(sockets)


def say(line: str) -> None:
    """A line for who has started the server."""
    print(line, file=sys.stderr, flush=True)


def describe(state: State, cfg: ServeConfig, address: str) -> str:
    """The lines that a server begins with."""
    engine = state.engine
    served = state.served
    lines = [f"{served.name}: {engine.cache.rows} rows of {served.context:,} tokens, {size_text(engine)} when full"]
    if engine.same_bits:
        sizes = ", ".join(map(str, engine.batch_sizes))
        lines.append(f"batch sizes with equal bits: {sizes}; each answer is what it would be alone")
    else:
        reason = "in no batch size all rows have equal bits here" if cfg.exact else "--exact=False"
        lines.append(f"{reason}: beside others, nearly equal logits may change places")
    if served.template is None:
        lines.append(f"note: {served.without_template}")
    if not is_loopback(cfg.host) and state.limits.api_key is None:
        lines.append(f"warning: {cfg.host} can be reached by others, and no key is asked for; give --api_key=...")
    lines.append(f"listening on {address}  (the page; the API: {address}/v1)")
    return "\n".join(lines)


def size_text(engine: Engine) -> str:
    """The memory of the cache."""
    return f"{engine.cache.size_bytes / 1e9:.2f} GB"


def main(cfg: ServeConfig) -> None:
    """Load, listen, answer until a signal comes."""
    cfg.check()
    bound = listen(cfg)
    state = load(cfg)
    state.engine.start()
    server = Server(state, cfg)
    say(describe(state, cfg, address_of(bound)))
    server.run(sockets=[bound])

    if server.force_exit:
        say("stopped")
        os._exit(130)  # the thread may be in the middle of a pass
    state.engine.stop()
    say("closed")


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # while the model loads, too
    configurator.run(main, ServeConfig, show=False)
