"""Python twins of templates against what the templates' documentation pages say they show."""

import re
from fractions import Fraction

import pytest

from corpus.twins import TWINS
from corpus.twins_convert import converted, unit_of, units


def shown(call: str, language: str = "en") -> str:
    """What a call like "convert|180|km|abbr=on" shows."""
    name, *parts = call.split("|")
    arguments: dict[str, str] = {}
    count = 0
    for part in parts:
        named = re.fullmatch(r"(?s)([\w^-]+)=(.*)", part)
        if named:
            arguments[named[1]] = named[2].strip()
        else:
            count += 1
            arguments[str(count)] = part.strip()
    return TWINS[name](arguments, language)


def table(text: str) -> list[tuple[str, str]]:
    """The lines "call -> what is shown" of a table."""
    lines = [line for line in text.strip().splitlines() if line.strip()]
    return [tuple(part.strip() for part in line.split(" -> ")) for line in lines]


# --- convert: Help:Convert, Template:Convert ---

CONVERT = table("""
convert|180|km -> 180 kilometres (110 mi)
cvt|180|km -> 180 km (110 mi)
convert|180|km|abbr=on -> 180 km (110 mi)
convert|180|km|mi|sp=us -> 180 kilometers (110 mi)
convert|180|km|mi|abbr=off -> 180 kilometres (110 miles)
convert|180|km|mi|abbr=none -> 180 kilometres (110 miles)
convert|180|km|mi|abbr=in -> 180 km (110 miles)
convert|180|km|mi|abbr=out -> 180 kilometres (110 mi)
convert|180|km|lk=on -> 180 kilometres (110 mi)
convert|180|km|adj=on -> 180-kilometre (110 mi)
convert|12|sqmi|adj=on -> 12-square-mile (31 km²)
convert|10|ft|m|adj=mid|-long -> 10-foot-long (3.0 m)
convert|10|ft|m|adj=mid|long -> 10-foot long (3.0 m)
convert|1000|ft|m|sing=on -> 1,000-foot (300 m)
convert|1|mi -> 1 mile (1.6 km)
convert|0.5|mi -> 0.5 miles (0.80 km)
convert|2|mi -> 2 miles (3.2 km)
convert|1300|mi|km -> 1,300 miles (2,100 km)
convert|1,234|km|mi -> 1,234 kilometres (767 mi)
convert|1234|km|mi|comma=off -> 1234 kilometres (767 mi)
convert|12.0|mi -> 12.0 miles (19.3 km)
convert|5|mi|km|0|adj=on -> 5-mile (8 km)
convert|5|mi|km|2 -> 5 miles (8.05 km)
convert|1234|mi|km|-1 -> 1,234 miles (1,990 km)
convert|1234|mi|km|sigfig=3 -> 1,234 miles (1,990 km)
convert|1234|mi|km|round=5 -> 1,234 miles (1,985 km)
convert|1234|mi|km|round=25 -> 1,234 miles (1,975 km)
convert|123|kg|lb -> 123 kilograms (271 lb)
convert|10|m -> 10 metres (33 ft)
convert|2|m -> 2 metres (6 ft 7 in)
convert|1.8|m|ftin -> 1.8 metres (5 ft 11 in)
convert|5|ft|11|in|m -> 5 feet 11 inches (1.80 m)
convert|5|ft|11|in|cm|abbr=on -> 5 ft 11 in (180 cm)
convert|11|st|4|lb|kg -> 11 stone 4 pounds (72 kg)
convert|1|lb|8|oz|g -> 1 pound 8 ounces (680 g)
convert|72|kg|stlb -> 72 kilograms (11 st 5 lb)
convert|2413|ft|0|abbr=on -> 2,413 ft (735 m)
convert|100|km|mi nmi -> 100 kilometres (62 mi; 54 nmi)
convert|100|km|mi+nmi -> 100 kilometres (62 mi; 54 nmi)
convert|100|nmi -> 100 nautical miles (190 km; 120 mi)
convert|60|to|170|kg|lb -> 60 to 170 kilograms (130 to 370 lb)
convert|60|-|170|kg|lb -> 60–170 kilograms (130–370 lb)
convert|60|–|170|kg|lb -> 60–170 kilograms (130–370 lb)
convert|60|and|170|kg|lb -> 60 and 170 kilograms (130 and 370 lb)
convert|60|or|170|kg|lb -> 60 or 170 kilograms (130 or 370 lb)
convert|2|-|5|ft|m -> 2–5 feet (0.61–1.52 m)
convert|2-5|ft|m -> 2–5 feet (0.61–1.52 m)
convert|5|to|6|km|adj=on -> 5-to-6-kilometre (3.1 to 3.7 mi)
convert|5|x|6|ft -> 5 by 6 feet (1.5 m × 1.8 m)
convert|5|x|6|ft|abbr=on -> 5 ft × 6 ft (1.5 m × 1.8 m)
convert|5|by|6|ft -> 5 by 6 feet (1.5 by 1.8 m)
convert|5|xx|6|ft -> 5 × 6 feet (1.5 × 1.8 m)
convert|2|x|4|x|8|ft|abbr=on -> 2 ft × 4 ft × 8 ft (0.61 m × 1.22 m × 2.44 m)
convert|5|+/-|1|km -> 5 ± 1 kilometres (3.11 ± 0.62 mi)
convert|1/2|in -> 1⁄2 inch (13 mm)
convert|1+1/2|mi|km -> 1 1⁄2 miles (2.4 km)
convert|16|mm|in|frac=8 -> 16 millimetres (5⁄8 in)
convert|10|mi|km|disp=or -> 10 miles or 16 kilometres
convert|10|mi|km|disp=sqbr -> 10 miles [16 km]
convert|10|mi|km|disp=out -> 16 km
convert|10|mi|km|disp=output only -> 16 km
convert|10|mi|km|disp=out|abbr=off -> 16 kilometres
convert|10|mi|km|disp=number -> 16
convert|10|mi|km|order=flip -> 16 kilometres (10 mi)
convert|10|mi|km|disp=flip -> 16 kilometres (10 mi)
convert|10|mi|km|abbr=on|order=flip -> 16 km (10 mi)
convert|10|mi|km|disp=x|, which is| in metric units -> 10 miles, which is 16 km in metric units
convert|6|mi|km|disp=preunit|statute -> 6 statute miles (9.7 km)
convert|ten|mi -> ValueError
convert|10|mi|spell=in -> ten miles (16 km)
convert|90|°F -> 90 °F (32 °C)
convert|-27|°F -> −27 °F (−33 °C)
convert|-40|C -> −40 °C (−40 °F)
convert|0|C -> 0 °C (32 °F)
convert|37.0|C -> 37.0 °C (98.6 °F)
convert|300|K|C -> 300 K (27 °C)
convert|20|to|25|C|F -> 20 to 25 °C (68 to 77 °F)
convert|10|C-change|F-change -> 10 °C (18 °F)
convert|600|acre|ha|adj=on -> 600-acre (240 ha)
convert|1|ha|acre -> 1 hectare (2.5 acres)
convert|52419|sqmi|km2|abbr=out|sp=us -> 52,419 square miles (135,760 km²)
convert|22|e6acre|km2 -> 22 million acres (89,000 km²)
convert|100|USgal -> 100 US gallons (380 L; 83 imp gal)
convert|5|L -> 5 litres (1.1 imp gal; 1.3 US gal)
convert|5|L|sp=us|disp=out|USgal -> 1.3 US gal
convert|350|cuin|cc|abbr=on -> 350 cu in (5,700 cc)
convert|100|mph -> 100 miles per hour (160 km/h)
convert|1|km/h|mph -> 1 kilometre per hour (0.62 mph)
convert|30|kn -> 30 knots (56 km/h; 35 mph)
convert|10|t -> 10 tonnes (9.8 long tons; 11 short tons)
convert|10|t|ST|sp=us -> 10 metric tons (11 short tons)
convert|30|psi -> 30 pounds per square inch (210 kPa)
convert|200|hp|kW|0|abbr=on -> 200 hp (149 kW)
convert|200|bhp -> 200 brake horsepower (150 kW)
convert|100|Nm -> 100 newton-metres (74 lbf⋅ft)
convert|100|lbft|abbr=on -> 100 lbf⋅ft (140 N⋅m)
convert|1|g/cm3|abbr=on -> 1 g/cm³ (0.036 lb/cu in)
convert|100|/km2 -> 100 per square kilometre (260/sq mi)
convert|100|PD/sqmi -> 100 inhabitants per square mile (39/km²)
convert|30|mpgus -> 30 miles per US gallon (7.8 L/100 km; 36 mpg-imp)
convert|8|L/100km|mpgus -> 8 litres per 100 kilometres (29 mpg-US)
convert|100|kg/ha|lb/acre -> 100 kilograms per hectare (89 lb/acre)
convert|5|kWh|MJ -> 5 kilowatt-hours (18 MJ)
convert|50|mW|abbr=on|hp -> 50 mW (6.7×10⁻⁵ hp)
convert|1|ly|km -> 1 light-year (9.5×10¹² km)
convert|5000|m3/s -> 5,000 cubic metres per second (180,000 cu ft/s)
convert|20|xyz -> 20 xyz
convert|20|xyz|km -> 20 xyz
""")

OTHER_LANGUAGES = [
    ("de", "convert|1234.5|km", "1.234,5 km (767,1 mi)"),
    ("ja", "convert|180|km", "180 km (110 mi)"),
    ("fr", "convert|1,5|km|mi|2", "1,5 km (0,93 mi)"),
    ("simple", "convert|180|km", "180 kilometres (110 mi)"),
]

# Exact by definition (NIST Handbook 44, SI brochure), or the number they give.
FACTORS = [
    ("mi", "m", "1609.344"),
    ("nmi", "m", "1852"),
    ("acre", "m2", "4046.8564224"),
    ("lb", "g", "453.59237"),
    ("LT", "lb", "2240"),
    ("ST", "lb", "2000"),
    ("st", "lb", "14"),
    ("cwt", "lb", "112"),
    ("USgal", "cuin", "231"),
    ("impgal", "L", "4.54609"),
    ("oilbbl", "USgal", "42"),
    ("USoz", "USgal", "0.0078125"),
    ("impoz", "impgal", "0.00625"),
    ("cuyd", "cuft", "27"),
    ("acre.ft", "cuft", "43560"),
    ("sqmi", "acre", "640"),
    ("furlong", "yd", "220"),
    ("kn", "m/s", None),
    ("atm", "Pa", "101325"),
    ("kcal", "J", "4184"),
    ("kWh", "J", "3600000"),
    ("PS", "W", "735.49875"),
    ("dm3", "L", "1"),
    ("km2", "ha", "100"),
]


@pytest.mark.parametrize(("call", "expected"), CONVERT)
def test_convert_shows_what_its_help_page_says(call: str, expected: str):
    if expected == "ValueError":
        with pytest.raises(ValueError):
            shown(call)
    else:
        assert shown(call) == expected


@pytest.mark.parametrize(("language", "call", "expected"), OTHER_LANGUAGES)
def test_numbers_stand_with_the_marks_of_the_language(language: str, call: str, expected: str):
    assert shown(call, language) == expected


@pytest.mark.parametrize(("code", "other", "factor"), FACTORS)
def test_the_factors_of_units_are_exact(code: str, other: str, factor: str | None):
    expected = Fraction(factor) if factor else Fraction(1852, 3600)
    assert converted(Fraction(1), unit_of(code), unit_of(other)) == expected


def test_every_unit_is_turned_into_units_of_its_kind():
    """Each default output is a unit of the table, or a measure of several, of the same dimension."""
    for code, unit in units().items():
        text = TWINS["convert"]({"1": "5", "2": code}, "en")
        assert text.startswith("5") and text.endswith(")"), f"{code}: {text}"
        assert unit.factor > 0


# --- val, frac: their documentation pages ---

NUMBERS = table("""
val|6.2|e=18|u=kg -> 6.2×10¹⁸ kg
val|9.11|e=-31|u=kg -> 9.11×10⁻³¹ kg
val|e=9 -> 10⁹
val|1.00794|(7) -> 1.00794(7)
val|1.5|0.1|u=m -> 1.5±0.1 m
val|1.5|0.1|e=3|u=m -> (1.5±0.1)×10³ m
val|5.2|0.3|0.1 -> 5.2 +0.3 −0.1
val|12345|u=m -> 12345 m
val|1234 -> 1234
val|fmt=commas|1000|u=km -> 1,000 km
val|0.12345678 -> 0.12345678
val|-3 -> −3
val|.95|u=m/s2 -> 0.95 m/s²
val|50|u=% -> 50%
val|10|ul=km|upl=s -> 10 km/s
frac|1|2 -> 1⁄2
frac|3|1|2 -> 3 1⁄2
frac|3 -> 1⁄3
""")


@pytest.mark.parametrize(("call", "expected"), NUMBERS)
def test_templates_of_numbers_show_what_their_pages_say(call: str, expected: str):
    assert shown(call) == expected
