"""Results on disk: what is done of a task that is not finished, the items of one that is, and the figures of all.

out/scores/demo/piqa.part0.jsonl    what process 0 has done so far, a line an item; gone when the task is finished
out/scores/demo/piqa.parquet        a row an item; the task's record is in the file's metadata
out/scores/demo/scores.json         the records of all tasks
"""

import glob
import importlib.metadata
import json
import platform
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

import atomic
from errors import one_line, read_json
from tasks.jobs import Job

SCORES_FILE = "scores.json"
PACKAGES = ("torch", "tokenizers", "datasets", "numpy")  # whose versions are noted


class TaskFiles:
    """The files of one job in the folder of results.

    identity: what the results follow from; files of another identity count as absent.
    """

    def __init__(self, out_dir: Path, job: Job, identity: dict[str, Any]):
        self.out_dir = out_dir
        self.job = job
        self.identity = identity
        self.items = out_dir / f"{job.label}.parquet"  # it is there when the job is finished

    # --- a task that is not finished ---

    def partial(self, rank: int) -> Path:
        """The file to which a process adds its results. Its first line is the identity, each other line an item."""
        return self.out_dir / f"{self.job.label}.part{rank}.jsonl"

    def partials(self) -> list[Path]:
        """The files of all processes, also of those that an earlier run had more."""
        return sorted(self.out_dir.glob(f"{glob.escape(self.job.label)}.part*.jsonl"))

    def read_partials(self) -> dict[int, Any]:
        """What earlier runs have done: {number of the item: its result}; a line that is not complete is left out."""
        found: dict[int, Any] = {}
        for path in self.partials():
            lines = path.read_text(encoding="utf-8").split("\n")[:-1]
            if lines and lines[0] == json.dumps(self.identity):
                for line in lines[1:]:
                    number, value = json.loads(line)
                    found[number] = self.job.from_json(value)
        return found

    def begin_partial(self, rank: int, found: dict[int, Any]) -> None:
        """A new file of a process, with what was found so far."""
        lines = [json.dumps(self.identity)]
        lines += [self.line(number, result) for number, result in found.items()]
        atomic.write(self.partial(rank), "".join(f"{line}\n" for line in lines).encode())

    def line(self, number: int, result: Any) -> str:
        """[number of the item, its result]."""
        return json.dumps([number, self.job.to_json(result)])

    # --- a finished one ---

    def write_items(self, rows: list[dict[str, Any]], record: dict[str, Any]) -> None:
        """The rows as parquet, the record in the file's metadata; partial files go."""
        table = pa.Table.from_pylist(rows).replace_schema_metadata({"nonllama": json.dumps(record)})
        with atomic.new_file(self.items) as temporary:
            pq.write_table(table, temporary)
        for path in self.partials():
            path.unlink()

    def rows(self) -> list[dict[str, Any]]:
        """The rows of a finished task."""
        return pq.read_table(self.items).to_pylist()

    def record(self) -> dict[str, Any] | None:
        """The record of a finished task; None when it is not finished."""
        if not self.items.is_file():
            return None
        with one_line(f"{self.items}: not a file of results; move it away: "):
            metadata = pq.read_schema(self.items).metadata or {}
            record = json.loads(metadata.get(b"nonllama", b"{}"))
        return record if record.get("identity") == self.identity else None


def write_scores(out_dir: Path, content: dict[str, Any]) -> None:
    """scores.json: `content`, with "model", "tasks" and "families". Tasks stay that an earlier run of it has scored."""
    path = out_dir / SCORES_FILE
    earlier: dict[str, Any] = {}
    if path.is_file():
        earlier = read_json(path)
        if earlier.get("model") != content["model"]:
            earlier = {}
    for key in ("tasks", "families"):
        content = content | {key: earlier.get(key, {}) | content[key]}
    atomic.write_json(path, content)


def versions() -> dict[str, str]:
    """Of Python and of the packages that the figures depend on."""
    found = {name: importlib.metadata.version(name) for name in PACKAGES}
    return {"python": platform.python_version(), **found}
