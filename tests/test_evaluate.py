"""evaluate.py: figures follow from scores that are checked; borders, examples, layouts, interruptions, the harness."""

import dataclasses
import importlib.util
import json
import math
import os
import random
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from ranks import Launch
from tokenizer_kinds import made, sample_text

import checkpoint
import configurator
import evaluate
from benchmarks import harness
from chat_template import ChatTemplate
from evaluate import EvaluateConfig
from model import Llama, ModelConfig
from scoring import Request
from tasks import jobs, results, rows, writing
from tasks.prompts import Encoder, choose_examples, requests
from tasks.task import TASKS, Item, Writing, find_task
from tasks.writing import Writer
from tokenizer import Tokenizer
from tokenizer_files import FolderSettings

SHAPE = ModelConfig(vocab_size=1, block_size=512, n_layer=2, n_head=4, n_kv_head=2, n_embd=32, ffn_hidden=64)
LM_EVAL = os.environ.get("NONLLAMA_LM_EVAL", sys.executable)  # the Python that has lm_eval
HAS_LM_EVAL = "NONLLAMA_LM_EVAL" in os.environ or importlib.util.find_spec("lm_eval") is not None
WORDS = sample_text(5).split()
TEMPLATE = """\
{{ bos_token }}{% for message in messages %}[{{ message['role'] }}] {{ message['content'] }}{{ eos_token }}
{% endfor %}{% if add_generation_prompt %}[assistant] {% endif %}"""
STRICT = """\
{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}
{%- for message in messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}
{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif -%}
<{{ 'model' if message['role'] == 'assistant' else 'user' }}> {{ message['content'] | trim }}{{ eos_token }}
{% endfor %}{% if add_generation_prompt %}<model> {% endif %}"""  # as that of Gemma


def words(seed: int, n: int) -> str:
    return " ".join(WORDS[(seed * 37 + i) % 700] for i in range(n))


def write_model(folder: Path, kind: str, block_size: int = 512, **names: str) -> Path:
    """A small random model with a tokenizer of this kind; large weights of attention: all that was read counts."""
    tokenizer = Tokenizer(made(kind), FolderSettings(names=names))
    torch.manual_seed(1)
    model = Llama(dataclasses.replace(SHAPE, vocab_size=tokenizer.vocab_size, block_size=block_size))
    for name, parameter in model.named_parameters():
        torch.nn.init.normal_(parameter, std=1 if "self_attn" in name else 0.3)
    folder.mkdir()
    checkpoint.write_model(folder, dict(model.named_parameters()), checkpoint.small_files(model, tokenizer, {}))
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("model") / "tiny", "smollm")


@pytest.fixture(scope="module")
def task_dir(tmp_path_factory):
    """Rows of every task, with the columns of the hub."""
    folder = tmp_path_factory.mktemp("tasks")
    for name in ALL_TASKS:
        harness.write_rows(folder, name, made_rows(name, 12), made_rows(name, 7, seed=100))
    return folder


def made_rows(name: str, count: int, seed: int = 0) -> list[dict]:
    """Rows that look like those of the hub; some texts have spaces and line ends at their borders."""
    made = []
    for i in range(seed, seed + count):
        question, a, b, c, d = (words(5 * i + k, 3 + (i + k) % 7) for k in range(5))
        labels = list("ABCDE" if name == "commonsense_qa" else "ABCD")
        choices = {"text": [a, b, c, d, question][: len(labels)], "label": labels}
        right = labels[i % 4]
        made.append(
            {
                "arc_easy": {"question": question, "choices": choices, "answerKey": right},
                "openbookqa": {"question_stem": question, "choices": choices, "answerKey": right},
                "commonsense_qa": {"question": f" {question}", "choices": choices, "answerKey": right},
                "piqa": {"goal": f"{question} ", "sol1": a, "sol2": b, "label": i % 2},
                "hellaswag": {
                    "activity_label": a,
                    "ctx_a": f"{question} [title] {b}",
                    "ctx_b": "the woman",
                    "endings": [f"{a} [step]  {b}.", b, c, d],
                    "label": str(i % 4),
                },
                "winogrande": {"sentence": f"{a} _ {b}.", "option1": c, "option2": d, "answer": str(1 + i % 2)},
                "copa": {
                    "premise": f"{question}.",
                    "choice1": f"The {a}.",
                    "choice2": f"The {b}.",
                    "question": ["cause", "effect"][i % 2],
                    "label": i % 2,
                },
                "lambada_openai": {"text": f"{question} {a}"},
                "blimp_passive_1": {"sentence_good": f"{a} {b}.", "sentence_bad": f"{a} {c}."},
                "mmlu_anatomy": {"question": f"{question} ", "choices": [a, b, c, d], "answer": i % 4},
                "ceval_law": {"question": f"机器{question}", "A": a, "B": b, "C": c, "D": d, "answer": right},
                "cmmlu_anatomy": {"Question": question, "A": a, "B": b, "C": c, "D": d, "Answer": right},
                "gsm8k": {"question": f"{question}?", "answer": f"{a} {i}\n{b}.\n#### {1000 * i:,}"},
            }[name]
        )
    return made


ALL_TASKS = [
    "arc_easy",
    "openbookqa",
    "commonsense_qa",
    "piqa",
    "hellaswag",
    "winogrande",
    "copa",
    "lambada_openai",
    "blimp_passive_1",
    "mmlu_anatomy",
    "ceval_law",
    "cmmlu_anatomy",
]


def run(folder: Path, **settings) -> tuple[dict, Path]:
    """evaluate.py in this process; returns scores.json and its folder."""
    out_dir = Path(settings.pop("out_dir", folder.parent / "out"))
    cfg = EvaluateConfig(str(folder), device="cpu", dtype="float32", out_dir=str(out_dir), **settings)
    evaluate.main(cfg)
    return json.loads((out_dir / "scores.json").read_text()), out_dir


def figure(scores: dict, label: str, name: str) -> float:
    return scores["tasks"][label]["figures"][name]["value"]


def write_jsonl(path: Path, lines: list) -> Path:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


# --- the border of context and continuation ---


def encoder(kind: str, **names: str) -> Encoder:
    return Encoder(Tokenizer(made(kind), FolderSettings(names=names)))


@pytest.mark.parametrize("kind", ["smollm", "llama3", "llama2"])
def test_spaces_at_the_end_of_a_context_belong_to_the_continuation(kind):
    asked = encoder(kind)
    found = asked.request("the quick: \n ", "brown fox")
    assert found.context == asked.tokenizer.encode_prompt("the quick:")
    both = asked.tokenizer.encode_prompt("the quick: \n brown fox")
    assert found.continuation == both[len(found.context) :]


def test_both_are_encoded_together_and_cut_where_the_context_ends():
    """'the qui' + 'ck' has other ids at the border than its parts: those of the whole count, from there on."""
    asked = encoder("smollm")
    context = asked.tokenizer.encode("the qui")
    whole = asked.tokenizer.encode("the quick brown fox don't 12 345")
    apart = asked.tokenizer.encode("ck brown fox don't 12 345")
    found = asked.request("the qui", "ck brown fox don't 12 345")
    assert found == Request(context, whole[len(context) :])
    assert found.continuation != apart


def test_an_answer_without_a_token_of_its_own_is_refused():
    asked = encoder("smollm")
    context, answer = "the qui", "ck"
    assert len(asked.tokenizer.encode(context)) >= len(asked.tokenizer.encode(context + answer))
    with pytest.raises(ValueError, match="melts into the one before"):
        asked.request(context, answer)


def test_a_text_without_context_begins_with_bos_or_else_the_end_of_text():
    plain = encoder("smollm")
    assert plain.request("", " the fox") == Request([plain.tokenizer.end_of_text], plain.tokenizer.encode(" the fox"))

    named = encoder("smollm", bos_token="<|im_end|>", eos_token="<|endoftext|>")
    bos = named.tokenizer.hf.token_to_id("<|im_end|>")
    assert named.request("", " the fox").context == [bos]
    assert named.request("", "<|im_end|> fox") == Request([bos], named.tokenizer.encode(" fox"))


def test_bos_stands_once_before_a_text():
    asked = encoder("llama3", bos_token="<|begin_of_text|>")
    bos = asked.tokenizer.bos
    alone = asked.request("the fox", " don't")
    with_template = asked.request("<|begin_of_text|>the fox", " don't")
    assert alone == with_template
    assert alone.context.count(bos) == 1 and bos not in alone.continuation


# --- figures ---


def test_figures_follow_from_the_scores(folder, tmp_path):
    """The parquet file against log-probabilities of whole texts, and the figures against the parquet file."""
    lines = [
        {"context": words(i, 6), "choices": [words(i + 50, 1 + i % 4), words(i + 90, 5), "机器学" * 4], "answer": i % 3}
        for i in range(30)
    ]
    path = write_jsonl(tmp_path / "mine.jsonl", lines)
    scores, out_dir = run(folder, tasks=str(path), out_dir=tmp_path / "out", batch_tokens=100)

    model = checkpoint.load_model(folder)
    tokenizer = Tokenizer.load(folder)
    items = pq.read_table(out_dir / "mine.parquet").to_pylist()
    right = {"acc": 0, "acc_norm": 0, "acc_bytes": 0}
    for line, item in zip(lines, items, strict=True):
        for choice, logprob in zip(line["choices"], item["logprobs"], strict=True):
            n = len(tokenizer.encode(line["context"]))
            ids = torch.tensor([tokenizer.encode(f"{line['context']} {choice}")])
            with torch.no_grad():
                each = model(ids[:, :-1]).log_softmax(-1).gather(2, ids[:, 1:, None])
            assert logprob == pytest.approx(each[0, n - 1 :].sum().item(), abs=1e-3)

        lengths = {"acc": 1, "acc_norm": [len(c) for c in line["choices"]]}
        lengths["acc_bytes"] = [len(c.encode()) for c in line["choices"]]
        for name, length in lengths.items():
            is_right = np.argmax(np.array(item["logprobs"]) / length) == line["answer"]
            assert item[name] == is_right
            right[name] += is_right

    assert len(set(right.values())) == 3, "the three accuracies should differ here"
    for name, count in right.items():
        found = scores["tasks"]["mine"]["figures"][name]
        assert found["value"] == pytest.approx(count / 30)
        p = count / 30
        assert found["error"] == pytest.approx(math.sqrt(p * (1 - p) / 29))
    assert figure(scores, "mine", "chance") == pytest.approx(1 / 3)


def resampled(rows: list[dict], statistic: Callable[[list[dict]], float], samples: int) -> list[float]:
    """The plainest bootstrap: draw as many rows with replacement, each time anew; the 2.5th and 97.5th percentile."""
    draw = random.Random(0)
    found = sorted(statistic(draw.choices(rows, k=len(rows))) for _ in range(samples))
    return [found[int(0.025 * samples)], found[int(0.975 * samples)]]


def test_bootstrap_intervals(folder, tmp_path):
    """Of accuracies, of a perplexity and of bits per byte, which is a ratio; asked for after the scores are there."""
    lines = [
        {"context": words(i, 4), "choices": [words(i + 50, 3), words(i + 90, 5)], "answer": i % 2} for i in range(40)
    ]
    questions = [{"question": words(i, 4), "answer": words(i, 2)} for i in range(30)]
    texts = [{"text": words(i, 5 + 3 * i)} for i in range(25)]
    files = []
    for name, rows_of_file in (("mine", lines), ("qa", questions), ("texts", texts)):
        files.append(str(write_jsonl(tmp_path / f"{name}.jsonl", rows_of_file)))
    settings = {"tasks": ",".join(files), "out_dir": tmp_path / "out"}
    before, _ = run(folder, **settings)
    assert figure(before, "mine", "acc") and before["tasks"]["mine"]["figures"]["acc"]["interval"] is None
    scores, out_dir = run(folder, **settings, bootstrap=4000)

    def accuracy(rows: list[dict]) -> float:
        return sum(row["acc"] for row in rows) / len(rows)

    def perplexity(rows: list[dict]) -> float:
        return math.exp(-sum(row["logprobs"][0] for row in rows) / len(rows))

    def bits_per_byte(rows: list[dict]) -> float:
        return -sum(row["logprob"] for row in rows) / math.log(2) / sum(row["bytes"] for row in rows)

    for task, statistic in (("mine", accuracy), ("qa", perplexity), ("texts", bits_per_byte)):
        name = "acc" if task == "mine" else statistic.__name__
        expected = np.log(resampled(pq.read_table(out_dir / f"{task}.parquet").to_pylist(), statistic, 4000))
        found = scores["tasks"][task]["figures"][name]
        assert np.log(found["interval"]) == pytest.approx(expected, abs=0.06 * np.ptp(expected)), task
        assert found["interval"][0] < found["value"] < found["interval"][1]
    again, _ = run(folder, **settings, bootstrap=4000)
    assert again["tasks"] == scores["tasks"], "the same samples each time"


def test_half_a_surrogate_pair_is_read_as_a_replacement(folder, tmp_path):
    path = write_jsonl(tmp_path / "half.jsonl", [{"context": "a \ud83d", "choices": ["b \ud83d", "c"], "answer": 0}])
    _, out_dir = run(folder, tasks=str(path), out_dir=tmp_path / "out")
    (item,) = pq.read_table(out_dir / "half.parquet").to_pylist()
    assert (item["context"], item["choices"]) == ("a \ufffd", ["b \ufffd", "c"])


def test_one_answer_has_accuracy_and_perplexity(folder, tmp_path):
    """The answer that the model would write counts as right."""
    model, tokenizer = checkpoint.load_model(folder), Tokenizer.load(folder)
    question = ids = None
    for seed in range(200):  # a beginning after which the model writes a token that begins with a space
        question = words(seed, 5)
        ids = tokenizer.encode(question)
        written = tokenizer.decode([int(model(torch.tensor([ids]))[0, -1].argmax())])
        if written.startswith(" ") and tokenizer.encode(question + written)[: len(ids)] == ids:
            break
    path = write_jsonl(tmp_path / "qa.jsonl", [{"question": question, "answer": a} for a in (written[1:], "((")])
    scores, out_dir = run(folder, tasks=str(path), out_dir=tmp_path / "out")
    assert figure(scores, "qa", "acc") == 0.5
    logprobs = [item["logprobs"][0] for item in pq.read_table(out_dir / "qa.parquet").to_pylist()]
    assert figure(scores, "qa", "perplexity") == pytest.approx(math.exp(-np.mean(logprobs)))


@pytest.mark.parametrize("stride", [None, 5])
def test_bits_per_byte_of_documents(folder, tmp_path, stride):
    small = write_model(tmp_path / "small", "smollm", block_size=16)
    texts = [sample_text(1, 60).split("机器")[0], "机器 café", words(3, 40)]
    path = write_jsonl(tmp_path / "texts.jsonl", [{"text": text} for text in texts])
    scores, out_dir = run(small, tasks=str(path), out_dir=tmp_path / "out", stride=stride)

    model, tokenizer = checkpoint.load_model(small), Tokenizer.load(small)
    nats = 0.0
    for text in texts:
        ids = [tokenizer.end_of_text, *tokenizer.encode(text)]
        for place in range(1, len(ids)):  # each token by its own forward pass
            window = place - 1 if place <= 16 else 16 + (place - 17) // (stride or 16) * (stride or 16)
            end = 17 if place <= 16 else min(window + (stride or 16), len(ids) - 1) + 1
            seen = ids[max(0, end - 17) : place]
            with torch.no_grad():
                nats -= model(torch.tensor([seen]))[0, -1].log_softmax(0)[ids[place]].item()
    bits = nats / math.log(2) / sum(len(text.encode()) for text in texts)
    label = "texts-stride5" if stride else "texts"
    assert figure(scores, label, "bits_per_byte") == pytest.approx(bits, rel=1e-4)


def test_a_corpus_is_scored_by_its_validation_documents(run_dir, data_dir, tmp_path):
    scores, out_dir = run(run_dir, tasks=str(data_dir), out_dir=tmp_path / "out")
    record = scores["tasks"]["data"]
    meta = json.loads((data_dir / "meta.json").read_text())
    items = pq.read_table(out_dir / "data.parquet").to_pylist()
    assert sum(item["bytes"] for item in items) == sum(shard["bytes"] for shard in meta["splits"]["val"])
    assert record["documents"] == sum(shard["documents"] for shard in meta["splits"]["val"])
    assert 1 < record["figures"]["bits_per_byte"]["value"] < 8


# --- tasks and their rows ---


def test_every_task_reads_its_rows_and_says_how_many_were_cut(folder, task_dir, tmp_path, capsys):
    short = write_model(tmp_path / "short", "smollm", block_size=24)
    scores, _ = run(short, tasks=",".join(ALL_TASKS), task_dir=str(task_dir), limit=5, out_dir=tmp_path / "out")
    assert [label.removesuffix("-first5") for label in scores["tasks"]] == ALL_TASKS
    assert all(record["items"] == 5 for record in scores["tasks"].values())
    assert scores["tasks"]["mmlu_anatomy-first5"]["cut_on_the_left"] == 5
    assert scores["tasks"]["blimp_passive_1-first5"]["cut_on_the_left"] < 5
    assert "5 items are longer than the model's context of 24 tokens: cut on the left" in capsys.readouterr().out


def test_sets_of_a_family_are_all_read(folder, tmp_path):
    (tmp_path / "blimp").mkdir()
    for number, name in enumerate(("passive_1", "passive_2", "passive_2_shots")):
        write_jsonl(tmp_path / f"blimp/{name}.jsonl", made_rows("blimp_passive_1", 8 + 4 * number, seed=50 * number))
    scores, out_dir = run(folder, tasks="blimp", task_dir=str(tmp_path), out_dir=tmp_path / "out")
    assert list(scores["tasks"]) == ["blimp_passive_1", "blimp_passive_2"]

    found = [pq.read_table(out_dir / f"{name}.parquet")["acc"].to_numpy(False) for name in scores["tasks"]]
    family = scores["families"]["blimp"]
    assert (family["sets"], family["items"]) == (2, 8 + 12)
    assert family["figures"]["acc"]["value"] == pytest.approx(np.concatenate(found).mean())
    variances = [acc.var(ddof=1) / len(acc) for acc in found]
    error = math.sqrt(8**2 * variances[0] + 12**2 * variances[1]) / 20
    assert family["figures"]["acc"]["error"] == pytest.approx(error) and error > 0

    # A sample draws 8 items of the first set and 12 of the second: the interval is nearly two errors wide.
    scores, _ = run(folder, tasks="blimp", task_dir=str(tmp_path), out_dir=out_dir, bootstrap=2000)
    low, high = scores["families"]["blimp"]["figures"]["acc"]["interval"]
    unbiased = math.sqrt(8**2 * variances[0] * 7 / 8 + 12**2 * variances[1] * 11 / 12) / 20
    assert high - low == pytest.approx(2 * 1.96 * unbiased, rel=0.15)

    # Another way of asking has a record of its own.
    scores, _ = run(folder, tasks="blimp", task_dir=str(tmp_path), out_dir=out_dir, shots=1)
    assert list(scores["families"]) == ["blimp", "blimp-1shot"]


FOUNDRY = {
    "arc_easy": {"query": "Question: Why?", "choices": ["a", "b", "c", "d"], "gold": 2},
    "piqa": {"query": "Question: How do I?\n", "choices": ["a", "b"], "gold": 1},
    "copa": {"query": "The man fell, therefore", "choices": ["he cried.", "he flew."], "gold": 0},
    "lambada_openai": {"context": "She wrote to", "continuation": "him"},
}


@pytest.mark.parametrize("name", FOUNDRY)
def test_rows_of_llm_foundry_are_the_same_items(name):
    task = find_task(name)
    (row,) = harness.hub_rows(name, [FOUNDRY[name]])
    assert task.read(row) == task.read(FOUNDRY[name])


def test_an_answer_that_is_no_label_is_refused():
    (row,) = made_rows("openbookqa", 1)
    with pytest.raises(ValueError, match="its answer 'E' is none of A, B, C, D"):
        find_task("openbookqa").read(row | {"answerKey": "E"})


def test_examples_are_fixed_and_never_the_item_itself():
    pool = [Item(f"question {i}", ["a", "b"], i % 2) for i in range(8)]
    chosen = choose_examples(pool, pool, 3, None)
    assert chosen[0] == pool[1:4]
    assert chosen[1] == [pool[0], *pool[2:4]]
    assert all(examples == pool[:3] for examples in chosen[3:])

    drawn = choose_examples(pool, pool, 3, seed=1)
    assert drawn == choose_examples(pool, pool, 3, seed=1) != choose_examples(pool, pool, 3, seed=2)
    assert all(item not in examples and len(examples) == 3 for item, examples in zip(pool, drawn, strict=True))
    with pytest.raises(ValueError, match="only 7 examples that are not the item itself"):
        choose_examples(pool, pool, 8, None)


@pytest.mark.parametrize("shots", [0, 2])
def test_a_template_that_refuses_a_system_message_is_asked_without_the_description(task_dir, tmp_path, capsys, shots):
    folder = write_model(tmp_path / "strict", "llama3", bos_token="<|begin_of_text|>", eos_token="<|end_of_text|>")
    (folder / "chat_template.jinja").write_text(STRICT)
    template = ChatTemplate.load(folder)
    (anatomy,) = rows.load("mmlu_anatomy", str(task_dir))
    plain = dataclasses.replace(anatomy, description="")
    asked = Encoder(template.tokenizer)
    assert [*requests(anatomy, asked, shots, None, template)] == [*requests(plain, asked, shots, None, template)]
    assert [*requests(anatomy, asked, shots, None, None)] != [*requests(plain, asked, shots, None, None)]
    said = capsys.readouterr().err
    assert said.count("refuses a system message: the description of a task is left out") == 1


def test_a_template_that_refuses_examples_is_one_line(complain, folder, task_dir):
    one_turn = "{% if messages | length > 1 %}{{ raise_exception('one turn only') }}{% endif %}" + TEMPLATE
    probed = one_turn.replace("| length > 1", "[0].content != 'First question' and messages | length > 1")
    (folder / "chat_template.jinja").write_text(probed)
    said = complain("--tasks=arc_easy", f"--task_dir={task_dir}", "--shots=1", "--chat")
    (folder / "chat_template.jinja").unlink()
    assert "arc_easy, item 1: " in said and "one turn only; give --shots=0, or no --chat" in said


# --- answers that the model writes ---

SHORT = Writing(until=[" caf", ">İ", "*;9"], rules=find_task("gsm8k").writing.rules, max_new_tokens=40)


@pytest.fixture
def short_answers(monkeypatch):
    """gsm8k with answers of 40 tokens, and stop strings that a random model writes."""
    monkeypatch.setitem(TASKS, "gsm8k", dataclasses.replace(TASKS["gsm8k"], writing=SHORT))


@pytest.fixture
def gsm8k_dir(tmp_path):
    folder = tmp_path / "gsm8k"
    folder.mkdir()
    harness.write_rows(folder, "gsm8k", made_rows("gsm8k", 12), made_rows("gsm8k", 3, seed=100))
    return folder


def written_alone(folder: Path, prompt: str, stops: Sequence[str] = SHORT.until) -> str:
    """The likeliest token each time, by whole forward passes, cut at the first stop string."""
    model, tokenizer = checkpoint.load_model(folder), Tokenizer.load(folder)
    ids = tokenizer.encode_prompt(prompt)[-(model.cfg.block_size - SHORT.max_new_tokens) :]
    new = []
    while len(new) < SHORT.max_new_tokens:
        with torch.no_grad():
            new.append(int(model(torch.tensor([ids + new]))[0, -1].argmax()))
        if new[-1] in tokenizer.stops:
            break
    text = tokenizer.decode(new, show_special=False)
    return text[: min((text.find(stop) for stop in stops if stop in text), default=None)]


@pytest.mark.parametrize(
    ("block_size", "shots", "cut"), [(512, 0, 0), pytest.param(512, 2, 0, marks=pytest.mark.slow), (128, 2, 12)]
)
def test_answers_are_the_likeliest_text_up_to_a_stop_string(short_answers, gsm8k_dir, tmp_path, block_size, shots, cut):
    folder = write_model(tmp_path / "tiny", "smollm", block_size=block_size)
    settings = {"tasks": "gsm8k", "task_dir": str(gsm8k_dir), "shots": shots, "batch_tokens": 300}
    scores, out_dir = run(folder, **settings, out_dir=tmp_path / "out")
    label = f"gsm8k-{shots}shot" if shots else "gsm8k"
    assert scores["tasks"][label]["cut_on_the_left"] == cut

    items = pq.read_table(out_dir / f"{label}.parquet").to_pylist()
    examples = [f"Question: {row['question']}\nAnswer: {row['answer']}\n\n" for row in made_rows("gsm8k", shots, 100)]
    ends = set()
    for row, item in zip(made_rows("gsm8k", 12), items, strict=True):
        prompt = "".join(examples) + f"Question: {row['question']}\nAnswer:"
        assert item["written"] == written_alone(folder, prompt)
        assert item["answer"] == row["answer"]
        ends.add(any(item["written"] + stop in written_alone(folder, prompt, stops=[]) for stop in SHORT.until))
    assert ends == {True, False}, "some should end at a stop string, some at the last token"


def test_prompts_that_begin_alike_are_answered_behind_one_prefix():
    """The longest first; one that begins differently, or is the beginning itself, is answered without it."""
    beginning = list(range(20))
    prompts = [[*beginning, 7, 7], [99] * 22, [*beginning, 8], beginning, [*beginning, 9, 9, 9], [*beginning, 6]]
    batches = list(writing.in_batches(prompts, max_new_tokens=10, batch_tokens=16))
    assert [batch.places for batch in batches] == [[1, 3], [4], [0, 2], [5]]
    assert [batch.prefix.ids for batch in batches] == [[], *[beginning] * 3]


def test_what_a_rule_finds_decides(folder, gsm8k_dir, tmp_path, monkeypatch):
    """Commas, dollar signs, full stops and case do not count; the last number counts, or the one after ####."""
    texts = ["So it is #### 0", "#### 1000.\nQ", "It is $2,000.", "#### 3,000 or #### 5", "#### 4001", "5000 or 51"]
    texts += ["#### -6000", "none", "#### 8,000", " 9000", "#### $10,000", "11 000"]
    tokenizer = Tokenizer.load(folder)
    prompts = [tokenizer.encode(f"Question: {row['question']}\nAnswer:") for row in made_rows("gsm8k", 12)]

    def write(self, model, asked, prefix):
        return [texts[prompts.index(prompt)] for prompt in asked]

    monkeypatch.setattr(Writer, "write", write)
    scores, out_dir = run(folder, tasks="gsm8k", task_dir=str(gsm8k_dir), out_dir=tmp_path / "out")
    items = pq.read_table(out_dir / "gsm8k.parquet").to_pylist()
    assert [i for i in range(12) if items[i]["strict_match"]] == [0, 1, 3, 8]
    assert [i for i in range(12) if items[i]["flexible_match"]] == [0, 1, 2, 8, 9, 10]
    assert items[7]["strict_match_found"] == items[7]["flexible_match_found"] == "[invalid]"
    assert figure(scores, "gsm8k", "strict_match") == pytest.approx(4 / 12)
    assert figure(scores, "gsm8k", "flexible_match") == pytest.approx(6 / 12)
    assert scores["tasks"]["gsm8k"]["headline"] == "strict_match"


def test_special_tokens_that_are_stop_strings_end_an_answer(folder):
    tokenizer = Tokenizer.load(folder)
    end_of_turn = tokenizer.hf.token_to_id("<|im_end|>")
    assert end_of_turn not in tokenizer.stops
    writer = Writer(tokenizer, ["Question:", "<|im_end|>"], tokenizer.stops, 8)
    assert writer.stop_ids == tokenizer.stops | {end_of_turn}


def test_written_answers_are_not_written_again(short_answers, folder, gsm8k_dir, tmp_path, monkeypatch):
    settings = {"tasks": "gsm8k", "task_dir": str(gsm8k_dir), "batch_tokens": 80}
    _, whole_dir = run(folder, **settings, out_dir=tmp_path / "whole")
    real = Writer.write
    written = []

    def interrupted(self, model, prompts, prefix):
        if len(written) >= 6:
            raise KeyboardInterrupt
        return counted(self, model, prompts, prefix)

    def counted(self, model, prompts, prefix):
        written.extend(prompts)
        return real(self, model, prompts, prefix)

    monkeypatch.setattr(Writer, "write", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(folder, **settings, out_dir=tmp_path / "parts")
    monkeypatch.setattr(Writer, "write", counted)
    _, parts_dir = run(folder, **settings, out_dir=tmp_path / "parts")
    assert len(written) == 12
    ours = pq.read_table(parts_dir / "gsm8k.parquet").to_pylist()
    assert ours == pq.read_table(whole_dir / "gsm8k.parquet").to_pylist()


def test_a_context_without_room_for_an_answer_is_refused(gsm8k_dir, tmp_path):
    folder = write_model(tmp_path / "small", "smollm", block_size=256)
    with pytest.raises(ValueError, match="an answer has up to 256 tokens, but the model's context only 256"):
        run(folder, tasks="gsm8k", task_dir=str(gsm8k_dir), out_dir=tmp_path / "out")


# --- interrupted, and again ---


def test_an_interrupted_run_goes_on_where_it_was(folder, task_dir, tmp_path, monkeypatch):
    settings = {"tasks": "arc_easy,piqa", "task_dir": str(task_dir), "batch_tokens": 200}
    whole, whole_dir = run(folder, **settings, out_dir=tmp_path / "whole")

    real = jobs.score_batch
    scored = []

    def interrupted(model, batch):
        if len(scored) == 2:
            raise KeyboardInterrupt
        scored.append(len(batch.trees))
        return real(model, batch)

    monkeypatch.setattr(jobs, "score_batch", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(folder, **settings, out_dir=tmp_path / "parts")
    with open(tmp_path / "parts/arc_easy.part0.jsonl", "a") as file:
        file.write("[11, [[-1.0")  # killed in the middle of a line

    again = []
    monkeypatch.setattr(jobs, "score_batch", lambda m, batch: again.append(len(batch.trees)) or real(m, batch))
    scores, parts_dir = run(folder, **settings, out_dir=tmp_path / "parts")
    assert sum(scored) + sum(again) == 24
    for name in ("arc_easy", "piqa"):
        ours = pq.read_table(parts_dir / f"{name}.parquet").to_pylist()
        theirs = pq.read_table(whole_dir / f"{name}.parquet").to_pylist()
        for a, b in zip(ours, theirs, strict=True):
            assert a["logprobs"] == pytest.approx(b["logprobs"], abs=1e-4)
            assert a["acc"] == b["acc"]
    assert sorted(path.name for path in parts_dir.iterdir()) == ["arc_easy.parquet", "piqa.parquet", "scores.json"]


def test_a_run_that_was_killed_before_its_file_was_written_goes_on(folder, task_dir, tmp_path, monkeypatch):
    settings = {"tasks": "copa", "task_dir": str(task_dir), "out_dir": tmp_path / "out"}
    with monkeypatch.context() as patch:
        patch.setattr(results.TaskFiles, "write_items", lambda *args: sys.exit("killed"))
        with pytest.raises(SystemExit):
            run(folder, **settings)
    monkeypatch.setattr(jobs, "score_batch", lambda *args: pytest.fail("scored again"))
    scores, _ = run(folder, **settings)
    assert scores["tasks"]["copa"]["items"] == 12


def evaluate_rank(settings: dict) -> None:
    """One process of several; it says how many items it has scored."""
    real = jobs.score_batch
    scored = []
    jobs.score_batch = lambda model, batch: scored.append(len(batch.trees)) or real(model, batch)
    evaluate.main(EvaluateConfig(**settings))
    print(f"scored {sum(scored)}")


def test_two_processes_share_the_items(folder, task_dir, tmp_path):
    """What two have left unfinished is not computed again, whichever had it."""
    settings = {"tasks": "arc_easy", "task_dir": str(task_dir), "batch_tokens": 200}
    whole, whole_dir = run(folder, **settings, out_dir=tmp_path / "whole")
    out_dir = tmp_path / "two"
    both = settings | {"checkpoint": str(folder), "device": "cpu", "dtype": "float32", "out_dir": str(out_dir)}

    out_dir.mkdir()
    identity = whole["tasks"]["arc_easy"]["identity"]
    items = pq.read_table(whole_dir / "arc_easy.parquet").to_pylist()
    for rank, number in ((0, 3), (1, 8), (5, 10)):
        scores = list(zip(items[number]["logprobs"], items[number]["greedy"], strict=True))
        (out_dir / f"arc_easy.part{rank}.jsonl").write_text(f"{json.dumps(identity)}\n{json.dumps([number, scores])}\n")

    done = Launch(2, evaluate_rank, both).wait()
    assert done.returncode == 0, done.stderr[-2000:]
    counts = [int(line.split()[1]) for line in done.stdout.splitlines() if line.startswith("scored ")]
    assert sum(counts) == 12 - 3 and min(counts) > 0
    assert done.stdout.count("arc_easy ") == 1, "process 0 alone prints figures"
    found = pq.read_table(out_dir / "arc_easy.parquet").to_pylist()
    for a, b in zip(found, items, strict=True):
        assert a["logprobs"] == pytest.approx(b["logprobs"], abs=1e-4)
    assert sorted(path.name for path in out_dir.iterdir()) == ["arc_easy.parquet", "scores.json"]


def test_what_was_scored_is_not_scored_again_unless_something_changed(folder, task_dir, tmp_path, monkeypatch, capsys):
    loaded = []
    real = checkpoint.load_model
    monkeypatch.setattr(checkpoint, "load_model", lambda *args, **more: loaded.append(args) or real(*args, **more))
    settings = {"task_dir": str(task_dir), "out_dir": tmp_path / "out"}
    run(folder, tasks="piqa", **settings)
    scores, _ = run(folder, tasks="piqa", **settings)
    assert len(loaded) == 1
    assert "(scored before)" in capsys.readouterr().out

    scores, _ = run(folder, tasks="arc_easy", **settings)
    assert list(scores["tasks"]) == ["piqa", "arc_easy"], "figures of an earlier run stay"
    other = write_model(tmp_path / "other", "smollm", block_size=256)
    with torch.no_grad():
        model = checkpoint.load_model(other)
        model.model.norm.weight[0] = 2.0
        files = checkpoint.small_files(model, Tokenizer.load(other), {})
        checkpoint.write_model(other, dict(model.named_parameters()), files)
    before = len(loaded)
    scores, _ = run(other, tasks="piqa", **settings)
    assert len(loaded) == before + 1
    assert list(scores["tasks"]) == ["piqa"], "figures of another model do not"


# --- bad input ---


@pytest.fixture
def complain(folder, tmp_path, monkeypatch, capsys):
    """The one line that a command ends with."""

    def complain(*arguments: str) -> str:
        flags = [f"--checkpoint={folder}", f"--out_dir={tmp_path}/none", *arguments]
        monkeypatch.setattr(sys, "argv", ["evaluate.py", *flags])
        monkeypatch.setattr(checkpoint, "load_model", lambda *args: pytest.fail("weights were read"))
        with pytest.raises(SystemExit) as stopped:
            configurator.run(evaluate.main, EvaluateConfig, show=False)
        assert stopped.value.code == 1
        error = capsys.readouterr().err
        assert error.startswith("error: ") and error.count("\n") == 1
        assert not (tmp_path / "none").exists()
        return error

    return complain


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"context": "a", "choices": ["b", ""], "answer": 0}, "mine.jsonl, row 2: choice 2 is empty"),
        ({"context": "a", "choices": ["b", "c"], "answer": 2}, "row 2: its answer 2 is none of its 2 choices"),
        ({"context": "a", "choices": ["b", "c"], "answer": "d"}, "row 2: its answer 'd' is none of its 2 choices"),
        ({"context": "a", "choices": "bc", "answer": 0}, "row 2: its choices are not a list of texts"),
        ({"context": 5, "choices": ["b", "c"], "answer": 0}, "row 2: its context is not a text: 5"),
        ({"context": "a", "choices": ["b", "c"], "answer": True}, "row 2: its answer True is none of its 2 choices"),
        ({"question": "a", "answer": "b"}, "row 2: it has one answer, other rows have choices"),
        ({"prompt": "a"}, "row 2: another layout: it has prompt; wanted are context, choices, answer"),
        ({"choices": ["b", "c"], "answer": 1}, "row 2: another layout: no 'context', only choices, answer"),
    ],
)
def test_a_row_that_cannot_be_a_question(complain, tmp_path, row, message):
    good = {"context": "a", "choices": ["b", "c"], "answer": "c"}
    assert message in complain(f"--tasks={write_jsonl(tmp_path / 'mine.jsonl', [good, row])}")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--tasks=", "--tasks names no task"),
        ("--tasks=arc_esy --task_dir={dir}", "no task is called 'arc_esy'; did you mean 'arc_easy'?"),
        ("--tasks=arc_challenge --task_dir={dir}", "has no file for arc_challenge, such as arc_challenge.jsonl"),
        ("--tasks=ceval_lew --task_dir={dir}", "has no file for ceval_lew"),
        ("--tasks=arc_easy --task_dir={dir}/none", "is no folder"),
        ("--tasks=none.jsonl", "none.jsonl: no such file"),
        ("--tasks=arc_easy --task_dir={dir} --shots=8", "only 7 examples that are not the item itself"),
        ("--tasks=arc_easy --task_dir={dir} --shots=-1", "shots (-1) must be at least 0"),
        ("--tasks=arc_easy --task_dir={dir} --limit=0", "limit (0) must be at least 1"),
        ("--tasks=arc_easy --task_dir={dir} --bootstrap=9", "bootstrap (9) must be at least 100 samples"),
    ],
)
def test_settings_that_cannot_work(complain, task_dir, arguments, message):
    assert message in complain(*arguments.format(dir=task_dir).split())


# --- the reference ---


@pytest.mark.slow
@pytest.mark.skipif(not HAS_LM_EVAL, reason="lm_eval is not installed; NONLLAMA_LM_EVAL names a Python that has it")
@pytest.mark.parametrize(
    ("kind", "names", "template"),
    [
        ("smollm", {"eos_token": "<|endoftext|>"}, TEMPLATE),
        ("llama3", {"bos_token": "<|begin_of_text|>", "eos_token": "<|end_of_text|>"}, STRICT),
    ],
)
def test_scores_are_those_of_lm_evaluation_harness(tmp_path, task_dir, kind, names, template):
    """Every task, 0 and 5 shots, plain and as a chat: log-probabilities and greedy flags of each item."""
    folder = write_model(tmp_path / "tiny", kind, **names)
    (folder / "chat_template.jinja").write_text(template)

    jobs = []
    for name in ALL_TASKS:
        paths = {"items": str(rows.local_file(find_task(name), task_dir)), "examples": ""}
        paths["examples"] = str(rows.local_file(find_task(name), task_dir, "_shots"))
        jobs.append({"name": name, "yaml": harness.yaml_of(name), "split": find_task(name).split, **paths})
    runs = [{"shots": shots, "chat": chat} for chat in (False, True) for shots in (0, 5)]
    theirs = harness.harness_scores(str(folder), jobs, runs, tmp_path, 4, LM_EVAL)
    for asked, found in zip(runs, theirs, strict=True):
        assert 0 < found["scoring_s"] < found["cpu_s"] and found["memory_bytes"] > 1e8 and found["threads"] > 0
        ours = harness.our_scores(str(folder), ALL_TASKS, asked, task_dir, tmp_path)
        for name in ALL_TASKS:
            if name.startswith("blimp") and asked["shots"]:
                continue  # the harness shows it no examples, whatever num_fewshot says
            difference = harness.compare(ours["scores"][name], found["scores"][name])
            assert difference.items == 12
            assert difference.largest < 1e-3, (name, asked)
            assert difference.greedy == 0 and not difference.decisions, (name, asked)


@pytest.mark.slow
@pytest.mark.skipif(not HAS_LM_EVAL, reason="lm_eval is not installed; NONLLAMA_LM_EVAL names a Python that has it")
@pytest.mark.parametrize(
    ("kind", "names"),
    [
        ("smollm", {"eos_token": "<|endoftext|>"}),
        ("llama2", {"bos_token": "<s>", "eos_token": "</s>"}),
    ],
)
def test_written_answers_are_those_of_lm_evaluation_harness(short_answers, gsm8k_dir, tmp_path, kind, names):
    """gsm8k, 0 and 2 shots, plain and as a chat, in a context that cuts the longest prompts."""
    folder = write_model(tmp_path / "tiny", kind, block_size=128, **names)
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    generation = {"until": SHORT.until, "max_gen_toks": SHORT.max_new_tokens, "do_sample": False, "temperature": 0.0}
    paths = {"items": str(gsm8k_dir / "gsm8k.jsonl"), "examples": str(gsm8k_dir / "gsm8k_shots.jsonl")}
    changes = {"generation_kwargs": generation}
    job = {"name": "gsm8k", "yaml": harness.yaml_of("gsm8k"), "split": "test", "changes": changes, **paths}
    runs = [{"shots": shots, "chat": chat} for chat in (False, True) for shots in (0, 2)]
    theirs = harness.harness_scores(str(folder), [job], runs, tmp_path, 4, LM_EVAL)
    for asked, found in zip(runs, theirs, strict=True):
        ours = harness.our_scores(str(folder), ["gsm8k"], asked, gsm8k_dir, tmp_path)
        assert harness.compare_written(ours["scores"]["gsm8k"], found["scores"]["gsm8k"]) == ([], [])
        assert len({len(text) for text, _ in found["scores"]["gsm8k"]}) > 3


@pytest.mark.slow
def test_the_rules_of_gsm8k_are_the_filters_of_lm_evaluation_harness():
    """Its own yaml, filters and metric on texts of all kinds of numbers."""
    lm_eval = pytest.importorskip("lm_eval")
    import yaml
    from lm_eval.api.metrics import exact_match_hf_evaluate
    from lm_eval.filters.extraction import RegexFilter

    spec = yaml.safe_load((Path(lm_eval.__file__).parent / "tasks/gsm8k/gsm8k.yaml").read_text())
    (metric,) = spec["metric_list"]
    options = {key: metric[key] for key in ("ignore_case", "ignore_punctuation", "regexes_to_ignore")}
    filters = {entry["name"]: dict(entry["filter"][0]) for entry in spec["filter_list"]}
    for settings in filters.values():
        assert settings.pop("function") == "regex"
    writing = find_task("gsm8k").writing
    assert list(writing.until) == spec["generation_kwargs"]["until"]

    draw = random.Random(0)
    parts = ["####", "#### ", "72", "-72", "72.", "$72", "7,2", "7.2", "0", " ", "\n", "So", ".", ",", "$", "-", "A1"]
    decided = {True: 0, False: 0}
    for _ in range(2000):
        text = "".join(draw.choice(parts) for _ in range(draw.randint(0, 7)))
        answer = f"She has 9.\n#### {draw.choice(['72', '-72', '7,2', '0', '7.2'])}"
        for name, rule in writing.rules.items():
            ((theirs,),) = RegexFilter(**filters[harness.FILTERS[name]]).apply([[text]], [{}])
            assert rule(text) == theirs
            is_right = exact_match_hf_evaluate([theirs], [answer], **options)["exact_match"] == 1.0
            assert writing.is_right(rule(text), answer) == is_right
            decided[is_right] += 1
    assert min(decided.values()) > 100
