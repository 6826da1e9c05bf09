"""Settings: a frozen dataclass, then config files, then --key=value; later wins, left to right.

    python train.py config/demo.py --learning_rate=1e-3 --compile

A config file holds `key = value` lines with Python literals (and + - * / of numbers): parsed by `ast`, never executed.
One that is not below the current folder is looked for beside the scripts. A bare --flag sets a boolean to True.
Types, choices and --help come from tyro; a mistake is one line with its place, and exit code 1.
"""

import ast
import contextlib
import dataclasses
import difflib
import io
import operator
import os
import shlex
import signal
import sys
import time
import types
import typing
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

SCRIPTS = Path(__file__).resolve().parent  # the folder of train.py and the others
ARITHMETIC = {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv}
Config = TypeVar("Config")  # a frozen dataclass of settings


def _one_line_interrupt(kind: type[BaseException], error: BaseException, trace: types.TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt):
        print(f"\n{str(error) or 'interrupted; the same command continues where it was'}", file=sys.stderr)
    else:
        sys.__excepthook__(kind, error, trace)


# The two effects of an import in this repository. Scripts import this module before torch, so that Ctrl-C during the
# import of torch is one line as well; and so that OpenMP's threads soon sleep instead of spinning: beside another busy
# program, training on two cores was up to ten times slower, on idle cores as fast (docs/LOG.md).
os.environ.setdefault("GOMP_SPINCOUNT", "1000")
sys.excepthook = _one_line_interrupt


def run(main: Callable[[Config], None], cls: type[Config], show: bool = True) -> None:
    """Read the settings of `cls` from the command line and call main(cfg): what every script's last line does.

    A ValueError or OSError (what a user can cause) becomes one line and exit code 1; Ctrl-C becomes one line and exit
    code 130. NONLLAMA_DEBUG=1 shows the traceback instead.
    """
    try:
        cfg, origins = load(cls, sys.argv[1:], description=sys.modules[main.__module__].__doc__)
        if show and os.environ.get("RANK", "0") == "0":
            print(describe(cfg, origins), flush=True)
        main(cfg)
    except KeyboardInterrupt as interrupt:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # another one would be a traceback while Python ends
        _one_line_interrupt(KeyboardInterrupt, interrupt, None)
        sys.exit(130)
    except BrokenPipeError:  # who reads what is printed has left, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except (ValueError, OSError) as error:
        if os.environ.get("NONLLAMA_DEBUG"):
            raise
        if os.environ.get("LOCAL_RANK", "0") != "0":
            time.sleep(5)  # process 0 finds the same and says it: the launcher ends all when one has ended
        else:
            print(f"error: {error}", file=sys.stderr)
        sys.exit(1)


# --- from the command line to settings ---


def load(cls: type[Config], argv: list[str], description: str | None = None) -> tuple[Config, dict[str, str]]:
    """Build `cls` from config file paths and --key=value arguments; returns (settings, {key: where it was set}).

    Raises ValueError that names the file and line, the key and the nearest known one.
    """
    cfg = cls()
    origins: dict[str, str] = {}
    for argument in argv:
        if argument in ("-h", "--help"):
            # Help is drawn for the settings as they stand so far: `train.py config/x.py --help` shows x.py's values.
            call_tyro(cls, ["--help"], cfg, description)
        if argument.startswith("--"):
            key, value = split_argument(cls, argument)
            assignments = [(key, value, "command line")]
        else:
            refuse_source(cls, argument)
            assignments = read_config_file(argument)
        for key, value, origin in assignments:
            cfg = assign(cfg, key, value, origin)
            origins[key] = origin
    return cfg, origins


def refuse_source(cls: type, argument: str) -> None:
    """Raise ValueError when a command that has a source gets a file, or a data set's name, that is no config."""
    if "source" in typing.get_type_hints(cls) and Path(argument).suffix != ".py":
        advice = f"what is to be read is given as --source={shlex.quote(argument)}, a pattern in quotes"
        raise ValueError(f"{argument}: no config file, whose name ends in .py; {advice}")


def split_argument(cls: type, argument: str) -> tuple[str, str]:
    """(key, value as text) of --key=value, or of a bare --key, which sets a boolean to True."""
    key, equals, value = argument[2:].partition("=")
    key = key.replace("-", "_")
    if equals:
        return key, value
    if bool in kinds_of(typing.get_type_hints(cls).get(key)):
        return key, "True"
    raise ValueError(f"{argument}: write --{key}=VALUE (python {sys.argv[0]} --help lists the keys)")


def assign(cfg: Config, key: str, text: str, origin: str) -> Config:
    """Return `cfg` with `key` set to `text`, converted to the field's type by tyro."""
    fields = typing.get_type_hints(type(cfg))
    if key not in fields:
        near = difflib.get_close_matches(key, fields, n=1, cutoff=0.5)
        hint = f"did you mean '{near[0]}'?" if near else f"known keys: {', '.join(fields)}"
        raise ValueError(f"{origin}: unknown key '{key}'; {hint}")

    kinds = kinds_of(fields[key])
    text = spell_for_tyro(text, kinds)
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint), contextlib.redirect_stdout(complaint):
            return call_tyro(type(cfg), [f"--{key}={text}"], cfg)
    except SystemExit:
        names = [getattr(kind, "__name__", repr(kind)).replace("NoneType", "None") for kind in kinds]
        raise ValueError(f"{origin}: {key} wants {' or '.join(names)}, not {text!r}") from None


def kinds_of(hint: typing.Any) -> tuple:
    """What a field may be: int | None has two kinds, Literal["a", "b"] its two values, Literal["a"] | bool both."""
    kinds = []
    for kind in typing.get_args(hint) or (hint,):
        kinds += typing.get_args(kind) if typing.get_origin(kind) is typing.Literal else [kind]
    return tuple(kinds)


def spell_for_tyro(text: str, kinds: tuple) -> str:
    """True, False and None in any case; 1e3 where a whole number is wanted."""
    is_bool = bool in kinds and text.lower() in ("true", "false")
    is_none = type(None) in kinds and text.lower() == "none"
    if is_bool or is_none:
        return text.capitalize()
    if int in kinds and float not in kinds and not text.lstrip("+-").isdigit():
        with contextlib.suppress(ValueError, OverflowError):
            number = float(text)
            if number.is_integer():
                return str(int(number))
    return text  # tyro refuses what does not fit


def call_tyro(cls: type[Config], args: list[str], default: Config, description: str | None = None) -> Config:
    """The settings `default` with `args` applied. Exits on a mistake, after printing it."""
    import tyro

    options = {"use_underscores": True, "config": (tyro.conf.FlagConversionOff,)}
    return tyro.cli(cls, args=args, default=default, description=description, **options)


def describe(cfg: Config, origins: dict[str, str]) -> str:
    """All settings, one a line, those that are not defaults with the place that set them."""
    rows = {key: f"{key} = {value!r}" for key, value in dataclasses.asdict(cfg).items()}
    width = max(len(row) for row in rows.values() if len(row) <= 60)
    lines = []
    for key, row in rows.items():
        lines.append(f"{row:<{width}}  # {origins[key]}" if key in origins else row)
    return "\n".join(lines)


# --- config files ---


def find_config(path: str) -> Path | None:
    """The file that is meant by the path of a config: below the current folder, else beside the scripts; or None."""
    for candidate in (Path(path), SCRIPTS / path):
        if candidate.is_file():
            return candidate
    return None


def read_config_file(path: str) -> list[tuple[str, str, str]]:
    """Parse `key = value` lines without executing them; returns [(key, value as text, "path:line")]."""
    file = find_config(path)
    if file is None:
        beside = "" if Path(path).is_absolute() else f", here or in {SCRIPTS}"
        raise ValueError(f"{path}: no such config file{beside} (settings are given as --key=value)")
    try:
        text = file.read_text(encoding="utf-8-sig")
        statements = ast.parse(text).body
    except (ValueError, SyntaxError, RecursionError, MemoryError) as error:  # no text; no Python; nested too deep
        place = f"{file}:{error.lineno}" if isinstance(error, SyntaxError) else file
        raise ValueError(f"{place}: a config file holds `key = value` lines: {getattr(error, 'msg', error)}") from None

    lines = text.split("\n")  # not splitlines: a string may hold U+2028
    assignments = []
    for i, node in enumerate(statements):
        is_docstring = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        if i == 0 and is_docstring:
            continue
        place = f"{file}:{node.lineno}"
        line = lines[node.lineno - 1]
        targets = node.targets if isinstance(node, ast.Assign) else []
        if len(targets) != 1 or not isinstance(targets[0], ast.Name):
            raise ValueError(f"{place}: only `key = value` lines are read: {line:.60}")
        try:
            value = literal(node.value)
        except (ValueError, TypeError, KeyError, ArithmeticError, RecursionError):  # 1 / 0; a sum of thousands
            raise ValueError(f"{place}: not a number, a string, True, False or None: {line:.60}") from None
        assignments.append((targets[0].id, str(value), place))
    return assignments


def literal(node: ast.expr) -> str | int | float | None:
    """The value of a literal, or of + - * / over numbers; some kind of error for anything else."""
    if isinstance(node, ast.BinOp):
        calculate = ARITHMETIC[type(node.op)]
        left = operator.pos(literal(node.left))  # text has no sign, so it is refused here
        right = operator.pos(literal(node.right))
        return calculate(left, right)
    if isinstance(node, ast.Name) and node.id.lower() in ("true", "false", "none"):
        return node.id.capitalize()
    value = ast.literal_eval(node)
    if not isinstance(value, str | int | float | None):
        raise TypeError(value)
    return value
