"""What templates of numbers show: {{val}}, {{num}}, {{frac}}, ordinals, numbers in words, Roman numerals, money.

Exponents are Unicode superscripts (6.2×10¹⁸): with <sup> taken away they would run into the number before (1018).
Fractions stand with the fraction slash that readers see, 1⁄2, and a space behind the whole number, 3 1⁄2: without
one it would be thirty-one halves.
"""

import functools
import re
from dataclasses import dataclass
from fractions import Fraction

from corpus.templates.locales import digits as script_digits
from corpus.templates.locales import formatted_number, number_marks
from corpus.templates.twins_arguments import Arguments, Twin, first_of, only_english, text_of, texts_of

NUMBER = r"[+−-]?(?:\d[\d,]*(?:\.\d+)?|\.\d+)"  # as the English Wikipedia writes it
COMMA_DECIMAL = re.compile(r"[+−-]?(?:\d{1,3}(?:[. ]\d{3})+|\d+),\d+")  # 1.234,5 where it is so
PLAIN = re.compile(r"([+−-]?)(\d*)(?:\.(\d*))?(?:[eE]([+−-]?\d{1,3}))?")
MIXED = re.compile(r"([+−-]?)(?:(\d+)(?:\s*\+\s*|\s*-\s*|\s+))?(\d+)(?:/{1,2}|⁄)(\d+)")
MINUS_SIGNS = ("-", "−")
LONGEST_NUMBER = 60  # characters
LARGEST_EXPONENT = 200
MOST_PLACES = 30  # digits behind the point
VULGAR = {
    "½": "1/2",
    "⅓": "1/3",
    "⅔": "2/3",
    "¼": "1/4",
    "¾": "3/4",
    "⅛": "1/8",
    "⅜": "3/8",
    "⅝": "5/8",
    "⅞": "7/8",
}
GROUP_END = re.compile(r"(?<=\d)(?=(?:\d{3})+$)")  # in 1234567: behind 1 and 4
SIGNED_NUMBER = re.compile(r"([+−-]?)(\d*)(?:\.(\d*))?")
UNIT_POWER = re.compile(r"(?<=[A-Za-zμΩ])([−-]?\d)(?![\d])")  # the 2 of m/s2
UNIT_PRODUCT = re.compile(r"(?<=[A-Za-zμΩ²³])[.*](?=[A-Za-zμΩ])")  # the point of kg.m
SUM = re.compile(r"\w\s*[+−–-]\s*\w")
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
    cleaned = text.replace("&minus;", "−")
    cleaned = cleaned.replace("&#8722;", "−")
    cleaned = cleaned.replace("&nbsp;", " ").strip()
    if not cleaned.isascii():
        for sign, fraction in VULGAR.items():
            cleaned = cleaned.replace(sign, f" {fraction}").strip()

    mixed = MIXED.fullmatch(cleaned)
    if mixed:
        return mixed_number(mixed, text)

    _, decimal_mark = number_marks(language)
    if decimal_mark == "," and COMMA_DECIMAL.fullmatch(cleaned):
        cleaned = cleaned.replace(".", "").replace(",", ".")
    for mark in (",", " ", "'"):
        cleaned = cleaned.replace(mark, "")

    plain = PLAIN.fullmatch(cleaned)
    if not plain or len(cleaned) > LONGEST_NUMBER:
        raise ValueError(f"no number: {text[:40]!r}")
    return plain_number(plain, text)


def mixed_number(match: re.Match, text: str) -> Number:
    """The number of a match of MIXED: 3+1/2. `text`: what was written."""
    sign, whole_digits, *fraction = match.groups()
    whole = int(whole_digits or 0)
    numerator, denominator = (int(digits) for digits in fraction)
    if not denominator:
        raise ValueError(f"a fraction over 0: {text!r}")

    size = whole + Fraction(numerator, denominator)
    return Number(
        value=-size if sign in MINUS_SIGNS else size,
        digits="",
        decimals=0,
        whole=whole,
        numerator=numerator,
        denominator=denominator,
    )


def plain_number(match: re.Match, text: str) -> Number:
    """The number of a match of PLAIN: -12.50, 1.5e6. `text`: what was written."""
    sign, whole, behind, exponent_digits = match.groups()
    behind = behind or ""
    if not whole and not behind:
        raise ValueError(f"no number: {text[:40]!r}")

    exponent = 0
    if exponent_digits:
        exponent = int(exponent_digits.replace("−", "-"))
    if abs(exponent) > LARGEST_EXPONENT:
        raise ValueError(f"a number too large to show: {text[:40]!r}")

    size = Fraction(int(whole + behind), 10 ** len(behind))  # 12.50 is 1250 / 100
    if exponent:
        size *= ten_to(exponent)
    written = whole.lstrip("0") or "0"
    if behind:
        written += f".{behind}"
    return Number(
        value=-size if sign in MINUS_SIGNS else size,
        digits=written,
        decimals=len(behind),
        exponent=exponent,
    )


@functools.lru_cache(maxsize=1000)  # powers of fractions are slow
def ten_to(exponent: int) -> Fraction:
    """A power of ten."""
    return Fraction(10) ** exponent


def grouped(number: str, language: str = "en", mark: str | None = None) -> str:
    """The digits in groups, as the language writes them: "1234567.5" -> "1,234,567.5".

    mark: what stands between groups instead; "" for none.
    """
    if mark is None:
        shown = formatted_number(number, language)
        return shown.replace("\xa0", " ").replace("\u202f", " ")

    whole, point, behind = number.partition(".")
    if mark:
        whole = GROUP_END.sub(lambda _: mark, whole)
    if point:
        _, point = number_marks(language)
    return script_digits(whole + point + behind, language)


def digits(number: str, language: str) -> str:
    """ "1234.5" with the language's decimal mark."""
    return grouped(number, language, "")


def rounded(value: Fraction, precision: int) -> str:
    """`value`, not negative, with so many digits behind the point; halves go up. Negative: zeros before it."""
    if precision <= 0:
        zeros = 10**-precision
        return str(half_up(value / zeros) * zeros)

    hundredths = half_up(value * 10**precision)  # for a precision of 2
    digits_shown = str(hundredths).rjust(precision + 1, "0")
    whole = digits_shown[:-precision]
    behind = digits_shown[-precision:]
    return f"{whole}.{behind}"


def half_up(value: Fraction) -> int:
    """The nearest whole number; the next one for a half: 2.5 -> 3."""
    return (2 * value.numerator + value.denominator) // (2 * value.denominator)


def possible_places(asked: int) -> int:
    """Digits behind the point that a call asks for, at most 30: some call may ask for a billion."""
    return max(-MOST_PLACES, min(asked, MOST_PLACES))


def superscript(text: str) -> str:
    """Digits and signs raised: "-18" -> ⁻¹⁸; letters stay."""
    return text.translate(SUPERSCRIPTS)


def subscript(text: str) -> str:
    """Digits and signs lowered: "2" -> ₂; letters stay."""
    return text.translate(SUBSCRIPTS)


def power_of_ten(exponent: int | str) -> str:
    """10 to a power: 18 -> 10¹⁸."""
    return "10" + superscript(str(exponent).replace("&minus;", "-"))


def mixed_fraction(whole: int | str, numerator: int | str, denominator: int | str) -> str:
    """3, 1, 2 -> "3 1⁄2"; without a whole number "1⁄2"."""
    fraction = f"{numerator}⁄{denominator}"
    has_whole = str(whole) not in ("", "0")
    return f"{whole} {fraction}" if has_whole else fraction


# --- English words ---

ONES = """
zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen
nineteen
""".split()
TENS = "_ _ twenty thirty forty fifty sixty seventy eighty ninety".split()
THOUSANDS = {
    10**12: "trillion",
    10**9: "billion",
    10**6: "million",
    10**3: "thousand",
}


def in_words(number: int) -> str:
    """A whole number in English words: 121 -> one hundred and twenty-one. ValueError from a thousand trillions on."""
    if abs(number) >= 10**15:
        raise ValueError(f"a number too large for words: {number}")
    if number < 0:
        return "minus " + in_words(-number)
    if number >= 1000:
        return thousands_in_words(number)
    if number >= 100:
        count, rest = divmod(number, 100)
        hundreds = f"{ONES[count]} hundred"
        return f"{hundreds} and {in_words(rest)}" if rest else hundreds
    if number >= 20:
        ten, one = divmod(number, 10)
        return f"{TENS[ten]}-{ONES[one]}" if one else TENS[ten]
    return ONES[number]


def thousands_in_words(number: int) -> str:
    """A number from 1000 on: 2_000_500 -> two million, five hundred; 1005 -> one thousand and five."""
    size = max(size for size in THOUSANDS if size <= number)
    count, rest = divmod(number, size)
    words = f"{in_words(count)} {THOUSANDS[size]}"
    if not rest:
        return words

    glue = " "
    if rest < 100:
        glue = " and "
    elif size > 1000:
        glue = ", "
    return words + glue + in_words(rest)


# --- {{val}}, {{frac}} ---


def val(arguments: Arguments, language: str) -> str:
    """A scientific value: `6.2|e=18|u=kg` -> 6.2×10¹⁸ kg; `1.5|0.1|u=m` -> 1.5±0.1 m.

    Template:Val. Leaves out the gaps between groups of digits: they are margins, the text of the page holds no spaces.
    Leaves out sort keys and links, too (ul=, upl= show the same unit).
    """
    mark = "," if text_of(arguments, "fmt") == "commas" else ""
    number = text_of(arguments, "1")
    uncertainty = val_uncertainty(arguments, mark)
    text = value_text(number, mark) + uncertainty

    exponent = first_of(arguments, "e", "10^", "e10")
    unit = val_unit(first_of(arguments, "u", "ul"))
    divisor = val_unit(first_of(arguments, "up", "upl"))
    has_uncertainty = "±" in text or " +" in text
    if has_uncertainty and (exponent or unit in ("%", "°", "°C")):
        text = f"({text})"
    if exponent:
        times = "×" if number else ""
        text = (text if number else "") + times + power_of_ten(exponent)
    if not text:
        raise ValueError("val without a number")

    if divisor:
        unit = f"{unit}/{divisor}"
    is_temperature = unit.startswith(("°C", "°F"))
    is_tight = unit.startswith(("%", "°", "′", "″", "/")) and not is_temperature
    space = "" if is_tight or not unit else " "
    before = first_of(arguments, "p", "pre", "prefix")
    behind = first_of(arguments, "end", "s", "suf", "suffix")
    return before + text + behind + space + unit


def val_uncertainty(arguments: Arguments, mark: str) -> str:
    """How well the value of {{val}} is known: ±0.1, +0.2 −0.1, (7); "" where the call does not say."""
    first, second = texts_of(arguments, "2", "3")
    if first and second:
        plus = value_text(first.lstrip("+-−"), mark)
        minus = value_text(second.lstrip("+-−"), mark)
        return f"±{plus}" if plus == minus else f" +{plus} −{minus}"
    if first.startswith("("):
        return first
    if first:
        return "±" + value_text(first.lstrip("±"), mark)
    return ""


def value_text(text: str, mark: str) -> str:
    """A number of {{val}}: digits grouped, an uncertainty in brackets kept: 1.00794(7)."""
    text = text.replace(",", "")
    text = text.replace("&minus;", "-")
    text = text.replace("+-", "±")
    number, bracket, uncertainty = text.partition("(")
    return marked(number.strip(), mark) + bracket + uncertainty


def marked(text: str, mark: str) -> str:
    """A number with `mark` between groups of three digits before its point; anything else as it is."""
    number = SIGNED_NUMBER.fullmatch(text)
    if not number:
        return text
    sign, whole, behind = number.groups()
    shown = sign.replace("-", "−") + grouped(whole or "0", "en", mark)
    return f"{shown}.{behind}" if behind else shown


def val_unit(unit: str) -> str:
    """The unit of {{val}}: `m/s2` -> m/s², `kg.m` -> kg⋅m."""
    unit = UNIT_POWER.sub(lambda match: superscript(match[1]), unit)
    return UNIT_PRODUCT.sub("⋅", unit)


def frac(arguments: Arguments, language: str) -> str:
    """A fraction: `1|2` -> 1⁄2; `3|1|2` -> 3 1⁄2; `3` -> 1⁄3. Template:Frac; also Template:Sfrac, which stacks them."""
    first, second, third = texts_of(arguments, "1", "2", "3")
    if arguments.get("4"):
        raise ValueError("a fraction of more than three numbers")
    if third:
        return mixed_fraction(first, second, third)
    if second:
        return mixed_fraction("", plain_term(first), plain_term(second))
    if first:
        return mixed_fraction("", 1, first)
    return "⁄"


def plain_term(text: str) -> str:
    """A numerator or denominator; in brackets when it is a sum."""
    without_italics = text.replace("''", "")
    return f"({text})" if SUM.search(without_italics) else text


# --- smaller ones ---


def ordinal_text(number: int) -> str:
    """1 -> 1st, 12 -> 12th, 23 -> 23rd."""
    ten = number // 10 % 10
    if ten == 1:
        return f"{number}th"
    endings = {1: "st", 2: "nd", 3: "rd"}
    ending = endings.get(number % 10, "th")
    return f"{number}{ending}"


def first_integer(arguments: Arguments) -> int:
    """The first argument as a whole number. Raises ValueError when it is none."""
    number = parse_number(arguments.get("1", ""))
    if number.value.denominator != 1:
        raise ValueError(f"no whole number: {arguments['1'][:40]!r}")
    return int(number.value)


def num(arguments: Arguments, language: str) -> str:
    """A number with its digits in groups: `10000` -> 10,000; text stays. Template:Num, Template:Nts (no sort key)."""
    text = text_of(arguments, "1")
    try:
        number = parse_number(text, language)
    except ValueError:
        return text
    if number.denominator or number.exponent:
        return text

    sign = "−" if number.is_negative else ""
    prefix = arguments.get("prefix", "")
    suffix = arguments.get("suffix", "")
    return prefix + sign + grouped(number.digits, language) + suffix


def gaps(arguments: Arguments, language: str) -> str:
    """Groups of digits as one number: `1|234|567|u=m` -> 1234567 m. Template:Gaps; the gaps are margins, no spaces."""
    number = "".join(arguments.get(str(place), "") for place in range(1, 30))
    shown = arguments.get("lhs", "") + number + arguments.get("rhs", "")
    exponent = arguments.get("e")
    if exponent:
        shown += f"×{power_of_ten(exponent)}"
    unit = arguments.get("u")
    if unit:
        shown += f" {val_unit(unit)}"
    return shown


def raised(arguments: Arguments, language: str) -> str:
    """A power: `24` -> ²⁴; with |times=10 -> ×10²⁴. Template:Sup, Template:E. Letters stay as they are."""
    text = superscript(text_of(arguments, "1"))
    return f"×10{text}" if arguments.get("times") else text


def ordinal(arguments: Arguments, language: str) -> str:
    """`2` -> 2nd. Template:Ordinal (English)."""
    only_english(language)
    return ordinal_text(first_integer(arguments))


def number_in_words(arguments: Arguments, language: str) -> str:
    """`121` -> one hundred and twenty-one. Template:Number to words; |case=u begins with a capital."""
    only_english(language)
    words = in_words(first_integer(arguments))
    with_capital = arguments.get("case", "").lower().startswith("u")
    return words.capitalize() if with_capital else words


IRREGULAR_ORDINALS = {
    "one": "first",
    "two": "second",
    "three": "third",
    "five": "fifth",
    "eight": "eighth",
    "nine": "ninth",
    "twelve": "twelfth",
}


def ordinal_in_words(arguments: Arguments, language: str) -> str:
    """`21` -> twenty-first. Template:Ordinal to word."""
    only_english(language)
    words = in_words(first_integer(arguments))
    last = re.split(r"\W", words)[-1]
    before = words.removesuffix(last)
    if last in IRREGULAR_ORDINALS:
        return before + IRREGULAR_ORDINALS[last]
    if last.endswith("ty"):
        return before + last.removesuffix("y") + "ieth"
    return before + last + "th"


ROMAN = {
    "M": 1000,
    "CM": 900,
    "D": 500,
    "CD": 400,
    "C": 100,
    "XC": 90,
    "L": 50,
    "XL": 40,
    "X": 10,
    "IX": 9,
    "V": 5,
    "IV": 4,
    "I": 1,
}


def roman(arguments: Arguments, language: str) -> str:
    """`1987` -> MCMLXXXVII. Template:Roman; ValueError beyond 1 to 3999 (the template's text for them: argument 2)."""
    rest = first_integer(arguments)
    if not 0 < rest < 4000:
        if arguments.get("2"):
            return arguments["2"]
        raise ValueError(f"no Roman numeral: {rest}")

    text = ""
    for letters, value in ROMAN.items():
        count, rest = divmod(rest, value)
        text += letters * count
    return text


def percentage(arguments: Arguments, language: str) -> str:
    """`1|3` -> 33%; `1|3|1` -> 33.3%. Template:Percentage."""
    part = parse_number(arguments.get("1", "")).value
    whole = parse_number(arguments.get("2", "")).value
    if not whole:
        raise ValueError("a share of 0")

    places = int(text_of(arguments, "3") or 0)
    places = max(0, min(places, 10))
    share = 100 * part / whole
    sign = "−" if share < 0 else ""
    number = rounded(abs(share), places)
    return sign + grouped(number, language) + "%"


RUPEES = {
    "k": "thousand",
    "l": "lakh",
    "c": "crore",
    "lc": "lakh crore",
    "m": "million",
    "b": "billion",
    "t": "trillion",
}


def rupees(arguments: Arguments, language: str) -> str:
    """An amount of Indian rupees: `1.5|c` -> ₹1.5 crore. Template:INRConvert; leaves out the amount in dollars."""
    size = RUPEES.get(text_of(arguments, "2").lower(), "")
    number = num({"1": arguments.get("1", "")}, language)
    return f"₹{number} {size}".strip()


CURRENCY_SIGNS = {
    "USD": "US$",
    "AUD": "A$",
}


def currency(arguments: Arguments, language: str) -> str:
    """An amount with the sign of its currency: `1000|EUR` -> €1,000. Template:Currency; signs are those of CLDR."""
    from babel.numbers import get_currency_symbol

    code = arguments.get("2") or arguments.get("type") or "USD"
    code = code.strip().upper()
    sign = CURRENCY_SIGNS.get(code) or get_currency_symbol(code, locale="en")
    space = " " if sign[-1].isalpha() else ""
    amount = arguments.get("1") or arguments.get("amount", "")
    return sign + space + num({"1": amount}, language)


NUMBERS: dict[str, Twin] = {
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
