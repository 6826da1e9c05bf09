"""What --tasks and --against list: names of tasks, and what each of them means."""

from collections.abc import Iterable

from tasks import core
from tasks.rows import Questions, Texts, load


def split_names(tasks: str) -> list[str]:
    """What a list with commas between the names has, each once."""
    names = [name.strip() for name in tasks.split(",")]
    return list(dict.fromkeys(name for name in names if name))


def load_named(name: str, task_dir: str | None) -> Iterable[Questions | Texts]:
    """A task, all sets of a family, the tasks of CORE that are at hand, or a file or folder of the user's.

    Raises ValueError, in one line, for what is not there.
    """
    return core.load_core(task_dir) if name == core.NAME else load(name, task_dir)
