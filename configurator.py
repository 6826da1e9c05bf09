"""Settings: a frozen dataclass, then config files, then --key=value; later wins, left to right.

    python train.py config/demo.py --learning_rate=1e-3 --compile=True

A config file holds `key = value` lines with Python literals (and + - * / of numbers): parsed by `ast`, never executed.
Types, choices and --help come from tyro; a mistake is one line with its place, and exit code 1.
"""

import ast
import contextlib
import dataclasses
import difflib
import io
import operator
import os
import sys
import time
import typing
from collections.abc import Callable
from pathlib import Path

ARITHMETIC = {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv}


def _one_line_interrupt(kind: type, error: BaseException, trace: typing.Any) -> None:
    if issubclass(kind, KeyboardInterrupt):
        print(f"\n{str(error) or 'interrupted; the same command continues where it was'}", file=sys.stderr)
    else:
        sys.__excepthook__(kind, error, trace)


# The two effects of an import in this repository. Scripts import this module before torch, so that Ctrl-C during the
# import of torch is one line as well; and so that OpenMP's threads soon sleep instead of spinning: beside another busy
# program, training on two cores was up to ten times slower, on idle cores as fast (docs/LOG.md).
os.environ.setdefault("GOMP_SPINCOUNT", "1000")
sys.excepthook = _one_line_interrupt


def run(main: Callable, cls: type, show: bool = True) -> None:
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
        _one_line_interrupt(KeyboardInterrupt, interrupt, None)
        sys.exit(130)
    except (ValueError, OSError) as error:
        if os.environ.get("NONLLAMA_DEBUG"):
            raise
        if os.environ.get("LOCAL_RANK", "0") != "0":
            time.sleep(5)  # process 0 finds the same and says it: the launcher ends all when one has ended
        else:
            print(f"error: {error}", file=sys.stderr)
        sys.exit(1)


def load(cls: type, argv: list[str], description: str | None = None) -> tuple[typing.Any, dict[str, str]]:
    """Build `cls` from config file paths and --key=value arguments; returns (settings, {key: where it was set}).

    Raises ValueError that names the file and line, the key and the nearest known one.
    """
    cfg, origins = cls(), {}
    for arg in argv:
        if arg in ("-h", "--help"):
            # Help is drawn for the settings as they stand so far: `train.py config/x.py --help` shows x.py's values.
            _tyro(cls, ["--help"], cfg, description)
        if arg.startswith("--"):
            key, equals, text = arg[2:].partition("=")
            key = key.replace("-", "_")
            if not equals and typing.get_type_hints(cls).get(key) is bool:
                text = "True"
            elif not equals:
                raise ValueError(f"{arg}: write --{key}=VALUE (python {sys.argv[0]} --help lists the keys)")
            assignments = [(key, text, "command line")]
        else:
            assignments = read_config_file(arg)
        for key, value, origin in assignments:
            cfg = assign(cfg, key, value, origin)
            origins[key] = origin
    return cfg, origins


def read_config_file(path: str) -> list[tuple[str, str, str]]:
    """Parse `key = value` lines without executing them; returns [(key, value as text, "path:line")]."""
    if not Path(path).is_file():
        raise ValueError(f"{path}: no such config file (settings are given as --key=value)")
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
        statements = ast.parse(text).body
    except (ValueError, SyntaxError, RecursionError, MemoryError) as error:  # no text; no Python; nested too deep
        place = f"{path}:{error.lineno}" if isinstance(error, SyntaxError) else path
        raise ValueError(f"{place}: a config file holds `key = value` lines: {getattr(error, 'msg', error)}") from None
    found = []
    for i, node in enumerate(statements):
        if i == 0 and isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            continue  # the file's docstring
        place, line = f"{path}:{node.lineno}", text.splitlines()[node.lineno - 1]
        if not (isinstance(node, ast.Assign) and len(node.targets) == 1 and isinstance(node.targets[0], ast.Name)):
            raise ValueError(f"{place}: only `key = value` lines are read: {line:.60}")
        try:
            found.append((node.targets[0].id, str(_literal(node.value)), place))
        except (ValueError, TypeError, KeyError, ArithmeticError, RecursionError):  # 1 / 0; a sum of thousands
            raise ValueError(f"{place}: not a number, a string, True, False or None: {line:.60}") from None
    return found


def _literal(node: ast.expr) -> str | int | float | None:
    """The value of a literal, or of + - * / over numbers; some kind of error for anything else."""
    if isinstance(node, ast.BinOp):
        left, right = _literal(node.left), _literal(node.right)
        return ARITHMETIC[type(node.op)](operator.pos(left), operator.pos(right))  # text has no sign
    if isinstance(node, ast.Name) and node.id.lower() in ("true", "false", "none"):
        return node.id.capitalize()
    if not isinstance(value := ast.literal_eval(node), str | int | float | None):
        raise TypeError(value)
    return value


def _tyro(cls: type, args: list[str], default: typing.Any, description: str | None = None) -> typing.Any:
    import tyro

    options = {"use_underscores": True, "config": (tyro.conf.FlagConversionOff,)}
    return tyro.cli(cls, args=args, default=default, description=description, **options)


def assign(cfg: typing.Any, key: str, text: str, origin: str) -> typing.Any:
    """Return `cfg` with `key` set to `text`, converted to the field's type by tyro."""
    if key not in (fields := typing.get_type_hints(type(cfg))):
        near = difflib.get_close_matches(key, fields, n=1, cutoff=0.5)
        hint = f"; did you mean '{near[0]}'?" if near else f"; known keys: {', '.join(fields)}"
        raise ValueError(f"{origin}: unknown key '{key}'{hint}")
    kinds = typing.get_args(fields[key]) or (fields[key],)
    if (bool in kinds and text.lower() in ("true", "false")) or (type(None) in kinds and text.lower() == "none"):
        text = text.capitalize()
    elif int in kinds and float not in kinds:
        with contextlib.suppress(ValueError):  # '1e3' -> '1000'; tyro refuses what is not a whole number
            if float(text).is_integer() and not text.lstrip("+-").isdigit():
                text = str(int(float(text)))
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint), contextlib.redirect_stdout(complaint):
            return _tyro(type(cfg), [f"--{key}={text}"], cfg)
    except SystemExit:
        wanted = " or ".join(getattr(kind, "__name__", repr(kind)).replace("NoneType", "None") for kind in kinds)
        raise ValueError(f"{origin}: {key} wants {wanted}, not {text!r}") from None


def describe(cfg: typing.Any, origins: dict[str, str]) -> str:
    """All settings, one a line, those that are not defaults with the place that set them."""
    rows = {key: f"{key} = {value!r}" for key, value in dataclasses.asdict(cfg).items()}
    width = max(len(row) for row in rows.values() if len(row) <= 60)
    return "\n".join(f"{row:<{width}}  # {origins[key]}" if key in origins else row for key, row in rows.items())
