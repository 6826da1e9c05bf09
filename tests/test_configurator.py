"""Settings: precedence, origins, and one line with its place for every mistake."""

import os
import shlex
import subprocess
import sys
import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest
from conftest import examples
from hypothesis import HealthCheck, given
from hypothesis import strategies as st

import configurator
from configurator import describe, load, read_config_file
from prepare_wiki import PrepareConfig

REPO = Path(__file__).parents[1]


@dataclass(frozen=True)
class Config:
    """Settings of the test."""

    n_layer: int = 2  # decoder layers
    learning_rate: float = 1e-3  # peak step size
    name: str = "run"  # what it is called
    column: str | None = "id"  # a name, or none
    decay_iters: int | None = None  # steps; None: max_iters
    compile: bool = True  # whether to compile
    split_by: Literal["id", "file"] = "id"  # how to split


@pytest.fixture
def config_file(tmp_path):
    """Write a config file; returns its path."""

    def write(text: str | bytes, name: str = "config.py") -> str:
        path = tmp_path / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return str(path)

    return write


def refusal(*argv: str) -> str:
    """The message of the ValueError that these arguments cause: one line."""
    with pytest.raises(ValueError) as error:
        load(Config, list(argv))
    assert "\n" not in str(error.value)
    return str(error.value)


def test_without_arguments_every_value_is_the_default():
    assert load(Config, []) == (Config(), {})


def test_a_file_beats_the_defaults_and_the_command_line_beats_the_file(config_file):
    path = config_file('n_layer = 3\nname = "file"\n')
    cfg, origins = load(Config, [path, "--n_layer=4"])
    assert cfg == Config(n_layer=4, name="file")
    assert origins == {"n_layer": "command line", "name": f"{path}:2"}


VALUES = st.one_of(
    st.tuples(st.just("n_layer"), st.integers(-5, 5)),
    st.tuples(st.just("name"), st.sampled_from(["a", "b c", "", "it's", "ü", '"', "-x", "a=b"])),
    st.tuples(st.just("compile"), st.booleans()),
    st.tuples(st.just("decay_iters"), st.none() | st.integers(0, 5)),
)


@given(st.lists(st.tuples(st.booleans(), VALUES), max_size=6))
@examples(15, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_last_assignment_wins_wherever_it_stands(tmp_path, assignments):
    """Files and --key=value in any order: as if the assignments were made one after the other."""
    argv, expected = [], {}
    for i, (in_file, (key, value)) in enumerate(assignments):
        if in_file:
            path = tmp_path / f"{i}.py"
            path.write_text(f"{key} = {value!r}\n", encoding="utf-8")
            argv.append(str(path))
        else:
            argv.append(f"--{key}={value}")
        expected[key] = value, f"{path}:1" if in_file else "command line"
    cfg, origins = load(Config, argv)
    assert cfg == Config(**{key: value for key, (value, _) in expected.items()})
    assert origins == {key: origin for key, (_, origin) in expected.items()}


def test_an_unknown_key_is_refused_with_its_line_and_the_nearest_name(config_file):
    path = config_file('"""A docstring."""\n\n# a comment\nn_layer = 3\nlearning_rte = 1e-4\n')
    assert refusal(path) == f"{path}:5: unknown key 'learning_rte'; did you mean 'learning_rate'?"
    assert refusal("--n_layers=3") == "command line: unknown key 'n_layers'; did you mean 'n_layer'?"


def test_an_unknown_key_like_no_other_lists_the_known_ones():
    message = refusal("--zzzzzz=3")
    assert all(key in message for key in Config.__dataclass_fields__)


@pytest.mark.parametrize(
    "line, wanted",
    [
        ("n_layer = 1.5", "int"),
        ("n_layer = 'many'", "int"),
        ("n_layer = True", "int"),
        ("n_layer = None", "int"),
        ("learning_rate = 'fast'", "float"),
        ("learning_rate = False", "float"),
        ("compile = 1", "bool"),
        ("compile = 'yes'", "bool"),
        ("decay_iters = 'soon'", "int or None"),
        ("split_by = 'size'", "'id' or 'file'"),
    ],
)
def test_a_wrong_type_is_refused_with_its_line_and_what_is_wanted(config_file, line, wanted):
    key = line.split(" ")[0]
    path = config_file(f"# comment\n\n{line}\n")
    assert refusal(path).startswith(f"{path}:3: {key} wants {wanted}, not ")
    value = line.split(" = ")[1].strip("'")
    assert refusal(f"--{key}={value}") == f"command line: {key} wants {wanted}, not {value!r}"


@pytest.mark.parametrize(
    "value", ["[1, 2]", "{'a': 1}", "(1, 2)", "b'bytes'", "...", "{[1]: 2}", "10 ** 2", "x", "-'a'"]
)
def test_a_value_that_no_setting_can_hold_is_refused_with_its_line(config_file, value):
    path = config_file(f"n_layer = 3\nname = {value}\n")
    assert refusal(path).startswith(f"{path}:2: ")


@pytest.mark.parametrize(
    "text, line",
    [
        ("n_layer = 3\nname = = 4\n", 2),
        ("n_layer = 3\nif n_layer > 2:\n    name = 'deep'\n", 2),
        ("import os\n", 1),
        ("n_layer = 3\n\nname = open('marker', 'w').write('executed')\n", 3),
        ("name = __import__('os').system('touch marker')\n", 1),
        ("open('marker', 'w')\n", 1),
        ("n_layer = 2 if open('marker', 'w') else 3\n", 1),
        ("n_layer = [open('marker', 'w') for _ in range(1)]\n", 1),
        ('name = f\'{open("marker", "w")}\'\n', 1),
        ("n_layer: int = 3\n", 1),
        ("n_layer += 3\n", 1),
        ("n_layer = name = 3\n", 1),
        ("n_layer, name = 1, 2\n", 1),
        ("n_layer = 1 / 0\n", 1),
        ("n_layer = 'a' * 3\n", 1),
        ("def f():\n    pass\n", 1),
        (f"n_layer = {'-' * 5000}1\n", None),
        (f"n_layer = {'1 + ' * 5000}1\n", None),
        (f"n_layer = {'9' * 400} / 3\n", 1),
    ],
)
def test_what_is_no_assignment_of_a_literal_is_refused_with_its_line_and_not_executed(
    config_file, tmp_path, monkeypatch, text, line
):
    monkeypatch.chdir(tmp_path)
    path = config_file(text)
    assert refusal(path).startswith(f"{path}:{line}: " if line else f"{path}:")
    assert not (tmp_path / "marker").exists()


@pytest.mark.parametrize("content", [b"\xff\xfe\x00\x01binary", b"n_layer = 3\0\n", bytes(range(256))])
def test_a_binary_file_is_refused_by_name(config_file, content):
    path = config_file(content)
    assert refusal(path).startswith(f"{path}:")


def test_a_missing_file_is_named(tmp_path):
    assert refusal(f"{tmp_path}/none.py").startswith(f"{tmp_path}/none.py: no such config file")
    assert "no such config file" in refusal("n_layer=3")  # the dashes forgotten
    assert "no such config file" in refusal(str(tmp_path))


def test_a_key_without_a_value_says_how_to_write_it():
    assert "--name=VALUE" in refusal("--name")
    assert "--n_layer=VALUE" in refusal("--n-layer", "3")


@pytest.mark.parametrize("word", ["true", "True", "TRUE", "tRuE", "false", "False", "FALSE"])
def test_booleans_in_any_case(config_file, word):
    expected = word.lower() == "true"
    for argument in (f"--compile={word}", config_file(f"compile = {word}\n")):
        cfg, _ = load(Config, [f"--compile={not expected}", argument])
        assert cfg.compile is expected


def test_a_config_that_is_not_here_is_taken_from_beside_the_scripts(tmp_path, monkeypatch):
    """And the place of each setting says which file it was."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(configurator, "SCRIPTS", tmp_path / "scripts")
    beside, here = tmp_path / "scripts/config/a.py", tmp_path / "config/a.py"
    for path, n_layer in ((beside, 7), (here, 8)):
        path.parent.mkdir(parents=True)
        path.write_text(f"n_layer = {n_layer}\n")
    assert load(Config, ["config/a.py"]) == (Config(n_layer=8), {"n_layer": "config/a.py:1"})
    here.unlink()
    cfg, origins = load(Config, ["config/a.py"])
    assert cfg.n_layer == 7 and origins == {"n_layer": f"{beside}:1"} and f"# {beside}:1" in describe(cfg, origins)
    assert refusal("config/b.py").startswith(f"config/b.py: no such config file, here or in {tmp_path}/scripts")


def test_the_named_configs_are_found_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for path in sorted((REPO / "config").glob("*.py")):
        found = read_config_file(f"config/{path.name}")
        assert found and {origin.rpartition(":")[0] for _, _, origin in found} == {str(path)}


def test_a_line_separator_inside_a_string_shifts_no_line(config_file):
    path = config_file('name = "a\u2028b"\nn_layer = [1]\n')
    assert refusal(path) == f"{path}:2: not a number, a string, True, False or None: n_layer = [1]"


def test_a_bare_flag_of_a_boolean_means_true():
    assert load(Config, ["--compile=False", "--compile"])[0].compile is True
    assert load(Config, ["--compile", "--compile=False"])[0].compile is False


@pytest.mark.parametrize("word", ["none", "None", "NONE"])
def test_none_in_any_case(config_file, word):
    for argument in (word, config_file(f"decay_iters = {word}\ncolumn = {word}\n")):
        given = [argument] if argument.endswith(".py") else [f"--decay_iters={word}", f"--column={word}"]
        cfg, _ = load(Config, ["--decay_iters=3", *given])
        assert cfg.decay_iters is None and cfg.column is None


@pytest.mark.parametrize("text", ["true", "FALSE", "1e3", "12", "--n_layer=9", "a=b", "a b\tc", "", "%s", "机器"])
def test_text_is_kept_as_it_is_written(config_file, text):
    for key in ("name", "column"):
        for argument in (f"--{key}={text}", config_file(f"{key} = {text!r}\n")):
            cfg, _ = load(Config, [argument])
            assert getattr(cfg, key) == text


@pytest.mark.parametrize(
    "text, value", [("1e3", 1000), ("2.0", 2), ("1_000", 1000), ("-3", -3), ("12345678901234567", 12345678901234567)]
)
@pytest.mark.parametrize("key", ["n_layer", "decay_iters"])
def test_whole_numbers_may_be_written_like_floats(config_file, key, text, value):
    for argument in (f"--{key}={text}", config_file(f"{key} = {text}\n")):
        cfg, _ = load(Config, [argument])
        assert getattr(cfg, key) == value and type(getattr(cfg, key)) is int


def test_a_float_may_be_written_like_a_whole_number(config_file):
    for argument in ("--learning_rate=3", config_file("learning_rate = 3\n")):
        cfg, _ = load(Config, [argument])
        assert cfg.learning_rate == 3.0 and type(cfg.learning_rate) is float


NUMBERS = st.integers(0, 1000).map(str) | st.floats(0.001, 1e6).map(repr)
EXPRESSIONS = st.recursive(
    NUMBERS, lambda inner: st.builds("({} {} {})".format, inner, st.sampled_from("+-*/"), inner), max_leaves=5
)


@given(EXPRESSIONS)
@examples(30, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_arithmetic_gives_what_python_gives(tmp_path, expression):
    path = tmp_path / "config.py"
    path.write_text(f"learning_rate = {expression}\n")
    try:
        expected = float(eval(expression))
    except ZeroDivisionError:
        with pytest.raises(ValueError, match=":1: not a"):
            read_config_file(str(path))
        return
    assert float(read_config_file(str(path))[0][1]) == expected


def test_a_product_of_integers_is_an_integer(config_file):
    cfg, _ = load(Config, [config_file("n_layer = 12 * 128\ndecay_iters = 2 * (3 + 4) - 10 / 5\n")])
    assert (cfg.n_layer, cfg.decay_iters) == (1536, 12)


def test_describe_shows_all_values_and_where_those_that_changed_came_from(config_file):
    path = config_file("\nn_layer = 7\n")
    lines = describe(*load(Config, [path, "--name=x"])).splitlines()
    assert len(lines) == len(Config.__dataclass_fields__)
    shown = {line.split(" = ")[0]: line for line in lines}
    assert shown["n_layer"].split() == ["n_layer", "=", "7", "#", f"{path}:2"]
    assert shown["name"].split() == ["name", "=", "'x'", "#", "command", "line"]
    assert shown["compile"].strip() == "compile = True"


# --- run(), in a process of its own ---

SCRIPT = '''
"""A script for the test."""
import atexit
import configurator
import signal
from dataclasses import dataclass


@dataclass(frozen=True)
class Config:
    """Settings."""

    n_layer: int = 2  # decoder layers of the thing
    how: str = ""  # what goes wrong


def main(cfg):
    if cfg.how == "value":
        raise ValueError("n_layer (2) is wrong; try 3")
    if cfg.how == "file":
        open("/nowhere/at/all")
    if cfg.how == "bug":
        assert cfg.n_layer == 0, cfg.n_layer
    if cfg.how == "interrupt":
        atexit.register(signal.raise_signal, signal.SIGINT)  # once more, while Python ends
        raise KeyboardInterrupt
    print("done", cfg.n_layer)


if __name__ == "__main__":
    configurator.run(main, Config)
'''


@pytest.fixture
def script(tmp_path):
    """Run the script above with arguments; returns the finished process."""
    path = tmp_path / "script.py"
    path.write_text(textwrap.dedent(SCRIPT).lstrip())

    def run(*argv: str, **environment: str) -> subprocess.CompletedProcess:
        environment = {"PYTHONPATH": str(REPO), "PATH": os.environ["PATH"], "COLUMNS": "200"} | environment
        command = [sys.executable, str(path), *argv]
        return subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=120)

    return run


def test_run_prints_the_settings_and_calls_main(script, config_file):
    done = script(config_file("n_layer = 5\n"))
    assert done.returncode == 0 and done.stderr == ""
    assert done.stdout.splitlines()[-1] == "done 5"
    assert "n_layer = 5" in done.stdout and "config.py:1" in done.stdout
    assert script(RANK="1").stdout == "done 2\n"  # one rank shows them


@pytest.mark.parametrize(
    "argument, message",
    [
        ("--n_layr=3", "error: command line: unknown key 'n_layr'; did you mean 'n_layer'?"),
        ("--n_layer=x", "error: command line: n_layer wants int, not 'x'"),
        ("--how=value", "error: n_layer (2) is wrong; try 3"),
        ("--how=file", "error: [Errno 2] No such file or directory: '/nowhere/at/all'"),
    ],
)
def test_a_mistake_is_one_line_on_stderr_and_exit_code_1(script, argument, message):
    failed = script(argument)
    assert failed.returncode == 1
    assert failed.stderr == message + "\n"


def test_debugging_shows_the_traceback_and_so_does_a_bug(script):
    for failed in (script("--how=value", NONLLAMA_DEBUG="1"), script("--how=bug")):
        assert failed.returncode == 1 and "Traceback" in failed.stderr


def test_ctrl_c_is_one_line_and_exit_code_130_also_twice(script):
    stopped = script("--how=interrupt")
    assert stopped.returncode == 130
    assert stopped.stderr.strip().count("\n") == 0 and "interrupted" in stopped.stderr


def test_help_shows_the_comment_of_each_field_and_the_values_so_far(script, config_file):
    shown = script(config_file("n_layer = 77\n"), "--help")
    assert shown.returncode == 0 and "done" not in shown.stdout
    assert "--n_layer" in shown.stdout and "decoder layers of the thing" in shown.stdout
    assert "what goes wrong" in shown.stdout and "A script for the test." in shown.stdout
    assert "77" in shown.stdout


def test_a_config_file_may_begin_with_a_byte_order_mark(tmp_path):
    path = tmp_path / "x.py"
    path.write_text("number = 3\n", encoding="utf-8-sig")
    assert read_config_file(str(path)) == [("number", "3", f"{path}:1")]


@pytest.mark.slow
def test_a_reader_that_leaves_ends_a_script_in_silence():
    """`python train.py --help | head -1`: what is printed afterwards finds no reader."""
    command = f"{sys.executable} {REPO}/sample.py --help | true"
    done = subprocess.run(command, shell=True, stderr=subprocess.PIPE, text=True, env=os.environ | {"COLUMNS": "60"})
    assert done.stderr == ""


@pytest.mark.parametrize("argument", ["dump.xml.bz2", "texts/*.jsonl", "wikimedia/wikipedia/20231101.de", "a b.txt"])
def test_a_source_without_its_key_is_answered_with_it(tmp_path, monkeypatch, argument):
    monkeypatch.chdir(tmp_path)
    Path("dump.xml.bz2").write_bytes(b"BZh91AY&SY")
    with pytest.raises(ValueError) as error:
        load(PrepareConfig, ["config/data_wiki_en.py", argument])
    assert f"--source={shlex.quote(argument)}" in str(error.value) and "\n" not in str(error.value)
