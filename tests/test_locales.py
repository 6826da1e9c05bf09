"""Numbers and names of languages, against babel's own formatting where the wikis follow CLDR."""

import babel.numbers
import pytest

from corpus.templates.locales import formatted, language_name, month_name, plain_number, plural_form

AS_IN_CLDR = "en de fr it nl sv ja zh ko vi hi ta tr id da cs fi he el ro sr hr th".split()


@pytest.mark.parametrize("language", AS_IN_CLDR)
def test_numbers_are_written_as_babel_writes_them(language):
    for number in ["1", "123", "1234", "12345.5", "1234567.25"]:
        expected = babel.numbers.format_decimal(number, locale=language, decimal_quantization=False)
        assert formatted(number, language) == expected
        assert plain_number(expected, language) == number


def test_some_languages_group_from_five_digits_on():
    for language in ["bg", "es", "pl", "pt", "ru"]:
        assert formatted("1234", language) == "1234"
        assert plain_number(formatted("12345", language), language) == "12345"
        assert len(formatted("12345", language)) == 6


def test_a_number_of_a_million_digits_is_left_as_it_is():
    assert formatted("1" * 1_000_000, "en") == "1" * 1_000_000  # grouped, it would take minutes


def test_digits_of_a_script():
    assert formatted("-1234567.5", "bn") == "−১২,৩৪,৫৬৭.৫"
    assert plain_number("−১২,৩৪,৫৬৭.৫", "bn") == "-1234567.5"


def test_what_a_language_lacks_is_english():
    assert formatted("1234.5", "simple") == formatted("1234.5", "no such language") == "1,234.5"
    assert month_name(3, "no such language") == "March"


def test_names_of_languages():
    assert language_name("fr") == "français"
    assert language_name("ZH-hans", "en") == "Simplified Chinese"
    assert language_name("de", "ja") == "ドイツ語"
    assert language_name("als", "en") == "Swiss German"  # the code of a wiki
    assert language_name("no such language") is None


def test_plural_forms():
    assert [plural_form(number, "pl", ["a", "b", "c"]) for number in (1, 2, 5, 22, 1.5)] == ["a", "b", "c", "b", "c"]
    assert [plural_form(number, "ar", list("zotfmx")) for number in (0, 1, 2, 3, 11, 100)] == list("zotfmx")
    assert plural_form(float("inf"), "en", ["a", "b"]) == "b"
