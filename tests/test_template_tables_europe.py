"""Tables of European languages: sentences as the readers of these Wikipedias see them."""

import re
from datetime import date

import pytest

from corpus.templates.rules import TABLES, Article, Templates, check_table, read_table
from corpus.wikitext import HIDDEN, prose

LANGUAGES = "en bg ca cs da de el es fi fr hu it ltg nl no pl pt ro ru sr sv tr uk".split()

SENTENCES = [  # (language, wikitext, what a reader sees)
    (
        "en",
        "Ann ({{langx|fr|Anne}}; {{circa|1300}}){{sfn|Ek|2000|p=1}} rode {{cvt|5|km}}.",
        "Ann (French: Anne; c. 1300) rode 5 km (3.1 mi).",
    ),
    (
        "en",
        "The {{HMS|Ajax|22|6}} and {{USS|Iowa|BB-61}} sailed{{citation needed|date=May 2014}}.",
        "The HMS Ajax and USS Iowa (BB-61) sailed.",
    ),
    ("en", "In {{flag|FRA}}{{snd}}and {{USA}}{{en dash}}it rains.", "In France – and United States–it rains."),
    (
        "en",
        "A {{sclass|Yamato|battleship}} is ''Musashi''{{'s}} kind.",
        "A Yamato-class battleship is Musashi's kind.",
    ),
    ("en", "See {{ill|Ada Ek|de|Ada Ek (Malerin)|lt=Ek}}, {{ill|de|Bo (Dichter)|Bo Ek}}.", "See Ek, Bo Ek."),
    (
        "en",
        "It is {{lang-zh|t=中|p=zhōng}}, {{nowrap|{{transl|ru|da}} {{small|no}}}}.",
        "It is traditional Chinese: 中; pinyin: zhōng, da no.",
    ),
    (
        "en",
        "Mary ({{bibleverse|1|Samuel|17:1}}, {{bibleverse|John|3:16|KJV}}) sang.",
        "Mary (1 Samuel 17:1, John 3:16) sang.",
    ),
    ("en", "A norm {{math|{{abs|x}}}} of {{enum|a|b|c}}.", "A norm |x| of a, b and c."),
    (
        "de",
        "Er lief {{Maßeinheit|12345|km}} ({{enS|run}}){{FN|1}} in {{FRA}}.",
        "Er lief 12.345 km (englisch run) in Frankreich.",
    ),
    (
        "fr",
        "Au {{s|XIX|e}}, {{Mme|Curie}} parcourt {{unité|12345|km|2}} le {{date|1|mai|1900}}{{refnec}}.",
        "Au XIXe siècle, Mme Curie parcourt 12 345 km² le 1 mai 1900.",
    ),
    (
        "fr",
        "Voir {{Lien|langue=en|trad=Ada Ek|fr=Ada Ek (peintre)|texte=Ada}} et {{citation|mot}}.",
        "Voir Ada et « mot ».",
    ),
    (
        "es",
        "En el {{siglo|XIX||s}} ({{lang-en|word}}){{cita requerida}} llegó.",
        "En el siglo XIX (en inglés: word) llegó.",
    ),
    (
        "it",
        "È ({{inglese|word}}){{senza fonte}} una {{citazione necessaria}}parola.",
        "È (in inglese word) una parola.",
    ),
    (
        "it",
        "{{Bio|Nome = Ada|Cognome = Rossi|Sesso = F|LuogoNascita = Roma|GiornoMeseNascita = 1º maggio"
        "|AnnoNascita = 1900|Attività = pittrice|Nazionalità = italiana}}",
        "Ada Rossi (Roma, 1º maggio 1900) è una pittrice italiana.",
    ),
    (
        "pt",
        "No {{séc|XIX}} ({{lang-en|word}}){{carece de fontes}} chegou.",
        "No século XIX (em inglês: word) chegou.",
    ),
    ("nl", "Het {{lang|en|word}}{{bron?}} kost {{€|5}}.", "Het word kost € 5."),
    ("pl", "Słowo ({{w języku|en|word}}) {{j|de}}{{fakt}} jest.", "Słowo (ang. word) (niem.) jest."),
    ("sv", "Ordet ({{lang-en|word}}){{källa behövs}} finns i {{FRA}}.", "Ordet (engelska: word) finns i Frankrike."),
    ("no", "Ordet ({{lang-en|word}}){{tr}} finnes.", "Ordet (engelsk: word) finnes."),
    ("da", "Ordet ({{lang-en|word}}){{kilde mangler}} findes.", "Ordet (engelsk: word) findes."),
    ("fi", "Sana ({{k-en|word}}){{lähde}} on.", "Sana (engl. word) on."),
    ("cs", "Slovo ({{vjazyce2|en|word}}){{fakt/dne}} je.", "Slovo (anglicky word) je."),
    (
        "ru",
        "Слово ({{lang-en|word}}){{нет АИ|5|3|2010}} {{s|5 км}} у {{не переведено 5|Ада Эк|Ады Эк|en|Ada Ek}}.",
        "Слово (англ. word) 5 км у Ады Эк.",
    ),
    ("uk", "Слово ({{lang-en|word}}){{джерело?}} є.", "Слово (англ. word) є."),
    (
        "bg",
        "Думата ({{lang-en|word}}){{факт|2010}} е от {{флагче с име|FRA}}.",
        "Думата (на английски: word) е от Франция.",
    ),
    ("sr", "Реч ({{јез-енгл|word}}){{чињеница}} је.", "Реч (енгл. word) је."),
    ("el", "Η λέξη ({{lang-en|word}}){{εκκρεμεί παραπομπή}} είναι.", "Η λέξη (Αγγλικά: word) είναι."),
    ("tr", "Kelime ({{lang-en|word}}){{kaynak belirt}} var.", "Kelime (İngilizce: word) var."),
    ("hu", "A szó ({{lang-en|word}}){{forrás?}} van.", "A szó (angolul: word) van."),
    ("ro", "Cuvântul ({{lang-en|word}}){{necesită citare}} este.", "Cuvântul (în engleză word) este."),
    ("ca", "La paraula ({{lang-en|word}}){{cal citació}} és.", "La paraula (en anglès: word) és."),
    ("ltg", "Vuords ({{Vol-en|word}}) ir.", "Vuords (anglīšu: word) ir."),
]


@pytest.mark.parametrize(("language", "wikitext", "seen"), SENTENCES)
def test_a_sentence_is_what_a_reader_sees(language, wikitext, seen):
    assert prose(wikitext, HIDDEN, Templates(language), "Title").text == seen


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_rule_is_wikitext_that_calls_what_is_there(language):
    """No rule leaves marks of its own, whatever the arguments; braces close."""
    path = TABLES / f"{language}.txt"
    check_table(path)
    table = read_table(path)
    rules = Templates(language)
    names = [name for name, rule in table.names.items() if rule]
    for name in names:
        assert table.names[name].count("{") == table.names[name].count("}"), name
        shown = rules.show(f"{name}|1|2|3|4", Article("Title", ""), alone=None) or ""
        assert not re.search(r"\{\{\{|Expression error", shown), f"{name} shows {shown}"


def test_a_rule_that_cannot_say_what_is_shown_is_not_replaced_by_that_of_another_language():
    assert Templates("en").show("langx", Article("Title", ""), alone=None) is None


def test_an_age_is_that_on_the_day_of_the_dump():
    rules = Templates("en", now=date(2016, 5, 1))
    page = Article("Title", "")
    birthdays = ("04|30", "05|01", "05|02")
    ages = [rules.show(f"age|1969|{birthday}", page, alone=None) for birthday in birthdays]
    assert ages == ["47", "47", "46"]
    assert Templates("en").show("age|1969|04|30", page, alone=None) is None


def test_what_shows_an_error_is_a_hole():
    found = prose("It is {{ordinal|3}} or {{round|x}} here.", HIDDEN, Templates("en"), "Title")
    assert found.text == "It is 3rd or here."
    assert [hole.name for hole in found.holes] == ["round"]
