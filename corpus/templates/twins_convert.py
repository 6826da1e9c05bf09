"""What {{convert}} and {{cvt}} show: a measure, and in brackets the same in other units. "180 kilometres (110 mi)".

Facts: Help:Convert, Help:Convert units, Template:Convert (English Wikipedia). Own code and own table (units.txt).
Numbers are fractions, so every rounding is exact.
"""

import math
from fractions import Fraction
from functools import cache

from corpus.templates.convert_call import COMPOSITE, RANGES, Amount, Call, read_call, with_commas
from corpus.templates.twins_arguments import ENGLISH, Arguments
from corpus.templates.twins_numbers import (
    digits,
    half_up,
    in_words,
    mixed_fraction,
    possible_places,
    power_of_ten,
    rounded,
    ten_to,
)
from corpus.templates.units import Unit, american, converted, unit_of

# Readers of ENGLISH see the names of units.txt, those of LOCAL the names that CLDR has; all others see symbols.
LOCAL = ("ja", "ko", "vi", "zh")
CLDR_NAMES = {
    "US gallon": "gallon",
    "imperial gallon": "gallon-imperial",
    "US fluid ounce": "fluid-ounce",
    "tonne": "tonne",
    "US pint": "pint",
    "US quart": "quart",
    "imperial pint": "pint-imperial",
    "pound per square inch": "pound-force-per-square-inch",
    "standard atmosphere": "atmosphere",
}

# The powers of ten of e6km2.
POWERS = {
    "3": "thousand",
    "6": "million",
    "9": "billion",
    "12": "trillion",
    "15": "quadrillion",
}

REPEATED = ("x", "*", "by(x)")  # 5 m × 6 m: the symbol stands at every number

# The same in other languages, by the English words.
ANY_LANGUAGE = {
    " to ": "–",
    " and ": ", ",
    " or ": "/",
    " by ": " × ",
    ", and ": ", ",
    ", or ": "/",
}
LOCAL_WORDS = {
    "ja": {
        " to ": "から",
        " and ": "と",
        " or ": "または",
    },
    "zh": {
        " to ": "至",
        " and ": "和",
        " or ": "或",
    },
    "ko": {
        " to ": "~",
    },
    "vi": {
        " to ": " đến ",
        " and ": " và ",
        " or ": " hoặc ",
    },
}

# Values of |disp=.
INPUT_ONLY = ("input only", "input", "in")
OUTPUT_ONLY = ("out", "output only", "output_only", "outputonly", "output")
NUMBER_ONLY = ("number", "output number only", "num", "out number only")
MARKS = {
    "or": " or ",
    "comma": ", ",
    "slash": "/",
    "s": "/",
    "/": "/",
}

# Rounding.
FRACTIONAL = ("in", "ft", "yd", "mi", "lb", "oz", "USgal", "impgal")  # units that are divided by halves
STEPS = {
    "0.5": Fraction(1, 2),
    "5": Fraction(5),
    "10": Fraction(10),
    "25": Fraction(25),
    "50": Fraction(50),
}
LOG_2 = math.log10(2)


# --- how much is rounded ---


def floor_log10(value: Fraction) -> int:
    """The power of ten of the first digit: 0 for 5, 2 for 160, -2 for 0.05."""
    guess = math.floor(math.log10(value))
    if ten_to(guess + 1) <= value:
        return guess + 1
    if ten_to(guess) > value:
        return guess - 1
    return guess


def precision_of(call: Call, amount: Amount, value: Fraction, source: Unit, target: Unit) -> int:
    """Digits behind the point that the call or the rule of rounding asks for; `value` is the amount in `target`."""
    if call.precision is not None:
        return possible_places(call.precision)
    if source.offset or target.offset:
        return temperature_precision(amount, source)
    is_composite = bool(call.parts) and source.code == "in"
    return default_precision(amount, source, target, value, is_composite)


def temperature_precision(amount: Amount, source: Unit) -> int:
    """As many digits behind the point as were written, but at least three digits in kelvin: 20 °C is 293 K."""
    kelvin = abs((amount.value + source.offset) * source.factor)
    least = 2
    if kelvin >= Fraction(1, 10**8):
        least -= floor_log10(kelvin)
    written = math.floor(amount.decimals + LOG_2)
    return max(written, least)


def default_precision(amount: Amount, source: Unit, target: Unit, result: Fraction, is_composite: bool) -> int:
    """Digits behind the point (negative: zeros before it) of a result, as Help:Convert, "Rounding", says.

    As many as the number that was written has, changed by the factor between the two numbers (one less for each
    factor of ten, twice the result counts as one digit more), but at least two digits that are not zero:

        1300 mi -> 2092.1 km    1300 is known to -2, the factor of 1.6 changes nothing: 2,100
        5 mi    -> 8.04672 km   known to 0, but two digits: 8.0
    """
    if not amount.value or not result:
        return 0

    is_whole = amount.value.denominator == 1
    if "finer" in target.marks and is_whole:
        change = -math.log10(source.factor)
    elif is_composite:
        change = math.log10(target.factor) + 2
    else:
        change = math.log10(abs(amount.value / result))

    known = math.floor(amount.decimals + change + LOG_2)
    two_digits = 1 - floor_log10(abs(result))
    return max(known, two_digits)


# --- what is shown ---


def convert(arguments: Arguments, language: str) -> str:
    """A measure and the same in other units: `180|km` -> 180 kilometres (110 mi).

    Template:Convert. Leaves out links, sort keys and the cells' styles of disp=table; a unit that is not in units.txt
    is shown as it is written, without a conversion. Raises ValueError when the first argument is no number.
    """
    call = read_call(arguments, language)
    targets = output_units(call)
    if call.option("disp") in NUMBER_ONLY:
        call.options["abbr"] = "values"

    is_flipped = "flip" in (call.option("order"), call.option("disp"), call.option("adj"))
    if is_flipped and targets:
        first_target, *others = targets
        first = result(call, first_target, place=1)
        behind = [original(call, place=2)]
    else:
        others = targets
        first = original(call, place=1)
        behind = []
    behind += [result(call, target, place=2) for target in others]
    return joined(call, first, behind)


def cvt(arguments: Arguments, language: str) -> str:
    """`convert` with symbols on both sides: `180|km` -> 180 km (110 mi). Template:Cvt; leaves out the same."""
    return convert({"abbr": "on"} | arguments, language)


def output_units(call: Call) -> list[list[Unit]]:
    """The units to show the measure in: each a unit, or the units of one measure like 5 ft 11 in."""
    targets: list[list[Unit]] = []
    for code in call.outputs or default_codes(call):
        found: list[Unit] = []
        for part in composite_codes(code):
            unit = unit_of(part)
            if unit:
                found.append(unit)

        dimensions = {unit.dimension for unit in found}
        if dimensions == {call.source().dimension}:
            targets.append(found)
    return targets


def composite_codes(code: str) -> list[str]:
    """`ftin` -> ["ft", "in"]; any other code alone."""
    if code in COMPOSITE:
        return COMPOSITE[code].split()
    return [code]


def default_codes(call: Call) -> list[str]:
    """The codes of the outputs where the call names none."""
    default = call.unit.default
    if call.unit.power:
        return [f"e{call.unit.power}{code}" for code in default.split()[:1]]
    if not default.startswith("<"):
        return default.split()

    # "<3 ftin, ft": feet and inches below 3 m, feet from there on
    below, _, otherwise = default.removeprefix("<").partition(", ")
    limit, code = below.split()
    is_below = abs(call.amounts[0].value) < Fraction(limit)
    return [code] if is_below else [otherwise]


def joined(call: Call, first: str, others: list[str]) -> str:
    """The measure and its conversions, as |disp= asks for: 180 km (110 mi; 97 nmi)."""
    display = call.option("disp")
    second = "; ".join(others)
    if not second or display in INPUT_ONLY:
        return first
    if display in OUTPUT_ONLY or display in NUMBER_ONLY:
        return second
    if display == "unit":
        return unit_name(call, call.amounts[-1].is_one, 1, call.unit)
    if display == "unit2":
        return second.split(" ", 1)[-1]

    if display.startswith("table"):
        return " || ".join([first, *others])
    if display in MARKS:
        return MARKS[display].join([first, *others])
    if display == "x" and call.words:
        return joined_by_words(call.words, first, second)
    if call.language == "zh":
        return f"{first}（{second}）"
    if display == "sqbr":
        return f"{first} [{second}]"
    return f"{first} ({second})"


def joined_by_words(words: list[str], first: str, second: str) -> str:
    """A measure with the words of disp=x: `10|ft|m|disp=x|, or about|high` -> 10 feet, or about 3.0 m high."""
    opening = words[0]
    closing = words[1] if len(words) > 1 else ""
    before = "" if opening[:1] in ",;:)" else " "
    behind = " " if closing[:1].isalnum() else ""
    text = f"{first}{before}{opening} {second}{behind}{closing}"
    return text.replace("[ ", "[").replace("( ", "(")


# --- the two sides ---


def original(call: Call, place: int) -> str:
    """The measure as it was written, with its unit."""
    if not call.parts:
        return many(call, call.amounts, call.unit, place, is_input=True)
    measures = [measure(call, amount, unit, place) for amount, unit in call.parts]
    return between_parts(call).join(measures)


def result(call: Call, target: list[Unit], place: int) -> str:
    """The measure in another unit, rounded; all numbers of a range to the same digit."""
    source = call.source()
    last = target[-1]
    values: list[Fraction] = []
    precisions: list[int] = []
    for amount in amounts_in_one_unit(call):
        value = converted(amount.value, source, last)
        values.append(value)
        precisions.append(precision_of(call, amount, value, source, last))
    precision = max(precisions)

    if len(target) == 1:
        amounts = [rounded_amount(call, value, precision, last) for value in values]
        return many(call, amounts, last, place)

    sizes = [composite(call, value, target, precision, place) for value in values]
    if not call.between:
        return sizes[0]
    _, by_symbol = RANGES[call.between[0]]
    return by_symbol.join(sizes)


def amounts_in_one_unit(call: Call) -> list[Amount]:
    """The amounts; of 5 ft 11 in, one: 71 in."""
    if not call.parts:
        return call.amounts

    total = Fraction(0)
    for amount, unit in call.parts:
        total += abs(amount.value) * unit.factor
    last, smallest = call.parts[-1]
    total /= smallest.factor

    first, _ = call.parts[0]
    value = -total if first.is_negative else total
    decimals = max(last.decimals, 0)  # the integer at the end of 5 ft 10 in is known to the last digit
    return [Amount(value, last.shown, decimals, last.denominator, is_negative=value < 0)]


def rounded_amount(call: Call, value: Fraction, precision: int, unit: Unit) -> Amount:
    """A result as it is shown: rounded to |sigfig=, |round=, |frac= or to `precision` digits."""
    fraction = call.option("frac")
    if fraction.isdigit() and int(fraction) > 1 and unit.code in FRACTIONAL:
        return fraction_amount(value, int(fraction))

    size = abs(value)
    if call.precision is None:
        significant = call.option("sigfig")
        step = STEPS.get(call.option("round"))
        if significant.isdigit() and size:
            digits_shown = possible_places(int(significant))
            precision = digits_shown - 1 - floor_log10(size)
        elif step:
            size = half_up(size / step) * step
            precision = 0 if size.denominator == 1 else 1

    number = rounded(size, precision)
    is_zero = not number.strip("0.")
    return Amount(
        value=value,
        shown=shown_number(call, number),
        is_one=number.rstrip("0") == "1." or number == "1",
        is_negative=value < 0 and not is_zero,
    )


def fraction_amount(value: Fraction, denominator: int) -> Amount:
    """A result in halves, quarters ...: 2.27 in quarters is 2 1⁄4."""
    count = half_up(abs(value) * denominator)
    whole, rest = divmod(count, denominator)
    part = Fraction(rest, denominator)
    return Amount(
        value=value,
        shown=mixed_fraction(whole, part.numerator, part.denominator) if rest else str(whole),
        denominator=1,
        is_one=whole + part <= 1,
        is_negative=value < 0,
    )


def shown_number(call: Call, number: str) -> str:
    """Digits in groups; very large and very small numbers as 9.5×10¹²."""
    whole, _, behind = number.partition(".")
    is_large = len(whole) > 10 and not behind and whole.endswith("0")
    is_small = number.startswith("0.0000") and behind.strip("0") != ""
    if is_large:
        significant = whole.rstrip("0").ljust(2, "0")
        exponent = len(whole) - 1
    elif is_small:
        significant = behind.lstrip("0")
        exponent = len(significant) - len(behind) - 1
    else:
        return with_commas(number, call.options, call.language)

    mantissa = f"{significant[0]}.{significant[1:]}".rstrip(".")
    return f"{digits(mantissa, call.language)}×{power_of_ten(exponent)}"


def composite(call: Call, value: Fraction, target: list[Unit], precision: int, place: int) -> str:
    """A result in several units: 5 ft 11 in. The last one is rounded, and its units carry over: never 5 ft 12 in."""
    *larger, last = target
    precision = max(precision, 0)
    rest = Fraction(rounded(abs(value), precision))
    pieces: list[str] = []
    for unit in larger:
        size = unit.factor / last.factor
        count = math.floor(rest / size)
        rest -= count * size
        shown = with_commas(str(count), call.options, call.language)
        amount = Amount(Fraction(count), shown, is_one=count == 1)
        pieces.append(measure(call, amount, unit, place))

    number = rounded(rest, precision)
    amount = Amount(rest, number, is_one=number == "1")
    pieces.append(measure(call, amount, last, place))
    sign = "−" if value < 0 else ""
    return sign + between_parts(call).join(pieces)


def between_parts(call: Call) -> str:
    """What stands between feet and inches: a space in scripts that have spaces, and between symbols."""
    has_no_spaces = call.language in ("ja", "zh")
    return "" if has_no_spaces and shows_names(call, 1) else " "


def many(call: Call, amounts: list[Amount], unit: Unit, place: int, is_input: bool = False) -> str:
    """One amount or a range of them, with the unit: 5 m × 6 m, 5 to 6 metres."""
    if not call.between:
        return measure(call, amounts[0], unit, place, is_input)

    with_names = has_english_name(call, unit, place)
    repeats = all(word in REPEATED for word in call.between)
    if repeats and not with_names:
        measures = [measure(call, amount, unit, place) for amount in amounts]
        return " × ".join(measures)

    first, *others = amounts
    text = signed(first)
    for word, amount in zip(call.between, others, strict=True):
        is_negative = amount.is_negative or first.is_negative
        text += range_word(call, word, with_names, is_negative) + signed(amount)
    whole_range = Amount(amounts[-1].value, text)
    return measure(call, whole_range, unit, place, is_input)


def range_word(call: Call, word: str, with_names: bool, is_negative: bool) -> str:
    """What is shown between two numbers: "-" -> –, but "to" before and behind negative ones: −5 to 3."""
    named, by_symbol = RANGES[word]
    between = named if with_names else by_symbol
    if between == "–" and is_negative:
        between = " to "

    if call.language not in ENGLISH:
        local = LOCAL_WORDS.get(call.language, {})
        between = local.get(between) or ANY_LANGUAGE.get(between, between)
    if with_names and is_adjective(call) and word in ("to", "by", "x"):
        return between.replace(" ", "-")  # 5-to-6-metre
    return between


def signed(amount: Amount) -> str:
    """The number with its sign: −5."""
    return f"−{amount.shown}" if amount.is_negative else amount.shown


def is_adjective(call: Call) -> bool:
    """Whether the measure stands before a noun: a 180-kilometre road."""
    return call.option("adj") in ("on", "mid", "1") or call.option("sing") == "on"


# --- a number with its unit ---


def measure(call: Call, amount: Amount, unit: Unit, place: int, is_input: bool = False) -> str:
    """An amount with its unit: 180 kilometres, 180-kilometre, 180 km."""
    number = spelled(call, amount) if is_input else signed(amount)
    if call.option("abbr") == "values":
        return number
    local = local_measure(call, number, unit, place)
    if local:
        return local

    name = unit_name(call, amount.is_one, place, unit)
    before = word_before_unit(call, place)
    if not has_english_name(call, unit, place):
        return measure_by_symbol(call, number, before, name, unit)

    power = POWERS.get(unit.power, "")
    if is_adjective(call):
        hyphened = name.replace(" ", "-")
        parts = [number, power, hyphened] if power else [number, hyphened]
        return "-".join(parts) + word_behind_adjective(call, is_input)
    parts = [number, before, power, name]
    return " ".join(part for part in parts if part)


def spelled(call: Call, amount: Amount) -> str:
    """The number that was written, in words where |spell=in or |spell=In asks for them."""
    spell = call.option("spell")
    is_whole = amount.value.denominator == 1
    if spell.lower() not in ("in", "on") or call.between or not is_whole:
        return signed(amount)
    words = in_words(int(amount.value))
    return words.capitalize() if spell[0].isupper() else words


def word_before_unit(call: Call, place: int) -> str:
    """The word of disp=preunit or adj=pre: `10|mi|km|adj=pre|nautical` has it before the unit, 10 nautical miles."""
    is_adjective_before = call.option("adj") == "pre"
    if not is_adjective_before and call.option("disp") != "preunit":
        return ""
    if place == 1:
        return call.words[0] if call.words else ""
    if is_adjective_before or len(call.words) < 2:
        return ""
    return call.words[1]


def word_behind_adjective(call: Call, is_input: bool) -> str:
    """The word of adj=mid: `10|ft|m|adj=mid|-long` -> 10-foot-long."""
    if not is_input or not call.words or call.option("adj") != "mid":
        return ""
    word = call.words[0]
    return word if word.startswith("-") or not word else f" {word}"


def measure_by_symbol(call: Call, number: str, before: str, symbol: str, unit: Unit) -> str:
    """180 km; 5 million km², or 5×10⁶ km²."""
    power = POWERS.get(unit.power)
    if power and call.option("abbr") == "unit":
        number = f"{number} {power}"
    elif power:
        number = f"{number}×{power_of_ten(int(unit.power))}"
    if before:
        return f"{number} {before} {symbol}"
    return number + unit.space + symbol


def shows_names(call: Call, place: int) -> bool:
    """Whether units are named (kilometres) and not given by symbols (km), in the first or second place."""
    if call.language not in ENGLISH and call.language not in LOCAL:
        return False

    style = call.option("abbr")
    if not style:
        names_both = call.option("disp") == "or" or call.language == "zh"
        return names_both or place == 1
    if style in ("on", "values", "mos", "unit"):
        return False
    if style in ("off", "none"):
        return True
    return place == 2 if style == "in" else place == 1


def has_english_name(call: Call, unit: Unit, place: int) -> bool:
    """Whether this unit is shown by its name in units.txt."""
    if call.language not in ENGLISH or "symbol" in unit.marks:
        return False
    return shows_names(call, place)


def unit_name(call: Call, is_one: bool, place: int, unit: Unit) -> str:
    """The name of a unit in its number and spelling, or its symbol: kilometre, kilometers, km."""
    is_named = has_english_name(call, unit, place)
    has_symbol = unit.symbol not in (unit.singular, unit.plural)
    if has_symbol and not is_named:
        return unit.symbol

    is_singular = is_one or (is_named and is_adjective(call))
    name = unit.singular if is_singular else unit.plural
    is_american = call.option("sp").lower() == "us"
    return american(name) if is_american else name


def local_measure(call: Call, number: str, unit: Unit, place: int) -> str:
    """A number with the name of its unit in another language: 180キロメートル. Empty where CLDR has no name."""
    if call.language not in LOCAL or not shows_names(call, place):
        return ""
    if "symbol" in unit.marks or unit.power:
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
    if language == "ja":
        return pattern.replace(" ", "")
    return pattern.replace("\u202f", " ")
