"""The names of countries in many languages: on most Wikipedias {{Japan}} or {{JPN}} shows a flag and "Japan"."""

import functools
import re

YEAR = re.compile(r"-\d{4}$")


def country_name(template: str, language: str) -> str | None:
    """What the flag template of a country shows: "DEU" -> "Germany" in English, "Kuba" -> "Kuba" in German.

    template: as it is written: a name in the language of the wiki, or an ISO 3166 code of three capitals; a year may
    follow, "DEU-1949", that chooses a flag. None for what is neither. Names are those of Unicode's CLDR.
    """
    name = YEAR.sub("", template)
    if name in _names(language):
        return name
    territory = _two_letters().get(name)
    return _territories(language).get(territory)


@functools.cache
def _territories(language: str) -> dict[str, str]:
    """{"DE": "Germany"} in a language that CLDR knows, else {}."""
    import babel  # here: it takes a tenth of a second, and most processes ask for no country

    try:
        locale = babel.Locale.parse(language, sep="-")
    except (ValueError, babel.UnknownLocaleError):
        return {}
    return {code: name for code, name in locale.territories.items() if len(code) == 2 and code.isalpha()}


@functools.cache
def _names(language: str) -> frozenset[str]:
    return frozenset(_territories(language).values())


@functools.cache
def _two_letters() -> dict[str, str]:
    """{"DEU": "DE"}: the codes of three letters of countries that exist."""
    from babel.core import get_global

    aliases = get_global("territory_aliases")
    return {code: targets[0] for code, targets in aliases.items() if len(code) == 3 and len(targets) == 1}
