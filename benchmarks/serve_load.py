"""Clients for serve.py: a server in a process of its own, and questions that are asked by many at once."""

import asyncio
import contextlib
import json
import random
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.bench_figures import need

REPO = Path(__file__).resolve().parents[1]
WORDS = (
    "the king of a small country wrote to his sister that rain had come and all rivers ran into town by night".split()
)


@dataclass(frozen=True)
class Question:
    """A text to continue, greedily."""

    prompt: str
    max_tokens: int


@dataclass
class Answer:
    """What came, and when."""

    text: str = ""
    pieces: int = 0
    first_s: float = 0.0  # from the question to the first piece
    tokens: int | None = None  # None: the client left before the end


def questions(count: int, words: tuple[int, int], tokens: tuple[int, int], seed: int = 0) -> list[Question]:
    """Random texts of from words[0] to words[1] words, and answers of from tokens[0] to tokens[1] tokens."""
    draw = random.Random(seed)
    made = []
    for _ in range(count):
        text = " ".join(draw.choices(WORDS, k=draw.randint(*words)))
        made.append(Question(text, draw.randint(*tokens)))
    return made


@dataclass(frozen=True)
class Server:
    """A server in a process of its own."""

    address: str
    pid: int

    def memory_bytes(self) -> int:
        """Its resident set."""
        return need("psutil").Process(self.pid).memory_info().rss

    def cpu_s(self) -> float:
        """The CPU-seconds of all its threads."""
        times = need("psutil").Process(self.pid).cpu_times()
        return times.user + times.system


@contextlib.contextmanager
def server(checkpoint: str, *settings: str) -> Iterator[Server]:
    """python serve.py on a free port, until the block ends. Raises ValueError when it does not begin."""
    command = [sys.executable, "serve.py", f"--checkpoint={Path(checkpoint).resolve()}", "--port=0", *settings]
    with subprocess.Popen(command, cwd=REPO, stderr=subprocess.PIPE, text=True) as process:
        try:
            said = []
            for line in process.stderr:
                said.append(line)
                if line.startswith("listening on "):
                    break
            else:
                raise ValueError(f"serve.py did not begin: {''.join(said)[-300:]}")
            yield Server(line.split()[2], process.pid)
        finally:
            process.terminate()
            process.terminate()
            process.wait()


async def ask(session: Any, address: str, question: Question, leave_after: int | None = None) -> Answer:
    """Ask once, in a stream. leave_after: close the connection after so many pieces."""
    fields = {
        "prompt": question.prompt,
        "max_tokens": question.max_tokens,
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    begin_s = time.perf_counter()
    answer = Answer()
    async with session.post(f"{address}/v1/completions", json=fields) as response:
        if response.status != 200:
            raise RuntimeError(f"the server answers {response.status}: {await response.text()}")
        async for line in response.content:
            if not line.startswith(b"data: {"):
                continue
            chunk = json.loads(line[6:])
            if "error" in chunk:
                raise RuntimeError(chunk["error"]["message"])
            if chunk.get("usage"):
                answer.tokens = chunk["usage"]["completion_tokens"]
            for choice in chunk["choices"]:
                if not answer.pieces:
                    answer.first_s = time.perf_counter() - begin_s
                answer.text += choice["text"]
                answer.pieces += 1
            if leave_after is not None and answer.pieces >= leave_after:
                response.close()
                return answer
    return answer


async def ask_all(address: str, asked: Sequence[Question], clients: int) -> list[Answer]:
    """The answers to all questions, so many at a time."""
    aiohttp = need("aiohttp")
    answers: list[Answer | None] = [None] * len(asked)
    left = iter(range(len(asked)))

    async def client(session: Any) -> None:
        for number in left:
            answers[number] = await ask(session, address, asked[number])

    timeout = aiohttp.ClientTimeout(total=None)
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(timeout=timeout, connector=connector) as session:
        await asyncio.gather(*[client(session) for _ in range(clients)])
    return answers


async def read_metrics(address: str) -> dict[str, float]:
    """What /metrics says."""
    aiohttp = need("aiohttp")
    async with aiohttp.ClientSession() as session, session.get(f"{address}/metrics") as response:
        lines = (await response.text()).splitlines()
    pairs = [line.rpartition(" ") for line in lines if line and not line.startswith("#")]
    return {name: float(value) for name, _, value in pairs}
