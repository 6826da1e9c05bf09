"""What templates of numbers show: {{val}}, {{num}}, {{frac}}, ordinals, numbers in words, Roman numerals, money.

Exponents are Unicode superscripts (6.2×10¹⁸): with <sup> taken away they would run into the number before (1018).
Fractions stand with the fraction slash that readers see, 1⁄2, and a space behind the whole number, 3 1⁄2: without
one it would be thirty-one halves.
"""

import functools
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction

from corpus.locales import digits as script_digits
from corpus.locales import formatted_number, number_marks

NUMBER = r"[+−-]?(?:\d[\d,]*(?:\.\d+)?|\.\d+)"  # as the English Wikipedia writes it
COMMA_DECIMAL = re.compile(r"[+−-]?(?:\d{1,3}(?:[. ]\d{3})+|\d+),\d+")  # 1.234,5 where it is so
PLAIN = re.compile(r"([+−-]?)(\d*)(?:\.(\d*))?(?:[eE]([+−-]?\d{1,3}))?")
MIXED = re.compile(r"([+−-]?)(?:(\d+)(?:\s*\+\s*|\s*-\s*|\s+))?(\d+)(?:/{1,2}|⁄)(\d+)")
VULGAR = {"½": "1/2", "⅓": "1/3", "⅔": "2/3", "¼": "1/4", "¾": "3/4", "⅛": "1/8", "⅜": "3/8", "⅝": "5/8", "⅞": "7/8"}
HALF = Fraction(1, 2)
SUPERSCRIPTS = str.maketrans("0123456789+-−()=n", "⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁻⁽⁾⁼ⁿ")
SUBSCRIPTS = str.maketrans("0123456789+-−()", "₀₁₂₃₄₅₆₇₈₉₊₋₋₍₎")


# --- reading and writing numbers ---


@dataclass(frozen=True)
class Number:
    """A number as it was written."""

    value: Fraction
    digits: str  # without sign and exponent: "1234.50"
    decimals: int  # of `digits`
    exponent: int = 0
    whole: int = 0  # of a mixed fraction
    numerator: int = 0
    denominator: int = 0  # 0: no fraction

    @property
    def is_negative(self) -> bool:
        return self.value < 0


def parse_number(text: str, language: str = "en") -> Number:
    """The number in a text: 1,234.5, −3, 1.5e6, 1/2, 3+1/2, 3½. Raises ValueError when it holds anything else."""
    cleaned = text.replace("&minus;", "−").replace("&nbsp;", " ").replace("&#8722;", "−").strip()
    if not cleaned.isascii():
        for sign, fraction in VULGAR.items():
            cleaned = cleaned.replace(sign, f" {fraction}").strip()

    mixed = MIXED.fullmatch(cleaned)
    if mixed:
        sign, whole, numerator, denominator = mixed.groups()
        if not int(denominator):
            raise ValueError(f"a fraction over 0: {text!r}")
        size = int(whole or 0) + Fraction(int(numerator), int(denominator))
        value = -size if sign in ("-", "−") and sign else size
        return Number(value, "", 0, 0, int(whole or 0), int(numerator), int(denominator))

    if number_marks(language)[1] == "," and COMMA_DECIMAL.fullmatch(cleaned):
        cleaned = cleaned.replace(".", "").replace(",", ".")
    cleaned = cleaned.replace(",", "").replace(" ", "").replace("'", "")
    plain = PLAIN.fullmatch(cleaned)
    if not plain or not (plain[2] or plain[3]) or len(cleaned) > 60:
        raise ValueError(f"no number: {text[:40]!r}")

    sign, whole, behind, exponent = plain.groups()
    ten = int((exponent or "0").replace("−", "-"))
    if abs(ten) > 200:
        raise ValueError(f"a number too large to show: {text[:40]!r}")
    behind = behind or ""
    size = Fraction(int(whole + behind), 10 ** len(behind))
    if ten:
        size *= ten_to(ten)
    written = (whole.lstrip("0") or "0") + (f".{behind}" if behind else "")
    return Number(-size if sign in ("-", "−") and sign else size, written, len(behind), ten)


@functools.lru_cache(maxsize=1000)  # powers of fractions are slow
def ten_to(exponent: int) -> Fraction:
    """A power of ten."""
    return Fraction(10) ** exponent


def grouped(number: str, language: str = "en", mark: str | None = None) -> str:
    """ "1234567.5" -> "1,234,567.5", as the language writes it; with `mark` between groups ("" for none)."""
    if mark is None:
        return formatted_number(number, language).replace("\xa0", " ").replace("\u202f", " ")
    whole, point, behind = number.partition(".")
    groups = re.sub(r"(?<=\d)(?=(?:\d{3})+$)", lambda _: mark, whole)
    decimal = number_marks(language)[1] if point else ""
    return script_digits(groups + decimal + behind, language)


def digits(number: str, language: str) -> str:
    """ "1234.5" with the language's decimal mark."""
    return grouped(number, language, "")


def rounded(value: Fraction, precision: int) -> str:
    """`value`, not negative, with so many digits behind the point; halves go up. Negative: zeros before it."""
    whole = math.floor(value * ten_to(precision) + HALF)
    if precision <= 0:
        return str(whole * 10**-precision)
    text = str(whole).rjust(precision + 1, "0")
    return f"{text[:-precision]}.{text[-precision:]}"


def superscript(text: str) -> str:
    return text.translate(SUPERSCRIPTS)


def subscript(text: str) -> str:
    return text.translate(SUBSCRIPTS)


def power_of_ten(exponent: int | str) -> str:
    """10 to a power: 18 -> 10¹⁸."""
    return "10" + superscript(str(exponent).replace("&minus;", "-"))


def mixed_fraction(whole: int | str, numerator: int | str, denominator: int | str) -> str:
    """3, 1, 2 -> "3 1⁄2"; without a whole number "1⁄2"."""
    fraction = f"{numerator}⁄{denominator}"
    return f"{whole} {fraction}" if whole and str(whole) != "0" else fraction


ONES = "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen"
ONES_LIST = (ONES + " eighteen nineteen").split()
TENS = "_ _ twenty thirty forty fifty sixty seventy eighty ninety".split()
THOUSANDS = ((10**12, "trillion"), (10**9, "billion"), (10**6, "million"), (1000, "thousand"))


def in_words(number: int) -> str:
    """A whole number in English words: 121 -> one hundred and twenty-one. ValueError from a thousand trillions on."""
    if abs(number) >= 10**15:
        raise ValueError(f"a number too large for words: {number}")
    if number < 0:
        return "minus " + in_words(-number)
    for size, name in THOUSANDS:
        if number >= size:
            count, rest = divmod(number, size)
            glue = " and " if 0 < rest < 100 else ", " if rest and size > 1000 else " "
            return f"{in_words(count)} {name}" + (glue + in_words(rest) if rest else "")
    if number >= 100:
        count, rest = divmod(number, 100)
        return f"{ONES_LIST[count]} hundred" + (f" and {in_words(rest)}" if rest else "")
    if number >= 20:
        ten, one = divmod(number, 10)
        return TENS[ten] + (f"-{ONES_LIST[one]}" if one else "")
    return ONES_LIST[number]


# --- {{val}}, {{frac}} ---


def marked(number: str, mark: str = "") -> str:
    """A number with `mark` between groups of three digits before its point and a minus sign that is one."""
    sign, whole, behind = re.fullmatch(r"([+−-]?)(\d*)(?:\.(\d*))?", number).groups()
    whole = grouped(whole or "0", "en", mark)
    return sign.replace("-", "−") + whole + (f".{behind}" if behind else "")


def value_text(text: str, mark: str) -> str:
    """A number of {{val}}: digits grouped, an uncertainty in brackets kept: 1.00794(7)."""
    number, bracket, uncertainty = text.replace(",", "").replace("&minus;", "-").replace("+-", "±").partition("(")
    try:
        shown = marked(number.strip(), mark)
    except AttributeError:
        shown = number.strip()
    return shown + bracket + uncertainty


def val(arguments: dict[str, str], language: str) -> str:
    """A scientific value: `6.2|e=18|u=kg` -> 6.2×10¹⁸ kg; `1.5|0.1|u=m` -> 1.5±0.1 m.

    Template:Val. Leaves out the gaps between groups of digits: they are margins, the text of the page holds no spaces.
    Leaves out sort keys and links, too (ul=, upl= show the same unit).
    """
    get = lambda name: arguments.get(name, "").strip()  # noqa: E731
    mark = "," if get("fmt") == "commas" else ""
    number = get("1")
    uncertainties = [get("2"), get("3")]

    text = value_text(number, mark)
    if uncertainties[1] and uncertainties[0]:
        plus, minus = (value_text(part.lstrip("+-−"), mark) for part in uncertainties)
        text += f" +{plus} −{minus}" if plus != minus else f"±{plus}"
    elif uncertainties[0].startswith("("):
        text += uncertainties[0]
    elif uncertainties[0]:
        text += "±" + value_text(uncertainties[0].lstrip("±"), mark)

    exponent = get("e") or get("10^") or get("e10")
    has_uncertainty = "±" in text or " +" in text
    unit = val_unit(get("u") or get("ul"))
    divisor = val_unit(get("up") or get("upl"))
    if exponent:
        text = f"({text})" if has_uncertainty else text
        text = f"{text}×{power_of_ten(exponent)}" if number else power_of_ten(exponent)
    elif has_uncertainty and (unit or divisor) and unit in ("%", "°", "°C"):
        text = f"({text})"
    if not text:
        raise ValueError("val without a number")

    unit = f"{unit}/{divisor}" if divisor else unit
    space = "" if not unit or unit.startswith(("%", "°", "′", "″", "/")) and not unit.startswith(("°C", "°F")) else " "
    end = get("end") or get("s") or get("suf") or get("suffix")
    return f"{get('p') or get('pre') or get('prefix')}{text}{end}{space}{unit}"


def val_unit(unit: str) -> str:
    """The unit of {{val}}: `m/s2` -> m/s², `kg.m` -> kg⋅m."""
    unit = re.sub(r"(?<=[A-Za-zμΩ])([−-]?\d)(?![\d])", lambda match: superscript(match[1]), unit)
    return re.sub(r"(?<=[A-Za-zμΩ²³])[.*](?=[A-Za-zμΩ])", "⋅", unit)


def frac(arguments: dict[str, str], language: str) -> str:
    """A fraction: `1|2` -> 1⁄2; `3|1|2` -> 3 1⁄2; `3` -> 1⁄3. Template:Frac; also Template:Sfrac, which stacks them."""
    parts = [arguments.get(str(place), "").strip() for place in (1, 2, 3)]
    if arguments.get("4"):
        raise ValueError("a fraction of more than three numbers")
    if parts[2]:
        return mixed_fraction(*parts)
    if parts[1]:
        return mixed_fraction("", plain_term(parts[0]), plain_term(parts[1]))
    if parts[0]:
        return mixed_fraction("", 1, parts[0])
    return "⁄"


def plain_term(text: str) -> str:
    """A numerator or denominator; in brackets when it is a sum."""
    bare = text.replace("''", "")
    return f"({text})" if re.search(r"\w\s*[+−–-]\s*\w", bare) else text


# --- smaller ones ---


def ordinal_text(number: int) -> str:
    """1 -> 1st, 12 -> 12th, 23 -> 23rd."""
    ending = "th" if number // 10 % 10 == 1 else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{ending}"


def only_english(language: str) -> None:
    """Raise ValueError for a template with English words in a wiki of another language: what it shows is not known."""
    if language not in ("en", "simple"):
        raise ValueError(f"the words of this template are not known in {language!r}")


def first_integer(arguments: dict[str, str]) -> int:
    """The first argument as a whole number. Raises ValueError when it is none."""
    number = parse_number(arguments.get("1", ""))
    if number.value.denominator != 1:
        raise ValueError(f"no whole number: {arguments['1'][:40]!r}")
    return int(number.value)


def num(arguments: dict[str, str], language: str) -> str:
    """A number with its digits in groups: `10000` -> 10,000; text stays. Template:Num, Template:Nts (no sort key)."""
    text = arguments.get("1", "").strip()
    try:
        number = parse_number(text, language)
    except ValueError:
        return text
    if number.denominator or number.exponent:
        return text
    shown = ("−" if number.is_negative else "") + grouped(number.digits, language)
    return arguments.get("prefix", "") + shown + arguments.get("suffix", "")


def gaps(arguments: dict[str, str], language: str) -> str:
    """Groups of digits as one number: `1|234|567|u=m` -> 1234567 m. Template:Gaps; the gaps are margins, no spaces."""
    groups = [arguments[str(place)] for place in range(1, 30) if arguments.get(str(place))]
    exponent = f"×{power_of_ten(arguments['e'])}" if arguments.get("e") else ""
    unit = f" {val_unit(arguments['u'])}" if arguments.get("u") else ""
    return arguments.get("lhs", "") + "".join(groups) + arguments.get("rhs", "") + exponent + unit


def raised(arguments: dict[str, str], language: str) -> str:
    """A power: `24` -> ²⁴; with |times=10 -> ×10²⁴. Template:Sup, Template:E. Letters stay as they are."""
    text = superscript(arguments.get("1", "").strip())
    return f"×10{text}" if arguments.get("times") else text


def ordinal(arguments: dict[str, str], language: str) -> str:
    """`2` -> 2nd. Template:Ordinal (English)."""
    only_english(language)
    return ordinal_text(first_integer(arguments))


def number_in_words(arguments: dict[str, str], language: str) -> str:
    """`121` -> one hundred and twenty-one. Template:Number to words; |case=u begins with a capital."""
    only_english(language)
    words = in_words(first_integer(arguments))
    return words.capitalize() if arguments.get("case", "").lower().startswith("u") else words


def ordinal_in_words(arguments: dict[str, str], language: str) -> str:
    """`21` -> twenty-first. Template:Ordinal to word."""
    only_english(language)
    words = in_words(first_integer(arguments))
    begin, last = re.fullmatch(r"(.*?)(\w+)", words).groups()
    irregular = {"one": "first", "two": "second", "three": "third", "five": "fifth", "eight": "eighth", "nine": "ninth"}
    ending = last[:-1] + "ieth" if last.endswith("ty") else last + "th"
    return begin + irregular.get(last, "twelfth" if last == "twelve" else ending)


def roman(arguments: dict[str, str], language: str) -> str:
    """`1987` -> MCMLXXXVII. Template:Roman; ValueError beyond 1 to 3999 (the template's text for them: argument 2)."""
    rest = first_integer(arguments)
    if not 0 < rest < 4000:
        if arguments.get("2"):
            return arguments["2"]
        raise ValueError(f"no Roman numeral: {rest}")
    text = ""
    values = (1000, 900, 500, 400, 100, 90, 50, 40, 10, 9, 5, 4, 1)
    for value, letters in zip(values, "M CM D CD C XC L XL X IX V IV I".split(), strict=True):
        text += letters * (rest // value)
        rest %= value
    return text


def percentage(arguments: dict[str, str], language: str) -> str:
    """`1|3` -> 33%; `1|3|1` -> 33.3%. Template:Percentage."""
    part, whole = (parse_number(arguments.get(place, "")).value for place in ("1", "2"))
    if not whole:
        raise ValueError("a share of 0")
    places = max(0, min(int(arguments.get("3", "").strip() or 0), 10))
    share = 100 * part / whole
    text = rounded(abs(share), places)
    return ("−" if share < 0 else "") + grouped(text, language) + "%"


def rupees(arguments: dict[str, str], language: str) -> str:
    """An amount of Indian rupees: `1.5|c` -> ₹1.5 crore. Template:INRConvert; leaves out the amount in dollars."""
    sizes = {"k": "thousand", "l": "lakh", "c": "crore", "lc": "lakh crore", "m": "million", "b": "billion"}
    sizes |= {"t": "trillion"}
    size = sizes.get(arguments.get("2", "").strip().lower(), "")
    return f"₹{num({'1': arguments.get('1', '')}, language)} {size}".strip()


def currency(arguments: dict[str, str], language: str) -> str:
    """An amount with the sign of its currency: `1000|EUR` -> €1,000. Template:Currency; signs are those of CLDR."""
    from babel.numbers import get_currency_symbol

    code = (arguments.get("2") or arguments.get("type") or "USD").strip().upper()
    sign = {"USD": "US$", "AUD": "A$"}.get(code) or get_currency_symbol(code, locale="en")
    space = " " if sign[-1].isalpha() else ""
    return sign + space + num({"1": arguments.get("1") or arguments.get("amount", "")}, language)


NUMBERS: dict[str, Callable[[dict[str, str], str], str]] = {
    "val": val,
    "frac": frac,
    "num": num,
    "nts": num,
    "gaps": gaps,
    "raised": raised,
    "ordinal": ordinal,
    "number_in_words": number_in_words,
    "ordinal_in_words": ordinal_in_words,
    "roman": roman,
    "percentage": percentage,
    "rupees": rupees,
    "currency": currency,
}
