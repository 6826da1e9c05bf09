"""The names of countries that flag templates show."""

import pytest

from corpus.templates.countries import country_name
from corpus.wikitext import HIDDEN, Templates, prose

NAMES = {
    ("DEU", "en"): "Germany",
    ("DEU-1949", "en"): "Germany",
    ("JPN", "ja"): "日本",
    ("日本", "ja"): "日本",
    ("Kuba", "de"): "Kuba",
    ("USA", "bg"): "Съединени щати",
    ("Kuba", "en"): None,
    ("it", "en"): None,
    ("IT", "en"): None,
    ("XYZ", "en"): None,
    ("DEU", "a language that CLDR does not know"): None,
}


@pytest.mark.parametrize("template, language", NAMES)
def test_names_and_codes(template, language):
    assert country_name(template, language) == NAMES[template, language]


def test_a_country_is_named_in_a_sentence_and_not_alone_on_a_line():
    rules = Templates("de")
    result = prose("Sie kam aus {{Kuba}} und {{ALB}}.\n\n{{Kuba}}", HIDDEN, rules, "")
    assert result.text == "Sie kam aus Kuba und Albanien."
    assert result.holes == []
