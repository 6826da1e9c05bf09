"""What a server counts, as Prometheus reads it."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

SECONDS = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0)


class Metrics:
    """Counters of one server. All of them may be changed by any thread."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        kind = {"namespace": "nonllama", "registry": self.registry}

        self.requests = Counter("requests", "requests that were answered", ["path", "status"], **kind)
        self.gone = Counter("clients_gone", "clients that left before their answer was complete", **kind)
        self.prompt_tokens = Counter("prompt_tokens", "tokens of prompts", **kind)
        self.reused_tokens = Counter("reused_tokens", "tokens of prompts that the cache had already", **kind)
        self.new_tokens = Counter("new_tokens", "tokens that were written", **kind)
        self.passes = Counter("passes", "passes of the model", ["kind"], **kind)

        self.waiting = Gauge("waiting", "answers that wait for a row", **kind)
        self.rows_used = Gauge("rows_used", "rows that an answer is in", **kind)
        self.rows = Gauge("rows", "rows of the cache", **kind)
        self.first_token = Histogram(
            "first_token_seconds", "from the request to its first token", buckets=SECONDS, **kind
        )

    def text(self) -> bytes:
        """All of them, in Prometheus' text format."""
        return generate_latest(self.registry)
