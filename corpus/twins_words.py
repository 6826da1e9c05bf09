"""Python twins for rules of the tables: lists of any length, names of countries."""

from babel import Locale, UnknownLocaleError


def join(arguments: dict[str, str], language: str) -> str:
    """The unnamed arguments that are not empty, with `sep` between them and `last` before the last one.

    {"1": "a", "2": "b", "3": "c", "sep": ", ", "last": " and "} -> a, b and c. Template:Hlist, Template:Enum and alike.
    """
    numbers = sorted(int(name) for name in arguments if name.isdecimal())
    words = [arguments[str(number)].strip() for number in numbers if str(number) in arguments]
    words = [word for word in words if word]
    separator = arguments.get("sep", "")
    last = arguments.get("last", separator)
    if len(words) < 2:
        return "".join(words)
    return separator.join(words[:-1]) + last + words[-1]


def country(arguments: dict[str, str], language: str) -> str:
    """The name of a country in the language of the wiki: {"1": "FR", "2": "France"}, "de" -> Frankreich.

    1: its ISO 3166 code. 2: its English name, which is also the name in languages that CLDR does not have.
    """
    code = arguments.get("1", "")
    english = arguments.get("2", "")
    if language in ("en", "simple"):
        return english
    try:
        names = Locale.parse(language.replace("-", "_")).territories
    except (UnknownLocaleError, ValueError):
        return english
    return names.get(code, english)


WORDS = {"join": join, "country": country}
