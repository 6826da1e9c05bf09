"""LoRA against peft: losses, gradients and folders, both ways; a run that goes on, merging, and what is refused."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from conftest import TINY
from peft import LoraConfig, PeftModel, get_peft_model
from ranks import finished
from safetensors.torch import load_file, save_file
from test_train import during_step, press_ctrl_c
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, Qwen2Config

import chat
import checkpoint
import lora
import sample
import train
from chat_template import chatml
from lora import LoraSettings, MergeConfig, find_source
from model import Llama
from resume import MODEL
from tokenizer import Tokenizer

SIZES = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
SIZES |= {"num_key_value_heads": 2, "max_position_embeddings": 64, "vocab_size": 320}
SHAPES = {"llama": LlamaConfig(**SIZES, tie_word_embeddings=True), "qwen2": Qwen2Config(**SIZES)}
ALL = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
LORA = LoraSettings(rank=4, alpha=12, targets=ALL)  # a scale of 3: neither 1 nor 1 / r
SETTINGS = {key: value for key, value in TINY.items() if key not in MODEL}
SETTINGS |= {"lora_rank": 4, "lora_alpha": 12.0, "max_iters": 6, "learning_rate": 1e-2, "eval_interval": 3}


@pytest.fixture(autouse=True)
def no_picture(monkeypatch):
    monkeypatch.setattr(train.journal, "plot", lambda *args: None)


@pytest.fixture(scope="module")
def bases(data_dir, tmp_path_factory) -> dict[str, Path]:
    """A small model of each shape as transformers writes it, with the tokenizer of the small corpus."""
    return {name: make_base(tmp_path_factory.mktemp(name) / "base", shape, data_dir) for name, shape in SHAPES.items()}


def make_base(folder: Path, shape, data_dir: Path, seed: int = 1) -> Path:
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(shape, dtype=torch.float32)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    tokenizer = Tokenizer.load(data_dir)
    for config in (model.config, model.generation_config):
        config.bos_token_id = config.eos_token_id = tokenizer.end_of_text
    model.save_pretrained(folder)
    shutil.copy(data_dir / "tokenizer.json", folder)
    (folder / "chat_template.jinja").write_text(chatml(tokenizer))
    return folder


@pytest.fixture(scope="module")
def base(bases) -> Path:
    return bases["llama"]


@pytest.fixture(scope="module")
def run_dir(base, data_dir, tmp_path_factory) -> Path:
    """A finished run of LoRA, 6 steps."""
    out = tmp_path_factory.mktemp("lora") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train.journal, "plot", lambda *args: None)
        train.main(config(base, data_dir, out))
    return out


def config(base, data_dir, out_dir, **changes) -> train.TrainConfig:
    settings = SETTINGS | {"init_from": str(base), "data": str(data_dir), "out_dir": str(out_dir)} | changes
    return train.TrainConfig(**settings)


def with_adapters(base: Path, settings: LoraSettings = LORA) -> Llama:
    """The base with adapters that change it: B is not 0."""
    model = checkpoint.load_model(base)
    lora.add_adapters(model, settings)
    torch.manual_seed(2)
    with torch.no_grad():
        for parameter in checkpoint.trainable(model).values():
            parameter.normal_(std=0.1)
    return model


def with_pefts(base: Path, ours: Llama, **options) -> PeftModel:
    """peft's model with the values of ours."""
    theirs = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    settings = {"r": LORA.rank, "lora_alpha": LORA.alpha, "target_modules": list(ALL), "task_type": "CAUSAL_LM"}
    theirs = get_peft_model(theirs, LoraConfig(**settings | options))
    parameters = dict(theirs.named_parameters())
    with torch.no_grad():
        for name, parameter in checkpoint.trainable(ours).items():
            parameters[f"base_model.model.{name}.default.weight"].copy_(parameter)
    return theirs


def some_ids(seed: int = 3) -> torch.Tensor:
    return torch.randint(300, (2, 24), generator=torch.Generator().manual_seed(seed))


def logits(model) -> torch.Tensor:
    with torch.no_grad():
        out = model.eval()(some_ids())
    return getattr(out, "logits", out)


# --- against peft ---


@pytest.mark.parametrize("shape", SHAPES)
def test_loss_and_gradients_are_those_of_peft(shape, bases):
    """Qwen2 has biases, which stay as they are. Of nothing else than the adapters a gradient is computed."""
    ours = with_adapters(bases[shape])
    theirs = with_pefts(bases[shape], ours)
    ids, targets = some_ids(), some_ids(4)

    loss = ours(ids, targets) / targets.numel()
    loss.backward()
    their_loss = theirs(ids, labels=targets, shift_labels=targets).loss
    their_loss.backward()

    torch.testing.assert_close(loss, their_loss, atol=0, rtol=1e-6)
    gradients = {name: parameter.grad for name, parameter in theirs.named_parameters() if parameter.grad is not None}
    assert len(gradients) == 2 * 7 * 2
    for name, parameter in ours.named_parameters():
        if checkpoint.is_adapter_name(name):
            expected = gradients.pop(f"base_model.model.{name}.default.weight")
            assert expected.abs().max() > 0
            torch.testing.assert_close(parameter.grad, expected, atol=1e-7, rtol=2e-5)
        else:
            assert parameter.grad is None and not parameter.requires_grad
    assert not gradients


def test_new_adapters_change_nothing_and_are_drawn_as_by_peft(base):
    model = checkpoint.load_model(base)
    before = logits(model)
    lora.add_adapters(model, LORA)
    torch.manual_seed(0)
    values = {id(parameter): value for parameter, value in lora.initial_adapters(model)}
    theirs = dict(get_peft_model(AutoModelForCausalLM.from_pretrained(base), LoraConfig(r=4)).named_parameters())

    for name, parameter in checkpoint.trainable(model).items():
        value = values[id(parameter)]
        with torch.no_grad():
            parameter.copy_(value)
        peer = theirs.get(f"base_model.model.{name}.default.weight")  # peft's default: q_proj and v_proj
        if peer is not None:
            assert value.shape == peer.shape
            assert value.abs().max().item() == pytest.approx(peer.abs().max().item(), rel=0.1)
            assert value.std().item() == pytest.approx(peer.std().item(), rel=0.25)
    assert torch.equal(logits(model), before)


def test_a_run_writes_a_folder_that_peft_opens(run_dir, base):
    """Equal logits; with tokenizer and template beside it, and no copy of the base."""
    folder = (run_dir / "latest").resolve()
    theirs = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), folder)
    ours = find_source(None, str(run_dir)).load()
    torch.testing.assert_close(logits(ours), logits(theirs), atol=1e-5, rtol=1e-5)
    assert (logits(ours) - logits(checkpoint.load_model(base))).abs().max() > 0.01

    names = {path.name for path in folder.iterdir()}
    assert {"adapter_config.json", "adapter_model.safetensors", "tokenizer.json", "chat_template.jinja"} <= names
    assert not names & {"config.json", "model.safetensors"}
    keys = load_file(folder / "adapter_model.safetensors").keys()
    assert "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight" in keys and len(keys) == 28


@pytest.mark.parametrize("targets", [list(ALL), ["model.layers.1.mlp.up_proj", "self_attn.v_proj"]])
def test_a_folder_of_peft_opens_here(targets, base, tmp_path, capsys):
    """It has no tokenizer, and does not say which base it had: a note, where the name is another."""
    torch.manual_seed(5)
    settings = LoraConfig(r=3, lora_alpha=7, lora_dropout=0.1, target_modules=targets, init_lora_weights="gaussian")
    theirs = get_peft_model(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), settings)
    with torch.no_grad():
        for name, parameter in theirs.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1)
    theirs.save_pretrained(tmp_path / "peft")

    capsys.readouterr()
    source = find_source(None, str(tmp_path / "peft"))
    torch.testing.assert_close(logits(source.load()), logits(theirs), atol=1e-5, rtol=1e-5)
    assert source.small_files == base and not capsys.readouterr().err

    moved = shutil.copytree(base, tmp_path / "moved")
    assert torch.equal(logits(find_source(str(moved), str(tmp_path / "peft")).load()), logits(source.load()))
    assert "names its base" in capsys.readouterr().err


# --- runs ---


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_a_stopped_run_goes_on_bit_for_bit_and_leaves_the_base_alone(run_dir, base, data_dir, tmp_path, monkeypatch):
    before = content(base)
    during_step(4, press_ctrl_c, monkeypatch)
    with pytest.raises(KeyboardInterrupt, match="stopped at step 4"):
        train.main(config(base, data_dir, tmp_path / "parts"))
    monkeypatch.undo()
    monkeypatch.setattr(train.journal, "plot", lambda *args: None)
    train.main(config(base, data_dir, tmp_path / "parts"))

    whole, parts = content(run_dir / "latest"), content(tmp_path / "parts/latest")
    whole.pop("state.json"), parts.pop("state.json")
    assert whole == parts and "adapter_model.safetensors" in whole
    assert (run_dir / "metrics.jsonl").read_bytes() == (tmp_path / "parts/metrics.jsonl").read_bytes()
    assert content(base) == before

    moments = load_file(run_dir / "latest/training/optimizer.safetensors")
    assert len(moments) == 3 * 28 + 1 and all("lora_" in name for name in moments if name != "rng")


def test_the_log_says_how_many_parameters_learn(base, data_dir, tmp_path, capsys):
    train.main(config(base, data_dir, tmp_path / "out", max_iters=1, eval_interval=1))
    shown = capsys.readouterr().out
    per_block = 4 * ((32 + 32) * 2 + (32 + 16) * 2 + (32 + 48) * 3)
    total = checkpoint.load_model(base).num_parameters() + 2 * per_block
    assert f"{2 * per_block:,} trainable parameters of {total:,} parameters" in shown
    assert "an adapter as peft's" in shown


def test_frozen_matrices_in_bfloat16_give_the_same_steps(base):
    """Autocast would round them in each pass: bit for bit the same loss and gradients. Norms and embedding stay."""
    results = []
    for dtype in (torch.float32, torch.bfloat16):
        model = with_adapters(base)
        lora.narrow_frozen(model, dtype)
        with torch.autocast("cpu", torch.bfloat16):
            loss = model(some_ids(), some_ids(4))
        loss.backward()
        results.append([loss] + [parameter.grad for parameter in checkpoint.trainable(model).values()])

        block = model.model.layers[0]
        assert block.self_attn.q_proj.weight.dtype == dtype
        wide = (block.self_attn.q_proj.lora_A, block.input_layernorm.weight, model.lm_head.weight)
        assert all(parameter.dtype == torch.float32 for parameter in wide)
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_two_processes_take_the_steps_of_one_and_go_on_as_one(parallel, dtype, base, data_dir, tmp_path):
    """Three steps of two processes and three of one, against six of one."""
    settings = SETTINGS | {"init_from": base, "data": data_dir, "dtype": dtype, "batch_size": 4, "lr_decay_iters": 6}
    finished(0, settings | {"out_dir": tmp_path / "one"})
    finished(2, settings | {"out_dir": tmp_path / "two", "max_iters": 3, "parallel": parallel})
    finished(0, settings | {"out_dir": tmp_path / "two"})

    one = load_file(tmp_path / "one/latest/adapter_model.safetensors")
    two = load_file(tmp_path / "two/latest/adapter_model.safetensors")
    assert one.keys() == two.keys()
    largest = 1e-4 if dtype == "float32" else 0.05
    for name in one:
        difference = (two[name] - one[name]).norm() / one[name].norm()
        assert difference < largest, name


# --- merging ---


@pytest.mark.parametrize("shape", SHAPES)
def test_merged_logits_are_those_of_base_and_adapter(shape, bases, tmp_path, capsys):
    """In float32, to 1e-5, here and in transformers; template and tokenizer travel."""
    adapter = write_adapter(tmp_path / "adapter", with_adapters(bases[shape]), bases[shape])
    (adapter / "generation_config.json").write_text('{"eos_token_id": [7, 8]}')
    lora.main(MergeConfig(adapter=str(adapter), out_dir=str(tmp_path / "merged")))
    expected = logits(find_source(None, str(adapter)).load())
    merged = checkpoint.load_model(tmp_path / "merged")
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")

    torch.testing.assert_close(logits(merged), expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(logits(theirs), expected, atol=1e-5, rtol=0)
    assert theirs.dtype == torch.float32
    template = (bases[shape] / "chat_template.jinja").read_text()
    assert theirs.config.eos_token_id == theirs.generation_config.eos_token_id == [7, 8]
    assert AutoTokenizer.from_pretrained(tmp_path / "merged").chat_template == template
    assert "14 matrices changed by " in capsys.readouterr().out


def test_merging_into_bfloat16_says_what_rounding_moves(base, tmp_path, capsys):
    model = with_adapters(base)
    adapter = write_adapter(tmp_path / "adapter", model, base)
    lora.main(MergeConfig(adapter=str(adapter), out_dir=str(tmp_path / "merged"), dtype="bfloat16"))
    merged = load_file(tmp_path / "merged/model.safetensors")

    change = rounding = 0.0
    for name, module in model.named_modules():
        if isinstance(module, lora.LoraLinear):
            exact = module.weight + 3 * (module.lora_B @ module.lora_A)
            change += (exact - module.weight).square().sum().item()
            rounding += (exact.bfloat16().float() - exact).square().sum().item()
            assert torch.equal(merged[f"{name}.weight"], exact.bfloat16())
    share = 100 * (rounding / change) ** 0.5
    assert f"rounding to bfloat16 moves them by {share:.0f} % of the change's size" in capsys.readouterr().out


def write_adapter(folder: Path, model: Llama, base: Path) -> Path:
    """What a checkpoint holds besides the training state."""
    files = checkpoint.small_files(model, Tokenizer.load(base), checkpoint.companions(base))
    files = lora.adapter_files(files, LORA, base, lora.fingerprint(base, model.cfg))
    folder.mkdir()
    checkpoint.write_model(folder, checkpoint.tensors_to_save(model), files)
    return folder


def test_sample_writes_the_text_of_the_merged_model(run_dir, base, tmp_path, capsys):
    lora.main(MergeConfig(adapter=str(run_dir), out_dir=str(tmp_path / "merged")))
    capsys.readouterr()
    texts = []
    for source in ({"adapter": str(run_dir)}, {"checkpoint": str(tmp_path / "merged")}, {"checkpoint": str(base)}):
        sample.main(sample.SampleConfig(**source, prompt="the ", max_new_tokens=30, device="cpu", temperature=0))
        texts.append(capsys.readouterr().out)
    assert texts[0] == texts[1] != texts[2]


def test_chat_answers_with_the_adapter_and_its_template(run_dir, base, tmp_path):
    adapter = shutil.copytree(run_dir / "latest", tmp_path / "adapter")
    own = (adapter / "chat_template.jinja").read_text() + "{# its own #}"
    (adapter / "chat_template.jinja").write_text(own)
    conversation = chat.load(chat.ChatConfig(adapter=str(adapter), device="cpu"))
    assert conversation.template.source == own
    assert torch.equal(logits(conversation.reader.model), logits(find_source(str(base), str(adapter)).load()))


# --- the base ---


def test_the_fingerprint_is_of_the_weights_alone(base, tmp_path):
    """Shards, metadata and a tied head that is there twice do not count; one bit does."""
    shape = checkpoint.read_config(base)
    first = lora.fingerprint(base, shape)
    weights = load_file(base / "model.safetensors")

    other = shutil.copytree(base, tmp_path / "other")
    twice = weights | {"lm_head.weight": weights["model.embed_tokens.weight"].clone()}
    save_file(twice, other / "model.safetensors", {"format": "pt", "by": "me"})
    assert lora.fingerprint(other, shape) == first

    (other / "model.safetensors").unlink()
    AutoModelForCausalLM.from_pretrained(base).save_pretrained(other, max_shard_size=20_000)
    assert len(list(other.glob("*.safetensors"))) > 1
    assert lora.fingerprint(other, shape) == first

    weights["model.norm.weight"].view(torch.int32)[0] += 1
    save_file(weights, other / "model.safetensors", {"format": "pt"})
    assert lora.fingerprint(other, shape) != first


def test_a_base_of_another_shape_is_refused_as_another_base(run_dir, base, tmp_path):
    """An adapter of peft does not say on which base it was trained: then its shapes do not fit."""
    other = shutil.copytree(base, tmp_path / "other")
    config_path = other / "config.json"
    shape = json.loads(config_path.read_text())
    config_path.write_text(json.dumps(shape | {"intermediate_size": shape["intermediate_size"] + 8}))
    weights = load_file(other / "model.safetensors")
    save_file(weights | {"model.norm.weight": weights["model.norm.weight"] + 1}, other / "model.safetensors")
    with pytest.raises(ValueError, match="latest was trained on another base than"):
        find_source(str(other), str(run_dir))

    of_peft = shutil.copytree(run_dir / "latest", tmp_path / "peft")
    (of_peft / "base.json").unlink()
    message = "peft does not fit .*lora_[AB].weight has shape .*; has it another base. give that with --checkpoint"
    with pytest.raises(ValueError, match=message):
        find_source(str(other), str(of_peft))


def test_another_base_is_refused(run_dir, base, data_dir, tmp_path):
    """By sample.py, by merging, and where a run goes on."""
    other = make_base(tmp_path / "other", SHAPES["llama"], data_dir, seed=2)
    message = f"latest was trained on another base than {other} .sha256 .*; its own was {base}"
    with pytest.raises(ValueError, match=message):
        sample.main(sample.SampleConfig(checkpoint=str(other), adapter=str(run_dir)))
    with pytest.raises(ValueError, match=message):
        lora.main(MergeConfig(adapter=str(run_dir), checkpoint=str(other), out_dir=str(tmp_path / "merged")))
    assert not (tmp_path / "merged").exists()

    mine = shutil.copytree(base, tmp_path / "mine")
    train.main(config(mine, data_dir, tmp_path / "out", max_iters=1))
    shutil.copy(other / "model.safetensors", mine)
    with pytest.raises(ValueError, match="was trained on another base than .*mine"):
        train.main(config(mine, data_dir, tmp_path / "out", max_iters=2))


# --- what is refused ---


def test_new_rows_of_the_embedding_are_refused(base, data_dir, tmp_path):
    """They would stay what they are, and the base's folder lacks them."""
    data = shutil.copytree(data_dir, tmp_path / "data")
    larger = Tokenizer.load(data).with_special_tokens(["<|tool|>"])
    (data / "tokenizer.json").write_text(larger.json)
    message = "the data has tokens that .*base lacks .<.tool.> .*; give it rows for them first: python grow.py --check"
    with pytest.raises(ValueError, match=message):
        train.main(config(base, data, tmp_path / "out"))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"init_from": None}, "lora_rank: LoRA changes a model that there is; name it with --init_from="),
        ({"lora_rank": -1}, r"lora_rank \(-1\) must be at least 0"),
        ({"lora_rank": 17}, r"lora_rank \(17\) is above the smaller side of .*k_proj, 16 x 32; try 16"),
        ({"lora_rank": 1000}, r"lora_rank \(1000\) is above the smaller side of .*k_proj, 16 x 32; try 16"),
        ({"lora_alpha": 0.0}, r"lora_alpha \(0.0\) must be above 0; try --lora_alpha=8"),
        ({"lora_targets": "q_proj qkv"}, "no matrix of the blocks is named 'qkv'; there are down_proj, gate_proj"),
        ({"lora_targets": "lm_head"}, "no matrix of the blocks is named 'lm_head'"),
        ({"lora_targets": ""}, "lora_targets names no matrix"),
        ({"optimizer": "muon"}, "optimizer=muon is for whole matrices"),
    ],
)
def test_settings_that_cannot_work_leave_nothing_behind(changes, message, base, data_dir, tmp_path):
    with pytest.raises(ValueError, match=message):
        train.main(config(base, data_dir, tmp_path / "out", **changes))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lora_rank": 2}, "has lora_rank=4 but the settings say 2"),
        ({"lora_alpha": 1.0}, "has lora_alpha=12.0 but the settings say 1.0"),
        ({"lora_rank": 0}, "has lora_rank=4 but the settings say 0; give --lora_rank=4 to resume"),
        ({"init_from": "run"}, "is a LoRA adapter, not a model; give --adapter=.* python lora.py --adapter="),
    ],
)
def test_a_run_goes_on_with_its_own_settings_alone(changes, message, run_dir, base, data_dir, tmp_path):
    out = shutil.copytree(run_dir, tmp_path / "run", symlinks=True)
    if "init_from" in changes:
        changes = {"init_from": str(run_dir), "out_dir": str(tmp_path / "new")}
    with pytest.raises(ValueError, match=message):
        train.main(config(base, data_dir, **{"out_dir": out} | changes))


def test_a_model_is_no_adapter(base):
    with pytest.raises(ValueError, match="is a model, not a LoRA adapter"):
        find_source(None, str(base))


def test_tensors_that_are_missing_surplus_or_of_another_rank_are_refused(run_dir, tmp_path):
    folder = shutil.copytree(run_dir / "latest", tmp_path / "adapter")
    path = folder / "adapter_model.safetensors"
    whole = load_file(path)
    name = "base_model.model.model.layers.1.mlp.up_proj.lora_B.weight"

    without = {key: tensor for key, tensor in whole.items() if key != name}
    renamed = without | {name.replace(".lora_B", ".lora_B.default"): whole[name]}
    surplus = whole | {name.replace("layers.1", "layers.2"): whole[name].clone()}
    narrow = whole | {name: whole[name][:, :3].contiguous()}
    for tensors, message in [
        (without, "up_proj.lora_B.weight' is absent"),
        (renamed, "up_proj.lora_B.* is (absent|not part of this model)"),
        (surplus, "layers.2.mlp.up_proj.lora_B.* is not part of this model"),
        (narrow, r"has shape \(48, 3\), adapter_config.json says \(48, 4\)"),
    ]:
        save_file(tensors, path)
        with pytest.raises(ValueError, match=message):
            find_source(None, str(folder))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"peft_type": "IA3"}, "peft_type='IA3' is not computed here; LORA is"),
        ({"use_dora": True}, "use_dora=True is not computed here"),
        ({"use_rslora": True}, "use_rslora=True"),
        ({"modules_to_save": ["lm_head"]}, r"modules_to_save=\['lm_head'\]"),
        ({"rank_pattern": {"q_proj": 8}}, "rank_pattern="),
        ({"bias": "all"}, "bias='all' is not computed here"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights='pissa' changes the base too"),
        ({"target_modules": ".*proj"}, "target_modules='.*proj' is not a list of names"),
        ({"r": 0}, "r=0 is not a rank"),
        ({"lora_alpha": None}, "lora_alpha=None is not a number above 0"),
        ({"base_model_name_or_path": "llm/base"}, "names its base 'llm/base', which is no folder here; give the base"),
    ],
)
def test_what_peft_can_and_we_cannot_is_refused_by_name(changes, message, run_dir, tmp_path):
    folder = shutil.copytree(run_dir / "latest", tmp_path / "adapter")
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(ValueError, match=message):
        find_source(None, str(folder))


def test_merging_into_a_quantized_base_is_refused(run_dir, base, tmp_path):
    quantized = shutil.copytree(base, tmp_path / "int4")
    path = quantized / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"quantization_config": {"bits": 4}}))
    with pytest.raises(ValueError, match="int4 is quantized: rounding would lose .*; keep the adapter beside it"):
        lora.main(MergeConfig(adapter=str(run_dir), checkpoint=str(quantized), out_dir=str(tmp_path / "merged")))
