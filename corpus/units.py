"""The units of {{convert}}: units.txt, prefixes of SI, powers of ten (e6acre) and one unit per another (kg/ha)."""

import re
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cache
from pathlib import Path

UNITS = Path(__file__).with_name("units.txt")

# The prefixes of SI: symbol -> (name, power of ten).
PREFIXES = {"T": ("tera", 12), "G": ("giga", 9), "M": ("mega", 6), "k": ("kilo", 3), "h": ("hecto", 2)}
PREFIXES |= {"da": ("deca", 1), "d": ("deci", -1), "c": ("centi", -2), "m": ("milli", -3), "μ": ("micro", -6)}
PREFIXES |= {"µ": ("micro", -6), "u": ("micro", -6), "n": ("nano", -9), "p": ("pico", -12), "f": ("femto", -15)}
PREFIXES |= {"P": ("peta", 15), "E": ("exa", 18), "a": ("atto", -18)}

MANY = {"k": "thousand", "M": "million", "G": "billion", "T": "trillion"}  # of Moilbbl


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
        return "" if "tight" in self.marks else " "


def factor_of(text: str) -> Fraction:
    """A product or quotient of decimals: "0.3048/60"."""
    value = Fraction(1)
    for sign, number in re.findall(r"([*/]?)([\d.]+)", text):
        value = value / Fraction(number) if sign == "/" else value * Fraction(number)
    return value


def plural_of(name: str) -> str:
    """ "metre per second" -> "metres per second"."""
    first, per, rest = name.partition(" per ")
    return f"{first}s{per}{rest}"


@cache
def units() -> dict[str, Unit]:
    """The units of units.txt by each of their codes."""
    table: dict[str, Unit] = {}
    dimension = ""
    for line in UNITS.read_text(encoding="utf-8").splitlines():
        if line.startswith("["):
            dimension = line.strip("[]")
        if "|" not in line or line.startswith("#"):
            continue

        codes, factor, symbol, name, default, *last = (cell.strip() for cell in line.split("|"))
        singular, _, plural = (part.strip() for part in name.partition("/"))
        marks = frozenset(" ".join(last).split())
        offset = Fraction(next((mark for mark in marks if mark.startswith("+")), "0"))
        code, *aliases = (part.strip() for part in codes.split(","))
        plural = plural or plural_of(singular)
        unit = Unit(code, dimension, factor_of(factor), symbol, singular, plural, default, marks, offset)
        table |= dict.fromkeys([code, *aliases, unit.singular, unit.plural], unit) | table
    return table


@cache
def unit_of(code: str) -> Unit | None:
    """The unit with this code, also with a prefix (`mW`), a power of ten (`e6acre`), or one per another (`kg/ha`)."""
    code = code.replace("&nbsp;", " ").replace("²", "2").replace("³", "3").replace("<sup>2</sup>", "2")
    code = code.replace("<sup>3</sup>", "3").strip().removesuffix("-sing")
    known = units()
    american = code.replace("meter", "metre").replace("liter", "litre")
    for form in (code, american):
        if form in known:
            return known[form]

    powered = re.fullmatch(r"e(3|6|9|12|15)(.+)", code)
    if powered:
        unit = unit_of(powered[2]) or unknown_unit(powered[2])
        return replace(unit, code=code, factor=unit.factor * 10 ** int(powered[1]), power=powered[1])

    top, per, bottom = code.partition("/")
    if per:
        return per_unit(code, top, bottom)
    return with_prefix(code) or known.get(code.lower())


def with_prefix(code: str) -> Unit | None:
    """`mW` as milliwatt, `dm2` as square decimetre, `Moilbbl` as million barrels: units marked si, si2, si3, many."""
    counted = units().get(code[1:])
    if counted and "many" in counted.marks and code[0] in MANY:
        factor = counted.factor * 10 ** PREFIXES[code[0]][1]
        name = f"{MANY[code[0]]} {counted.plural}"
        return replace(counted, code=code, factor=factor, symbol=code[0] + counted.symbol, singular=name, plural=name)

    for length in (1, 2):
        unit = units().get(code[length:])
        dimensions = unit and unit.marks & {"si", "si2", "si3"}
        if not unit or not dimensions or code[:length] not in PREFIXES:
            continue

        prefix, ten = PREFIXES[code[:length]]
        exponent = ten * int(min(dimensions).removeprefix("si") or 1)
        symbol = {"u": "μ", "µ": "μ"}.get(code[:length], code[:length])
        place = unit.singular.rfind(" ") + 1  # "square metre": before the last word
        names = [name[:place] + prefix + name[place:] for name in (unit.singular, unit.plural)]
        factor = unit.factor * Fraction(10) ** exponent
        return replace(unit, code=code, factor=factor, symbol=symbol + unit.symbol, singular=names[0], plural=names[1])
    return None


def per_unit(code: str, top: str, bottom: str) -> Unit | None:
    """A unit per another: `kg/ha`, "kilograms per hectare"."""
    over = unit_of(top) if top else None
    under = unit_of(bottom)
    if not over or not under or over.offset or under.offset:
        return None

    default_bottom = bottom if under.dimension == "time" else under.default.split()[0]
    default = f"{over.default.split()[0]}/{default_bottom}"
    names = [f"{name} per {under.singular}" for name in (over.singular, over.plural)]
    symbol = f"{over.symbol}/{under.singular if under.symbol == under.plural else under.symbol}"
    dimension = f"{over.dimension} per {under.dimension}"
    return Unit(code, dimension, over.factor / under.factor, symbol, names[0], names[1], default)


def converted(value: Fraction, source: Unit, target: Unit) -> Fraction:
    """`value` of `source` in `target`: 180 km in miles, 30 miles per gallon in litres per 100 km."""
    if "per" in source.marks or "per" in target.marks:
        if not value:
            raise ValueError(f"0 {source.symbol} cannot be shown in {target.symbol}")
        base = source.factor / value if "per" in source.marks else source.factor * value
        return target.factor / base if "per" in target.marks else base / target.factor
    if source.offset or target.offset:
        return (value + source.offset) * source.factor / target.factor - target.offset
    return value * source.factor / target.factor


def unknown_unit(code: str) -> Unit:
    """A unit that is not in the table: it is shown as it is written."""
    return Unit(code, "", Fraction(1), code, code, code, "")


def american(name: str) -> str:
    """The spelling of the United States: kilometers, liters, metric tons."""
    name = name.replace("metre", "meter").replace("litre", "liter").replace("deca", "deka")
    return re.sub(r"\b(?:kilo|mega)?tonne", lambda match: match[0].removesuffix("tonne") + "metric ton", name)
