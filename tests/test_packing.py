"""Conversations in packed rows: each whole, once, alone in its attention, whatever shares its row, batch or process."""

import dataclasses
import json
import math
import shutil
from pathlib import Path

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from conftest import TINY, examples
from ranks import finished, start
from test_model import count_flops
from test_parallel import assert_same_run, column, metrics, weights, worst

import checkpoint
import model
import train
from batches import TokenBatch, TokenRows
from chat_shards import Conversations, ConversationWriter
from chat_template import ChatTemplate, chatml
from mixture import Mixture
from model import Documents, Llama, ModelConfig
from optim import learning_rate
from packing import Packs, best_fit_decreasing, end_of_last_answer
from shards import IGNORE
from tokenizer import Tokenizer

pytestmark = pytest.mark.usefixtures("no_plot")
BLOCK = TINY["block_size"]
Conversation = tuple[np.ndarray, np.ndarray]  # ids, and which are scored

# --- conversations to try it with ---


def draw_conversations(seed: int, count: int, longest: int) -> list[Conversation]:
    """Conversations of one or two answers, of uneven lengths; the last token is not scored, as in ChatML."""
    draw = np.random.default_rng(seed)
    conversations = []
    for _ in range(count):
        n = int(draw.integers(6, longest + 1))
        ids = draw.integers(0, 256, n)
        scored = np.zeros(n, bool)
        scored[n // 2 : n - 1] = True
        if n > 12:
            scored[2 : 2 + int(draw.integers(1, n // 4))] = True
        conversations.append((ids, scored))
    return conversations


def write_folder(folder: Path, train_split: list[Conversation], val: list[Conversation], tokenizer_from: Path) -> Path:
    """A finished data folder of several shards."""
    folder.mkdir(parents=True)
    splits = {}
    for split, conversations in (("train", train_split), ("val", val)):
        with ConversationWriter(folder, split, np.dtype("<u2"), 500) as writer:
            for ids, scored in conversations:
                writer.add(ids, scored, text_bytes=len(ids))
        splits[split] = writer.entries
    shutil.copy(tokenizer_from / "tokenizer.json", folder)
    meta = {"format_version": 1, "kind": "chat", "dtype": "<u2", "vocab_size": 300, "splits": splits}
    (folder / "meta.json").write_text(json.dumps(meta))
    return folder


TRAIN = draw_conversations(0, 150, BLOCK + 1)
VAL = draw_conversations(1, 20, BLOCK + 1)


@pytest.fixture(scope="module")
def chat_dir(data_dir, tmp_path_factory) -> Path:
    """150 conversations that fit into TINY's block, and 20 to validate."""
    return write_folder(tmp_path_factory.mktemp("chat") / "chat", TRAIN, VAL, data_dir)


def documents_of(packed: TokenRows) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """(inputs, targets) of each document in rows, as positions cut them."""
    found = []
    for inputs, targets, positions in zip(packed.inputs, packed.targets, packed.positions, strict=True):
        begins = np.flatnonzero(positions == 0).tolist()
        assert begins[0] == 0, "a row begins with a document"
        for begin, end in zip(begins, [*begins[1:], len(positions)], strict=True):
            assert positions[begin:end].tolist() == list(range(end - begin))
            found.append((tuple(inputs[begin:end].tolist()), tuple(targets[begin:end].tolist())))
    return found


def as_document(conversation: Conversation) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """What a conversation is in a row, token by token."""
    ids, scored = conversation
    targets = []
    for place in range(1, len(ids)):
        targets.append(int(ids[place]) if scored[place] else IGNORE)
    return tuple(ids[:-1].tolist()), tuple(targets)


def without_padding(documents: list) -> list:
    """What stays of a row is a document of zeros without targets."""
    kept = []
    for inputs, targets in documents:
        if any(target != IGNORE for target in targets):
            kept.append((inputs, targets))
        else:
            assert not any(inputs)
    return kept


# --- which conversations share a row ---


def test_the_example_of_the_docstring():
    rows, count = best_fit_decreasing([7, 5, 3, 3, 2], 10)
    assert rows.tolist() == [0, 1, 0, 1, 1] and count == 2


@examples(200)
@hypothesis.given(st.lists(st.integers(1, 12), max_size=60), st.integers(12, 20))
def test_best_fit_decreasing_is_the_slow_search(lengths, capacity):
    lengths.sort(reverse=True)
    rows, count = best_fit_decreasing(lengths, capacity)

    left: list[int] = []
    for length in lengths:
        fitting = [place for place in left if place >= length]
        if fitting:
            left.remove(min(fitting))
            left.append(min(fitting) - length)
        else:
            left.append(capacity - length)
    found = [capacity] * count
    for row, length in zip(rows.tolist(), lengths, strict=True):
        found[row] -= length
    assert sorted(found) == sorted(left)


def test_each_epoch_holds_every_conversation_once_and_packs_anew(chat_dir):
    packs = Packs(Conversations(chat_dir, "train"), BLOCK, seed=3)
    wanted = sorted(as_document(conversation) for conversation in TRAIN)
    neighbours = []
    for epoch in (0, 1):
        every_row = packs.get(np.arange(len(packs)), np.full(len(packs), epoch))
        assert sorted(without_padding(documents_of(every_row))) == wanted
        rows = [frozenset(number for number, _ in packs.members(row, epoch)) for row in range(len(packs))]
        neighbours.append(set(rows))
    assert len(neighbours[0] & neighbours[1]) < len(packs) * 0.6, "others share a row in the next epoch"
    assert packs.useful > 0.95
    assert packs.useful == sum(len(ids) - 1 for ids, _ in TRAIN) / (len(packs) * BLOCK)

    again = Packs(Conversations(chat_dir, "train"), BLOCK, seed=3)
    other = Packs(Conversations(chat_dir, "train"), BLOCK, seed=4)
    assert again.members(5, 1) == packs.members(5, 1) != other.members(5, 1)
    one = packs.get(np.array([5]), np.array([1]))
    many = packs.get(np.array([2, 5]), np.array([0, 1]))
    assert np.array_equal(one.inputs[0], many.inputs[1]), "a row follows from index and epoch alone"


@pytest.mark.parametrize(("world_size", "batch_size"), [(1, 4), (3, 2), (4, 100)])
def test_validation_reads_each_conversation_once_over_all_ranks(chat_dir, world_size, batch_size):
    packs = Packs(Conversations(chat_dir, "val"), BLOCK, seed=3)
    found, sizes = [], []
    for rank in range(world_size):
        batches = list(packs.batches(batch_size, rank, world_size))
        sizes.append([len(batch.inputs) for batch in batches])
        for batch in batches:
            found += without_padding(documents_of(batch))
    assert sorted(found) == sorted(as_document(conversation) for conversation in VAL)
    assert all(each == sizes[0] for each in sizes), "all ranks make as many steps"


# --- too long ---


@pytest.mark.parametrize(
    ("scored", "most", "kept"),
    [
        ("0011001110", 8, 4),  # the example of the docstring
        ("0011001110", 9, 9),
        ("0011001110", 4, 4),
        ("0011001110", 3, 0),
        ("001111111", 5, 0),  # half an answer is never learnt
        ("0011", 3, 0),
    ],
)
def test_a_long_conversation_ends_after_the_last_answer_that_fits(scored, most, kept):
    bits = np.array([int(bit) for bit in scored], bool)
    assert end_of_last_answer(bits, most) == kept


def test_what_is_too_long_is_cut_or_left_out_and_said(data_dir, tmp_path):
    def conversation(*runs: tuple[int, int]) -> Conversation:
        scored = np.concatenate([np.full(n, bit, bool) for bit, n in runs])
        return np.arange(scored.size), scored

    fits = conversation((0, 5), (1, 5), (0, 1))
    two_answers = conversation((0, 5), (1, 5), (0, 5), (1, 40), (0, 1))
    one_answer = conversation((0, 5), (1, 60), (0, 1))
    val = [fits, two_answers, two_answers, one_answer]
    folder = write_folder(tmp_path / "long", [fits, two_answers, one_answer], val, data_dir)

    packs = Packs(Conversations(folder, "train"), BLOCK, seed=0)
    found = without_padding(documents_of(packs.get(np.arange(len(packs)), np.zeros(len(packs), int))))
    first_answer = two_answers[0][:10], two_answers[1][:10]
    assert sorted(found) == sorted([as_document(fits), as_document(first_answer)])
    described = Mixture(str(folder), BLOCK, seed=0).describe(1)
    too_long = f"too long for block_size {BLOCK}"
    assert f"note: {too_long}: 1 are cut after the last answer that fits, 1 are left out" in described
    assert f"note: of validation, {too_long}: 2 are cut after the last answer that fits, 1 are left out" in described

    message = r"no conversation of the train split fits into block_size 4; raise --block_size \(the shortest takes 10"
    with pytest.raises(ValueError, match=message):
        Mixture(str(folder), 4, seed=0)


# --- attention ---


def small_model(**changes) -> Llama:
    torch.manual_seed(0)
    shape = {"vocab_size": 256, "block_size": 64, "n_layer": 2, "n_embd": 32, "ffn_hidden": 64} | changes
    return Llama(ModelConfig(**shape))


def gradients(llama: Llama, loss: torch.Tensor) -> dict[str, torch.Tensor]:
    llama.zero_grad()
    loss.backward()
    return {name: parameter.grad.clone() for name, parameter in llama.named_parameters()}


@pytest.fixture(params=["one by one", "masked"])
def way(request, monkeypatch) -> str:
    """How a CPU attends, and the way of devices without FlashAttention."""
    if request.param == "masked":
        monkeypatch.setattr(Documents, "attend", attend_masked)
    return request.param


def attend_masked(self, q, k, v):
    y = torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=self.mask, enable_gqa=True)
    return y.transpose(1, 2)


@pytest.mark.parametrize("recompute", [False, True])
def test_a_packed_batch_is_each_conversation_alone(chat_dir, way, recompute):
    """Loss and every gradient, float32 to 1e-5; and the log-probability of each token."""
    llama = small_model(qkv_bias=recompute, qk_norm=not recompute, n_kv_head=1)
    llama.model.recompute_blocks = recompute
    batch = Mixture(str(chat_dir), BLOCK, seed=1).batch(np.arange(8))
    loss = llama(batch.inputs, batch.targets, cu_seqlens=batch.cu_seqlens)
    found = gradients(llama, loss)

    inputs, targets = batch.inputs.flatten(), batch.targets.flatten()
    ends = batch.cu_seqlens.tolist()
    lengths = {end - begin for begin, end in zip(ends, ends[1:], strict=False)}
    assert len(lengths) > 8, "uneven lengths"
    alone = torch.zeros(())
    for begin, end in zip(ends, ends[1:], strict=False):
        alone = alone + llama(inputs[None, begin:end], targets[None, begin:end])
        per_token = llama.token_logprobs(batch.inputs, batch.targets, batch.cu_seqlens).flatten()[begin:end]
        torch.testing.assert_close(
            per_token, llama.token_logprobs(inputs[None, begin:end], targets[None, begin:end])[0], rtol=1e-5, atol=1e-5
        )
    assert loss.item() == pytest.approx(alone.item(), rel=1e-5)
    for name, gradient in gradients(llama, alone).items():
        assert (found[name] - gradient).abs().max() < 1e-5 * gradient.abs().max(), name


def test_the_head_meets_scored_places_only(chat_dir):
    """Loss and gradients are those of all places; each of the head's three products has a row for each scored target.

    And none at all where nothing is scored, as in a row that only fills up a batch.
    """
    llama = small_model()
    batch = Mixture(str(chat_dir), BLOCK, seed=1).batch(np.arange(8))
    assert len(batch.scored) == batch.count < 0.7 * batch.targets.numel()
    wanted_loss = llama(batch.inputs, batch.targets, cu_seqlens=batch.cu_seqlens)
    wanted = gradients(llama, wanted_loss)
    nothing = dataclasses.replace(batch, targets=torch.full_like(batch.targets, IGNORE), scored=batch.scored[:0])

    def flops_and_loss(batch: TokenBatch) -> tuple[int, torch.Tensor]:
        with count_flops() as counter:
            loss, _ = train.next_token_loss(llama, batch)
            found.update(gradients(llama, loss))
        return counter.get_total_flops(), loss

    found: dict[str, torch.Tensor] = {}
    without_head, zero = flops_and_loss(nothing)
    assert zero.item() == 0 and not any(gradient.any() for gradient in found.values())
    flops, loss = flops_and_loss(batch)
    assert loss.item() == pytest.approx(wanted_loss.item(), rel=1e-6)
    for name, gradient in wanted.items():
        assert (found[name] - gradient).abs().max() < 1e-5 * gradient.abs().max(), name
    assert flops - without_head == 3 * 2 * batch.count * 256 * 32  # products, 2 each, rows, V, C


def test_the_mask_is_the_drawn_one():
    documents = Documents(torch.tensor([0, 4, 6, 12]), 2, 6)
    assert documents.positions.flatten().tolist() == [0, 1, 2, 3, 0, 1, 0, 1, 2, 3, 4, 5]
    drawn = ["100000", "110000", "111000", "111100", "000010", "000011"]
    found = ["".join(str(int(seen)) for seen in line) for line in documents.mask[0, 0].tolist()]
    assert found == drawn
    assert torch.equal(documents.mask[1, 0], torch.ones(6, 6, dtype=torch.bool).tril())


def test_a_gpu_is_given_all_documents_in_one_call(monkeypatch):
    """The shapes and borders that FlashAttention gets: played here by a function that cuts as it would."""

    def played(q, k, v, cu_q, cu_k, max_q, max_k, *, window_size, enable_gqa):
        assert window_size == (-1, 0) and enable_gqa and cu_q.dtype == torch.int32
        assert max_q == max_k >= int(cu_q.diff().max())
        parts = []
        for begin, end in zip(cu_q.tolist(), cu_k.tolist()[1:], strict=False):
            heads = [x[begin:end].transpose(0, 1)[None] for x in (q, k, v)]
            y = torch.nn.functional.scaled_dot_product_attention(*heads, is_causal=True, enable_gqa=True)
            parts.append(y[0].transpose(0, 1))
        return torch.cat(parts)

    monkeypatch.setattr(model, "varlen_attn", played)
    documents = Documents(torch.tensor([0, 4, 6, 12]), 2, 6)
    q, k, v = torch.randn(2, 4, 6, 8), torch.randn(2, 2, 6, 8), torch.randn(2, 2, 6, 8)
    torch.testing.assert_close(documents._attend_in_one_call(q, k, v), documents.attend(q, k, v))


@pytest.mark.gpu
def test_a_gpu_in_half_precision_is_the_cpu():
    documents = {device: Documents(torch.tensor([0, 4, 6, 12], device=device), 2, 6) for device in ("cpu", "cuda")}
    q, k, v = torch.randn(2, 4, 6, 64), torch.randn(2, 2, 6, 64), torch.randn(2, 2, 6, 64)
    wanted = documents["cpu"].attend(q, k, v)
    halves = [x.cuda().bfloat16() for x in (q, k, v)]
    torch.testing.assert_close(documents["cuda"].attend(*halves).float().cpu(), wanted, rtol=0.02, atol=0.02)
    torch.testing.assert_close(documents["cuda"].attend(q.cuda(), k.cuda(), v.cuda()).cpu(), wanted)


# --- the loop ---

SETTINGS = TINY | {"max_iters": 24, "eval_interval": 12, "grad_clip": 0.1, "batch_size": 8}


@pytest.fixture(scope="module")
def alone(chat_dir, tmp_path_factory) -> Path:
    """24 steps of one process in float64, each of one micro-batch."""
    out = tmp_path_factory.mktemp("alone") / "run"
    finished(0, SETTINGS | {"data": chat_dir, "out_dir": out}, {"float64": True})
    return out


def first_model(shape: ModelConfig, seed: int) -> Llama:
    """What train.py begins with, in float64."""
    llama = Llama(shape).double()
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter, value in llama.initial_weights():
            parameter.copy_(value)
    torch.set_default_dtype(torch.float32)
    return llama


def test_the_loop_is_a_slow_one_that_sees_one_conversation_at_a_time(chat_dir, alone):
    """Every loss, gradient norm and validation loss: summed over scored tokens, divided by their number."""
    cfg = train.TrainConfig(data=str(chat_dir), **SETTINGS)
    data = Mixture(cfg.data, cfg.block_size, cfg.seed)
    llama = first_model(checkpoint.read_config(alone / "latest"), cfg.seed)

    def loss_of(conversations: list[Conversation]) -> tuple[torch.Tensor, int]:
        total, count = torch.zeros((), dtype=torch.float64), 0
        for ids, scored in conversations:
            tokens = torch.from_numpy(np.asarray(ids, dtype=np.int64))
            logprobs = llama(tokens[None, :-1])[0].log_softmax(-1)
            for place in np.flatnonzero(scored).tolist():
                total = total - logprobs[place - 1, tokens[place]]
            count += int(scored.sum())
        return total, count

    optimizer = torch.optim.AdamW(llama.parameter_groups(cfg.weight_decay), betas=(cfg.beta1, cfg.beta2))
    packs = data.corpora[0].windows
    for step in range(cfg.max_iters):
        _, rows, epochs = data.order.at(np.arange(8 * step, 8 * step + 8))
        conversations = []
        for row, epoch in zip(rows.tolist(), epochs.tolist(), strict=True):
            conversations += [packs.conversations.read(number) for number, _ in packs.members(row, epoch)]
        total, count = loss_of(conversations)
        (total / count).backward()
        norm = torch.nn.utils.clip_grad_norm_(llama.parameters(), cfg.grad_clip)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, cfg)
        optimizer.step()
        optimizer.zero_grad()
        assert column(alone, "loss")[step] == pytest.approx(total.item() / count, rel=1e-9)
        assert column(alone, "grad_norm")[step] == pytest.approx(norm.item(), rel=1e-9)

    with torch.no_grad():
        total, count = loss_of(VAL)
    last = metrics(alone)[-1]
    assert last["val_loss"] == pytest.approx(total.item() / count, rel=1e-9)

    text = "".join(Tokenizer.load(chat_dir).decode(ids[scored].tolist(), show_special=False) for ids, scored in VAL)
    bits = total.item() / math.log(2) / len(text.encode())
    assert last["val_bits_per_byte"] == pytest.approx(bits, rel=0.02)  # bytes of broken characters differ when joined


@pytest.mark.parametrize(
    ("processes", "mode", "batch_size"),
    [(0, "ddp", 2), (2, "ddp", 1), pytest.param(2, "fsdp", 2, marks=pytest.mark.slow)],
)
def test_processes_and_micro_batches_change_nothing(processes, mode, batch_size, alone, chat_dir, tmp_path):
    changes = {"data": chat_dir, "out_dir": tmp_path / "out", "batch_size": batch_size, "parallel": mode}
    finished(processes, SETTINGS | changes, {"float64": True})
    assert worst(weights(tmp_path / "out"), weights(alone)) < 1e-9
    assert_same_run(tmp_path / "out", alone, 1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("defect", ["accumulation unweighted", "rank left out of the position"])
def test_a_defect_misses_the_reference_by_far(defect, alone, chat_dir, tmp_path):
    changes = {"data": chat_dir, "out_dir": tmp_path / "out", "batch_size": 1}
    finished(2, SETTINGS | changes, {"float64": True, defect: True})
    assert worst(weights(tmp_path / "out"), weights(alone)) > 1e-3


@pytest.mark.parametrize("data", [pytest.param("{chat}", marks=pytest.mark.slow), "{chat}:0.6,{text}:0.4"])
def test_a_run_killed_and_resumed_is_the_uninterrupted_one(data, chat_dir, data_dir, tmp_path):
    """Conversations alone, and mixed with plain text, over the border of an epoch: the same bits, or two processes."""
    settings = SETTINGS | {"data": data.format(chat=chat_dir, text=data_dir), "checkpoint_interval": 5}
    whole, parts, shared = tmp_path / "whole", tmp_path / "parts", tmp_path / "shared"
    finished(0, settings | {"out_dir": whole})
    kill = {"who": "one", "rank": 0, "point": "backward", "count": 12}
    killed = start(0, settings | {"out_dir": parts}, {"kill": kill}).wait()
    assert killed.returncode
    shutil.copytree(parts, shared, symlinks=True)

    finished(0, settings | {"out_dir": parts})
    assert (parts / "metrics.jsonl").read_bytes() == (whole / "metrics.jsonl").read_bytes()
    assert worst(weights(parts), weights(whole)) == 0
    finished(2, settings | {"out_dir": shared, "batch_size": 2})
    assert_same_run(shared, whole, 1e-3)
    epochs = [value for key, value in metrics(whole)[-2].items() if key.startswith("epoch")]
    assert max(epochs) > 1


def test_the_model_is_asked_as_its_conversations_are(chat_dir, data_dir, tmp_path, monkeypatch, capsys):
    """The prompt of an evaluation is a user's message in the template, and what is shown is the answer alone."""
    folder = Path(shutil.copytree(chat_dir, tmp_path / "chat"))
    for name, content in ChatTemplate.load(data_dir).files().items():
        (folder / name).write_bytes(content)
    asked = []

    def answer(llama, prompts, *arguments, **options):
        asked.append((prompts[0], arguments[2]))
        return iter([[65], [66]])

    monkeypatch.setattr(train, "generate", answer)
    changes = {"max_iters": 1, "block_size": 64, "batch_tokens": 128, "batch_size": 1, "sample_prompt": "2 + 2?"}
    train.main(train.TrainConfig(**TINY | changes, data=str(folder), out_dir=str(tmp_path / "out")))
    template = ChatTemplate.load(tmp_path / "out/latest")
    prompt = template.encode([{"role": "user", "content": "2 + 2?"}], generation_prompt=True)
    assert asked[-1] == (prompt, template.stop_ids) and template.end_of_turn in template.stop_ids
    text = Tokenizer.load(folder).decode([65, 66])
    assert f"--- '2 + 2?', answered at temperature 0.8 ---\n{text}\n---" in capsys.readouterr().out


def test_a_question_that_the_template_refuses_is_said_before_anything_is_written(chat_dir, data_dir, tmp_path):
    folder = Path(shutil.copytree(chat_dir, tmp_path / "chat"))
    refusing = "{% if 'colour' in messages[0].content %}{{ raise_exception('no colours') }}{% endif %}"
    (folder / "chat_template.jinja").write_text(refusing + chatml(Tokenizer.load(data_dir)))
    settings = TINY | {"data": str(folder), "out_dir": str(tmp_path / "out"), "sample_prompt": "Which colour?"}
    with pytest.raises(ValueError, match="^--sample_prompt='Which colour\\?': .*no colours"):
        train.main(train.TrainConfig(**settings))
    assert not (tmp_path / "out").exists()


def test_text_and_conversations_share_a_batch(chat_dir, data_dir):
    data = Mixture(f"{chat_dir}:0.5,{data_dir}:0.5", BLOCK, seed=0)
    positions = np.arange(64)
    rows = data.rows(positions)
    sources, indices, epochs = data.order.at(positions)
    assert set(sources.tolist()) == {0, 1}
    for b, source in enumerate(sources.tolist()):
        alone = data.corpora[source].rows(indices[b : b + 1], epochs[b : b + 1])
        assert np.array_equal(rows.inputs[b], alone.inputs[0])
        assert np.array_equal(rows.targets[b], alone.targets[0])
        wanted = np.arange(BLOCK) if source == 1 else alone.positions[0]
        assert np.array_equal(rows.positions[b], wanted)
