"""The units of {{convert}}: units.txt, prefixes of SI, powers of ten (e6acre) and one unit per another (kg/ha)."""

import re
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cache
from pathlib import Path

UNITS = Path(__file__).with_name("units.txt")

# The prefixes of SI: symbol -> (name, power of ten).
PREFIXES = {
    "E": ("exa", 18),
    "P": ("peta", 15),
    "T": ("tera", 12),
    "G": ("giga", 9),
    "M": ("mega", 6),
    "k": ("kilo", 3),
    "h": ("hecto", 2),
    "da": ("deca", 1),
    "d": ("deci", -1),
    "c": ("centi", -2),
    "m": ("milli", -3),
    "μ": ("micro", -6),  # the Greek letter
    "µ": ("micro", -6),  # the sign of Latin-1
    "u": ("micro", -6),
    "n": ("nano", -9),
    "p": ("pico", -12),
    "f": ("femto", -15),
    "a": ("atto", -18),
}
PREFIX_SYMBOLS = {"u": "μ", "µ": "μ"}  # the others are shown as they are written

# How many a letter before a unit like bbl stands for: Moilbbl.
MANY = {
    "k": "thousand",
    "M": "million",
    "G": "billion",
    "T": "trillion",
}

# Other ways to write a code.
SPELLINGS = {
    "&nbsp;": " ",
    "²": "2",
    "³": "3",
    "<sup>2</sup>": "2",
    "<sup>3</sup>": "3",
}


@dataclass(frozen=True)
class Unit:
    """A unit of measure; a value times `factor` is the value in the first unit of its dimension in units.txt."""

    code: str
    dimension: str
    factor: Fraction
    symbol: str
    singular: str
    plural: str
    default: str  # codes of the units it is turned into; "<3 ftin, ft": by value
    marks: frozenset[str] = frozenset()
    offset: Fraction = Fraction(0)  # added to the value before the factor
    power: str = ""  # of e6km2: "6"

    @property
    def space(self) -> str:
        """What stands between a number and the symbol: 5 km, 5°."""
        return "" if "tight" in self.marks else " "


# --- the table ---


@cache
def units() -> dict[str, Unit]:
    """The units of units.txt by each of their codes; where two have the same one, the first counts."""
    table: dict[str, Unit] = {}
    dimension = ""
    for line in UNITS.read_text(encoding="utf-8").splitlines():
        if line.startswith("["):
            dimension = line.strip("[]")
        is_unit = "|" in line and not line.startswith("#")
        if not is_unit:
            continue

        codes, unit = read_unit(line, dimension)
        for code in [*codes, unit.singular, unit.plural]:
            table.setdefault(code, unit)
    return table


def read_unit(line: str, dimension: str) -> tuple[list[str], Unit]:
    """The codes and the unit of a line of units.txt: codes | factor | symbol | name / plural | default | marks."""
    cells = [cell.strip() for cell in line.split("|")]
    codes_cell, factor, symbol, name, default, *last = cells
    codes = [code.strip() for code in codes_cell.split(",")]

    singular, _, plural = name.partition("/")
    singular = singular.strip()
    plural = plural.strip() or plural_of(singular)

    marks = " ".join(last).split()
    offset = Fraction(0)
    for mark in marks:
        if mark.startswith("+"):
            offset = Fraction(mark)

    unit = Unit(
        code=codes[0],
        dimension=dimension,
        factor=factor_of(factor),
        symbol=symbol,
        singular=singular,
        plural=plural,
        default=default,
        marks=frozenset(marks),
        offset=offset,
    )
    return codes, unit


def factor_of(text: str) -> Fraction:
    """A product or quotient of decimals: "0.3048/60" -> 0.00508."""
    value = Fraction(1)
    for sign, digits in re.findall(r"([*/]?)([\d.]+)", text):
        number = Fraction(digits)
        if sign == "/":
            value /= number
        else:
            value *= number
    return value


def plural_of(name: str) -> str:
    """The plural of a regular name: "metre per second" -> "metres per second"."""
    first, per, rest = name.partition(" per ")
    return f"{first}s{per}{rest}"


# --- units by their code ---


@cache
def unit_of(code: str) -> Unit | None:
    """The unit with this code, also with a prefix (`mW`), a power of ten (`e6acre`), or one per another (`kg/ha`)."""
    for written, plain in SPELLINGS.items():
        code = code.replace(written, plain)
    code = code.strip().removesuffix("-sing")

    known = units()
    british = code.replace("meter", "metre").replace("liter", "litre")
    if code in known:
        return known[code]
    if british in known:
        return known[british]

    powered = re.fullmatch(r"e(3|6|9|12|15)(.+)", code)
    if powered:
        power, base_code = powered.groups()
        base = unit_of(base_code) or unknown_unit(base_code)
        factor = base.factor * 10 ** int(power)
        return replace(base, code=code, factor=factor, power=power)

    top, per, bottom = code.partition("/")
    if per:
        return per_unit(code, top, bottom)
    return many_units(code) or with_prefix(code) or known.get(code.lower())


def many_units(code: str) -> Unit | None:
    """`Moilbbl` as million barrels: a letter of MANY before a unit that units.txt marks `many`."""
    letter = code[:1]
    counted = units().get(code[1:])
    if not counted or "many" not in counted.marks or letter not in MANY:
        return None

    _, ten = PREFIXES[letter]
    name = f"{MANY[letter]} {counted.plural}"
    return replace(
        counted,
        code=code,
        factor=counted.factor * 10**ten,
        symbol=letter + counted.symbol,
        singular=name,
        plural=name,
    )


def with_prefix(code: str) -> Unit | None:
    """`mW` as milliwatt, `dm2` as square decimetre: a prefix of SI before a unit that is marked si, si2 or si3."""
    for length in (1, 2):  # m, da
        letters = code[:length]
        unit = units().get(code[length:])
        if not unit or letters not in PREFIXES:
            continue
        dimensions = unit.marks & {"si", "si2", "si3"}
        if not dimensions:
            continue

        prefix, ten = PREFIXES[letters]
        dimension = min(dimensions).removeprefix("si")
        exponent = ten * int(dimension or 1)  # a square decimetre is 0.1 × 0.1 square metres
        return replace(
            unit,
            code=code,
            factor=unit.factor * Fraction(10) ** exponent,
            symbol=PREFIX_SYMBOLS.get(letters, letters) + unit.symbol,
            singular=prefixed_name(prefix, unit.singular),
            plural=prefixed_name(prefix, unit.plural),
        )
    return None


def prefixed_name(prefix: str, name: str) -> str:
    """The prefix before the last word: "deci", "square metre" -> "square decimetre"."""
    before, space, last = name.rpartition(" ")
    return f"{before}{space}{prefix}{last}"


def per_unit(code: str, top: str, bottom: str) -> Unit | None:
    """A unit per another: `kg/ha`, "kilograms per hectare"."""
    over = unit_of(top) if top else None
    under = unit_of(bottom)
    if not over or not under:
        return None
    if over.offset or under.offset:
        return None  # degrees per second are not degrees on a scale

    default_top = over.default.split()[0]
    default_bottom = under.default.split()[0] if under.dimension != "time" else bottom
    has_symbol = under.symbol != under.plural
    under_symbol = under.symbol if has_symbol else under.singular
    return Unit(
        code=code,
        dimension=f"{over.dimension} per {under.dimension}",
        factor=over.factor / under.factor,
        symbol=f"{over.symbol}/{under_symbol}",
        singular=f"{over.singular} per {under.singular}",
        plural=f"{over.plural} per {under.singular}",
        default=f"{default_top}/{default_bottom}",
    )


def unknown_unit(code: str) -> Unit:
    """A unit that is not in the table: it is shown as it is written."""
    return Unit(
        code=code,
        dimension="",
        factor=Fraction(1),
        symbol=code,
        singular=code,
        plural=code,
        default="",
    )


# --- measures in other units ---


def converted(value: Fraction, source: Unit, target: Unit) -> Fraction:
    """`value` of `source` in `target`: 180 km in miles, 30 miles per gallon in litres per 100 km."""
    if "per" in source.marks or "per" in target.marks:
        return converted_reciprocal(value, source, target)
    if source.offset or target.offset:
        return (value + source.offset) * source.factor / target.factor - target.offset
    return value * source.factor / target.factor


def converted_reciprocal(value: Fraction, source: Unit, target: Unit) -> Fraction:
    """The same where a unit is marked `per`, as L/100 km is: the more of it, the fewer miles per gallon."""
    if not value:
        raise ValueError(f"0 {source.symbol} cannot be shown in {target.symbol}")

    base = source.factor / value if "per" in source.marks else source.factor * value
    if "per" in target.marks:
        return target.factor / base
    return base / target.factor


def american(name: str) -> str:
    """The spelling of the United States: "kilometres" -> "kilometers", "tonnes" -> "metric tons"."""
    name = name.replace("metre", "meter")
    name = name.replace("litre", "liter")
    name = name.replace("deca", "deka")
    return re.sub(r"\b(kilo|mega)?tonne", r"\1metric ton", name)
