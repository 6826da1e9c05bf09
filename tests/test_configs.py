"""Every file in config/: its settings load, the commands in its docstring can be typed, and a run takes two steps.

A new config is covered by being there.
"""

import ast
import dataclasses
import shlex
from pathlib import Path

import pytest
import torch
from conftest import REPO, TINY, flags
from test_lora import make_base
from test_packing import draw_conversations, write_folder
from transformers import LlamaConfig

import configurator
import train
from benchmarks import finetune_memory, pretrain_memory
from model import Llama
from optim import Optimizer
from prepare_chat import ChatConfig
from prepare_wiki import PrepareConfig
from train import TrainConfig, micro_steps

CONFIGS = sorted((REPO / "config").glob("*.py"))
CLASSES = {"prepare_wiki.py": PrepareConfig, "prepare_chat.py": ChatConfig, "train.py": TrainConfig}
TRAINED = [path for path in CONFIGS if not path.name.startswith(("data_", "chat_"))]
SMALL = {key: TINY[key] for key in ("n_layer", "n_head", "n_kv_head", "n_embd", "ffn_hidden")}
SHORT = {"block_size": 32, "batch_size": 2, "batch_tokens": 128, "max_iters": 2, "device": "cpu", "compile": False}
SHORT |= {"num_threads": 1, "dtype": "float32", "sample_prompt": "the "}
BASE = LlamaConfig(
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=64,
    vocab_size=320,
    tie_word_embeddings=True,
)


def docstring(path: Path) -> str:
    return ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))


def commands(path: Path) -> list[tuple[str, list[str], int]]:
    """Script, arguments and number of processes of each command of this repository in a config's docstring.

    Two blanks end a command: what follows is a remark.
    """
    found = []
    for line in docstring(path).splitlines():
        if not line.startswith(("python ", "torchrun ")):
            continue
        words = shlex.split(line.partition("  ")[0])
        (script,) = [word for word in words if word.endswith(".py") and "/" not in word]
        if script not in CLASSES:
            continue
        at = words.index(script)
        processes = [int(word.partition("=")[2]) for word in words[:at] if word.startswith("--nproc_per_node=")]
        found.append((script, words[at + 1 :], max([1, *processes])))
    return found


def test_there_are_configs_for_one_gpu_several_and_for_a_model_that_there_is():
    assert {"wiki_15m", "wiki_124m", "wiki_1b_fsdp", "continue_pretrain"} <= {path.stem for path in TRAINED}


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_the_commands_in_a_config_can_be_typed(path):
    """Each is parsed by its script; a step can be cut for as many processes as the command starts."""
    own = f"config/{path.name}"
    typed = commands(path)
    assert any(own in arguments for _, arguments, _ in typed), f"no command in the docstring of {own} names it"
    for script, arguments, processes in typed:
        cfg, _ = configurator.load(CLASSES[script], arguments)
        if script == "train.py":
            cfg.check()
            micro_steps(cfg, processes)


@pytest.mark.parametrize("path", [path for path in TRAINED if path.stem.startswith(("wiki_", "continue"))])
def test_a_config_of_pretraining_says_what_was_measured(path):
    first, _, rest = docstring(path).partition("\n")
    assert first.endswith(".") and "What to expect. " in rest
    assert "measured" in rest and "FLOPs" in rest


@pytest.fixture(scope="module")
def base(data_dir, tmp_path_factory) -> Path:
    return make_base(tmp_path_factory.mktemp("base") / "base", BASE, data_dir)


@pytest.fixture(scope="module")
def chats(data_dir, tmp_path_factory) -> Path:
    training, validation = draw_conversations(0, 60, 33), draw_conversations(1, 8, 33)
    return write_folder(tmp_path_factory.mktemp("chats") / "chat", training, validation, data_dir)


@pytest.mark.parametrize("path", TRAINED, ids=lambda path: path.stem)
def test_a_config_trains_two_steps(path, data_dir, base, chats, tmp_path, monkeypatch):
    """On a tiny corpus with a shrunken model; all other settings are the file's."""
    monkeypatch.setattr(train.journal, "plot", lambda *args: None)
    cfg, _ = configurator.load(TrainConfig, [str(path)])
    settings = SHORT | {"out_dir": str(tmp_path / "run"), "data": str(data_dir)}
    if cfg.init_from is None:
        settings |= SMALL
    else:
        settings["init_from"] = str(base)
    if path.stem.startswith(("sft_", "lora_")):
        settings["data"] = str(chats)

    small, _ = configurator.load(TrainConfig, [str(path), *flags(settings)])
    train.main(small)
    log = (tmp_path / "run/metrics.jsonl").read_text(encoding="utf-8")
    assert '"step": 2' in log and (tmp_path / "run/step_0000002").is_dir()


@pytest.mark.slow
@pytest.mark.parametrize("program, page", [(pretrain_memory, "pretraining"), (finetune_memory, "finetuning")])
def test_the_tables_of_the_docs_are_what_the_programs_compute(capsys, monkeypatch, program, page):
    small = {name: shape for name, shape in finetune_memory.MODELS.items() if shape.n_embd <= 1024}
    monkeypatch.setattr(finetune_memory, "MODELS", small)  # the larger ones take 12 GB to count
    program.main()
    printed = [line for line in capsys.readouterr().out.splitlines() if line]
    text = (REPO / f"docs/{page}.md").read_text(encoding="utf-8")
    assert [line for line in printed if line not in text.splitlines()] == []


def test_the_parts_of_a_step_are_what_a_real_one_takes():
    """Of a small model: the bytes of its tensors; of several processes each has less."""
    cfg = TrainConfig(data="wiki_simple", n_layer=2, n_embd=64, ffn_hidden=64, block_size=64, batch_size=2)
    parts = pretrain_memory.parts_of(cfg, processes=1)
    model = Llama(pretrain_memory.shape_of(cfg))
    optimizer = Optimizer(model, cfg, torch.device("cpu"))
    ids = torch.zeros(1, 8, dtype=torch.int64)
    model(ids, ids).backward()
    gradients = sum(parameter.grad.nbytes for parameter in model.parameters())
    optimizer.step(1e-3, torch.tensor(True))
    moments = sum(value.nbytes for state in optimizer.state.values() for value in state.values() if value.dim())
    weights = sum(parameter.nbytes for parameter in model.parameters())
    assert (parts.weights, parts.gradients, parts.moments) == (weights, gradients, moments)

    divided = pretrain_memory.parts_of(cfg, processes=8)
    assert divided.weights == weights / 8 and divided.activations == parts.activations
    recomputed = pretrain_memory.parts_of(dataclasses.replace(cfg, recompute=True), processes=1)
    assert recomputed.activations < parts.activations
