"""#expr: PHP's arithmetic and the way it prints numbers. Expectations are those of Help:Extension:ParserFunctions."""

import math
import re

import pytest
from conftest import examples
from hypothesis import given
from hypothesis import strategies as st

from corpus.templates.expressions import ExpressionError, expression, printed, rounded


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ""),
        ("1/3", "0.33333333333333"),
        ("30 + 7", "37"),
        ("30 / 7 round 3", "4.286"),
        ("30 mod 7", "2"),
        ("-8 mod 3 ", "-2"),
        ("8 mod -3", "2"),
        ("5.7 mod 1.3", "0"),
        ("5.5 fmod 2", "1.5"),
        ("2^3^2", "64"),  # from left to right
        ("-2^2", "4"),  # the sign binds more
        ("2+3*4 - 6 div 3", "12"),
        ("2 + 3 round -1", "10"),
        ("9.5 round 0 + 1", "9.5"),  # to 0 + 1 places
        ("1e4 + 1E-2", "10000.01"),
        ("2e3^2", "4000000"),
        ("e", "2.718281828459"),
        ("pi", "3.1415926535898"),
        ("1.2.3 + .5", "1.7"),
        ("1 = 1.0 and 2 <> 3 and not 0", "1"),
        ("3 != 3 or 4 < 3 or 5 >= 6", "0"),
        ("&minus;3 &lt; −2", "1"),
        ("not 1 + 1", "1"),
        ("trunc -4.5 + ceil 4.2 + floor -4.5", "-4"),
        ("abs -3 + sqrt 16 + ln exp 2", "9"),
        ("sin 0 + cos 0 + tan 0 + asin 1 + acos 1 + atan 0", "2.5707963267949"),
        ("10^14", "1.0E+14"),
        ("99999999999999", "99999999999999"),
        ("123456789012345678", "1.2345678901235E+17"),
        ("0.0001 + 0", "0.0001"),
        ("0.00001234", "1.234E-5"),
        ("trunc 123456789012345", "123456789012345"),
        ("2^1024", "INF"),
        ("-(2^1024)", "-INF"),
        ("(-8)^(1/3)", "NAN"),
        ("0 * -1", "-0"),
        ("-0.4 round 0", "-0"),
        ("1.005 round 2", "1.01"),
        ("2.5 round 0", "3"),
        ("-2.5 round 0", "-3"),
        ("1234567.891 round -3", "1235000"),
        ("0.285 round 2", "0.29"),
        ("1.955 round 2", "1.96"),
        ("5.055 round 2", "5.06"),
    ],
)
def test_values(text, expected):
    assert expression(text) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1/0", "Division by zero."),
        ("1 mod 0.5", "Division by zero."),
        ("1 2", "Expression error: Unexpected number."),
        ("1 foo", 'Expression error: Unrecognized word "foo".'),
        ("<1", "Expression error: Unexpected < operator."),
        ("1 sin", "Expression error: Unexpected sin operator."),
        ("1+", "Expression error: Missing operand for +."),
        ("-", "Expression error: Missing operand for -."),
        ("(1", "Expression error: Unclosed bracket."),
        ("1)", "Expression error: Unexpected closing bracket."),
        ("1,000", 'Expression error: Unrecognized punctuation character ",".'),
        ("asin 2", "Invalid argument for asin: less than -1 or greater than 1."),
        ("ln 0", "Invalid argument for ln: less than or equal to 0."),
        ("sqrt -1", "In sqrt: Result is not a number."),
        ("ln(" * 200 + "1", "Expression error: Stack exhausted."),
    ],
)
def test_errors(text, message):
    with pytest.raises(ExpressionError) as caught:
        expression(text)
    assert str(caught.value) == message


TERMS = st.recursive(
    st.integers(0, 999).map(str),
    lambda term: st.builds("({} {} {})".format, term, st.sampled_from("+-*/"), term),
    max_leaves=8,
)


@examples(500)
@given(TERMS)
def test_brackets_and_four_operators_equal_python(text):
    try:
        expected = printed(eval(re.sub(r"(\d+)", r"\1.0", text)))
    except ZeroDivisionError:
        expected = "Division by zero."
    try:
        found = expression(text)
    except ExpressionError as problem:
        found = str(problem)
    assert found == expected


@examples(1000)
@given(st.floats(allow_nan=False, allow_infinity=False))
def test_a_printed_number_has_fourteen_digits(value):
    text = printed(value)
    digits = text.partition("E")[0].replace("-", "").replace(".", "").strip("0")
    assert len(digits) <= 14
    assert math.isclose(float(text), value, rel_tol=1e-13, abs_tol=1e-320) or math.isinf(float(text))


@examples(500)
@given(st.integers(-(10**9), 10**9), st.integers(0, 6))
def test_decimals_round_half_away_from_zero(number, places):
    """As one rounds decimals by hand, though floats hold few of them exactly."""
    value = number / 10 ** (places + 1)
    tens, last = divmod(abs(number), 10)
    by_hand = math.copysign(tens + (last >= 5), number) / 10**places
    assert rounded(value, places) == by_hand
