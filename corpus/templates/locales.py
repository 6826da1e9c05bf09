"""What differs between languages: how numbers are written, names of months, days and languages, plural forms.

The facts are CLDR's, by `babel`, which is imported when one is first asked for. Where the wikis differ from CLDR, the
tables below say so. A language that CLDR does not know is treated as English, as in MediaWiki.
"""

import datetime
import functools
import math
import re
from typing import Any

# Languages whose numbers are grouped from five digits on, 1234 but 12 345: minimumGroupingDigits is 2 in MediaWiki.
GROUPED_FROM_FIVE = frozenset("be be-tarask bg es et hy ka kaa kk ku lv pl pt ru uk".split())

# Wikis that write numbers in the digits of their script, by the name of the digits.
SCRIPT_DIGITS = {
    "as": "beng",
    "bn": "beng",
    "ckb": "arab",
    "fa": "arabext",
    "mr": "deva",
    "my": "mymr",
    "ne": "deva",
}
# The character of 0; those of 1 to 9 follow it.
ZERO = {
    "beng": 0x09E6,
    "arab": 0x0660,
    "arabext": 0x06F0,
    "deva": 0x0966,
    "mymr": 0x1040,
}
# What stands between groups of digits, and before the decimals.
SCRIPT_MARKS = {
    "arab": ("\u066c", "\u066b"),
    "arabext": ("\u066c", "\u066b"),
}

# Codes of wikis whose language has another code in CLDR.
CODES = {
    "als": "gsw",
    "bat-smg": "sgs",
    "no": "nb",
    "simple": "en",
    "zh-yue": "yue",
    "zh-min-nan": "nan",
}
PLURAL_NAMES = ("zero", "one", "two", "few", "many")  # in the order of the forms of {{plural:}}; then "other"
LONGEST_GROUPED = 100  # digits; no text has more, and grouping takes quadratic time
MINUS = "\u2212"
NUMBER = re.compile(r"(-?)(\d+)(\.\d*)?|(-?)(\.\d+)")


@functools.lru_cache(maxsize=500)
def locale(language: str) -> Any:
    """`babel`'s Locale of a wiki's or a MediaWiki language code; that of English where there is none."""
    return known_locale(language) or known_locale("en")


@functools.lru_cache(maxsize=500)
def known_locale(language: str) -> Any:
    """The same, or None."""
    import babel  # 25 ms, and 10 ms for a language: only workers that need it pay

    code = CODES.get(language.lower(), language)
    code = code.replace("-", "_")
    main = code.partition("_")[0]  # pt of pt_BR
    for candidate in (code, main):
        try:
            return babel.Locale.parse(candidate)
        except (ValueError, babel.UnknownLocaleError):
            continue
    return None


# --- numbers ---


@functools.lru_cache(maxsize=500)
def number_marks(language: str) -> tuple[str, str]:
    """What stands between groups of digits, and before the decimals: (",", ".") in English."""
    script = SCRIPT_DIGITS.get(language)
    if script in SCRIPT_MARKS:
        return SCRIPT_MARKS[script]
    symbols = locale(language).number_symbols["latn"]
    return symbols["group"], symbols["decimal"]


@functools.lru_cache(maxsize=500)
def group_sizes(language: str) -> tuple[int, int]:
    """Digits of the last group, and of those before it: (3, 3); in languages of India (3, 2)."""
    return locale(language).decimal_formats[None].grouping


def digits(text: str, language: str) -> str:
    """`text` with the digits of the language's script, where its wiki uses them: "12", "bn" -> "১২"."""
    script = SCRIPT_DIGITS.get(language)
    if script is None:
        return text
    return text.translate(script_digits(script))


@functools.cache
def script_digits(script: str) -> dict[int, int]:
    """{character of 0 to 9: the same digit of the script}."""
    zero = ZERO[script]
    return {ord("0") + value: zero + value for value in range(10)}


def formatted(text: str, language: str) -> str:
    """A text with its numbers as the language writes them: 1234.5 is 1,234.5 in English and 1.234,5 in German."""
    return NUMBER.sub(lambda match: formatted_number(match[0], language), text)


def formatted_number(number: str, language: str) -> str:
    """A number like -1234.5 as the language writes it."""
    sign = MINUS if number.startswith("-") else ""
    whole, point, decimals = number.removeprefix("-").partition(".")
    group_mark, decimal_mark = number_marks(language)

    least = 5 if language in GROUPED_FROM_FIVE else 4
    if least <= len(whole) <= LONGEST_GROUPED:
        whole = group_mark.join(digit_groups(whole, language))

    whole = digits(whole, language)
    if not point:
        return sign + whole
    return sign + whole + decimal_mark + digits(decimals, language)


def digit_groups(whole: str, language: str) -> list[str]:
    """The digits of a whole number in groups: "1234567" -> ["1", "234", "567"]; in Hindi ["12", "34", "567"]."""
    last_size, other_size = group_sizes(language)
    groups = [whole[-last_size:]]
    rest = whole[:-last_size]
    while rest:
        groups.append(rest[-other_size:])
        rest = rest[:-other_size]
    groups.reverse()
    return groups


def plain_number(text: str, language: str) -> str:
    """The reverse of `formatted`: 1.234,5 is 1234.5 in German."""
    group_mark, decimal_mark = number_marks(language)

    script = SCRIPT_DIGITS.get(language)
    if script is not None:
        to_ascii = {there: here for here, there in script_digits(script).items()}
        text = text.translate(to_ascii)

    text = text.replace("&nbsp;", "\xa0").replace("&#160;", "\xa0")
    if group_mark.isspace():
        text = re.sub("[\xa0\u202f]", "", text)
    text = text.replace(group_mark, "")
    text = text.replace(decimal_mark, ".")
    return text.replace(MINUS, "-")


def plural_form(number: float, language: str, forms: list[str]) -> str:
    """The form for a number: {{plural: 2 | page | pages}}; the last form where there are too few."""
    if not math.isfinite(number):
        return forms[-1]

    rule = locale(language).plural_form  # 2 -> "few" in Polish
    known = [name for name in PLURAL_NAMES if name in rule.tags]
    known.append("other")
    wanted = known.index(rule(number))
    last = len(forms) - 1
    return forms[min(wanted, last)]


# --- names ---


def month_name(month: int, language: str, is_genitive: bool = False, is_short: bool = False) -> str:
    """The name of a month, 1 to 12: "March", and in a date of languages that bend it the genitive."""
    width = "abbreviated" if is_short else "wide"
    use = "format" if is_genitive or is_short else "stand-alone"
    names = locale(language).months[use][width]
    return names[month]


def day_name(day: datetime.date, language: str, is_short: bool = False) -> str:
    """The name of a day of the week: "Monday"."""
    width = "abbreviated" if is_short else "wide"
    names = locale(language).days["format"][width]
    return names[day.weekday()]


def language_name(code: str, in_language: str = "") -> str | None:
    """The name of the language with this code, in its own words or in those of another; None for an unknown code."""
    code = code.lower().strip()
    named_in = known_locale(in_language or code)
    if named_in is None:
        return None

    spelled = CODES.get(code, code).replace("-", "_")
    parts = [cldr_case(place, part) for place, part in enumerate(spelled.split("_"))]
    return named_in.languages.get("_".join(parts))


def cldr_case(place: int, part: str) -> str:
    """A part of a code as CLDR spells it: zh_Hant_TW for "zh_hant_tw"."""
    if place == 0:
        return part
    is_script = len(part) == 4
    return part.title() if is_script else part.upper()
