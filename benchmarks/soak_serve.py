"""Many clients for minutes: is each answer what it is alone, does memory stay, does the server live?

    python benchmarks/soak_serve.py --checkpoint=out/smollm2 --minutes=5

A server in a process of its own is first asked each of 24 questions alone. Then the clients ask them at random, all at
once, with texts and answers of random lengths; a quarter of them leave in the middle of an answer. Each text that is
complete is compared with that of the quiet server. Exit code 1 when one differs, a request fails, a row is not free at
the end, or memory has grown by more than a twentieth after the first quarter of the time.
"""

import asyncio
import random
import sys
import time
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import configurator

# isort: split
from tqdm import tqdm

from benchmarks.bench_figures import need
from benchmarks.serve_load import Question, Server, ask, ask_all, questions, read_metrics, server


@dataclass(frozen=True)
class SoakConfig:
    """Settings of `python benchmarks/soak_serve.py`."""

    checkpoint: str = "out/smollm2"  # a run, or a Hugging Face folder
    minutes: float = 5.0  # how long
    clients: int = 64  # at once
    rows: int = 8  # of the server
    leave: float = 0.25  # share of the answers whose client leaves
    longest_prompt: int = 150  # words
    longest_answer: int = 60  # tokens
    seed: int = 0  # of the questions, and of who asks and leaves when


@dataclass
class Counts:
    """What has happened."""

    complete: int = 0
    left: int = 0
    different: int = 0
    failed: int = 0
    tokens: int = 0


async def soak(
    running: Server, asked: list[Question], expected: list[str], cfg: SoakConfig, counts: Counts
) -> list[int]:
    """Ask until the time is over. Returns the server's resident set in bytes, once a second."""
    aiohttp = need("aiohttp")
    end_s = time.monotonic() + 60 * cfg.minutes
    memory = []

    async def client(session: aiohttp.ClientSession, draw: random.Random) -> None:
        while time.monotonic() < end_s:
            number = draw.randrange(len(asked))
            leave_after = draw.randint(1, 20) if draw.random() < cfg.leave else None
            try:
                answer = await ask(session, running.address, asked[number], leave_after)
            except (aiohttp.ClientError, RuntimeError) as error:
                print(f"failed: {error}", file=sys.stderr)
                counts.failed += 1
                await asyncio.sleep(0.5)
                continue
            if answer.tokens is None:
                counts.left += 1
                continue
            counts.complete += 1
            counts.tokens += answer.tokens
            counts.different += answer.text != expected[number]

    async def watch() -> None:
        with tqdm(total=round(60 * cfg.minutes), desc="soak", unit=" s", disable=None) as bar:
            while time.monotonic() < end_s:
                await asyncio.sleep(min(1.0, cfg.minutes * 6))
                memory.append(running.memory_bytes())
                bar.update()

    timeout = aiohttp.ClientTimeout(total=None)
    connector = aiohttp.TCPConnector(limit=0, force_close=True)
    async with aiohttp.ClientSession(timeout=timeout, connector=connector) as session:
        clients = [client(session, random.Random(f"{cfg.seed} {i}")) for i in range(cfg.clients)]
        await asyncio.gather(watch(), *clients)
    return memory


def growth_of(memory: list[int]) -> float:
    """The largest resident set of the last quarter over that of the first one."""
    quarter = max(1, len(memory) // 4)
    return max(memory[-quarter:]) / max(memory[:quarter])


def run(cfg: SoakConfig) -> tuple[Counts, float, dict[str, float]]:
    """What has happened, how memory has grown, and the server's own counts at the end."""
    asked = questions(24, (1, cfg.longest_prompt), (1, cfg.longest_answer), cfg.seed)
    counts = Counts()
    settings = [f"--rows={cfg.rows}", f"--queue={cfg.clients}", "--device=cpu"]
    with server(cfg.checkpoint, *settings) as running:
        alone = asyncio.run(ask_all(running.address, asked, clients=1))
        expected = [answer.text for answer in alone]
        memory = asyncio.run(soak(running, asked, expected, cfg, counts))
        metrics = asyncio.run(settled(running))
    return counts, growth_of(memory), metrics


async def settled(running: Server) -> dict[str, float]:
    """The server's counts, when no answer is being written any more."""
    for _ in range(600):
        metrics = await read_metrics(running.address)
        if not metrics["nonllama_rows_used"] and not metrics["nonllama_waiting"]:
            break
        await asyncio.sleep(0.1)
    return metrics


def main(cfg: SoakConfig) -> None:
    """Soak, and say what was seen. Raises ValueError for what must not be."""
    counts, growth, metrics = run(cfg)
    print(
        f"{counts.complete:,} answers of {counts.tokens:,} tokens complete; {counts.left:,} clients left before the end"
    )
    print(f"different from alone: {counts.different}; failed: {counts.failed}; memory x {growth:.3f}")
    print(f"rows in use at the end: {metrics['nonllama_rows_used']:.0f}")
    if counts.different or counts.failed or metrics["nonllama_rows_used"] or growth > 1.05:
        raise ValueError("the server did not pass")


if __name__ == "__main__":
    configurator.run(main, SoakConfig)
