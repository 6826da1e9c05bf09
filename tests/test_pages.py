"""Dumps whose templates are explained by their own pages: the same documents for any cut, kills, holes, own tables."""

import bz2
import json
import subprocess

import pytest
from test_dump import HEAD, TAIL, page
from test_prepare_wiki import prepare, refusal, stored, tree

import prepare_wiki
from corpus import sources
from corpus.templates.template_pages import TemplatePage, TemplatePages, write_template_pages

ARTICLES = {
    "Fluss": "Der '''Fluss''' ist {{Maßzahl|12|km}} lang. {{Kurz|9}} Er fließt.",
    "Berg": "Der '''Berg''' ist {{Umleitung|1234|m}} hoch. Er heißt {{Unbekannt|x}} so. Und {{nur eigen|5}} mehr.",
    "Tal": "Das '''Tal''' ist {{Maßzahl|7|km}} lang.\n\n{{Hinweis}}\n\nEs liegt unten.",
}
TEMPLATES = {
    "Maßzahl": "{{{1}}}&nbsp;{{{2}}}<noinclude>Dokumentation</noinclude>",
    "Maßzahl/doc": "Dokumentation",
    "Hinweis": "Dieser Artikel ist kurz.",
    "Kurz": "({{#ifexpr:{{{1}}}>5|viel|wenig}})",
}
REDIRECTS = {"Umleitung": "Maßzahl"}
WITH_PAGES = {
    "Fluss": "Der Fluss ist 12 km lang. (viel) Er fließt.",
    "Berg": "Der Berg ist 1234 m hoch. Er heißt so. Und mehr.",
    "Tal": "Das Tal ist 7 km lang.\n\nEs liegt unten.",
}


def dump_pages() -> list[str]:
    """Articles first: their templates are explained later in the dump."""
    pages = [page(number, title, text) for number, (title, text) in enumerate(ARTICLES.items(), 1)]
    for number, (name, body) in enumerate(TEMPLATES.items(), 11):
        pages.append(page(number, f"Vorlage:{name}", body, namespace=10))
    for number, (name, target) in enumerate(REDIRECTS.items(), 21):
        text = f"#WEITERLEITUNG [[Vorlage:{target}]]"
        pages.append(page(number, f"Vorlage:{name}", text, namespace=10, redirect=f"Vorlage:{target}"))
    return pages


@pytest.fixture
def dump(tmp_path):
    """A function that writes the dump as one stream or as one stream a page."""

    def write(streams: str = "one") -> str:
        path = tmp_path / "dewiki-20240101-pages-articles.xml.bz2"
        texts = [HEAD, *dump_pages(), TAIL]
        if streams == "one":
            texts = ["".join(texts)]
        path.write_bytes(b"".join(bz2.compress(text.encode()) for text in texts))
        return str(path)

    return write


def texts(folder) -> dict[str, str]:
    return {title: stored(folder)[f"dewiki/20240101/{number}"] for number, title in enumerate(ARTICLES, 1)}


def documents(source, out, **settings):
    return prepare(source, out, until="documents", min_chars=1, **settings)


@pytest.mark.parametrize(
    "streams, part_bytes, workers", [("one", 1, 2), ("one", 1 << 30, 1), ("many", 1, 1), ("many", 1, 2)]
)
def test_pages_explain_templates_for_any_cut_and_number_of_workers(
    dump, tmp_path, monkeypatch, streams, part_bytes, workers
):
    monkeypatch.setattr(sources, "PART_BYTES", part_bytes)
    monkeypatch.setattr(sources, "STREAM_BYTES", 1)
    folder = documents(dump(streams), tmp_path / "out", num_workers=workers)
    assert texts(folder) == WITH_PAGES


def test_without_its_template_pages_a_dump_has_holes_where_no_table_helps(dump, tmp_path, monkeypatch):
    monkeypatch.setattr("test_pages.TEMPLATES", {})
    monkeypatch.setattr("test_pages.REDIRECTS", {})
    folder = documents(dump(), tmp_path / "out")
    assert texts(folder)["Berg"] == "Der Berg ist hoch. Er heißt so. Und mehr."
    holes = json.loads((folder / "documents.json").read_text())["holes"]
    assert holes["in_sentences"] == 6
    assert holes["templates"]["Maßzahl"]["count"] == 2
    unknown = holes["templates"]["Unbekannt"]
    assert unknown["count"] == 1
    assert "hoch. Er heißt {{Unbekannt|x}} so. Und" in unknown["example"]


def test_holes_are_reported_dropped_or_filled_by_a_line_in_a_file(dump, tmp_path, capsys):
    source = dump()
    folder = documents(source, tmp_path / "keep")
    report = json.loads((folder / "documents.json").read_text())
    assert f"what was dropped, and 2 holes, with examples: {folder}/documents.json" in capsys.readouterr().out
    assert report["holes"]["in_sentences"] == 2
    assert list(report["holes"]["templates"]) == ["Unbekannt", "nur eigen"]

    dropped = documents(source, tmp_path / "drop", holes="drop")
    assert texts(dropped)["Berg"] == "Der Berg ist 1234 m hoch."
    assert json.loads((dropped / "documents.json").read_text())["holes"]["sentences"] == "drop"

    table = tmp_path / "own.txt"
    table.write_text("unbekannt = <{{{1}}}>\nnur eigen, maßzahl = {{{1}}} Stück\n", encoding="utf-8")
    filled = documents(source, tmp_path / "own", templates=str(table))
    assert texts(filled)["Berg"] == "Der Berg ist 1234 Stück hoch. Er heißt <x> so. Und 5 Stück mehr."
    assert json.loads((filled / "documents.json").read_text())["holes"]["in_sentences"] == 0


def test_documents_made_with_other_tables_are_not_mixed(dump, tmp_path):
    source = dump()
    table = tmp_path / "own.txt"
    table.write_text("unbekannt = a\n", encoding="utf-8")
    folder = documents(source, tmp_path / "out", templates=str(table))
    table.write_text("unbekannt = b\n", encoding="utf-8")
    settings = {"templates": str(table), "until": "documents", "min_chars": 1}
    message = refusal(source, folder, **settings)
    assert message.startswith("the tables of what templates show changed")
    subprocess.run(message.partition("read anew: ")[2], shell=True, check=True)
    assert texts(prepare(source, folder, **settings))["Berg"].startswith("Der Berg ist 1234 m hoch. Er heißt b so.")


def test_of_a_complete_folder_is_said_that_the_tables_changed(dump, tmp_path, capsys):
    settings = {"min_chars": 1, "val_fraction": 0.5, "vocab_size": 260}
    source = dump()
    folder = prepare(source, tmp_path / "out", **settings)
    prepare(source, folder, **settings)
    assert capsys.readouterr().out.endswith("is complete; delete it to make it again\n")

    table = tmp_path / "own.txt"
    table.write_text("unbekannt = a\n", encoding="utf-8")
    before = tree(folder)
    prepare(source, folder, templates=str(table), **settings)
    last = capsys.readouterr().out.splitlines()[-1]
    assert last == f"it was made before --templates, or a table of the repository, changed: rm -r {folder}"
    assert tree(folder) == before


def test_a_bad_table_is_refused_before_anything_is_read(dump, tmp_path):
    table = tmp_path / "own.txt"
    table.write_text("a line without a rule\n", encoding="utf-8")
    assert "own.txt:1" in refusal(dump(), tmp_path / "out", templates=str(table))
    assert not list(tmp_path.glob("out/*"))
    assert "none.txt: no such file of templates; write lines" in refusal(
        dump(), tmp_path / "out", templates=str(tmp_path / "none.txt")
    )


def test_an_interrupted_run_goes_on_with_the_pages_that_are_there(dump, tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "PART_BYTES", 1)
    monkeypatch.setattr(sources, "STREAM_BYTES", 1)
    source = dump("many")
    whole = documents(source, tmp_path / "whole")

    real = prepare_wiki.make_documents_part
    monkeypatch.setattr(prepare_wiki, "make_documents_part", lambda cfg, job: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        documents(source, tmp_path / "out")
    pages = sorted((tmp_path / "out/pages").glob("part_*.parquet"))
    pages[3].unlink()
    kept = pages[4].stat().st_ino
    monkeypatch.setattr(prepare_wiki, "make_documents_part", real)
    out = documents(source, tmp_path / "out")
    assert pages[4].stat().st_ino == kept
    without_manifest = {name: data for name, data in tree(out).items() if name != "manifest.json"}
    assert without_manifest == {name: data for name, data in tree(whole).items() if name != "manifest.json"}


def test_pages_of_another_state_of_the_source_are_read_anew(dump, tmp_path, monkeypatch):
    """Interrupted before any document was made, the folder may be given another source."""
    source = dump()
    real = prepare_wiki.make_documents_part
    monkeypatch.setattr(prepare_wiki, "make_documents_part", lambda cfg, job: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        documents(source, tmp_path / "out")
    monkeypatch.setattr(prepare_wiki, "make_documents_part", real)
    monkeypatch.setitem(ARTICLES, "Tal", "Das Tal ist anders.")
    dump()
    assert texts(documents(source, tmp_path / "out"))["Tal"] == "Das Tal ist anders."


def test_a_dump_without_a_date_in_its_name_is_of_its_newest_edit(tmp_path):
    edited = "<revision><timestamp>{}T00:00:00Z</timestamp>"
    text = page(1, "Alter", "Es ist {{CURRENTYEAR}}, also {{age|1969|07|20}} Jahre her.")
    other = page(2, "Neu", "Später geändert, aber ohne Vorlagen.")
    pages = [
        other.replace("<revision>", edited.format("2017-08-01")),
        text.replace("<revision>", edited.format("2016-05-01")),
    ]
    path = tmp_path / "slice.xml"
    path.write_text("".join([HEAD, *pages, TAIL]), encoding="utf-8")
    folder = documents(path, tmp_path / "out")
    assert stored(folder)["dewiki/slice/1"] == "Es ist 2017, also 48 Jahre her."


def test_two_wikis_learn_apart_and_files_without_a_date_are_one_wiki(tmp_path):
    """In one wiki {{Werk}} is a part of sentences, in the other a note; the page of {{Mal}} is in a file of its own."""
    folder = tmp_path / "in"
    folder.mkdir()
    german = [page(number, f"T{number}", "Er las {{Werk|Faust}} {{Mal|2}} nie.") for number in range(1, 5)]
    english = [page(number, f"T{number}", "He read it.{{Werk|note}} Then more.") for number in range(1, 5)]
    template = page(9, "Vorlage:Mal", "{{{1}}} mal", namespace=10)
    (folder / "articles.xml").write_text("".join([HEAD, *german, TAIL]), encoding="utf-8")
    (folder / "templates.xml").write_text("".join([HEAD, template, TAIL]), encoding="utf-8")
    other_head = HEAD.replace("dewiki", "enwiki").replace('xml:lang="de"', 'xml:lang="en"')
    (folder / "other.xml").write_text("".join([other_head, *english, TAIL]), encoding="utf-8")

    found = stored(documents(f"{folder}/*.xml", tmp_path / "out"))
    assert found["dewiki/articles/1"] == "Er las Faust 2 mal nie."
    assert found["enwiki/other/1"] == "He read it. Then more."


def test_a_redirect_of_templates_without_its_mark_is_one(tmp_path):
    """Dumps before 2012 say it in the text only."""
    article = page(1, "T", "Es ist {{Weiter|Wort}} hier.")
    target = page(2, "Vorlage:Ziel", "{{{1}}}", namespace=10)
    redirect = page(3, "Vorlage:Weiter", "#WEITERLEITUNG [[Vorlage:Ziel]]", namespace=10)
    path = tmp_path / "dewiki.xml"
    path.write_text("".join([HEAD, article, target, redirect, TAIL]), encoding="utf-8")
    assert stored(documents(path, tmp_path / "out"))["dewiki/dewiki/1"] == "Es ist Wort hier."


def test_a_folder_may_have_any_name(dump, tmp_path):
    folder = documents(dump(), tmp_path / "a?b #1 100%41 [x]")
    assert texts(folder) == WITH_PAGES


def test_two_wikis_do_not_share_their_templates(tmp_path):
    path = tmp_path / "templates.sqlite"
    write_template_pages(path, [("a/", TemplatePage("X", "of a", "")), ("b/", TemplatePage("X", "of b", ""))])
    assert TemplatePages(path, "a/").body("X") == "of a"
    assert TemplatePages(path, "b/").body("X") == "of b"


def test_redirects_that_lead_in_a_circle_or_nowhere_are_no_pages(tmp_path):
    path = tmp_path / "templates.sqlite"
    pages = [TemplatePage("A", "", "B"), TemplatePage("B", "", "A"), TemplatePage("C", "", "Nowhere")]
    write_template_pages(path, [("a/", found) for found in pages])
    assert TemplatePages(path, "a/").target("A") is None
    assert TemplatePages(path, "a/").target("C") is None
