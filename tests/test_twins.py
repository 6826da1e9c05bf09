"""Python twins of templates against what the templates' documentation pages say they show."""

import re
from fractions import Fraction

import pytest

from corpus.templates.expand import Expansion, expand, parse
from corpus.templates.twins import TWINS
from corpus.templates.units import converted, unit_of, units


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
convert|60|to|170|kg|lb|disp=number -> 130 to 370
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
convert|1.4|Moilbbl/d|m3/d -> 1.4 million barrels per day (220,000 m³/d)
convert|85|Tcuft|km3 -> 85 trillion cubic feet (2,400 km³)
convert|1.5|e6XYZ -> 1.5 million XYZ
convert|100|ft|m|sigfig=40 -> 100 feet (30.4800000000000000000000000000 m)
convert|20|xyz -> 20 xyz
convert|20|xyz|km -> 20 xyz
""")

OTHER_LANGUAGES = [
    ("de", "convert|1234.5|km", "1.234,5 km (767,1 mi)"),
    ("ja", "convert|180|km", "180キロメートル (110 mi)"),
    ("ja", "cvt|180|km", "180 km (110 mi)"),
    ("ja", "convert|90|km/h", "時速90キロメートル (56 mph)"),
    ("ja", "convert|5|to|6|km", "5から6キロメートル (3.1から3.7 mi)"),
    ("zh", "convert|180|km", "180公里（110英里）"),
    ("zh", "convert|5|ft|11|in|m", "5英尺11英寸（1.80米）"),
    ("zh", "convert|10|t|lb", "10公吨（22,000磅）"),
    ("zh", "convert|180|km|abbr=on", "180 km（110 mi）"),
    ("vi", "convert|180|km", "180 kilômét (110 mi)"),
    ("ko", "convert|180|km", "180킬로미터 (110 mi)"),
    ("ko", "convert|5|psf", "5 psf (0.24 kPa)"),
    ("bg", "convert|5|to|6|km", "5–6 km (3,1–3,7 mi)"),
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


# --- the other families: the documentation page of each template ---

MORE_NUMBERS = table("""
num|10000 -> 10,000
num|-3.5 -> −3.5
num|2 billion -> 2 billion
gaps|1|234|567|u=m -> 1234567 m
raised|24|times=10 -> ×10²⁴
raised|-3 -> ⁻³
ordinal|1 -> 1st
ordinal|12 -> 12th
ordinal|23 -> 23rd
ordinal|111 -> 111th
number_in_words|121 -> one hundred and twenty-one
number_in_words|1000000 -> one million
number_in_words|-40 -> minus forty
number_in_words|12|case=u -> Twelve
ordinal_in_words|21 -> twenty-first
ordinal_in_words|12 -> twelfth
ordinal_in_words|20 -> twentieth
ordinal_in_words|100 -> one hundredth
roman|1987 -> MCMLXXXVII
roman|4000 -> ValueError
percentage|1|3 -> 33%
percentage|1|3|1 -> 33.3%
percentage|1|0 -> ValueError
rupees|1.5|c -> ₹1.5 crore
rupees|10000 -> ₹10,000
currency|1000|EUR -> €1,000
currency|10000|USD -> US$10,000
frac|a|b -> a⁄b
frac|3''n'' + 1|2 -> (3''n'' + 1)⁄2
""")

DATES = table("""
as_of|2010 -> As of 2010
as_of|2010|lc=y -> as of 2010
as_of|2010|1|3 -> As of 3 January 2010
as_of|2010|1|3|df=us -> As of January 3, 2010
as_of|2010|1|lc=y -> as of January 2010
as_of|2010-01-03 -> As of 3 January 2010
as_of|January 2010 -> As of January 2010
as_of|2010|since=y -> Since 2010
as_of|2011|alt=In 2011 -> In 2011
as_of|2010|bare=y -> 2010
as_of|2010|pre=early -> As of early 2010
as_of -> ValueError
circa|1200 -> c. 1200
circa|1200|1250 -> c. 1200 – c. 1250
circa -> c.
floruit|1547|1580 -> fl. 1547–1580
floruit|1547 -> fl. 1547
born|1950 -> b. 1950
died|1950 -> d. 1950
reign|1558|1603 -> r. 1558–1603
century|19 -> 19th century
century|-1 -> 1st century BC
date|1809|2|12 -> February 12, 1809
date|1809|2|12|df=y -> 12 February 1809
date|1809|2 -> February 1809
date|1809 -> 1809
date|7 December 1941 -> 7 December 1941
date|1969|07|16|13|32|00|Z -> 13:32:00, July 16, 1969 (UTC)
date|1947|04|01|df=y -> 1 April 1947
date -> ValueError
date|1947|13|01 -> ValueError
date_sorting|1777|12|16 -> 16 December 1777
date_sorting|1777|12|16|format=mdy -> December 16, 1777
date_sorting|1777|12|16|abbr=on -> 16 Dec 1777
date_sorting|-44|3|15 -> 15 March 44 BC
death_date_and_age|1865|4|15|1809|2|12 -> April 15, 1865 (aged 56)
death_date_and_age|1955|4|18|1879|3|14|df=yes -> 18 April 1955 (aged 76)
death_date_and_age|1899|2|11|1809|2|12 -> February 11, 1899 (aged 89)
death_year_and_age|1950|1900 -> 1950 (aged 49–50)
age|1989|7|23|2003|7|14 -> 13
age|1989|7|23|2003|7|23 -> 14
age|1969|07|20 -> ValueError
age_in_days|2003|7|1|2003|7|14 -> 13
age_in_years_and_days|1989|7|23|2003|7|14 -> 13 years, 356 days
age_in_years_months_days|2001|1|10|2003|3|14 -> 2 years, 2 months, 4 days
age_in_years_months_days|year1=1775|month1=04|day1=19|year2=1783|month2=04|day2=11 -> 7 years, 11 months, 23 days
marriage|Maria Nys|1919|1955|end=died -> Maria Nys (m. 1919; died 1955)
film_date|2014|5|16|New York|2014|6|1 -> May 16, 2014 (New York), June 1, 2014
marriage|Maria Nys|1919 -> Maria Nys (m. 1919)
""")

LANGUAGES = table("""
langx|de|Wort -> German: Wort
langx|ar|كلمة|kalima|word -> Arabic: كلمة, romanized: kalima, lit. 'word'
langx|ru|слово|translit=slovo|lit=word -> Russian: слово, romanized: slovo, lit. 'word'
langx|de|Wort|label=none -> Wort
langx|de|Wort|label=Low German -> Low German: Wort
langx|code=ru|Алла́х -> Russian: Алла́х
langx|code=grc|Ἀχιλλεύς -> Ancient Greek: Ἀχιλλεύς
langx|code=grc-gre|Ἀριστοτέλης -> Greek: Ἀριστοτέλης
langx|code=xyz|word -> word
langx|de -> ValueError
native|fr|mot -> mot
native|ar|ALA|Allāh -> Allāh
ipa|/a/ -> /a/
ipa|fr|paʁi -> French pronunciation: [paʁi]
ipa|fr|paʁi|lang -> French: [paʁi]
ipa|code=fr|alɛ̃ kɔn|lang -> French: [alɛ̃ kɔn]
ipa|code=es|aˈðoβe -> Spanish pronunciation: [aˈðoβe]
ipa|code=pt|ʁɛˈpublikɐ|pron -> pronounced [ʁɛˈpublikɐ]
ipa|code=ca|ənˈdorə| -> [ənˈdorə]
ipac|code=en|k|æ|t -> /kæt/
ipac|code=en|audio=x.ogg|ˌ|æ|l|ə|ˈ|b|æ|m|ə -> /ˌæləˈbæmə/
ipac|code=en|ˈ|aɪ|n|_|ˈ|r|æ|n|d -> /ˈaɪn ˈrænd/
ipac|code=en|pron|'|eɪ -> pronounced /ˈeɪ/
ipac|code=pl|'|w|r|o|c|ł|a|f -> [ˈvrɔt͡swaf]
ipac|code=pl|AUD|Pl-Wrocław-2.ogg|'|w|r|o|c|ł|a|f -> [ˈvrɔt͡swaf]
ipac|code=pl|s|e|m|'|p|u|l|n|o|-|k|r|a|'|j|e|ń|s|k|J|e -> [sɛmˈpulnɔ kraˈjɛɲskʲɛ]
ipac|code=cmn|b|ei|3 -> ValueError
respell|ASS|kee -> ASS-kee
respell|AYN|_|RAND -> AYN RAND
nihongo|headquarters|本部道場|honbu dōjō -> headquarters (本部道場, honbu dōjō)
nihongo|'''Aikido'''|合気道|Aikidō|lead=yes -> '''Aikido''' (Japanese: 合気道, Hepburn: Aikidō)
nihongo||日本|Nihon -> Nihon (日本)
nihongo|''Ukemi''|受身 -> ''Ukemi'' (受身)
nihongo|cherry|桜|sakura|a tree|in bloom -> cherry (桜, sakura, a tree) in bloom
nihongo_romaji_first|cherry|桜|sakura -> sakura (桜, cherry)
nihongo_kanji_first|cherry|桜|sakura -> 桜 (sakura, cherry)
nihongo_in_note|cherry|桜|sakura -> cherry
zh|c=中文|p=Zhōngwén -> Chinese: 中文; pinyin: Zhōngwén
zh|s=汉字|t=漢字|p=Hànzì|l=word -> simplified Chinese: 汉字; traditional Chinese: 漢字; pinyin: Hànzì; lit. 'word'
zh|s=汉字|t=漢字|first=t -> traditional Chinese: 漢字; simplified Chinese: 汉字
zh|c=中文|p=Zhōngwén|labels=no -> 中文; Zhōngwén
korean|hangul=한국|hanja=韓國|rr=Hanguk|mr=Han'guk -> Korean: 한국; Hanja: 韓國; RR: Hanguk; MR: Han'guk
korean|한국|韓國 -> Korean: 한국; Hanja: 韓國
literal|word -> lit. 'word'
literal|word|name -> lit. 'word' or 'name'
join|藻|類 -> 藻類
join|a|b|c|sep=,&#32;|last=&#32;and&#32; -> a,&#32;b&#32;and&#32;c
zh_old|中文|Zhōngwén|code=cp -> Chinese: 中文; pinyin: Zhōngwén
etymology|la|verbum|word -> from Latin verbum 'word'
""")

NAMES = table("""
ship|USS|Nimitz|CVN-68 -> USS Nimitz (CVN-68)
ship_of|Nimitz|CVN-68|prefix=USS -> USS Nimitz (CVN-68)
ship_of|Ajax|22|6|prefix=HMS -> HMS Ajax
ship_of|Ajax|22|2|prefix=HMS -> Ajax
ship_of|Aurora|2000|1|prefix=MV -> 2000
ship_of|Aurora|2000|3|prefix=MV -> Aurora (2000)
ship_of|Atlas|prefix=USS -> USS Atlas
ship_class|Nimitz|aircraft carrier -> Nimitz-class aircraft carrier
ship_class|Nimitz|aircraft carrier|0 -> Nimitz-class
ship_class|Nimitz|aircraft carrier|1 -> Nimitz-class aircraft carrier
ship_class|Nimitz|aircraft carrier|4 -> Nimitz class
ship_class|Nimitz|aircraft carrier|5 -> Nimitz
chem|H|2|O -> H<sub>2</sub>O
chem|CH|3|COOH -> CH<sub>3</sub>COOH
chem|SO|4|2- -> SO<sub>4</sub>²⁻
chem|40|Ar -> ⁴⁰Ar
chem|NH|4|+ -> NH<sub>4</sub>⁺
chem2|SO4(2-) -> SO<sub>4</sub>²⁻
chem2|Fe(CN)6 -> Fe(CN)<sub>6</sub>
chem2|NH4+ -> NH<sub>4</sub>⁺
nuclide|lithium|7 -> ⁷Li
nuclide|U|235 -> ²³⁵U
nuclide|unobtainium|1 -> ValueError
coord|13|19|N|169|9|W|type:event -> 13°19′N 169°9′W
coord|12|19|1|N|70|1|30|W -> 12°19′1″N 70°1′30″W
coord|32.7|-86.7|type:adm2nd -> 32.7°N 86.7°W
coord|0|N|30|W|type:waterbody|display=inline -> 0°N 30°W
road|I|5|US|101|state=CA -> I-5 / US 101
road|US|40|city1=Denver -> US 40 in Denver
track_gauge|1435mm -> 1,435 mm (4 ft 8 1⁄2 in)
track_gauge|1000mm|allk=on -> 1,000 mm (3 ft 3 3⁄8 in) metre gauge
track_gauge|1067 mm -> 1,067 mm (3 ft 6 in)
track_gauge|4ft8.5in -> 4 ft 8 1⁄2 in (1,435 mm)
track_gauge|3ft6in -> 3 ft 6 in (1,067 mm)
track_gauge|1435mm|disp=1 -> 1,435 mm
height|ft=5|in=11 -> 5 ft 11 in (1.80 m)
height|m=1.80 -> 1.80 m (5 ft 11 in)
height|cm=180 -> 180 cm (5 ft 11 in)
population_density|3645257|640081.87|km2|sqmi|prec=1 -> 5.7/km² (14.8/sq mi)
population_density|1|4|km2|prec=40 -> 0.250000000000000000000000000000/km² (0.64749702758400000000000000000/sq mi)
bible_verse|1|Chronicles|24:1 -> 1 Chronicles 24:1
bible_verse||Exodus|4:14 -> Exodus 4:14
bible_verse||Exodus|6:16-20|31 -> Exodus 6:16-20
bible_verse|Exodus|4:14|KJV -> Exodus 4:14
bible_verse||Exodus|4:14|31|verse 14 -> verse 14
music|sharp -> ♯
music|flat -> ♭
music|time|3|4 -> 3/4
music|fish -> ValueError
hlist|[[Biology]]|[[Zoology]] -> [[Biology]] · [[Zoology]]
""")


@pytest.mark.parametrize(("call", "expected"), MORE_NUMBERS + DATES + LANGUAGES + NAMES)
def test_a_twin_shows_what_the_page_of_its_template_says(call: str, expected: str):
    if expected == "ValueError":
        with pytest.raises(ValueError):
            shown(call)
    else:
        assert shown(call) == expected


@pytest.mark.parametrize("call", ["as_of|2010", "number_in_words|12", "ordinal|2", "century|19"])
def test_english_words_are_not_shown_in_other_languages(call: str):
    with pytest.raises(ValueError, match="not known in 'fr'"):
        shown(call, "fr")


def test_a_template_that_calls_the_lua_module_shows_its_twin():
    template = parse("{{#invoke:Convert|convert|abbr=on}}")
    expansion = Expansion({"Maß": template}.get, TWINS, "en", "Title")
    assert expand(parse("a {{Maß|180|km}} b"), {}, expansion) == "a 180 km (110 mi) b"


def test_coordinates_in_the_title_show_nothing():
    assert shown("coord|28|N|2|E|display=title") == ""


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        ("quote|To be.|Hamlet|Act 3", "\nTo be.\n— Hamlet, Act 3\n"),
        ("quote|text=To be.", "\nTo be.\n"),
        ("ordered_list|start=1|one|two", "\n# one\n# two\n"),
        ("unbulleted_list|one|two", "\n* one\n* two\n"),
    ],
)
def test_quotations_and_lists_are_lines_of_their_own(call: str, expected: str):
    assert shown(call) == expected


@pytest.mark.parametrize(
    ("language", "call", "expected"),
    [
        ("de", "date|1809|2|12", "12. Februar 1809"),
        ("ja", "date|1809|2|12", "1809年2月12日"),
        ("fr", "date|1809|2", "février 1809"),
        ("fa", "date|1809|2|12", "۱۲ فوریه ۱۸۰۹"),
        ("de", "langx|en|word", "Englisch: word"),
        ("ja", "langx|en|word", "英語：word"),
        ("de", "num|1234567,5", "1.234.567,5"),
    ],
)
def test_dates_names_and_numbers_are_in_the_language_of_the_wiki(language: str, call: str, expected: str):
    assert shown(call, language) == expected


def test_a_twin_raises_nothing_but_a_value_error():
    """Whatever stands in a call: nothing, text, numbers of any size, an unknown option."""
    texts = [
        "",
        "x",
        "0",
        "-1",
        "1/0",
        "1e999",
        "9" * 80,
        "12",
        "km",
        "ft",
        "½",
        "|",
        "2020-02-30",
        "[[a]]",
        "{1}",
        "é",
    ]
    for name, twin in TWINS.items():
        for first in texts:
            for second in texts[::3]:
                for language in ("en", "de", "xx"):
                    arguments = {"1": first, "2": second, "3": first, "4": second, "disp": second, "e": first}
                    for given in (
                        arguments,
                        {},
                        {"1": first},
                        {"1": first, "2": second},
                        {"text": first, "lit": second},
                    ):
                        try:
                            assert isinstance(twin(dict(given), language), str), name
                        except ValueError:
                            pass
