"""The ladder of holes: what each rung holds, what is measured on all of them, runs that are not made twice."""

import json
import subprocess
from pathlib import Path

import pytest
import torch
from conftest import REPO, SHARED

import configurator
import train
from benchmarks import holes_ladder, ladder
from benchmarks.holes_ladder import RUNGS, HolesLadderConfig, climb, main, make_texts, number_follows, table
from benchmarks.ladder import read_loss
from tokenizer import Tokenizer, train_bpe

pytestmark = pytest.mark.bench

PLAIN = "The old town of {title} lies on both banks of the river, and its people have fished there ever since."
ARTICLE = """{{{{Infobox town|name={title}}}}}
Rain fell. The road is {{{{cvt|180|km}}}} long and narrow.{{{{citation needed}}}} \
It was built by {{{{nobody knows|who=Ann}}}} and others of the town.

{plain}

[[Category:Towns]]
"""


def write_dump(path: Path, titles: list[str], article: str = ARTICLE) -> None:
    """A dump of articles that differ by their titles."""
    pages = []
    for number, title in enumerate(titles):
        text = article.format(title=title, plain=PLAIN.format(title=title))
        head = f"<title>{title}</title><ns>0</ns><id>{number}</id>"
        pages.append(f"<page>{head}<revision><text>{text}</text></revision></page>")
    path.write_text('<mediawiki xml:lang="en">\n' + "\n".join(pages) + "\n</mediawiki>\n")


def settings_of(folder: Path, **changes) -> HolesLadderConfig:
    """Settings for two dumps of 40 and of 4 articles; the 4 are in the first one too, with another text."""
    titles = [f"Town {number}" for number in range(40)]
    write_dump(folder / "a.xml", titles)
    write_dump(folder / "b.xml", titles[:4], "This is the newer one. " + ARTICLE)
    usual = {"source": f"{folder}/*.xml", "out": str(folder / "out"), "held_out": 0.25, "min_chars": 50}
    usual |= {"vocab_size": 300, "max_iters": 2, "seeds": 1}
    return HolesLadderConfig(**(usual | changes))


def test_rungs_differ_by_their_templates_alone_and_what_is_measured_is_the_same(tmp_path):
    texts = make_texts(settings_of(tmp_path), tmp_path / "work")
    older = [i for i, text in enumerate(texts.train["shown"]) if "newer" not in text]
    newer = 40 - len(texts.val["seen"]) - len(older)
    assert 5 <= len(texts.val["seen"]) <= 15 and 1 <= newer <= 4
    assert all(len(texts.train[rung]) == len(older) + newer for rung in RUNGS)

    lines = {rung: texts.train[rung][older[0]].split("\n") for rung in RUNGS}
    road = "The road is 180 km (110 mi) long and narrow."
    assert lines["holes"][0] == "Rain fell. The road is long and narrow. It was built by and others of the town."
    assert lines["holes_dropped"][0] == "Rain fell."
    assert lines["shown"][0] == f"Rain fell. {road} It was built by and others of the town."
    assert lines["shown_dropped"][0] == f"Rain fell. {road}"

    clean = texts.val["clean"]
    assert len(clean) == len(texts.val["seen"]) and len(set(clean)) == len(clean)
    assert all(text.startswith("The old town of") and "\n" not in text for text in clean)
    assert all(texts.train[rung][older[0]].count("\n") == 2 for rung in RUNGS)  # all have this paragraph
    assert set(texts.val["templates"]) == {road} and set(texts.val["left"]) == {"The road is long and narrow."}
    for held_out in clean:
        assert not any(held_out in text for rung in RUNGS for text in texts.train[rung])


@pytest.mark.slow
def test_every_rung_is_trained_and_measured_once(tmp_path, monkeypatch, capsys):
    """The command of a run is run in this process: torch is here already."""
    trained = []

    def run_here(command: list[str], cwd: Path, **_) -> subprocess.CompletedProcess:
        assert cwd == REPO
        monkeypatch.chdir(cwd)
        cfg, _ = configurator.load(train.TrainConfig, command[2:])
        trained.append(Path(cfg.data).name)
        train.main(cfg)
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(ladder.subprocess, "run", run_here)
    cfg = settings_of(tmp_path)
    main(cfg)
    assert trained == list(RUNGS)
    results = json.loads((tmp_path / "out/results.json").read_text())
    for rung in RUNGS:
        (scores,) = results["scores"][rung]
        by_train = read_loss(tmp_path / f"out/runs/{rung}_0_2", 2)
        assert scores["templates"] == pytest.approx(by_train, rel=0.01)  # train.py may multiply in bfloat16
        assert len({scores[name] for name in holes_ladder.SETS}) == 4
    assert table(results) in capsys.readouterr().out

    assert climb(cfg) == results and len(trained) == len(RUNGS)
    with pytest.raises(ValueError, match="was made with"):
        climb(settings_of(tmp_path, held_out=0.5))


def test_a_number_follows_when_a_space_and_then_digits_do():
    tokenizer = Tokenizer(train_bpe(["a height of 180 km, a height of 1,800 m, 18 m"] * 9, 265))
    spelt = [tokenizer.decode([number]) for number in range(tokenizer.vocab_size)]
    digits = [number for number, token in enumerate(spelt) if token[0] in "0123456789"]
    space = spelt.index(" ")
    assert len(digits) > 10  # "18" too
    ids = tokenizer.encode_array("of 18").tolist()
    assert ids[-1] in digits and ids[-2] == space

    def model(ids: torch.Tensor) -> torch.Tensor:
        """A space follows with 3 times the probability of another token; after a space every digit with twice that."""
        assert ids[0, 0] == tokenizer.end_of_text and ids[0, -1] == space
        weights = torch.ones(1, ids.shape[1], len(spelt) + 7)  # the model has more rows than the tokenizer
        weights[..., space] = 3
        weights[:, -1, space] = 1
        weights[:, -1, digits] = 2
        return weights.log()

    p_space = 3 / (len(spelt) + 2)
    p_digits = 2 * len(digits) / (len(spelt) + len(digits))
    assert number_follows(model, tokenizer) == pytest.approx(p_space * p_digits)


def test_tables_compare_runs_of_the_same_seed():
    scores = {rung: [{name: 2.0 for name in holes_ladder.SETS} | {"number": 0.5}] * 2 for rung in RUNGS}
    scores["shown"] = [{name: loss for name in holes_ladder.SETS} | {"number": 0.7} for loss in (1.9, 2.0)]
    data = {"documents": 1200, "bytes": 2_500_000, "tokens": 400}
    sets = {name: {"bytes": 1000} for name in holes_ladder.SETS}
    results = {"rungs": dict.fromkeys(RUNGS, data), "sets": sets, "tokens": 100, "scores": scores}
    assert "| shown | 1,200 | 2.500 | 0.25 | 70.0 (70.0 to 70.0) |" in table(results)
    row = next(line for line in holes_ladder.loss_table(results).splitlines() if line.startswith("| shown |"))
    assert row.count("1.9500 (1.9000 to 2.0000); 2.50 (0.00 to 5.00) % less") == 4


@pytest.mark.real_data
def test_clean_paragraphs_of_real_articles_are_on_all_rungs(tmp_path):
    dump = str(SHARED / "wiki/xml/enwiki-table-markup-gensim.xml.bz2")
    paragraphs = 0
    for article in holes_ladder.read_articles(dump, tmp_path).values():
        rungs = [text.split("\n") for text in article.texts().values()]
        for paragraph in article.clean_paragraphs():
            paragraphs += 1
            assert all(paragraph in lines for lines in rungs)
    assert paragraphs > 50


@pytest.mark.parametrize("change", [{"source": ""}, {"held_out": 0}, {"seeds": 0}, {"max_iters": 0}])
def test_settings_that_cannot_work_are_named(tmp_path, change):
    with pytest.raises(ValueError, match=next(iter(change))):
        main(settings_of(tmp_path, **change))


def test_what_has_no_templates_is_refused(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "a"}\n')
    with pytest.raises(ValueError, match=r"jsonl files have no templates; give dumps"):
        main(HolesLadderConfig(source=f"{tmp_path}/a.jsonl", out=str(tmp_path / "out")))
