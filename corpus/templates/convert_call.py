"""A call of {{convert}} as its arguments say it: `5|to|7|ft|m|1` is 5 and 7, the unit ft, the output m, one decimal.

What it shows is in twins_convert.py. Facts: Help:Convert (English Wikipedia).
"""

import math
import re
from dataclasses import dataclass
from fractions import Fraction

from corpus.templates.twins_arguments import Arguments
from corpus.templates.twins_numbers import NUMBER, Number, grouped, mixed_fraction, parse_number, power_of_ten
from corpus.templates.units import Unit, unit_of, unknown_unit

# Two or three units that are shown as one measure: 5 ft 11 in.
COMPOSITE = {
    "ftin": "ft in",
    "ydft": "yd ft",
    "ydftin": "yd ft in",
    "ydin": "yd in",
    "mift": "mi ft",
    "miyd": "mi yd",
    "mich": "mi chain",
    "stlb": "st lb",
    "lboz": "lb oz",
    "stlboz": "st lb oz",
    "LTcwt": "LT cwt",
    "ftin-": "ft in",
    "hmin": "h min",
}

# What may stand between two numbers: written -> (with names of units, with symbols of units).
RANGES = {
    "to": (" to ", " to "),
    "-": ("–", "–"),
    "–": ("–", "–"),
    "—": ("–", "–"),
    "&ndash;": ("–", "–"),
    "to-": (" to ", "–"),
    "to(-)": (" to ", "–"),
    "and": (" and ", " and "),
    "&": (" and ", " and "),
    "and(-)": (" and ", "–"),
    "and-": (" and ", "–"),
    "or": (" or ", " or "),
    "or(-)": (" or ", "–"),
    "or-": (" or ", "–"),
    ",": (", ", ", "),
    ", and": (", and ", ", and "),
    ", or": (", or ", ", or "),
    "by": (" by ", " by "),
    "by(x)": (" by ", " × "),
    "x": (" by ", " × "),
    "*": (" by ", " × "),
    "xx": (" × ", " × "),
    "×": (" × ", " × "),
    "+/-": (" ± ", " ± "),
    "±": (" ± ", " ± "),
    "+": (" + ", " + "),
    "to about": (" to about ", " to about "),
    "and about": (" and about ", " and about "),
    "&plusmn;": (" ± ", " ± "),
    "&times;": (" × ", " × "),
    "+-": (" ± ", " ± "),
    "/": ("/", "/"),
    ", to": (", to ", ", to "),
    "till": (" till ", " till "),
    "over": (" over ", " over "),
}

BETWEEN = r"\s*(to|-|–|—|x|×|and|or|\+/-|±)\s*"
RANGE_IN_ONE = re.compile(rf"({NUMBER}){BETWEEN}({NUMBER})(?:{BETWEEN}({NUMBER}))?")  # 2-5, 2x4x8
INTEGER = re.compile(r"[+−-]?\d+$")


@dataclass
class Amount:
    """A number as it was written, or as it is shown."""

    value: Fraction
    shown: str  # without its sign
    decimals: float = 0  # digits that are known behind the point; negative: zeros before it
    denominator: int = 0  # of a fraction, which was written as one
    is_one: bool = False  # 1 mile
    is_negative: bool = False


Part = tuple[Amount, Unit]


@dataclass
class Call:
    """A call of {{convert}} as it was read."""

    amounts: list[Amount]
    between: list[str]  # the range words
    unit: Unit
    parts: list[Part]  # 5 ft 11 in; empty where there is one unit
    outputs: list[str]  # codes
    precision: int | None
    words: list[str]  # what is left: texts of disp=x, adj=mid ...
    options: dict[str, str]
    language: str

    def option(self, name: str) -> str:
        """The value of |name=; "" without one."""
        return self.options.get(name, "")

    def source(self) -> Unit:
        """The unit that is converted; of 5 ft 11 in, the inch."""
        if not self.parts:
            return self.unit
        _, smallest = self.parts[-1]
        return smallest


# --- reading ---


def read_call(arguments: Arguments, language: str) -> Call:
    """The call that these arguments are: `5|to|7|ft|m|1` -> amounts 5 and 7, unit ft, output m, precision 1.

    Raises ValueError when they are none.
    """
    options = {key: value.strip() for key, value in arguments.items() if not key.isdigit()}
    texts = positional(arguments)  # every step takes what it reads from its front
    if not texts:
        raise ValueError("convert without a number")
    texts[:1] = numbers_in(texts[0])

    first = read_amount(texts.pop(0), options, language)
    others = read_range(texts, 2, options, language)  # 5|to|6|ft
    if not texts:
        raise ValueError("convert without a unit")

    code = texts.pop(0)
    unit = unit_of(code) or unknown_unit(code)
    parts: list[Part] = []
    if not others:
        parts = read_parts(first, unit, texts, options, language)
    if not parts:
        others += read_range(texts, 3, options, language)  # 5|ft|to|6|ft

    outputs = read_outputs(texts)
    precision = read_precision(texts)
    return Call(
        amounts=[first, *(amount for _, amount in others)],
        between=[word for word, _ in others],
        unit=unit,
        parts=parts,
        outputs=outputs,
        precision=precision,
        words=texts,
        options=options,
        language=language,
    )


def positional(arguments: Arguments) -> list[str]:
    """The unnamed arguments in their order, without empty ones at the end."""
    texts: list[str] = []
    text = arguments.get("1")
    while text is not None:
        texts.append(text.strip())
        text = arguments.get(str(len(texts) + 1))

    while texts and not texts[-1]:
        texts.pop()
    return texts


def numbers_in(text: str) -> list[str]:
    """The numbers and words of a range in one argument: "2-5" -> ["2", "-", "5"]. A fraction, 3-1/2, is one number."""
    in_one = RANGE_IN_ONE.fullmatch(text.replace("&nbsp;", " ").strip())
    is_fraction = "/" in text and "+/-" not in text
    if not in_one or is_fraction:
        return [text]
    return [part for part in in_one.groups() if part]


def read_amount(text: str, options: dict[str, str], language: str) -> Amount:
    """The number in an argument. Raises ValueError when there is none."""
    number = parse_number(text, language)
    return amount_of(number, options, language)


def amount_or_none(text: str, options: dict[str, str], language: str) -> Amount | None:
    """The same; None when there is no number."""
    try:
        return read_amount(text, options, language)
    except ValueError:
        return None


def amount_of(number: Number, options: dict[str, str], language: str) -> Amount:
    """A number with the way that it is shown and how well it is known."""
    size = abs(number.value)
    if number.denominator:
        return Amount(
            value=number.value,
            shown=mixed_fraction(number.whole, number.numerator, number.denominator),
            decimals=max(math.log10(number.denominator), 1),  # 1/2 and 1/8 are as good as one digit behind the point
            denominator=number.denominator,
            is_one=size <= 1,
            is_negative=number.is_negative,
        )

    shown = with_commas(number.digits, options, language)
    if number.exponent:
        shown += "×" + power_of_ten(number.exponent)
    return Amount(
        value=number.value,
        shown=shown,
        decimals=known_decimals(number),
        is_one=size == 1,
        is_negative=number.is_negative,
    )


def known_decimals(number: Number) -> int:
    """Digits that are known behind the point: 1 of 2.5, -2 of 1300, whose zeros may be rounded."""
    if number.decimals or number.exponent:
        return number.decimals - number.exponent
    if not number.value:
        return -len(number.digits)
    without_zeros = number.digits.rstrip("0")
    return len(without_zeros) - len(number.digits)


def with_commas(number: str, options: dict[str, str], language: str) -> str:
    """Digits in groups, as |comma= asks for: "12345" -> 12,345."""
    style = options.get("comma", "")
    if style == "off" or style.startswith("gaps"):
        return grouped(number, language, "")

    whole = number.partition(".")[0]
    is_short = len(whole) < 5
    if style == "5" and is_short:
        return grouped(number, language, "")
    return grouped(number, language)


def read_range(texts: list[str], width: int, options: dict[str, str], language: str) -> list[tuple[str, Amount]]:
    """The words and numbers of a range behind the first number, taken from `texts`.

    width: how many arguments each takes: 2 of `to|6`, 3 of `to|6|ft`.
    """
    found: list[tuple[str, Amount]] = []
    while len(texts) >= width and texts[0] in RANGES:
        amount = amount_or_none(texts[1], options, language)
        if amount is None:
            break
        found.append((texts[0], amount))
        del texts[:width]
    return found


def read_parts(first: Amount, unit: Unit, texts: list[str], options: dict[str, str], language: str) -> list[Part]:
    """The amounts and units of 5 ft 11 in, taken from `texts`; nothing when there is only one unit."""
    parts = [(first, unit)]
    last = unit
    while len(texts) > 1:
        amount = amount_or_none(texts[0], options, language)
        smaller = unit_of(texts[1])
        if amount is None or smaller is None:
            break
        if smaller.dimension != unit.dimension or smaller.factor >= last.factor:
            break
        parts.append((amount, smaller))
        last = smaller
        del texts[:2]
    return parts if len(parts) > 1 else []


def read_outputs(texts: list[str]) -> list[str]:
    """The codes of the units to convert to, taken from `texts`; nothing where none stands."""
    if not texts or INTEGER.match(texts[0]):
        return []
    codes = output_codes(texts[0])
    for code in codes:
        if code not in COMPOSITE and not unit_of(code):
            return []
    texts.pop(0)
    return codes


def output_codes(text: str) -> list[str]:
    """`km nmi` and `km+nmi` -> the two codes; `sq mi` stays one."""
    if unit_of(text) or text in COMPOSITE:
        return [text]
    return [code for code in re.split(r"[+\s]+", text) if code]


def read_precision(texts: list[str]) -> int | None:
    """Digits behind the point that the call asks for, taken from `texts`."""
    if not texts or not INTEGER.match(texts[0]):
        return None
    number = texts.pop(0)
    return int(number.replace("−", "-"))
