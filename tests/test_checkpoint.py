"""Checkpoints open in transformers, come back exactly, theirs open here, and a failed save leaves the old one."""

import contextlib
import gzip
import json
import math
import os
import pickle
import resource
import shutil
import signal
import struct
import weakref
from pathlib import Path

import pytest
import torch
from conftest import SHARED
from safetensors.torch import load_file, save_file
from test_model import SHAPES, pair, random_model
from transformers import AutoModelForCausalLM, AutoTokenizer

import atomic
import checkpoint
from hf_config import hf_config, read_config
from model import Llama, ModelConfig
from optim import Optimizer
from tokenizer import END_OF_TEXT, Tokenizer
from train import TrainConfig


@pytest.fixture
def folder(run_dir, tmp_path):
    """A copy of the newest checkpoint, to be damaged."""
    return shutil.copytree(checkpoint.resolve(run_dir), tmp_path / "copy")


@pytest.fixture(scope="module")
def tokenizer(data_dir):
    """The tokenizer of the small corpus."""
    return Tokenizer.load(data_dir)


SMALL = ModelConfig(320, 32, 1, 2, 1, 16, 16)
NAME = "model.layers.0.mlp.up_proj.weight"  # a matrix of a block: Muon's, where there is Muon


def trained(shape: ModelConfig, steps: int = 3, kind: str = "adamw") -> tuple[Llama, Optimizer]:
    """A model after some real optimizer steps, so that every kind of state is there."""
    torch.manual_seed(1)
    model = Llama(shape)
    cfg = TrainConfig(optimizer=kind, learning_rate=1e-2)
    optimizer = Optimizer(model, cfg, torch.device("cpu"))
    for _ in range(steps):
        take_step(model, optimizer)
    return model, optimizer


def take_step(model: Llama, optimizer: Optimizer) -> None:
    """One step on random ids."""
    ids = torch.randint(0, model.cfg.vocab_size, (2, 9))
    model(ids[:, :-1], ids[:, 1:]).backward()
    optimizer.step(1e-2, torch.tensor(True))


def state_at(step: int, **changes) -> dict:
    """A training state; without changes no validation loss is known."""
    state = {"step": step, "evaluated": -1, "val_loss": math.inf, "best_val_loss": math.inf, "settings": {}}
    return state | changes


def evaluated_at(step: int, val_loss: float, best_val_loss: float, **changes) -> dict:
    """The state right after an evaluation."""
    return state_at(step, evaluated=step, val_loss=val_loss, best_val_loss=best_val_loss, **changes)


def save(out_dir, model, optimizer, tokenizer, state, best=False, keep=9, carried=None):
    """A checkpoint with its small files."""
    files = checkpoint.small_files(model, tokenizer, carried or {})
    return checkpoint.save(out_dir, state["step"], model, optimizer, files, state, best, keep)


@pytest.fixture
def save_steps(tokenizer, tmp_path):
    """A function that saves a small model at these steps, into the same folder."""
    model, optimizer = trained(SMALL, 1)

    def save_them(*steps: int, best: bool = False, keep: int = 9, **changes) -> Path:
        for step in steps:
            save(tmp_path, model, optimizer, tokenizer, state_at(step, **changes), best, keep)
        return tmp_path

    return save_them


def steps_in(out_dir: Path) -> list[int]:
    """The steps of the checkpoints that are there."""
    return [int(path.name.removeprefix("step_")) for path in checkpoint.step_folders(out_dir)]


@pytest.mark.parametrize("tied", [True, False])
def test_transformers_opens_it_with_equal_logits_and_tokens(tied, tokenizer, tmp_path):
    shape = ModelConfig(320, 32, 2, 4, 2, 32, 64, rope_theta=50000.0, tie_embeddings=tied)
    model, optimizer = trained(shape)
    folder = save(tmp_path, model, optimizer, tokenizer, state_at(3))

    theirs, info = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert nothing_missing(info) and theirs.dtype == torch.float32
    ids = torch.randint(0, 300, (2, 32))
    assert close(model(ids), theirs(ids).logits)
    ours = checkpoint.load_model(folder)
    assert ours.cfg == shape and torch.equal(ours(ids), model(ids))

    auto = AutoTokenizer.from_pretrained(folder)
    for text in ("the cat", " two  spaces\n\tand more", "naïve 漢字 🙂"):
        assert auto(text, add_special_tokens=False).input_ids == tokenizer.encode(text)
    assert auto.eos_token_id == tokenizer.end_of_text == theirs.generation_config.eos_token_id
    assert auto.decode([tokenizer.end_of_text]) == END_OF_TEXT


@pytest.mark.parametrize(("kind", "count"), [("adamw", 3 * 11), ("muon", 3 * 4 + 7)])
@pytest.mark.parametrize("steps", [0, 3])
def test_training_state_comes_back_exactly(kind, count, steps, tokenizer, tmp_path):
    """Every field of the optimizer (11 parameters, 7 of them matrices of the block), the random numbers, the next step.

    With no step made there is nothing to come back but zeros, which are the same as no state at all.
    """
    model, optimizer = trained(SMALL, steps, kind)
    rng = torch.get_rng_state()
    folder = save(tmp_path, model, optimizer, tokenizer, state_at(steps))

    restored, of_restored = trained(SMALL, 0, kind)
    checkpoint.restore(folder, restored, of_restored)
    assert torch.equal(rng, torch.get_rng_state())
    before = checkpoint.optimizer_tensors(model, optimizer)
    after = checkpoint.optimizer_tensors(restored, of_restored)
    assert before.keys() == after.keys() and len(before) == count
    assert sum(len(state) for state in of_restored.state.values()) == count
    assert all(torch.equal(before[key], after[key]) for key in before)

    take_step(model, optimizer)
    torch.set_rng_state(rng)
    take_step(restored, of_restored)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), restored.parameters(), strict=True))


# --- a run's folder ---


def test_newest_and_best_are_kept_and_linked(save_steps):
    save_steps(1, 2, best=True, keep=2)
    out = save_steps(3, 4, 5, keep=2)
    assert steps_in(out) == [2, 4, 5]
    assert os.readlink(out / "latest") == "step_0000005" and os.readlink(out / "best") == "step_0000002"
    assert checkpoint.resolve(out) == out / "latest"
    assert checkpoint.resolve(out / "step_0000004") == out / "step_0000004"


def test_the_newest_complete_checkpoint_is_found_behind_damaged_ones(save_steps, tmp_path):
    assert checkpoint.newest_complete(tmp_path) is None
    save_steps(1, 2, 3, 4, 5, 6)
    shutil.copytree(tmp_path / "step_0000006", tmp_path / "step_0000006_v2")  # a person's: not for the run
    (tmp_path / "step_0000006/training/state.json").unlink()
    (tmp_path / "step_0000005/training/optimizer.safetensors").write_bytes(b"")
    (tmp_path / "step_0000004/config.json").write_text("{")
    weights = tmp_path / "step_0000003/model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    assert checkpoint.newest_complete(tmp_path) == tmp_path / "step_0000002"
    shutil.copytree(tmp_path / "step_0000001", tmp_path / "step_0000008")  # it has made 1 step, whatever its name
    assert checkpoint.newest_complete(tmp_path) == tmp_path / "step_0000002"
    save_steps(10_000_000)  # a name with eight digits
    (tmp_path / "latest").unlink()
    assert checkpoint.resolve(tmp_path) == checkpoint.newest_complete(tmp_path) == tmp_path / "step_10000000"


@contextlib.contextmanager
def largest_file(size: int):
    """No file can be written longer than `size` bytes: a full disk for every library, whatever it writes with."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)


def test_a_full_disk_is_one_line_and_leaves_the_checkpoint_before(save_steps, tmp_path):
    with (
        largest_file(100),
        pytest.raises(OSError, match="step_0000001 cannot be written: .*File too large.*there is no"),
    ):
        save_steps(1)
    out = save_steps(1, best=True, keep=1)
    sizes = {name: (out / "latest" / name).stat().st_size for name in ("model.safetensors", "tokenizer.json")}
    assert 100 < sizes["tokenizer.json"] < sizes["model.safetensors"]
    # the first file that is too long: a small one, the weights, the optimizer's state
    for size in (100, sizes["tokenizer.json"] + 1, sizes["model.safetensors"] + 1):
        with largest_file(size), pytest.raises(OSError) as caught:
            save_steps(2, best=True, keep=1)
        message = str(caught.value)
        assert message.startswith(f"{out}/step_0000002 cannot be written: ") and "File too large" in message
        assert f"the last complete checkpoint is {out}/step_0000001; " in message and "\n" not in message
        assert sorted(path.name for path in out.iterdir()) == ["best", "latest", "step_0000001"]
        checkpoint.load_model(checkpoint.resolve(out))
    assert steps_in(save_steps(2, best=True, keep=1)) == [2]


def test_a_link_that_cannot_be_made_leaves_the_old_one(save_steps, monkeypatch):
    out = save_steps(1, best=True, keep=1)

    def full_disk(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "symlink", full_disk)
    with pytest.raises(OSError, match="No space left on device"):
        save_steps(2, best=True, keep=1)
    assert checkpoint.read_state(checkpoint.resolve(out))["step"] == 1
    assert not list(out.glob("*.tmp"))


def test_what_a_killed_save_or_deletion_left_goes_with_the_next_save(save_steps, tmp_path):
    (tmp_path / "step_0000007.tmp/training").mkdir(parents=True)
    (tmp_path / "step_0000007.tmp/config.json").write_text("{}")
    (tmp_path / "my_step_0000007.tmp").mkdir()
    save_steps(1)
    assert {path.name for path in tmp_path.glob("*.tmp")} == {"my_step_0000007.tmp"}


def test_a_deletion_that_is_killed_leaves_no_half_checkpoint(save_steps, monkeypatch):
    def killed(path, **kwargs):
        if not path.name.startswith("step_0000003"):  # its staging folder, which is gone already
            raise KeyboardInterrupt

    out = save_steps(1, 2, keep=2)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(shutil, "rmtree", killed)
        save_steps(3, keep=2)
    assert steps_in(out) == [2, 3] and (out / "step_0000001.tmp").is_dir()
    save_steps(4, keep=2)
    assert steps_in(out) == [3, 4] and not list(out.glob("*.tmp"))


def test_what_a_person_put_there_is_never_deleted(save_steps, tmp_path):
    """Folders with similar names, copies under another step's name, links, and what has been edited."""
    save_steps(1, 2)
    for name in ("step_0000001_v2", "step_0000001.old", "step_1", "step_0000009", "my_step_0000001"):
        shutil.copytree(tmp_path / "step_0000001", tmp_path / name)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "step_0000001").rename(tmp_path / "elsewhere/step_0000001")
    (tmp_path / "step_0000001").symlink_to("elsewhere/step_0000001")
    (tmp_path / "step_0000002/config.json").write_text("{}")
    (tmp_path / "step_0000000").write_text("a note")
    before = set(tmp_path.iterdir())
    save_steps(3, 4, 5, keep=1)
    assert set(tmp_path.iterdir()) == before | {tmp_path / "step_0000005"}
    assert (tmp_path / "step_0000001/model.safetensors").is_file()


def test_a_folder_in_the_way_is_kept_aside_when_it_is_not_ours(save_steps, tmp_path, capsys):
    (tmp_path / "step_0000002").mkdir()
    (tmp_path / "step_0000002/thesis").write_text("mine")
    (tmp_path / "step_0000003").symlink_to("nowhere")
    (tmp_path / "best").symlink_to("best")
    save_steps(1, 2, 3)
    assert (tmp_path / "step_0000002_old1/thesis").read_text() == "mine"
    assert os.readlink(tmp_path / "step_0000003_old1") == "nowhere"
    assert steps_in(tmp_path) == [1, 2, 3] and checkpoint.read_state(tmp_path / "latest")["step"] == 3
    assert f"note: {tmp_path}/step_0000002 was in the way of a checkpoint" in capsys.readouterr().out


def test_a_stale_checkpoint_is_written_anew_and_the_newest_is_left_alone(save_steps, tmp_path):
    """Stale: a run was killed before `latest` moved. The newest: a run was resumed and stopped again at once."""
    for step, note in ((1, "kept"), (1, "not written"), (2, "stale"), (2, "fresh")):
        if note == "fresh":
            atomic.link(tmp_path / "latest", "step_0000001")
        save_steps(step, note=note)
    assert checkpoint.read_state(tmp_path / "step_0000001")["note"] == "kept"
    assert checkpoint.read_state(tmp_path / "latest")["note"] == "fresh"
    (tmp_path / "latest").unlink()  # the run goes on from step 2, as newest_complete says, and stops at once
    save_steps(2, note="not written")
    assert checkpoint.read_state(tmp_path / "latest")["note"] == "fresh"
    assert {path.name for path in tmp_path.iterdir()} == {"latest", "step_0000001", "step_0000002"}


def test_after_latest_was_set_back_the_new_branch_is_kept(save_steps, tmp_path):
    save_steps(10, 20, 30, 40)
    atomic.link(tmp_path / "latest", "step_0000010")
    save_steps(25, keep=2)  # 20 to 40 are of the abandoned branch
    assert steps_in(tmp_path) == [10, 25]
    save_steps(35, keep=2)
    assert steps_in(tmp_path) == [25, 35] and os.readlink(tmp_path / "latest") == "step_0000035"


def test_the_best_of_an_abandoned_branch_is_kept_until_it_is_surpassed(save_steps, tmp_path):
    save_steps(10)
    save_steps(20, best=True)
    atomic.link(tmp_path / "latest", "step_0000010")
    save_steps(15, 25, keep=1)
    assert steps_in(tmp_path) == [20, 25] and os.readlink(tmp_path / "best") == "step_0000020"
    save_steps(35, best=True, keep=1)
    assert steps_in(tmp_path) == [35]


def copied(run: Path, copy: Path) -> Path:
    """A copy of a run in which links became folders (cp -rL, most clouds)."""
    return shutil.copytree(run, copy, symlinks=False)


def test_a_run_copied_with_its_links_followed_is_read_and_saved_on(save_steps, tokenizer, tmp_path):
    run = save_steps(1, best=True, keep=1)
    save_steps(2, 3, keep=1)
    copy = copied(run, tmp_path.with_name(tmp_path.name + "-copy"))
    (copy / "latest/notes.txt").write_text("mine")
    assert checkpoint.read_state(checkpoint.resolve(copy))["step"] == 3
    model, optimizer = trained(SMALL, 1)
    save(copy, model, optimizer, tokenizer, state_at(4), keep=1)
    assert os.readlink(copy / "latest") == "step_0000004" and os.readlink(copy / "best") == "step_0000001"
    assert steps_in(copy) == [1, 4] and (copy / "latest_old1/notes.txt").read_text() == "mine"
    assert {path.name for path in copy.iterdir()} == {
        "best", "best_old1", "latest", "latest_old1", "step_0000001", "step_0000004"
    }  # fmt: skip


def test_copies_of_latest_and_best_alone_become_checkpoints_again(save_steps, tokenizer, tmp_path):
    run = save_steps(1, best=True, keep=1)
    save_steps(2, keep=1)
    copy = tmp_path.with_name(tmp_path.name + "-copy")
    for name in ("latest", "best"):
        shutil.copytree(run / name, copy / name)
    model, optimizer = trained(SMALL, 1)
    save(copy, model, optimizer, tokenizer, state_at(3), keep=2)
    assert {path.name for path in copy.iterdir()} == {"best", "latest", *(f"step_000000{step}" for step in (1, 2, 3))}
    assert os.readlink(copy / "best") == "step_0000001"


def test_links_that_became_text_or_were_lost_are_made_again(save_steps, tmp_path):
    losses = {"best_val_loss": 2.5}
    save_steps(1, evaluated=1, val_loss=2.5, **losses)
    save_steps(2, evaluated=2, val_loss=3.0, **losses)
    (tmp_path / "latest").unlink()
    (tmp_path / "latest").write_text("step_0000002")
    assert checkpoint.resolve(tmp_path) == tmp_path / "step_0000002"
    save_steps(3, keep=1, **losses)
    assert steps_in(tmp_path) == [1, 3]  # 1 is the best, though nothing said so but its loss
    assert os.readlink(tmp_path / "latest") == "step_0000003" and os.readlink(tmp_path / "best") == "step_0000001"


@pytest.mark.parametrize("sign", [{"evaluated": 1, "val_loss": math.nan}, {"skipped_in_a_row": 1}], ids=str)
def test_a_broken_run_never_deletes_its_last_healthy_checkpoint(sign, save_steps):
    """Healthy: the losses of the last evaluation and of the last step were finite."""
    save_steps(1, 2, evaluated=1, val_loss=2.5)
    broken = {"evaluated": 1, "val_loss": 2.5} | sign
    assert steps_in(save_steps(3, 4, 5, keep=2, **broken)) == [2, 4, 5]
    assert steps_in(save_steps(6, 7, keep=2)) == [6, 7]  # it went well again


# --- damage ---


def test_nothing_is_pickled_and_anyone_may_read(run_dir):
    files = [path for path in checkpoint.resolve(run_dir).resolve().rglob("*") if path.is_file()]
    assert {path.suffix for path in files} == {".json", ".safetensors"}
    assert len({path.stat().st_mode for path in files}) == 1


def test_damage_is_named(folder):
    path = folder / "model.safetensors"
    weights = load_file(path)
    name = "model.layers.1.mlp.up_proj.weight"
    save_file({key: value for key, value in weights.items() if key != name}, path)
    with pytest.raises(ValueError, match=f"'{name}' is absent"):
        checkpoint.load_model(folder)
    save_file(weights | {name: torch.zeros(3, 3)}, path)
    with pytest.raises(ValueError, match=rf"{name} has shape \(3, 3\)"):
        checkpoint.load_model(folder)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match="damaged"):
        checkpoint.load_model(folder)
    path.unlink()
    with pytest.raises(ValueError, match="missing"):
        checkpoint.load_model(folder)
    (folder / "config.json").write_text("{")
    with pytest.raises(ValueError, match="config.json: not readable"):
        checkpoint.load_model(folder)
    (folder / "config.json").unlink()
    with pytest.raises(ValueError, match="holds no checkpoint; train first"):
        checkpoint.resolve(folder)


PLAIN = ModelConfig(64, 24, 2, 4, 2, 32, 48)


def written(folder: Path, model: torch.nn.Module, **kwargs) -> dict[str, torch.Tensor]:
    """transformers writes its model; returns the tensors it wrote."""
    model.save_pretrained(folder, **kwargs)
    return {name: tensor for path in folder.glob("*.safetensors") for name, tensor in load_file(path).items()}


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    """Equal names, types and bytes."""

    def content(tensors: dict[str, torch.Tensor]) -> dict[str, tuple]:
        flat = {name: tensor.detach().flatten().view(torch.uint8).numpy() for name, tensor in tensors.items()}
        return {name: (tensor.dtype, tensor.shape, flat[name].tobytes()) for name, tensor in tensors.items()}

    return content(a) == content(b)


def close(logits: torch.Tensor, expected: torch.Tensor) -> bool:
    """Equal up to rounding in float32."""
    return (logits - expected).abs().max() < 1e-5 * expected.abs().max()


def nothing_missing(info: dict) -> bool:
    """Whether transformers found each of its tensors, and no other."""
    return not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", SHAPES)
def test_round_trip_from_transformers_and_back(name, dtype, tokenizer, tmp_path, monkeypatch):
    """Theirs in several shards, ours in several shards: equal logits, equal bytes, equal settings, each way."""
    shape = SHAPES[name]
    theirs = pair(shape)[1].to(dtype)
    tensors = written(tmp_path / "theirs", theirs, max_shard_size="25KB")
    assert len(list((tmp_path / "theirs").glob("*.safetensors"))) > 1
    ours = checkpoint.load_model(tmp_path / "theirs", dtype=dtype)
    assert ours.cfg == shape and ours.lm_head.weight.dtype == dtype

    monkeypatch.setattr(checkpoint, "SHARD_BYTES", 25_000)
    folder = save(tmp_path, ours, torch.optim.AdamW(ours.parameters()), tokenizer, state_at(1))
    shards = [load_file(path) for path in sorted(folder.glob("model*.safetensors"))]
    sizes = [sum(tensor.nbytes for tensor in shard.values()) for shard in shards]
    assert len(sizes) > 1 and max(sizes) <= 25_000
    for size, following in zip(sizes, sizes[1:], strict=False):  # a new one only when the last is full
        assert size + following > 25_000

    back, info = AutoModelForCausalLM.from_pretrained(folder, dtype="auto", output_loading_info=True)
    assert nothing_missing(info)
    assert type(back) is type(theirs) and back.dtype == dtype
    assert same(written(tmp_path / "back", back), tensors) and read_config(tmp_path / "back") == shape
    if dtype == torch.float32:
        ids = torch.randint(0, shape.vocab_size, (2, shape.block_size))
        assert close(ours(ids), theirs(ids).logits) and close(back(ids).logits, theirs(ids).logits)


@pytest.mark.parametrize("stored", [torch.float16, torch.bfloat16], ids=str)
def test_weights_stored_in_16_bits_are_widened_exactly(stored, tmp_path):
    theirs = pair(PLAIN)[1].to(stored)
    theirs.save_pretrained(tmp_path)
    wide = dict(theirs.float().named_parameters())
    for name, parameter in checkpoint.load_model(tmp_path).named_parameters():
        assert parameter.dtype == torch.float32 and torch.equal(parameter, wide[name]), name


@pytest.mark.real_data
@torch.no_grad()
def test_a_real_model_reads_10000_tokens_as_in_transformers(tmp_path):
    source = SHARED / "weights/stories260K-hf"
    theirs, auto = AutoModelForCausalLM.from_pretrained(source), AutoTokenizer.from_pretrained(source)
    ours = checkpoint.load_model(source)
    text = gzip.open(SHARED / "other/tinyshakespeare.txt.gz", "rt").read(40_000)
    ids = auto(text, return_tensors="pt").input_ids[0, : 20 * 512].view(20, 512)
    assert ids.numel() >= 10_000
    expected = theirs(ids).logits
    assert (ours(ids) - expected).abs().max() < 1e-4
    assert ours(ids[:, :-1], ids[:, 1:]).item() / ids[:, 1:].numel() < 5  # it was trained: uniform is 6.24
    tokenizer, carried = Tokenizer.load(source), checkpoint.companions(source)
    folder = save(tmp_path, ours, torch.optim.AdamW(ours.parameters()), tokenizer, state_at(1), carried=carried)
    assert same(load_file(folder / "model.safetensors"), load_file(source / "model.safetensors"))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        assert (folder / name).read_bytes() == (source / name).read_bytes()
    config, generation = (json.loads((folder / f"{name}.json").read_text()) for name in ("config", "generation_config"))
    for found in (config, generation):
        assert (found["bos_token_id"], found["eos_token_id"]) == (1, 2)


def test_what_travels_with_the_weights_is_kept_while_the_tokenizer_is_the_same(tokenizer, tmp_path):
    model = random_model(ModelConfig(320, 32, 1, 2, 1, 16, 16))
    source = tmp_path / "source"
    source.mkdir()
    ids = {"bos_token_id": 7, "eos_token_id": [8, 9], "pad_token_id": 3}
    files = {
        "config.json": json.dumps(hf_config(model.cfg, 0) | ids).encode(),
        "generation_config.json": b'{"eos_token_id": [8, 9, 10], "temperature": 0.6}',
        "tokenizer.json": tokenizer.json.encode(),
        "tokenizer_config.json": b'{"eos_token": "<|endoftext|>", "chat_template": "x"}',
        "model.safetensors": b"no companion",
    }
    for name, content in files.items():
        (source / name).write_bytes(content)
    carried = checkpoint.companions(source)
    assert carried == {name: content for name, content in files.items() if name != "model.safetensors"}
    optimizer = torch.optim.AdamW(model.parameters())

    folder = save(tmp_path, model, optimizer, tokenizer, state_at(1), carried=carried)
    assert json.loads((folder / "config.json").read_text()) == json.loads(files["config.json"])
    for name in carried.keys() - {"config.json"}:
        assert (folder / name).read_bytes() == files[name], name

    carried["tokenizer.json"] = b"of another tokenizer"
    folder = save(tmp_path, model, optimizer, tokenizer, state_at(2), carried=carried)
    config = json.loads((folder / "config.json").read_text())
    assert config["eos_token_id"] == tokenizer.end_of_text and "pad_token_id" not in config
    assert (folder / "tokenizer.json").read_text() == tokenizer.json
    for name in carried.keys() - {"tokenizer.json"}:
        assert (folder / name).read_bytes() != files[name], name
        json.loads((folder / name).read_text())


@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16], ids=str)
def test_loading_holds_the_model_and_one_tensor_more(stored, tmp_path, monkeypatch):
    """The model is made without memory, then filled: when a tensor is read, the one before it is gone."""
    model = random_model(PLAIN)
    (tmp_path / "config.json").write_text(json.dumps(hf_config(PLAIN, 0)))
    save_file({name: p.detach().to(stored) for name, p in model.named_parameters()}, tmp_path / "model.safetensors")
    alive, made = [], []

    def check(tensor: torch.Tensor, path: Path, name: str) -> None:
        assert sum(reference() is not None for reference in alive) <= 1
        alive.append(weakref.ref(tensor))

    def count(self, *args, **kwargs):
        made.append(all(parameter.is_meta for parameter in self.parameters()))
        return to_empty(self, *args, **kwargs)

    to_empty = Llama.to_empty
    monkeypatch.setattr(checkpoint, "refuse_non_finite", check)
    monkeypatch.setattr(Llama, "to_empty", count)
    checkpoint.load_model(tmp_path)
    assert len(alive) == len(list(model.parameters())) > 11 and made == [True]


def test_saving_copies_nothing_of_a_model_on_the_cpu(tokenizer, tmp_path, monkeypatch):
    model, optimizer = trained(SMALL, 1)
    written = {}

    def spy(real):
        def write(tensors, *args, **kwargs):
            written.update(tensors)
            return real(tensors, *args, **kwargs)

        return write

    for name in ("save_torch_state_dict", "save_file"):
        monkeypatch.setattr(checkpoint, name, spy(getattr(checkpoint, name)))
    save(tmp_path, model, optimizer, tokenizer, state_at(1))
    for name, parameter in model.named_parameters():
        assert written[name].data_ptr() == parameter.data_ptr()
        assert written[f"{name}/exp_avg"].data_ptr() == optimizer.state[parameter]["exp_avg"].data_ptr()


class Bomb:
    """Unpickling it leaves a file behind."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def test_a_pickle_is_never_opened(folder, tmp_path):
    (folder / "model.safetensors").unlink()
    for name in ("pytorch_model.bin", "consolidated.00.pth"):
        (folder / name).write_bytes(pickle.dumps(Bomb(tmp_path / "executed")))
        with pytest.raises(ValueError, match=f"{name}, a pickle.*is not opened here; if you trust it, convert it"):
            checkpoint.load_model(folder)
        (folder / name).unlink()
    (folder / "training/optimizer.safetensors").write_bytes(pickle.dumps(Bomb(tmp_path / "executed")))
    with pytest.raises(ValueError, match="missing"):
        checkpoint.load_model(folder)
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("kind", ["adamw", "muon"])
def test_a_damaged_optimizer_file_is_refused_by_tensor_before_anything_is_loaded(kind, tokenizer, tmp_path):
    model, optimizer = trained(SMALL, 2, kind)
    folder = save(tmp_path, model, optimizer, tokenizer, state_at(2))
    path = folder / "training/optimizer.safetensors"
    tensors = load_file(path)
    moment = f"{NAME}/exp_avg" if kind == "adamw" else f"{NAME}/momentum_buffer"
    other = "model.norm.weight/exp_avg_sq"
    layer = {key: tensor for key, tensor in tensors.items() if ".layers.0." not in key}
    target, empty = trained(SMALL, 0, kind)

    def refused(content: dict | bytes, message: str) -> None:
        if isinstance(content, bytes):
            path.write_bytes(content)
        else:
            save_file(content, path)
        with pytest.raises(ValueError, match=f"{path}.*{message}") as caught:
            checkpoint.restore(folder, target, empty)
        assert "\n" not in str(caught.value) and len(str(caught.value)) < 500

    weights = [parameter.clone() for parameter in target.parameters()]
    refused(tensors | {moment: torch.zeros(3, 3)}, rf"{moment} is F32 of shape \(3, 3\), not F32 of shape \(16, 16\)")
    refused(tensors | {moment: torch.zeros(2**20)}, "is F32 of shape")
    refused(tensors | {moment: torch.zeros(())}, "is F32 of shape")
    refused(tensors | {moment: tensors[moment].double()}, f"{moment} is F64 of shape")
    refused(tensors | {f"{other[:-11]}/step": torch.zeros(1)}, r"/step is F32 of shape \(1,\), not F32 of shape \(\)")
    refused({key: tensor for key, tensor in tensors.items() if key != moment}, f"'{moment}' is absent")
    refused(layer, "'model.layers.0.input_layernorm.weight/exp_avg' is absent")
    refused({"rng": tensors["rng"]}, "is absent")
    refused({key: tensor for key, tensor in tensors.items() if key != "rng"}, "'rng' is absent")
    refused(tensors | {"rng": torch.zeros(3, dtype=torch.uint8)}, r"rng is U8 of shape \(3,\)")
    refused(tensors | {"a\nb/exp_avg": torch.zeros(0)}, "'a.*nb/exp_avg' is not part of this model's optimizer")
    refused(tensors | {f"{NAME}/max_exp_avg_sq": torch.zeros(1)}, "is not part of this model's optimizer")
    refused({}, "is absent")
    refused(pickle.dumps("text"), "is damaged")
    refused(b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull")
    assert not empty.state and all(torch.equal(a, b) for a, b in zip(weights, target.parameters(), strict=True))

    for value in (torch.nan, torch.inf):
        refused(tensors | {moment: torch.full_like(tensors[moment], value)}, f"{moment} holds NaN or infinity")
        refused(tensors | {other: torch.full_like(tensors[other], value)}, f"{other} holds NaN or infinity")
    refused(tensors | {other: -tensors[other] - 1}, f"{other} holds numbers below 0")
    refused(tensors | {"rng": torch.full_like(tensors["rng"], 255)}, "rng is damaged")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not readable as JSON"),
        (b'{"step": 2, "eval', "not readable as JSON"),
        (b"[]", "not readable as JSON"),
        ({"step": ...}, "step=None is not a step"),
        ({"step": "2"}, "step='2' is not a step"),
        ({"step": True}, "step=True is not a step"),
        ({"step": -1}, "step=-1 is not a step"),
        ({"step": 10**30}, "step=10+ is not a step"),
        ({"evaluated": 1.5}, "evaluated=1.5 is not a step"),
        ({"val_loss": "inf"}, "val_loss='inf' is not a loss"),
        ({"val_loss": 10**400}, "val_loss=10+ is not a loss"),
        ({"best_val_loss": None}, "best_val_loss=None is not a loss"),
        ({"settings": []}, r"settings=\[\] is not an object"),
    ],
    ids=str,
)
def test_a_damaged_state_is_refused_by_file_and_key(content, message, save_steps):
    folder = save_steps(2) / "latest"
    if isinstance(content, dict):
        state = state_at(2) | content
        content = json.dumps({key: value for key, value in state.items() if value is not ...}).encode()
    (folder / "training/state.json").write_bytes(content)
    with pytest.raises(ValueError, match=f"{folder}/training/state.json: {message}"):
        checkpoint.read_state(folder)


def write_tensors(path: Path, tensors: dict[str, list]) -> None:
    """A safetensors file of float32, bytes for rng, without the library."""
    header, data = {}, b""
    for name, values in tensors.items():
        kind, code = ("U8", torch.uint8) if name == "rng" else ("F32", torch.float32)
        content = values.to(code).contiguous().numpy().tobytes()
        header[name] = {
            "dtype": kind,
            "shape": list(values.shape),
            "data_offsets": [len(data), len(data) + len(content)],
        }
        data += content
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


@pytest.mark.parametrize("kind", ["adamw", "muon"])
def test_checkpoints_of_earlier_versions_open(kind, tmp_path):
    """Their files, key for key, as they were written before 60251c8; the last ones added "threads"."""
    V, C, F = 64, 16, 24
    config = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu", "attention_bias": False,
        "mlp_bias": False, "vocab_size": V, "max_position_embeddings": 32, "num_hidden_layers": 1,
        "num_attention_heads": 2, "num_key_value_heads": 1, "hidden_size": C, "intermediate_size": F,
        "rope_theta": 10000.0, "rms_norm_eps": 1e-05, "tie_word_embeddings": True, "head_dim": 8, "rope_scaling": None,
        "rope_parameters": {"rope_theta": 10000.0, "rope_type": "default"}, "initializer_range": 0.02,
        "bos_token_id": 0, "eos_token_id": 0, "dtype": "float32", "torch_dtype": "float32",
    }  # fmt: skip
    block = "model.layers.0."
    matrices = {
        block + "self_attn.q_proj.weight": (C, C), block + "self_attn.k_proj.weight": (8, C),
        block + "self_attn.v_proj.weight": (8, C), block + "self_attn.o_proj.weight": (C, C),
        block + "mlp.gate_proj.weight": (F, C), block + "mlp.up_proj.weight": (F, C),
        block + "mlp.down_proj.weight": (C, F),
    }  # fmt: skip
    others = {
        "model.embed_tokens.weight": (V, C), block + "input_layernorm.weight": (C,),
        block + "post_attention_layernorm.weight": (C,), "model.norm.weight": (C,),
    }  # fmt: skip
    weights = {name: torch.rand(shape) for name, shape in (matrices | others).items()}
    moments = {"rng": torch.get_rng_state()}
    for name, tensor in weights.items():
        if kind == "muon" and name in matrices:
            moments[f"{name}/momentum_buffer"] = torch.rand(tensor.shape)
        else:
            moments[f"{name}/step"] = torch.tensor(7.0)
            moments[f"{name}/exp_avg"] = torch.rand(tensor.shape)
            moments[f"{name}/exp_avg_sq"] = torch.rand(tensor.shape)
    state = {"step": 7, "evaluated": 5, "val_loss": 4.5, "best_val_loss": 4.5, "position": 56, "settings": {"seed": 1}}

    folder = tmp_path / "step_0000007"
    (folder / "training").mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "training/state.json").write_text(json.dumps(state))
    write_tensors(folder / "model.safetensors", weights)
    write_tensors(folder / "training/optimizer.safetensors", moments)

    model, optimizer = trained(ModelConfig(V, 32, 1, 2, 1, C, F), 0, kind)
    checkpoint.restore(folder, model, optimizer)
    assert same(dict(model.named_parameters()), weights)
    assert same(checkpoint.optimizer_tensors(model, optimizer) | {"rng": torch.get_rng_state()}, moments)
    assert checkpoint.read_state(folder) == state and checkpoint.newest_complete(tmp_path) == folder
    assert same(dict(checkpoint.load_model(folder).named_parameters()), weights)

    # stopped before the first step, it had no moments at all
    write_tensors(folder / "training/optimizer.safetensors", {"rng": moments["rng"]})
    (folder / "training/state.json").write_text(json.dumps(state | {"step": 0}))
    model, optimizer = trained(ModelConfig(V, 32, 1, 2, 1, C, F), 0, kind)
    checkpoint.restore(folder, model, optimizer)
    assert same(dict(model.named_parameters()), weights) and not optimizer.state


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16], ids=str)
def test_weights_that_are_no_numbers_are_named(value, stored, folder):
    weights = {name: tensor.to(stored) for name, tensor in load_file(folder / "model.safetensors").items()}
    weights[NAME][3, 4] = value
    save_file(weights, folder / "model.safetensors")
    with pytest.raises(ValueError, match=f"{NAME} holds NaN or infinity"):
        checkpoint.load_model(folder)


def test_other_types_extra_tensors_and_untied_heads_are_refused(folder):
    path = folder / "model.safetensors"
    weights = load_file(path)
    embedding = weights["model.embed_tokens.weight"]
    for change, message in (
        ({NAME: weights[NAME].to(torch.int8)}, f"'{NAME}' is stored as I8, not as F32, F16 or BF16"),
        ({NAME: weights[NAME].double()}, f"'{NAME}' is stored as F64"),
        ({"a\nb" * 100: embedding}, r"tensor 'a.nba.nb.* is not part of this model$"),
        ({"lm_head.weight": embedding + 1}, "lm_head.weight is not the embedding, but config.json ties the two"),
        ({"lm_head.weight": embedding.half()}, "lm_head.weight is not the embedding"),
        ({"lm_head.weight": embedding[:5]}, "lm_head.weight is not the embedding"),
    ):
        save_file({name: tensor.contiguous().clone() for name, tensor in (weights | change).items()}, path)
        with pytest.raises(ValueError, match=message) as caught:
            checkpoint.load_model(folder)
        assert "\n" not in str(caught.value) and len(str(caught.value)) < 500
    for shape in ((0,), (0, 32)):
        save_file(weights | {NAME: torch.zeros(shape)}, path)
        with pytest.raises(ValueError, match="has shape"):
            checkpoint.load_model(folder)
    copies = {"lm_head.weight": embedding.clone(), "model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4)}
    save_file(weights | copies, path)  # as older software wrote them
    assert same(dict(checkpoint.load_model(folder).named_parameters()), weights)


@pytest.mark.parametrize(
    ("family", "change", "message"),
    [
        ("llama", {"num_hidden_layers": 1 << 23}, "8388608 layers, the weights are 20 tensors"),
        ("llama", {"vocab_size": 1 << 24}, r"config.json says \(16777216, 32\)"),
        ("llama", {"head_dim": 1 << 20, "num_attention_heads": 16}, r"config.json says \(16777216, 32\)"),
        ("qwen2", {"model_type": "llama"}, "bias' is not part of this model"),
        ("llama", {"model_type": "qwen3"}, "norm.weight' is absent"),
    ],
    ids=str,
)
def test_a_config_that_does_not_fit_the_weights_is_refused_before_anything_is_allocated(
    family, change, message, tmp_path
):
    """Some of these would take all memory, or for ever."""
    model = random_model(ModelConfig(64, 24, 2, 4, 2, 32, 48, qkv_bias=family == "qwen2"))
    save_file(dict(model.named_parameters()), tmp_path / "model.safetensors")
    config = hf_config(model.cfg, 0)
    (tmp_path / "config.json").write_text(json.dumps(config))
    checkpoint.load_model(tmp_path)

    (tmp_path / "config.json").write_text(json.dumps(config | change))
    with pytest.raises(ValueError, match=message) as caught:
        checkpoint.load_model(tmp_path)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 500


@pytest.mark.parametrize("shard_size", ["1GB", "20KB"])
def test_a_tied_model_may_be_stored_under_the_name_of_its_head(shard_size, tmp_path):
    """As safetensors.torch.save_model writes it."""
    ours, theirs = pair(PLAIN)
    theirs.save_pretrained(tmp_path, max_shard_size=shard_size)
    index = tmp_path / "model.safetensors.index.json"
    if index.is_file():
        index.write_text(index.read_text().replace("model.embed_tokens.weight", "lm_head.weight"))
    for path in tmp_path.glob("*.safetensors"):
        tensors = load_file(path)
        renamed = {name.replace("model.embed_tokens", "lm_head"): tensor for name, tensor in tensors.items()}
        save_file(renamed, path, metadata={"format": "pt"})

    ids = torch.randint(0, 64, (2, 24))
    expected = AutoModelForCausalLM.from_pretrained(tmp_path)(ids).logits
    model = checkpoint.load_model(tmp_path)
    assert same(dict(model.named_parameters()), dict(ours.named_parameters()))
    assert close(model(ids), expected)

    untied = json.loads((tmp_path / "config.json").read_text()) | {"tie_word_embeddings": False}
    (tmp_path / "config.json").write_text(json.dumps(untied))
    with pytest.raises(ValueError, match="'model.embed_tokens.weight' is absent"):
        checkpoint.load_model(tmp_path)


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json", "training/state.json"])
def test_a_pointer_of_git_lfs_is_named_with_the_way_to_fetch_it(name, folder):
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:4665\nsize 12345\n"
    (folder / name).write_bytes(pointer)
    readers = (checkpoint.load_model, Tokenizer.load, checkpoint.read_state)
    with pytest.raises(ValueError) as caught:
        for read in readers:
            read(folder)
    where = (folder / name).parent
    assert str(caught.value).startswith(f"{folder}/{name} is a pointer of Git LFS")
    assert str(caught.value).endswith(f"cd {where}; git lfs install; git lfs pull")


def test_damaged_shards_are_named(tmp_path):
    pair(PLAIN)[1].save_pretrained(tmp_path / "whole", max_shard_size="20KB")
    first, second = sorted((tmp_path / "whole").glob("*.safetensors"))[:2]
    index = json.loads((tmp_path / "whole/model.safetensors.index.json").read_text())

    content = first.read_bytes()

    def refused(message: str, shard: bytes | None = content, weight_map: object = index["weight_map"]) -> None:
        copy = shutil.copytree(tmp_path / "whole", tmp_path / "copy")
        (copy / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
        (copy / first.name).unlink()
        if shard is not None:
            (copy / first.name).write_bytes(shard)

        with pytest.raises(ValueError, match=message) as caught:
            checkpoint.load_model(copy)
        assert "\n" not in str(caught.value) and len(str(caught.value)) < 500
        shutil.rmtree(copy)

    refused(f"{first.name} is missing", None)
    refused(f"{first.name} is damaged", content[:-1])
    refused(f"{first.name} is damaged", content + b"x")
    refused(f"{first.name} is damaged", b"\xff" * 8 + content[8:])
    refused(f"{first.name} is damaged", content[:8] + b"[" * (len(content) - 8))
    refused(f"{first.name} is damaged", b"")
    refused(f"{second.name}: .* is in {first.name} as well", second.read_bytes())
    refused("is absent", weight_map={"x": second.name})
    not_here = [f"../whole/{first.name}", str(first), "..", "", "config.json", "a" * 5000 + ".safetensors"]
    for name in (*not_here, None, ["a.safetensors"]):
        refused("weight_map must name safetensors files of this folder", weight_map=index["weight_map"] | {"x": name})
    for weight_map in (None, [], {}, "x.safetensors/"):
        refused("weight_map must name safetensors files of this folder", weight_map=weight_map)
    for name in ("a\0.safetensors", "\ud800.safetensors", "absent.safetensors"):
        refused("is missing", weight_map={"x": name})


def test_a_tokenizer_larger_than_the_embedding_is_refused(tokenizer):
    checkpoint.check_vocabulary(ModelConfig(tokenizer.vocab_size), tokenizer)
    message = f"the tokenizer has {tokenizer.vocab_size} ids, but the model's embedding {tokenizer.vocab_size - 1} rows"
    with pytest.raises(ValueError, match=message):
        checkpoint.check_vocabulary(ModelConfig(tokenizer.vocab_size - 1), tokenizer)
