"""What {{convert}} and {{cvt}} show: a measure, and in brackets the same in other units. "180 kilometres (110 mi)".

Facts: Help:Convert, Help:Convert units, Template:Convert (English Wikipedia). Own code and own table (units.txt).
Numbers are fractions, so every rounding is exact.
"""

import math
import re
from dataclasses import dataclass
from fractions import Fraction
from functools import cache

from corpus.twins_numbers import (
    NUMBER,
    digits,
    grouped,
    in_words,
    mixed_fraction,
    parse_number,
    power_of_ten,
    rounded,
    ten_to,
)
from corpus.units import Unit, american, converted, unit_of, unknown_unit

ENGLISH = ("en", "simple")  # whose readers see the names of units.txt
LOCAL = ("ja", "ko", "vi", "zh")  # whose readers see the names that CLDR has; in other languages the symbols are shown
CLDR_NAMES = {"US gallon": "gallon", "imperial gallon": "gallon-imperial", "US fluid ounce": "fluid-ounce"}
CLDR_NAMES |= {"tonne": "tonne", "US pint": "pint", "US quart": "quart", "imperial pint": "pint-imperial"}
CLDR_NAMES |= {"pound per square inch": "pound-force-per-square-inch", "standard atmosphere": "atmosphere"}

POWERS = {"3": "thousand", "6": "million", "9": "billion", "12": "trillion", "15": "quadrillion"}  # of e6km2

# Two or three units that are shown as one measure: 5 ft 11 in.
COMPOSITE = {"ftin": "ft in", "ydft": "yd ft", "ydftin": "yd ft in", "ydin": "yd in", "mift": "mi ft", "miyd": "mi yd"}
COMPOSITE |= {"mich": "mi chain", "stlb": "st lb", "lboz": "lb oz", "stlboz": "st lb oz", "LTcwt": "LT cwt"}
COMPOSITE |= {"ftin-": "ft in", "hmin": "h min"}

# What may stand between two numbers: written -> (with names of units, with symbols of units).
RANGES = {"to": (" to ", " to "), "-": ("–", "–"), "–": ("–", "–"), "—": ("–", "–"), "&ndash;": ("–", "–")}
RANGES |= {"to-": (" to ", "–"), "to(-)": (" to ", "–"), "and": (" and ", " and "), "&": (" and ", " and ")}
RANGES |= {"and(-)": (" and ", "–"), "and-": (" and ", "–"), "or": (" or ", " or "), "or(-)": (" or ", "–")}
RANGES |= {"or-": (" or ", "–"), ",": (", ", ", "), ", and": (", and ", ", and "), ", or": (", or ", ", or ")}
RANGES |= {"by": (" by ", " by "), "by(x)": (" by ", " × "), "x": (" by ", " × "), "*": (" by ", " × ")}
RANGES |= {"xx": (" × ", " × "), "×": (" × ", " × "), "+/-": (" ± ", " ± "), "±": (" ± ", " ± "), "+": (" + ", " + ")}
RANGES |= {"to about": (" to about ", " to about "), "and about": (" and about ", " and about ")}
RANGES |= {"&plusmn;": (" ± ", " ± "), "&times;": (" × ", " × "), "+-": (" ± ", " ± "), "/": ("/", "/")}
RANGES |= {", to": (", to ", ", to "), "till": (" till ", " till "), "over": (" over ", " over ")}
# The same in other languages, by the English words.
LOCAL_WORDS = {
    "ja": {" to ": "から", " and ": "と", " or ": "または"},
    "zh": {" to ": "至", " and ": "和", " or ": "或"},
}
LOCAL_WORDS |= {"ko": {" to ": "~"}, "vi": {" to ": " đến ", " and ": " và ", " or ": " hoặc "}}
ANY_LANGUAGE = {" to ": "–", " and ": ", ", " or ": "/", " by ": " × ", ", and ": ", ", ", or ": "/"}
REPEATED = ("x", "*", "by(x)")  # 5 m × 6 m: the symbol stands at every number

BETWEEN = r"\s*(to|-|–|—|x|×|and|or|\+/-|±)\s*"
RANGE_IN_ONE = re.compile(rf"({NUMBER}){BETWEEN}({NUMBER})(?:{BETWEEN}({NUMBER}))?")  # 2-5, 2x4x8
OUTPUT_ONLY = ("out", "output only", "output_only", "outputonly", "output")  # values of |disp=
NUMBER_ONLY = ("number", "output number only", "num", "out number only")
FRACTIONAL = ("in", "ft", "yd", "mi", "lb", "oz", "USgal", "impgal")  # units that are divided by halves
STEPS = {"5": Fraction(5), "10": Fraction(10), "25": Fraction(25), "50": Fraction(50), "0.5": Fraction(1, 2)}
INTEGER = re.compile(r"[+−-]?\d+$")


# --- the arguments of a call ---


@dataclass
class Amount:
    """A number as it was written, with the unit that stands right behind it in a range or in 5 ft 11 in."""

    value: Fraction
    shown: str  # without its sign
    decimals: float  # digits that are known behind the point; negative: zeros before it
    denominator: int = 0
    is_one: bool = False
    is_negative: bool = False


@dataclass
class Call:
    """A call of {{convert}} as it was read."""

    amounts: list[Amount]
    between: list[str]  # the range words
    unit: Unit
    parts: list[tuple[Amount, Unit]]  # 5 ft 11 in; empty where there is one unit
    outputs: list[str]  # codes
    precision: int | None
    words: list[str]  # what is left: texts of disp=x, adj=mid ...
    options: dict[str, str]
    language: str


def read_amount(text: str, options: dict[str, str], language: str) -> Amount:
    """The number in an argument. Raises ValueError when there is none."""
    number = parse_number(text, language)
    size = abs(number.value)
    if number.denominator:
        shown = mixed_fraction(number.whole, number.numerator, number.denominator)
        known = max(math.log10(number.denominator), 1)  # 1/2 and 1/8 are as good as one digit behind the point
        return Amount(number.value, shown, known, number.denominator, size <= 1, number.is_negative)

    decimals = number.decimals - number.exponent
    if not number.decimals and not number.exponent:
        zeros = len(number.digits) - len(number.digits.rstrip("0"))
        decimals = -zeros if number.value else -len(number.digits)
    shown = with_commas(number.digits, options, language)
    if number.exponent:
        shown += "×" + power_of_ten(number.exponent)
    return Amount(number.value, shown, decimals, 0, size == 1, number.is_negative)


def with_commas(number: str, options: dict[str, str], language: str) -> str:
    """Digits in groups, as |comma= asks for."""
    style = options.get("comma", "")
    whole = number.partition(".")[0]
    if style == "off" or (style == "5" and len(whole) < 5):
        return grouped(number, language, "")
    return grouped(number, language, "" if style.startswith("gaps") else None)


def read_call(arguments: dict[str, str], language: str) -> Call:
    """The call that these arguments are. Raises ValueError when they are none."""
    options = {key: value.strip() for key, value in arguments.items() if not key.isdigit()}
    texts = positional(arguments)
    if not texts:
        raise ValueError("convert without a number")

    in_one = RANGE_IN_ONE.fullmatch(texts[0].replace("&nbsp;", " ").strip())
    if in_one and not is_fraction(texts[0]):
        texts[:1] = [part for part in in_one.groups() if part]

    amounts = [read_amount(texts.pop(0), options, language)]
    between: list[str] = []
    while len(texts) > 1 and texts[0] in RANGES and is_number(texts[1], language):
        between.append(texts.pop(0))
        amounts.append(read_amount(texts.pop(0), options, language))
    if not texts:
        raise ValueError("convert without a unit")

    code = texts.pop(0)
    unit = unit_of(code) or unknown_unit(code)
    parts: list[tuple[Amount, Unit]] = []
    if not between:
        parts = read_parts(amounts[0], unit, texts, options, language)
    while not parts and len(texts) > 2 and texts[0] in RANGES and is_number(texts[1], language):  # 5|ft|to|6|ft|m
        between.append(texts.pop(0))
        amounts.append(read_amount(texts.pop(0), options, language))
        texts.pop(0)

    outputs: list[str] = []
    if texts and not INTEGER.match(texts[0]):
        outputs = output_codes(texts[0])
        known = all(unit_of(output) or output in COMPOSITE for output in outputs)
        texts = texts[1:] if known else texts
        outputs = outputs if known else []
    precision = None
    if texts and INTEGER.match(texts[0]):
        precision = int(texts.pop(0).replace("−", "-"))
    return Call(amounts, between, unit, parts, outputs, precision, texts, options, language)


Part = tuple[Amount, Unit]


def read_parts(first: Amount, unit: Unit, texts: list[str], options: dict[str, str], language: str) -> list[Part]:
    """The amounts and units of 5 ft 11 in, taken from `texts`; nothing when there is only one unit."""
    parts = [(first, unit)]
    while len(texts) > 1 and is_number(texts[0], language):
        smaller = unit_of(texts[1])
        if not smaller or smaller.dimension != unit.dimension or smaller.factor >= parts[-1][1].factor:
            break
        parts.append((read_amount(texts[0], options, language), smaller))
        del texts[:2]
    return parts if len(parts) > 1 else []


def positional(arguments: dict[str, str]) -> list[str]:
    """The unnamed arguments in their order, without empty ones at the end."""
    texts: list[str] = []
    while str(len(texts) + 1) in arguments:
        texts.append(arguments[str(len(texts) + 1)].strip())
    while texts and not texts[-1]:
        texts.pop()
    return texts


def is_number(text: str, language: str) -> bool:
    try:
        parse_number(text, language)
    except ValueError:
        return False
    return True


def is_fraction(text: str) -> bool:
    return "/" in text and "+/-" not in text


def output_codes(text: str) -> list[str]:
    """`km nmi` and `km+nmi` -> the two codes; `sq mi` stays one."""
    if unit_of(text) or text in COMPOSITE:
        return [text]
    return [code for code in re.split(r"[+\s]+", text) if code]


# --- how much is rounded ---


def floor_log10(value: Fraction) -> int:
    """The power of ten of the first digit: 0 for 5, 2 for 160, -2 for 0.05."""
    guess = math.floor(math.log10(value))
    if ten_to(guess + 1) <= value:
        return guess + 1
    return guess - 1 if ten_to(guess) > value else guess


def default_precision(amount: Amount, source: Unit, target: Unit, result: Fraction, is_composite: bool) -> int:
    """Digits behind the point (negative: zeros before it) of a result, as Help:Convert, "Rounding", says.

    As many as the number that was written has, changed by the factor between the two numbers (one less for each
    factor of ten, twice the result counts as one digit more), but at least two digits that are not zero:

        1300 mi -> 2092.1 km    1300 is known to -2, the factor of 1.6 changes nothing: 2,100
        5 mi    -> 8.04672 km   known to 0, but two digits: 8.0
    """
    if source.offset or target.offset:  # temperatures: three digits in kelvin
        kelvin = abs((amount.value + source.offset) * source.factor)
        least = 2 if kelvin < Fraction(1, 10**8) else 2 - floor_log10(kelvin)
        return max(math.floor(amount.decimals + math.log10(2)), least)
    if not amount.value or not result:
        return 0

    is_whole = amount.value.denominator == 1
    if "finer" in target.marks and is_whole:
        change = -math.log10(source.factor)
    elif is_composite:
        change = math.log10(target.factor) + 2
    else:
        change = math.log10(abs(amount.value / result))
    least = 1 - floor_log10(abs(result))
    return max(math.floor(amount.decimals + change + math.log10(2)), least)


# --- what is shown ---


def convert(arguments: dict[str, str], language: str) -> str:
    """A measure and the same in other units: `180|km` -> 180 kilometres (110 mi).

    Template:Convert. Leaves out links, sort keys and the cells' styles of disp=table; a unit that is not in units.txt
    is shown as it is written, without a conversion. Raises ValueError when the first argument is no number.
    """
    call = read_call(arguments, language)
    targets = output_units(call)
    if call.options.get("disp") in NUMBER_ONLY:
        call.options["abbr"] = "values"
    is_flipped = "flip" in [call.options.get(name) for name in ("order", "disp", "adj")]
    if is_flipped and targets:
        results = [result(call, target, place=1) for target in targets[:1]]
        others = [result(call, target, place=2) for target in targets[1:]]
        return joined(call, results[0], [original(call, place=2), *others])
    return joined(call, original(call, place=1), [result(call, target, place=2) for target in targets])


def output_units(call: Call) -> list[list[Unit]]:
    """The units to show the measure in: each a unit, or the units of one measure like 5 ft 11 in."""
    unit = call.parts[-1][1] if call.parts else call.unit
    codes = call.outputs or default_codes(call.parts[0][1] if call.parts else unit, call.amounts[0].value)
    targets: list[list[Unit]] = []
    for code in codes:
        parts = COMPOSITE.get(code, code).split() if code in COMPOSITE else [code]
        found = [target for part in parts if (target := unit_of(part))]
        is_same_kind = bool(found) and all(comparable(unit, target) for target in found)
        if is_same_kind:
            targets.append(found)
    return targets


def comparable(unit: Unit, target: Unit) -> bool:
    return unit.dimension == target.dimension


def default_codes(unit: Unit, value: Fraction) -> list[str]:
    """The codes of the outputs of a unit where the call names none."""
    default = unit.default
    if unit.power:
        return [f"e{unit.power}{code}" for code in default.split()[:1]]
    if default.startswith("<"):
        below, _, otherwise = default[1:].partition(", ")
        limit, code = below.split()
        return [code] if abs(value) < Fraction(limit) else [otherwise]
    return default.split()


def shows_names(call: Call, place: int) -> bool:
    """Whether units are named (kilometres) and not given by symbols (km), in the first or second place."""
    if call.language not in ENGLISH + LOCAL:
        return False
    style = call.options.get("abbr", "")
    display = call.options.get("disp", "")
    default = "off" if display == "or" or call.language == "zh" else "out"
    if style in ("on", "values", "mos", "unit"):
        return False
    if style in ("off", "none"):
        return True
    if style == "in":
        return place == 2
    return place == 1 or (style or default) == "off"


def has_english_name(call: Call, unit: Unit, place: int) -> bool:
    """Whether this unit is shown by its name in units.txt."""
    return call.language in ENGLISH and shows_names(call, place) and "symbol" not in unit.marks


def local_measure(call: Call, number: str, unit: Unit, place: int) -> str:
    """A number with the name of its unit in another language: 180キロメートル. Empty where CLDR has no name."""
    if call.language not in LOCAL or not shows_names(call, place) or "symbol" in unit.marks or unit.power:
        return ""
    name = CLDR_NAMES.get(unit.singular) or american(unit.singular).replace(" ", "-")
    return local_pattern(name, call.language).replace("{0}", number)


@cache
def local_pattern(name: str, language: str) -> str:
    """How a measure is written: "kilometer", "vi" -> "{0} kilômét". Empty where CLDR has no such unit."""
    from babel.units import UnknownUnitError, format_unit

    try:
        pattern = format_unit("{0}", f"-{name}", "long", locale=language)  # the shortest id that ends so: length-mile
    except UnknownUnitError:
        return ""
    return pattern.replace(" ", "") if language == "ja" else pattern.replace("\u202f", " ")


def joined(call: Call, first: str, others: list[str]) -> str:
    """The measure and its conversions, as |disp= asks for."""
    display = call.options.get("disp", "")
    second = "; ".join(others)
    if not second or display in ("input only", "input", "in"):
        return first
    if display in OUTPUT_ONLY or display in NUMBER_ONLY:
        return second
    if display == "unit":
        return unit_name(call, call.amounts[-1].is_one, 1)
    if display == "unit2":
        return second.split(" ", 1)[-1]
    if display.startswith("table"):
        return " || ".join([first, *others])

    if display in ("or", "comma", "slash", "s", "/"):
        mark = {"or": " or ", "comma": ", "}.get(display, "/")
        return mark.join([first, *others])
    if display == "x" and call.words:
        opening, closing = (call.words + [""])[:2]
        space = "" if opening[:1] in ",;:)" else " "
        end = " " if closing[:1].isalnum() else ""
        return f"{first}{space}{opening} {second}{end}{closing}".replace("[ ", "[").replace("( ", "(")
    if call.language == "zh":
        return f"{first}（{second}）"
    opening, closing = "[]" if display == "sqbr" else "()"
    return f"{first} {opening}{second}{closing}"


# --- the two sides ---


def original(call: Call, place: int) -> str:
    """The measure as it was written, with its unit."""
    if call.parts:
        return between_parts(call).join(measure(call, amount, unit, place) for amount, unit in call.parts)
    return many(call, call.amounts, call.unit, place, is_input=True)


def result(call: Call, target: list[Unit], place: int) -> str:
    """The measure in another unit, rounded; all numbers of a range to the same digit."""
    source = call.parts[-1][1] if call.parts else call.unit
    last = target[-1]
    amounts = amounts_in_one_unit(call)
    values = [converted(amount.value, source, last) for amount in amounts]
    precision = max(precision_of(call, *pair, source, last) for pair in zip(amounts, values, strict=True))

    if len(target) > 1:
        sizes = [composite(call, value, target, precision, place) for value in values]
        return RANGES[call.between[0]][1].join(sizes) if call.between else sizes[0]
    rounded_amounts = [rounded_amount(call, value, precision, last) for value in values]
    return many(call, rounded_amounts, last, place)


def amounts_in_one_unit(call: Call) -> list[Amount]:
    """The amounts; of 5 ft 11 in, one: 71 in."""
    if not call.parts:
        return call.amounts
    smallest = call.parts[-1][1]
    total = sum((abs(amount.value) * unit.factor for amount, unit in call.parts), Fraction(0)) / smallest.factor
    if call.parts[0][0].is_negative:
        total = -total
    last = call.parts[-1][0]
    return [replace_value(last, total)]


def replace_value(amount: Amount, value: Fraction) -> Amount:
    """`amount` with another value; an integer at the end of 5 ft 10 in is known to the last digit."""
    return Amount(value, amount.shown, max(amount.decimals, 0), amount.denominator, False, value < 0)


def precision_of(call: Call, amount: Amount, value: Fraction, source: Unit, target: Unit) -> int:
    """Digits behind the point that the call or the rule of rounding asks for; `value` is the amount in `target`."""
    if call.precision is not None:
        return max(-30, min(call.precision, 30))
    return default_precision(amount, source, target, value, is_composite=bool(call.parts) and source.code == "in")


def rounded_amount(call: Call, value: Fraction, precision: int, unit: Unit) -> Amount:
    """A result as it is shown: rounded to |sigfig=, |round=, |frac= or to `precision` digits."""
    size = abs(value)
    fraction = call.options.get("frac", "")
    if fraction.isdigit() and int(fraction) > 1 and unit.code in FRACTIONAL:
        whole, part = divmod(math.floor(size * int(fraction) + Fraction(1, 2)), int(fraction))
        exact = Fraction(part, int(fraction))
        shown = mixed_fraction(whole, exact.numerator, exact.denominator) if part else str(whole)
        return Amount(value, shown, 0, 1, whole + exact <= 1, value < 0)

    digits_asked = call.options.get("sigfig", "")
    step = STEPS.get(call.options.get("round", ""))
    if call.precision is None and digits_asked.isdigit() and size:
        precision = int(digits_asked) - 1 - floor_log10(size)
    elif call.precision is None and step:
        size = math.floor(size / step + Fraction(1, 2)) * step
        precision = 0 if size.denominator == 1 else 1

    number = rounded(size, precision)
    is_zero = not number.strip("0.")
    is_one = re.fullmatch(r"1(\.0*)?", number) is not None
    return Amount(value, shown_number(call, number), 0, is_one=is_one, is_negative=value < 0 and not is_zero)


def shown_number(call: Call, number: str) -> str:
    """Digits in groups; very large and very small numbers as 9.5×10¹²."""
    whole, _, behind = number.partition(".")
    if len(whole) > 10 and not behind and whole.endswith("0"):
        significant = whole.rstrip("0")
        significant = significant.ljust(2, "0")
        exponent = len(whole) - 1
    elif number.startswith("0.0000") and behind.strip("0"):
        significant = behind.lstrip("0")
        exponent = len(significant) - len(behind) - 1
    else:
        return with_commas(number, call.options, call.language)
    mantissa = digits(f"{significant[0]}.{significant[1:]}".rstrip("."), call.language)
    return f"{mantissa}×{power_of_ten(exponent)}"


def composite(call: Call, value: Fraction, target: list[Unit], precision: int, place: int) -> str:
    """A result in several units: 5 ft 11 in. The last one is rounded, and its units carry over: never 5 ft 12 in."""
    *larger, last = target
    rest = Fraction(rounded(abs(value), max(precision, 0)))
    pieces: list[str] = []
    for unit in larger:
        size = unit.factor / last.factor
        count = math.floor(rest / size)
        rest -= count * size
        shown = with_commas(str(count), call.options, call.language)
        amount = Amount(Fraction(count), shown, 0, is_one=count == 1)
        pieces.append(measure(call, amount, unit, place))
    number = rounded(rest, max(precision, 0))
    pieces.append(measure(call, Amount(rest, number, 0, is_one=number == "1"), last, place))
    return ("−" if value < 0 else "") + between_parts(call).join(pieces)


def between_parts(call: Call) -> str:
    """What stands between feet and inches: a space in scripts that have spaces, and between symbols."""
    return "" if call.language in ("ja", "zh") and shows_names(call, 1) else " "


def many(call: Call, amounts: list[Amount], unit: Unit, place: int, is_input: bool = False) -> str:
    """One amount or a range of them, with the unit."""
    with_names = has_english_name(call, unit, place)
    if not call.between:
        return measure(call, amounts[0], unit, place, is_input)

    repeats = not with_names and all(word in REPEATED for word in call.between)
    if repeats:
        return " × ".join(measure(call, amount, unit, place) for amount in amounts)

    text = signed(amounts[0])
    for word, amount in zip(call.between, amounts[1:], strict=True):
        named, by_symbol = RANGES[word]
        between = named if with_names else by_symbol
        if between == "–" and (amount.is_negative or amounts[0].is_negative):
            between = " to "
        if call.language not in ENGLISH:
            between = (ANY_LANGUAGE | LOCAL_WORDS.get(call.language, {})).get(between, between)
        if with_names and is_adjective(call) and word in ("to", "by", "x"):
            between = between.replace(" ", "-")
        text += between + signed(amount)
    last = Amount(amounts[-1].value, text, 0)
    return measure(call, last, unit, place, is_input)


def signed(amount: Amount) -> str:
    return ("−" if amount.is_negative else "") + amount.shown


def is_adjective(call: Call) -> bool:
    """Whether the measure stands before a noun: a 180-kilometre road."""
    return call.options.get("adj") in ("on", "mid", "1") or call.options.get("sing") == "on"


def measure(call: Call, amount: Amount, unit: Unit, place: int, is_input: bool = False) -> str:
    """An amount with its unit: 180 kilometres, 180-kilometre, 180 km."""
    number = signed(amount)
    spell = call.options.get("spell", "")
    if is_input and not call.between and spell.lower() in ("in", "on") and amount.value.denominator == 1:
        number = in_words(int(amount.value))
        number = number.capitalize() if spell[0].isupper() else number

    display = call.options.get("disp", "")
    adjective = call.options.get("adj", "")
    before = ""
    if (display == "preunit" or adjective == "pre") and call.words:
        before = call.words[0 if place == 1 or len(call.words) < 2 else 1]
        before = "" if place == 2 and (adjective == "pre" or len(call.words) < 2) else before
    if call.options.get("abbr") == "values":
        return number

    local = local_measure(call, number, unit, place)
    if local:
        return local
    name = unit_name(call, amount.is_one, place, unit)
    is_named = has_english_name(call, unit, place)
    power = POWERS.get(unit.power, "")
    if is_named and is_adjective(call):
        text = f"{number}-{f'{power}-' if power else ''}{name.replace(' ', '-')}"
        middle = call.words[0] if adjective == "mid" and is_input and call.words else ""
        return text + (middle if middle.startswith("-") or not middle else f" {middle}")
    if is_named:
        return " ".join(part for part in (number, before, power, name) if part)
    if power:
        number += f" {power}" if call.options.get("abbr") == "unit" else "×" + power_of_ten(int(unit.power))
    space = unit.space
    if before:
        return f"{number} {before} {name}"
    return number + space + name


def unit_name(call: Call, is_one: bool, place: int, unit: Unit | None = None) -> str:
    """The name of a unit in its number and spelling, or its symbol."""
    unit = unit or call.unit
    is_named = has_english_name(call, unit, place)
    is_spelled = unit.symbol in (unit.singular, unit.plural)
    if not is_named and not is_spelled:
        return unit.symbol
    singular = is_one or (is_named and is_adjective(call))
    name = unit.singular if singular else unit.plural
    written = american(name) if call.options.get("sp", "").lower() == "us" else name
    return written


def cvt(arguments: dict[str, str], language: str) -> str:
    """`convert` with symbols on both sides: `180|km` -> 180 km (110 mi). Template:Cvt; leaves out the same."""
    return convert({"abbr": "on"} | arguments, language)
