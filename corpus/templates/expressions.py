"""Arithmetic as {{#expr: 1 + 2 * 3}} does it, printed as PHP prints numbers.

The rules are mediawiki.org's Help:Extension:ParserFunctions and Help:Calculation. All numbers are 64-bit floats;
comparisons, `trunc` and `mod` give integers.

    expression("1 / 3")             "0.33333333333333"
    expression("10 ^ 14")           "1.0E+14"
    expression("2 + 3 round -1")    "10"        round binds less than +
"""

import math
import operator
import re
from collections.abc import Callable

Number = int | float

MOST_OPERANDS = 100
TOKEN = re.compile(r"[ \t\r\n]+|([0-9.]+)|([A-Za-z]+)|(<=|>=|<>|!=|[-+*/^()=<>])|(.)", re.DOTALL)
SAME_SIGNS = {"&lt;": "<", "&gt;": ">", "&minus;": "-", "\u2212": "-"}
DIGITS = 14  # that PHP prints of a float


class ExpressionError(ValueError):
    """What is wrong with an expression, in MediaWiki's English words."""


# --- the operators, from the one that binds most ---


def modulo(left: Number, right: Number) -> Number:
    """Of the numbers cut to integers, with the sign of `left`."""
    left, right = as_integer(left), as_integer(right)
    if right == 0:
        raise ExpressionError("Division by zero.")
    rest = abs(left) % abs(right)
    return -rest if left < 0 else rest


def float_modulo(left: Number, right: Number) -> Number:
    """Of the numbers as they are."""
    if right == 0:
        raise ExpressionError("Division by zero.")
    return math.fmod(left, right) if math.isfinite(left) else math.nan


def divide(left: Number, right: Number) -> Number:
    """Raises ExpressionError for a division by zero."""
    if right == 0:
        raise ExpressionError("Division by zero.")
    return left / right


def power(left: Number, right: Number) -> Number:
    """Beyond the largest float it is infinite; a root of a negative number is no number."""
    try:
        result = float(left) ** float(right)
    except OverflowError:
        is_negative = left < 0 and right % 2 == 1
        return -math.inf if is_negative else math.inf
    except ZeroDivisionError:  # 0 to a negative power
        return math.inf
    return math.nan if isinstance(result, complex) else result


def scientific(left: Number, right: Number) -> Number:
    """2e3 is 2000."""
    return left * power(10, right)


def rounded(value: Number, digits: Number) -> Number:
    """To so many digits behind the point, halves away from zero; -2 digits: to hundreds.

    As PHP until 8.3: the 15 digits that a float can hold are rounded first, so that 1.005, which is 1.00499999999999989
    in binary, rounds to 1.01.
    """
    value = float(value)
    places = as_integer(digits)
    if not math.isfinite(value) or value == 0 or places > 290:
        return value
    if places < -308:
        return 0.0

    exact_places = 14 - math.floor(math.log10(abs(value)))
    if places < exact_places < places + 15:
        scaled = half_away(shifted(value, exact_places))
        scaled = shifted(scaled, places - exact_places)
    else:
        scaled = shifted(value, places)
        if abs(scaled) >= 1e15:
            return value
    if abs(places) < 23:
        return shifted(half_away(scaled), -places)
    return float(f"{half_away(scaled):.0f}e{-places}")


def shifted(value: float, places: int) -> float:
    """`value` with its point moved so many places to the right."""
    return value * 10.0**places if places >= 0 else value / 10.0**-places


def half_away(value: float) -> float:
    """The nearest whole number, of two the one farther from zero."""
    return math.copysign(math.floor(abs(value) + 0.5), value)


def truncated(value: Number) -> Number:
    """Without what stands behind the point."""
    return as_integer(value)


def as_integer(value: Number) -> int:
    """Cut to a 64-bit integer, as PHP does it: larger ones wrap around, infinity is 0."""
    if not math.isfinite(value):
        return 0
    return (int(value) + 2**63) % 2**64 - 2**63


def limited(name: str, function: Callable[[float], float]) -> Callable[[Number], Number]:
    """An inverse of sine or cosine, which wants a number from -1 to 1."""

    def limited_function(value: Number) -> Number:
        if not -1 <= value <= 1:
            raise ExpressionError(f"Invalid argument for {name}: less than -1 or greater than 1.")
        return function(value)

    return limited_function


def logarithm(value: Number) -> Number:
    """Natural. Raises ExpressionError unless the value is positive."""
    if value <= 0:
        raise ExpressionError("Invalid argument for ln: less than or equal to 0.")
    return math.log(value)


def square_root(value: Number) -> Number:
    """Raises ExpressionError for a negative number."""
    if not value >= 0:
        raise ExpressionError("In sqrt: Result is not a number.")
    return math.sqrt(value)


def of_finite(function: Callable[[float], Number]) -> Callable[[Number], Number]:
    """`function`; no number for infinity, infinite where it overflows."""

    def safe(value: Number) -> Number:
        try:
            return function(value)
        except OverflowError:
            return math.inf
        except ValueError:
            return math.nan

    return safe


def whole_float(function: Callable[[float], int]) -> Callable[[Number], Number]:
    """`function`, its result a float; infinity and no number stay."""
    return lambda value: math.copysign(float(function(value)), value) if math.isfinite(value) else value


UNARY: dict[str, tuple[int, Callable[[Number], Number]]] = {
    "-u": (10, operator.neg),
    "+u": (10, lambda value: value),
    "not": (9, lambda value: int(not value)),
    "sin": (9, of_finite(math.sin)),
    "cos": (9, of_finite(math.cos)),
    "tan": (9, of_finite(math.tan)),
    "asin": (9, limited("asin", math.asin)),
    "acos": (9, limited("acos", math.acos)),
    "atan": (9, math.atan),
    "exp": (9, of_finite(math.exp)),
    "ln": (9, logarithm),
    "abs": (9, abs),
    "trunc": (9, truncated),
    "floor": (9, whole_float(math.floor)),
    "ceil": (9, whole_float(math.ceil)),
    "sqrt": (9, square_root),
}
BINARY: dict[str, tuple[int, Callable[[Number, Number], Number]]] = {
    "e": (10, scientific),
    "^": (8, power),
    "*": (7, operator.mul),
    "/": (7, divide),
    "div": (7, divide),
    "mod": (7, modulo),
    "fmod": (7, float_modulo),
    "+": (6, operator.add),
    "-": (6, operator.sub),
    "round": (5, rounded),
    "=": (4, lambda left, right: int(left == right)),
    "<": (4, lambda left, right: int(left < right)),
    ">": (4, lambda left, right: int(left > right)),
    "<=": (4, lambda left, right: int(left <= right)),
    ">=": (4, lambda left, right: int(left >= right)),
    "<>": (4, lambda left, right: int(left != right)),
    "!=": (4, lambda left, right: int(left != right)),
    "and": (3, lambda left, right: int(bool(left and right))),
    "or": (2, lambda left, right: int(bool(left or right))),
}
BRACKET = "("


# --- evaluation ---


def expression(text: str) -> str:
    """The value of an expression as MediaWiki prints it; "" for none. Raises ExpressionError with its words.

    Operators wait until one that binds less comes (Dijkstra's shunting yard).
    """
    for written, sign in SAME_SIGNS.items():
        text = text.replace(written, sign)

    operands: list[Number] = []
    waiting: list[str] = []  # operators and open brackets
    wants_operand = True

    for token in TOKEN.finditer(text):
        if len(operands) > MOST_OPERANDS or len(waiting) > MOST_OPERANDS:
            raise ExpressionError("Expression error: Stack exhausted.")
        number, word, sign, other = token.groups()

        if number:
            if not wants_operand:
                raise ExpressionError("Expression error: Unexpected number.")
            operands.append(as_float(number))
            wants_operand = False
            continue
        if other:
            raise ExpressionError(f'Expression error: Unrecognized punctuation character "{other}".')
        if not word and not sign:
            continue

        name = word.lower() if word else sign
        if word and name not in UNARY and name not in BINARY and name != "pi":
            raise ExpressionError(f'Expression error: Unrecognized word "{name}".')

        if name == "pi" or (name == "e" and wants_operand):
            if not wants_operand:
                raise ExpressionError("Expression error: Unexpected number.")
            operands.append(math.pi if name == "pi" else math.e)
            wants_operand = False
        elif word and name in UNARY:
            if not wants_operand:
                raise ExpressionError(f"Expression error: Unexpected {name} operator.")
            waiting.append(name)
        elif name in ("+", "-") and wants_operand:
            waiting.append(name + "u")
        elif name == "(":
            if not wants_operand:
                raise ExpressionError("Expression error: Unexpected ( operator.")
            waiting.append(BRACKET)
        elif name == ")":
            while waiting and waiting[-1] != BRACKET:
                apply(waiting.pop(), operands)
            if not waiting:
                raise ExpressionError("Expression error: Unexpected closing bracket.")
            waiting.pop()
            wants_operand = False
        else:
            if wants_operand:
                raise ExpressionError(f"Expression error: Unexpected {name} operator.")
            while waiting and BINARY[name][0] <= strength(waiting[-1]):
                apply(waiting.pop(), operands)
            waiting.append(name)
            wants_operand = True

    while waiting:
        name = waiting.pop()
        if name == BRACKET:
            raise ExpressionError("Expression error: Unclosed bracket.")
        apply(name, operands)
    return "<br />\n".join(printed(operand) for operand in operands)


def strength(name: str) -> int:
    """How much an operator that waits binds; brackets bind less than all."""
    if name == BRACKET:
        return -1
    return UNARY[name][0] if name in UNARY else BINARY[name][0]


def apply(name: str, operands: list[Number]) -> None:
    """Replace the last operands by the result of an operator."""
    wanted = 1 if name in UNARY else 2
    if len(operands) < wanted:
        raise ExpressionError(f"Expression error: Missing operand for {name.removesuffix('u')}.")
    last = operands.pop()
    result = UNARY[name][1](last) if wanted == 1 else BINARY[name][1](operands.pop(), last)
    if isinstance(result, int) and not -(2**63) <= result < 2**63:
        result = float(result)
    operands.append(result)


def as_float(text: str) -> float:
    """The number that a text begins with: "1.5.3" is 1.5 and "." is 0."""
    match = re.match(r"\d*\.?\d*", text)
    digits = match[0] if match else ""
    return float(digits) if digits.strip(".") else 0.0


def printed(value: Number) -> str:
    """A number as PHP prints it: 14 digits, without zeros at the end, 1.0E+14 from there on, 1.0E-5 below 10^-4."""
    if isinstance(value, int):
        return str(value)
    if math.isnan(value):
        return "NAN"
    if math.isinf(value):
        return "INF" if value > 0 else "-INF"

    mantissa, _, exponent = f"{value:.{DIGITS - 1}e}".partition("e")
    power_of_ten = int(exponent)
    if -5 < power_of_ten < DIGITS:
        plain = f"{value:.{DIGITS - 1 - power_of_ten}f}"
        return plain.rstrip("0").rstrip(".") if "." in plain else plain

    mantissa = mantissa.rstrip("0")
    if mantissa.endswith("."):
        mantissa += "0"
    return f"{mantissa}E{power_of_ten:+d}"
