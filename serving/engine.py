"""Continuous batching: many answers are written at once, and each is what it would be alone.

A pass of the model reads all its weights from memory, for one token or for one token in each of eight rows alike. So
answers share their passes. They do not wait for each other: between two passes a text that has ended leaves its row,
and the next one that waits takes it. Time goes down, one line a step; A reads a prompt of two chunks and writes five
tokens, B reads one chunk and writes two, C waits for a row:

    row 0        row 1        waiting
    A reads      .            B C           one chunk of one prompt a step, so that answers do not stall
    A reads      .            B C           A's first token comes with the last chunk
    A writes     B reads      C
    A writes     B writes     C             one pass for both
    A writes     C reads                    B has ended: C joins
    A writes     C writes
    .            C writes                   A has ended

"What it would be alone" holds to the last bit, so that greedy texts do not part where two logits are nearly equal:

- Prompts are read one by one, in chunks that begin at multiples of CHUNK: what is computed depends on the prompt alone.
- A row attends over its own length (rows.py).
- A matrix product may add in another order for another number of rows. `find_batch_sizes` tries at the start which
  batch sizes give the same bits, with this model on this machine, and the others are not used: answers are padded to
  the next size.

A prompt that begins like one before it (the earlier turns of a conversation, a system message, n answers to the same
question) takes its keys and values over, in whole chunks: those have the same bits as if they were read again.
"""

import threading
import time
import traceback
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from model import Llama
from sample import NOT_FINITE, choose, uniform_numbers
from serving.metrics import Metrics
from serving.rows import PromptPass, RowCache, TokenPass
from tokenizer import TextStream, Tokenizer

CHUNK = 64  # tokens of a prompt that are read together; running answers wait for no more than that

# --- what goes in and comes out ---


@dataclass(frozen=True)
class Drawing:
    """How a next token is drawn: the filters of sample.probabilities."""

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float = 1.0
    min_p: float = 0.0


@dataclass(frozen=True)
class TokenLogprob:
    """A token and its log-probability in nats, as the model gives it: before penalties, temperature and filters."""

    token: int
    logprob: float


@dataclass(frozen=True)
class Written(TokenLogprob):
    """A token that was written, and the likeliest ones at its place."""

    likeliest: list[TokenLogprob]


@dataclass(frozen=True)
class Piece:
    """The text that has become certain, perhaps none, and the log-probabilities of its tokens where they are wanted."""

    text: str
    logprobs: list[Written]


@dataclass(frozen=True)
class End:
    """The answer is complete."""

    reason: str  # stop: at an end token or a stop string; length: as many tokens as were wanted, or as fit
    new_tokens: int
    reused_tokens: int  # of the prompt, which were in the cache


@dataclass(frozen=True)
class Failure:
    """The answer cannot be written, or not to its end."""

    message: str
    closing: bool = False  # because the server is being stopped


Event = Piece | End | Failure


@dataclass(eq=False)
class Request:
    """One text that is wanted.

    deliver is called with each event, in the engine's thread. Set `gone` (from any thread) when nobody waits for the
    answer any more: it leaves its row at the next step.
    """

    prompt: list[int]
    max_new_tokens: int
    deliver: Callable[[Event], None]
    drawing: Drawing = Drawing()
    seed: int = 0
    stop_ids: frozenset[int] = frozenset()
    stops: Sequence[str] = ()
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    logit_bias: dict[int, float] = field(default_factory=dict)
    top_logprobs: int | None = None  # how many of the likeliest; None: no log-probabilities at all
    gone: bool = False
    start_s: float = field(default_factory=time.perf_counter)


class QueueFull(Exception):
    """There is no room for another request."""


# --- one row and the answer in it ---


@dataclass(eq=False)
class Row:
    """A row of the cache.

    held: the ids of the whole chunks that it begins with. They stay when the answer has left, for prompts that begin in
    the same way.
    """

    number: int
    held: list[int] = field(default_factory=list)


class Answer:
    """A request that has a row: how far it is read and written."""

    def __init__(self, request: Request, row: Row, engine: "Engine"):
        self.request = request
        self.row = row
        self.known = len(row.held)  # tokens of the prompt whose keys and values are in the row
        self.reused = self.known

        self.steps = min(request.max_new_tokens, engine.size - len(request.prompt))  # tokens to write, at most
        self.uniform = uniform_numbers([request.seed], self.steps)[0].to(engine.cache.device)  # (steps,)
        self.stream = TextStream(engine.tokenizer, request.prompt, request.stops)
        self.written: list[int] = []
        self.logprobs: list[Written] = []  # of tokens whose text is not out yet
        self.counts: Counter[int] = Counter()
        self.bias = self._first_bias(engine.vocab_size, engine.cache.device)

    def _first_bias(self, vocab_size: int, device: torch.device) -> Tensor | None:
        """What is added to the logits, (V,); None: nothing, now and later."""
        request = self.request
        if not (request.logit_bias or request.frequency_penalty or request.presence_penalty):
            return None
        bias = torch.zeros(vocab_size, device=device)
        for token, value in request.logit_bias.items():
            bias[token] = value
        return bias

    @property
    def is_read(self) -> bool:
        """Whether the model has read the whole prompt."""
        return self.known == len(self.request.prompt)

    @property
    def slot(self) -> int:
        """The slot that the newest token takes, which was written and not read yet."""
        return len(self.request.prompt) + len(self.written) - 1

    def take(self, token: int) -> str | None:
        """Take the next token in and deliver what is certain. Returns why the answer has ended; None: it goes on."""
        request = self.request
        if token in request.stop_ids:
            return "stop"

        self.written.append(token)
        if self.bias is not None:
            # OpenAI's formula: what is taken from the logit is presence + count * frequency.
            first_time = request.presence_penalty if not self.counts[token] else 0.0
            self.counts[token] += 1
            self.bias[token] -= request.frequency_penalty + first_time

        text = self.stream.feed(token)
        if text:
            self.deliver_piece(text)
        if self.stream.stopped:
            return "stop"
        return "length" if len(self.written) == self.steps else None

    def deliver_piece(self, text: str) -> None:
        """Send text, with the log-probabilities that have come since the last one."""
        self.request.deliver(Piece(text, self.logprobs))
        self.logprobs = []

    def finish(self, reason: str) -> None:
        """Send what was held back, and the end."""
        rest = self.stream.flush()
        if self.stream.stopped:
            reason = "stop"
        if rest or self.logprobs:
            self.deliver_piece(rest)
        self.request.deliver(End(reason, len(self.written), self.reused))


# --- all of them ---


class Engine:
    """Rows, the requests that wait for one, and the thread that runs the model.

    start() begins the thread; submit() and close() may be called from any other.
    """

    def __init__(
        self,
        model: Llama,
        tokenizer: Tokenizer,
        rows: int,
        size: int,
        queue_size: int,
        metrics: Metrics | None = None,
        exact: bool = True,
    ):
        """rows: answers at once; size: tokens of prompt and answer together; queue_size: requests that may wait.

        exact: only batch sizes with equal bits. Without it fewer rows than these are not padded, which is faster.
        """
        self.model = model
        self.tokenizer = tokenizer
        self.vocab_size = min(tokenizer.vocab_size, model.cfg.vocab_size)
        self.size = size
        self.queue_size = queue_size
        self.metrics = metrics or Metrics()
        self.metrics.rows.set(rows)

        self.cache = RowCache(model, rows, size)
        if exact:
            self.batch_sizes, self.same_bits = find_batch_sizes(model, self.cache)
        else:
            self.batch_sizes, self.same_bits = list(range(1, rows + 1)), False

        self.free = deque(Row(number) for number in range(rows))  # the one that has been free for longest comes first
        self.reading: deque[Answer] = deque()  # in the order of their requests
        self.writing: list[Answer] = []

        self.waiting: deque[Request] = deque()
        self.changed = threading.Condition()  # guards `waiting` and the two flags
        self.closing = False  # no request is taken; answers that have a row are written to their end
        self.stopped = False  # the thread ends after the present step
        self.thread = threading.Thread(target=self._run, name="engine", daemon=True)

    # --- from other threads ---

    def start(self) -> None:
        """Begin to answer."""
        self.thread.start()

    def submit(self, requests: Sequence[Request]) -> None:
        """Put requests into the queue, all or none. Raises QueueFull."""
        with self.changed:
            if self.closing or len(self.waiting) + len(requests) > self.queue_size + len(self.free):
                raise QueueFull
            self.waiting.extend(requests)
            self.metrics.waiting.set(len(self.waiting))
            self.changed.notify()

    def close(self) -> None:
        """Take no request any more. Those that wait fail; answers that have a row are written to their end."""
        with self.changed:
            self.closing = True
            refused = list(self.waiting)
            self.waiting.clear()
            self.metrics.waiting.set(0)
            self.changed.notify()
        for request in refused:
            request.deliver(Failure("the server is being stopped", closing=True))

    def stop(self) -> None:
        """End the thread after the present step, and wait for that."""
        self.close()
        with self.changed:
            self.stopped = True
            self.changed.notify()
        if self.thread.is_alive():
            self.thread.join()

    @property
    def is_alive(self) -> bool:
        """Whether requests are answered."""
        return self.thread.is_alive()

    @property
    def running(self) -> int:
        """Answers that have a row."""
        return len(self.reading) + len(self.writing)

    # --- the thread ---

    def _run(self) -> None:
        with torch.inference_mode():
            while True:
                with self.changed:
                    while not (self.waiting or self.running or self.stopped):
                        self.changed.wait()
                    if self.stopped:
                        break
                try:
                    self.step()
                except Exception as error:  # out of memory, say: the answers are lost, the server is not
                    traceback.print_exc()
                    self._fail_all(f"the model failed: {type(error).__name__}: {error}")
        self._fail_all("the server is being stopped")

    def step(self) -> None:
        """Let texts leave and join, read one chunk of a prompt, and write a token in each row that is read."""
        self._leave_gone()
        self._join()
        self._read_chunk()
        self._write_tokens()

    def _fail_all(self, message: str) -> None:
        for answer in [*self.reading, *self.writing]:
            answer.row.held = []  # what is in the row is not certain
            self._leave(answer)
            answer.request.deliver(Failure(message))

    def _leave_gone(self) -> None:
        """Rows of clients that have left become free."""
        for answer in [*self.reading, *self.writing]:
            if answer.request.gone:
                self._leave(answer)

    def _leave(self, answer: Answer) -> None:
        """The row becomes free; the chunks that it holds stay in it."""
        if answer in self.writing:
            self.writing.remove(answer)
        else:
            self.reading.remove(answer)
        self.free.append(answer.row)
        self.metrics.rows_used.set(self.running)

    def _next_waiting(self) -> Request | None:
        """The request that has waited for longest; None when there is none."""
        with self.changed:
            while self.waiting:
                request = self.waiting.popleft()
                self.metrics.waiting.set(len(self.waiting))
                if not request.gone:
                    return request
        return None

    def _join(self) -> None:
        """Give the free rows to those that wait."""
        while self.free:
            request = self._next_waiting()
            if request is None:
                return
            row = self._take_row(request.prompt)
            answer = Answer(request, row, self)
            self.reading.append(answer)
            self.metrics.rows_used.set(self.running)
            self.metrics.prompt_tokens.inc(len(request.prompt))
            self.metrics.reused_tokens.inc(answer.reused)

    def _take_row(self, prompt: list[int]) -> Row:
        """The free row in which this conversation can go on: the prompt begins with all that it holds.

        Without one, the row that has been free for longest: what others hold stays for longer.
        """
        fitting = [row for row in self.free if row.held and common_chunks(row.held, prompt) == len(row.held)]
        if fitting:
            row = max(fitting, key=lambda row: len(row.held))
        else:
            row = self.free[0]
            row.held = []
        self.free.remove(row)
        return row

    def _copy_known(self, answer: Answer) -> None:
        """Copy the chunks that another row holds and the answer's prompt begins with."""
        prompt = answer.request.prompt
        in_use = [other.row for other in [*self.reading, *self.writing]]
        source = max([*self.free, *in_use], key=lambda row: common_chunks(row.held, prompt))
        shared = common_chunks(source.held, prompt)
        if shared <= answer.known:
            return

        self.cache.copy(source.number, answer.row.number, shared)
        self.metrics.reused_tokens.inc(shared - answer.known)
        answer.reused += shared - answer.known
        answer.known = shared
        answer.row.held = prompt[:shared]

    def _read_chunk(self) -> None:
        """The model reads one chunk of the oldest prompt; after the last one the answer has its first token."""
        if not self.reading:
            return
        answer = self.reading[0]
        self._copy_known(answer)
        prompt = answer.request.prompt
        begin = answer.known
        end = min(begin + CHUNK, len(prompt))
        is_last = end == len(prompt)

        tokens = torch.tensor([prompt[begin:end]], device=self.cache.device)
        one_row = PromptPass(self.cache, answer.row.number, begin)
        result = self.model(tokens, cache=one_row, last=True, hidden=not is_last)  # logits: (1, 1, V)
        self.metrics.passes.labels("prompt").inc()

        answer.known = end
        if end - begin == CHUNK:
            answer.row.held = prompt[:end]
        if is_last:
            self.reading.popleft()
            self.writing.append(answer)
            self._draw([answer], result[:, -1])
            self.metrics.first_token.observe(time.perf_counter() - answer.request.start_s)

    def _write_tokens(self) -> None:
        """One pass for all answers: each reads its newest token, and gets the next one."""
        answers = list(self.writing)
        if not answers:
            return
        batch_size = next(size for size in self.batch_sizes if size >= len(answers))
        newest = [answer.written[-1] for answer in answers]
        newest += [0] * (batch_size - len(newest))
        tokens = torch.tensor(newest, device=self.cache.device)[:, None]  # (B, 1)

        rows = [answer.row.number for answer in answers]
        slots = [answer.slot for answer in answers]
        logits = self.model(tokens, cache=TokenPass(self.cache, rows, slots, batch_size))  # (B, 1, V)
        self.metrics.passes.labels("token").inc()
        self._draw(answers, logits[: len(answers), 0])

    def _draw(self, answers: list[Answer], logits: Tensor) -> None:
        """Draw the next token of each answer from its logits, (n, V), and let those that have ended leave."""
        logits = logits[:, : self.vocab_size].float()
        for place, answer in enumerate(answers):
            if answer.bias is not None:
                adjusted = logits[place] + answer.bias
            else:
                adjusted = logits[place]
            token = self._draw_one(answer, adjusted)
            if token == NOT_FINITE:
                answer.row.held = []
                self._leave(answer)
                answer.request.deliver(Failure("the logits are not finite (NaN or infinity): weights are damaged"))
                continue

            request = answer.request
            if request.top_logprobs is not None and token not in request.stop_ids:
                answer.logprobs.append(describe(logits[place], token, request.top_logprobs))
            reason = answer.take(token)
            self.metrics.new_tokens.inc()
            if reason is not None:
                self._leave(answer)
                answer.finish(reason)

    def _draw_one(self, answer: Answer, logits: Tensor) -> int:
        """The next id of one answer, or NOT_FINITE; logits: (V,)."""
        drawing = answer.request.drawing
        step = len(answer.written)
        next_id = choose(
            logits[None],
            answer.uniform[step : step + 1],
            temperature=drawing.temperature,
            top_k=drawing.top_k,
            top_p=drawing.top_p,
            min_p=drawing.min_p,
        )
        return int(next_id)


def common_chunks(held: list[int], prompt: list[int]) -> int:
    """How many tokens from the start on are the same, in whole chunks; the prompt's last token is not counted.

    (The last one is read in any case: the logits after it are wanted.)
    """
    longest = min(len(held), len(prompt) - 1)
    same = 0
    while same + CHUNK <= longest and held[same : same + CHUNK] == prompt[same : same + CHUNK]:
        same += CHUNK
    return same


def describe(logits: Tensor, token: int, n: int) -> Written:
    """The log-probability of a token and of the n likeliest; logits: (V,)."""
    logprobs = logits.log_softmax(0)
    values, ids = logprobs.topk(min(n, len(logprobs)))
    likeliest = [TokenLogprob(i, value) for i, value in zip(ids.tolist(), values.tolist(), strict=True)]
    return Written(token, float(logprobs[token]), likeliest)


@torch.inference_mode()
def find_batch_sizes(model: Llama, cache: RowCache) -> tuple[list[int], bool]:
    """Batch sizes that give a token the same logits, bit for bit, as the largest one does, at each place.

    Returns (sizes up to the number of rows, True), or ([that number], False) when a row's bits depend on its place
    even there. Random tokens are computed in rows that are still empty: with each size the first ones and the last
    ones, and in the largest size all of them at other places.
    """
    rows = cache.rows
    random = torch.Generator().manual_seed(0)
    tokens = torch.randint(model.cfg.vocab_size, (rows,), generator=random)

    def logits_of(places: list[int], size: int) -> Tensor:
        padded = tokens[places + [0] * (size - len(places))].to(cache.device)
        one_pass = TokenPass(cache, places, [0] * len(places), size)
        return model(padded[:, None], cache=one_pass)[: len(places), 0]  # (n, V)

    all_places = list(range(rows))
    expected = logits_of(all_places, rows)

    def agrees(places: list[int], size: int) -> bool:
        return torch.equal(logits_of(places, size), expected[places])

    moved = [all_places[begin:] + all_places[:begin] for begin in range(1, rows)]
    if not all(agrees(places, rows) for places in moved):
        return [rows], False

    smaller = sorted({1, 2, *range(4, rows, 4)} - {rows, *range(rows + 1, 4)})
    sizes = []
    for size in smaller:
        # each place of the batch, and some of them padding
        first_ones = all_places[:size]
        last_ones = all_places[-size:]
        fewer = all_places[: max(1, size - 1)]
        if agrees(first_ones, size) and agrees(last_ones, size) and agrees(fewer, size):
            sizes.append(size)
    return [*sizes, rows], True
