"""Rules learnt from where the calls of unknown templates stand."""

import pytest

from corpus.templates.learn import Standing, look_at_article, most_used, rules_by_standing

SENTENCES = {
    "Er las {{Werk|Faust}} nie.": {"werk": "{{{1}}}"},
    "Der Fluss ist {{Maß|12,5|km|x}} lang.": {"maß": "{{{1}}} {{{2}}}"},
    "Sie heißt {{Sp|fr|la [[Loire|Loire]]}}.": {"sp": "{{{2}}}"},
    "Sie heißt ({{Sp-fr|la Loire}}).": {"sp-*": "{{{1}}}", "sp-fr": "{{{1}}}"},
    "Das gilt als sicher.{{Beleg|2011}} Und das.": {"beleg": ""},
    "Das gilt als{{wann|date=2011}} sicher.": {"wann": ""},
    "這是事實。{{來源|2011}}\n": {"來源": ""},
    "小説「{{仮|アダム|en|Adam}}」を読む。": {"仮": "{{{1}}}"},
    "{{読|漢字|かんじ}}は文字である。": {"読": "{{{1}}}"},
    "Tom{{'s}} book": {},  # words or a picture? Nothing tells
    "Sie kam aus {{flag}} Bern.": {},
    # nothing in sentences
    "{{Infobox|a}}": {},
    "* {{Infobox|a}}": {},
    "| Ort = {{Ort|Bern}} in": {},
    "Er las.<ref>In {{Werk|Faust}} so.</ref> <!-- {{a|b}} c -->": {},
    "{{#if:a|b}} und {{formatnum:1}} so": {},
}


def nothing_is_known(name: str) -> bool:
    """No table has a rule."""
    return False


@pytest.mark.parametrize("sentence", SENTENCES)
def test_what_the_place_and_the_arguments_tell(sentence):
    found: dict[str, Standing] = {}
    for _ in range(3):
        look_at_article(sentence, nothing_is_known, found)
    assert rules_by_standing([most_used(found)]) == SENTENCES[sentence]


def test_the_parts_of_a_dump_count_together_and_two_calls_tell_nothing():
    parts = []
    for _ in range(3):
        found: dict[str, Standing] = {}
        look_at_article("Er las {{Werk|Faust}} nie.", nothing_is_known, found)
        parts.append(most_used(found))
    assert rules_by_standing(parts[:2]) == {}
    assert rules_by_standing(parts) == {"werk": "{{{1}}}"}


def test_a_habit_decides_not_a_single_call():
    found: dict[str, Standing] = {}
    for text in ["Er las {{Werk|Faust}} nie."] * 7 + ["Er las.{{Werk|Faust}} Nie."] * 3:
        look_at_article(text, nothing_is_known, found)
    assert rules_by_standing([most_used(found)]) == {"werk": "{{{1}}}"}


def test_what_a_table_knows_is_not_learnt():
    found: dict[str, Standing] = {}
    look_at_article("Er las {{Werk|Faust}} und {{Titel|Egmont}} nie.", lambda name: name == "werk", found)
    assert list(found) == ["titel"]
