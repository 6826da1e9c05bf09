"""What templates of ships, formulas, places and lists show: {{USS}}, {{sclass}}, {{chem}}, {{coord}}, {{hlist}}.

Subscripts of formulas are <sub>, as people write them without a template: corpus/wikitext.py shows both alike.
"""

import re

from corpus.templates import locales
from corpus.templates.twins_arguments import ENGLISH, Arguments, Twin, first_of, text_of, texts_of, unnamed
from corpus.templates.twins_convert import convert
from corpus.templates.twins_numbers import mixed_fraction, parse_number, possible_places, rounded, superscript

ELEMENTS = """
hydrogen H, helium He, lithium Li, beryllium Be, boron B, carbon C, nitrogen N, oxygen O, fluorine F, neon Ne,
sodium Na, magnesium Mg, aluminium Al, aluminum Al, silicon Si, phosphorus P, sulfur S, sulphur S, chlorine Cl,
argon Ar, potassium K, calcium Ca, scandium Sc, titanium Ti, vanadium V, chromium Cr, manganese Mn, iron Fe,
cobalt Co, nickel Ni, copper Cu, zinc Zn, gallium Ga, germanium Ge, arsenic As, selenium Se, bromine Br, krypton Kr,
rubidium Rb, strontium Sr, yttrium Y, zirconium Zr, niobium Nb, molybdenum Mo, technetium Tc, ruthenium Ru,
rhodium Rh, palladium Pd, silver Ag, cadmium Cd, indium In, tin Sn, antimony Sb, tellurium Te, iodine I, xenon Xe,
caesium Cs, cesium Cs, barium Ba, lanthanum La, cerium Ce, praseodymium Pr, neodymium Nd, promethium Pm,
samarium Sm, europium Eu, gadolinium Gd, terbium Tb, dysprosium Dy, holmium Ho, erbium Er, thulium Tm, ytterbium Yb,
lutetium Lu, hafnium Hf, tantalum Ta, tungsten W, rhenium Re, osmium Os, iridium Ir, platinum Pt, gold Au,
mercury Hg, thallium Tl, lead Pb, bismuth Bi, polonium Po, astatine At, radon Rn, francium Fr, radium Ra,
actinium Ac, thorium Th, protactinium Pa, uranium U, neptunium Np, plutonium Pu, americium Am, curium Cm,
berkelium Bk, californium Cf, einsteinium Es, fermium Fm, mendelevium Md, nobelium No, lawrencium Lr,
rutherfordium Rf, dubnium Db, seaborgium Sg, bohrium Bh, hassium Hs, meitnerium Mt, darmstadtium Ds, roentgenium Rg,
copernicium Cn, nihonium Nh, flerovium Fl, moscovium Mc, livermorium Lv, tennessine Ts, oganesson Og,
ununbium Uub, ununtrium Uut, ununquadium Uuq, ununpentium Uup, ununhexium Uuh, ununseptium Uus, ununoctium Uuo,
ununennium Uue, unbinilium Ubn
"""
SYMBOLS: dict[str, str] = {}  # {"hydrogen": "H"}
for element in ELEMENTS.split(","):
    element_name, symbol = element.split()
    SYMBOLS[element_name] = symbol

MUSIC = {
    "sharp": "♯",
    "#": "♯",
    "flat": "♭",
    "b": "♭",
    "natural": "♮",
    "n": "♮",
    "doublesharp": "𝄪",
    "##": "𝄪",
    "doubleflat": "𝄫",
    "bb": "𝄫",
    "x": "𝄪",
    "segno": "𝄋",
    "coda": "𝄌",
    "treble": "𝄞",
    "treble clef": "𝄞",
    "bass": "𝄢",
    "bass clef": "𝄢",
    "alto": "𝄡",
    "quarternote": "♩",
    "quarter": "♩",
    "crotchet": "♩",
    "eighthnote": "♪",
    "eighth": "♪",
    "quaver": "♪",
    "halfnote": "𝅗𝅥",
    "half": "𝅗𝅥",
    "wholenote": "𝅝",
    "whole": "𝅝",
    "cut time": "𝄵",
    "common time": "𝄴",
    "dimdeg": "o",
    "dim": "o",
    "aug": "+",
    "halfdim": "ø",
}

CHARGE = re.compile(r"\d*(?:''n''|n)?[+−-]|[+−-]\d*")  # a piece of {{chem}}: 2-, n+, +
COUNT = re.compile(r"\d|''")  # how many atoms: 4, ''n''

# {{chem2}}: what is written -> the sign; the longer ones first.
ARROWS = {
    "<->": "⇌",
    "<=>": "⇌",
    "->": "→",
    "<-": "←",
}
CHARGE_IN_BRACKETS = re.compile(r"\((\d*[+−-])\)")  # SO4(2-)
RAISED = re.compile(r"\^\{?([\d+−-]+)\}?")  # SO4^2-
LOWERED = re.compile(r"(?<=[A-Za-z)\]])_?(\d+)")  # H2O, (NH4)2
SIGN_AT_END = re.compile(r"(?<=[A-Za-z)\]>])([+−-])(?=$|[\s,;)])")  # Na+

COORDINATE = re.compile(r"[−-]?\d+(?:\.\d+)?|[NSEWnsew]")
BOOK_NUMBER = re.compile(r"\d|I{1,3}")  # 1 Chronicles
PICTURE_SIZE = re.compile(r"\d+(?:px)?")
FRACTION = re.compile(r"(\d+) (\d+)/(\d+)")  # 8 1/2

# Feet and inches of the tracks of railways, by their width in millimetres: Template:Track gauge.
GAUGES_TABLE = """
381 1 ft 3 in; 500 1 ft 7 3/4 in; 508 1 ft 8 in; 597 1 ft 11 1/2 in; 600 1 ft 11 5/8 in; 603 1 ft 11 3/4 in; 610 2 ft;
686 2 ft 3 in; 700 2 ft 3 9/16 in; 750 2 ft 5 1/2 in; 760 2 ft 5 15/16 in; 762 2 ft 6 in; 785 2 ft 6 29/32 in;
800 2 ft 7 1/2 in; 891 2 ft 11 3/32 in; 900 2 ft 11 7/16 in; 914 3 ft; 950 3 ft 1 3/8 in; 1000 3 ft 3 3/8 in;
1050 3 ft 5 11/32 in; 1067 3 ft 6 in; 1093 3 ft 7 1/32 in; 1219 4 ft; 1372 4 ft 6 in; 1422 4 ft 8 in;
1435 4 ft 8 1/2 in; 1495 4 ft 10 7/8 in; 1520 4 ft 11 27/32 in; 1524 5 ft; 1588 5 ft 2 1/2 in; 1600 5 ft 3 in;
1668 5 ft 5 21/32 in;
1676 5 ft 6 in; 1829 6 ft; 2134 7 ft; 2140 7 ft 1/4 in
"""
GAUGES: dict[str, str] = {}  # {"1435": "4 ft 8 1/2 in"}
for gauge in GAUGES_TABLE.split(";"):
    millimetres, feet_and_inches = gauge.strip().split(" ", 1)
    GAUGES[millimetres] = feet_and_inches
WIDTHS = {feet.replace(" ", ""): width for width, feet in GAUGES.items()}  # {"4ft81/2in": "1435"}
GAUGE_NAMES = {
    "sg": "1435",
    "standard": "1435",
    "std": "1435",
    "metre": "1000",
    "meter": "1000",
    "russian": "1520",
    "1m": "1000",
    "cape": "1067",
    "42in": "3ft6in",
    "36in": "3ft",
    "24in": "2ft",
    "indian": "1676",
    "irish": "1600",
    "iberian": "1668",
    "4ft8.5in": "4ft81/2in",
    "bosnian": "760",
}
NAMED_GAUGES = {
    "1435": "standard gauge",
    "1000": "metre gauge",
}


# --- ships ---


def ship(arguments: Arguments, language: str) -> str:
    """A ship: `USS|Nimitz|CVN-68` -> USS Nimitz (CVN-68). Template:Ship.

    The fourth argument says which parts are shown: 1 the number, 2 the name, 3 name and number, 5 prefix and number,
    6 prefix and name. Leaves out the link and italics.
    """
    prefix, name, number, style = texts_of(arguments, "1", "2", "3", "4")
    if not name:
        raise ValueError("a ship without a name")

    number_in_brackets = f"({number})" if number else ""
    shown = [prefix, name, number_in_brackets]
    if style == "1":
        shown = [number or name]
    if style == "2":
        shown = [name]
    if style == "3":
        shown = [name, number_in_brackets]
    if style == "5":
        shown = [prefix, number]
    if style == "6":
        shown = [prefix, name]
    return words(shown)


def words(parts: list[str]) -> str:
    """The parts that are not empty, with spaces between them: ["USS", "", "(62)"] -> "USS (62)"."""
    return " ".join(part for part in parts if part)


def ship_of(arguments: Arguments, language: str) -> str:
    """A ship of a navy, whose prefix is |prefix=: `Nimitz|CVN-68|prefix=USS` -> USS Nimitz (CVN-68).

    Template:USS and its like.
    """
    moved = {
        "1": arguments.get("prefix", ""),
        "2": arguments.get("1", ""),
        "3": arguments.get("2", ""),
        "4": arguments.get("3", ""),
    }
    return ship(moved, language)


def ship_class(arguments: Arguments, language: str) -> str:
    """A class of ships: `Nimitz|aircraft carrier` -> Nimitz-class aircraft carrier. Template:Sclass.

    The third argument: 0 Nimitz-class, 4 Nimitz class, 5 Nimitz; else the type is shown.
    """
    name, kind, style = texts_of(arguments, "1", "2", "3")
    if not name:
        raise ValueError("a class of ships without a name")
    if style == "0":
        return f"{name}-class"
    if style == "4":
        return f"{name} class"
    if style == "5":
        return name
    return f"{name}-class {kind}".strip()


# --- chemistry ---


def chem(arguments: Arguments, language: str) -> str:
    """A formula in pieces: `SO|4|2-` -> SO<sub>4</sub>²⁻. Template:Chem.

    Numbers are subscripts, charges superscripts.
    """
    pieces: list[str] = []
    for place in range(1, 60):
        piece = text_of(arguments, str(place))
        if not piece:
            continue
        charge = piece.replace("&minus;", "−")
        if CHARGE.fullmatch(charge):
            pieces.append(superscript(charge))
        elif piece.isdigit() and not pieces:  # the mass of a kind of atom
            pieces.append(superscript(piece))
        elif place > 1 and COUNT.match(piece):
            pieces.append(f"<sub>{piece}</sub>")
        else:
            pieces.append(piece)
    return "".join(pieces)


def chem2(arguments: Arguments, language: str) -> str:
    """A formula in one piece: `SO4(2-)` -> SO<sub>4</sub>²⁻. Template:Chem2.

    Arrows are ->, <-, <->. Digits behind letters and brackets are subscripts, digits and a sign in brackets a charge.
    """
    text = text_of(arguments, "1")
    for arrow, sign in ARROWS.items():
        text = text.replace(arrow, sign)
    text = CHARGE_IN_BRACKETS.sub(superscript_of, text)
    text = RAISED.sub(superscript_of, text)
    text = LOWERED.sub(r"<sub>\1</sub>", text)
    return SIGN_AT_END.sub(superscript_of, text)


def superscript_of(match: re.Match) -> str:
    """The first group of a match, raised."""
    return superscript(match[1])


def nuclide(arguments: Arguments, language: str) -> str:
    """A kind of atom: `lithium|7` -> ⁷Li. Template:Nuclide; the number of protons is left out."""
    name, mass = texts_of(arguments, "1", "2")
    is_symbol = len(name) < 3
    symbol = SYMBOLS.get(name.lower(), name if is_symbol else "")
    if not symbol:
        raise ValueError(f"no element: {name[:20]!r}")
    return superscript(mass) + symbol


# --- places, roads, rails, measures ---


def coord(arguments: Arguments, language: str) -> str:
    """Coordinates: `13|19|N|169|9|W` -> 13°19′N 169°9′W; nothing where they stand in the title. Template:Coord."""
    display = text_of(arguments, "display").lower()
    if display in ("title", "t"):
        return ""

    parts = [part for part in unnamed(arguments) if COORDINATE.fullmatch(part)]
    letters = [place for place, part in enumerate(parts) if part.isalpha()]
    if len(letters) >= 2:  # 13|19|N|169|9|W: the letters end the two halves
        first_letter, second_letter = letters[:2]
        latitude = parts[:first_letter]
        longitude = parts[first_letter + 1 : second_letter]
        north_or_south = parts[first_letter].upper()
        east_or_west = parts[second_letter].upper()
        return f"{degrees(latitude)}{north_or_south} {degrees(longitude)}{east_or_west}"

    if len(parts) != 2:
        raise ValueError("no coordinates")
    latitude_degrees, longitude_degrees = parts
    return f"{signed_degrees(latitude_degrees, 'N', 'S')} {signed_degrees(longitude_degrees, 'E', 'W')}"


def degrees(parts: list[str]) -> str:
    """Degrees, minutes and seconds with their signs: ["13", "19"] -> 13°19′."""
    shown = ""
    for part, sign in zip(parts, "°′″", strict=False):
        shown += part + sign
    return shown


def signed_degrees(text: str, positive: str, negative: str) -> str:
    """Degrees with a letter in the place of their sign: "-34.5", "N", "S" -> 34.5°S."""
    letter = negative if text.startswith(("-", "−")) else positive
    size = text.lstrip("-−")
    return f"{size}°{letter}"


def road(arguments: Arguments, language: str) -> str:
    """Roads: `I|5|US|101|state=CA` -> I-5 / US 101. Template:Jct; |city1= and |location1= are the place behind it."""
    parts = unnamed(arguments)
    if not parts:
        raise ValueError("no road")

    roads: list[str] = []
    kinds = parts[::2]
    numbers = parts[1::2]
    for kind, number in zip(kinds, numbers, strict=False):
        mark = "-" if kind == "I" else " "
        roads.append(kind + mark + number)
    shown = " / ".join(roads)

    place = arguments.get("location1") or arguments.get("city1")
    return f"{shown} in {place}" if place else shown


def track_gauge(arguments: Arguments, language: str) -> str:
    """The width of a track: `1435mm` -> 1,435 mm (4 ft 8 1⁄2 in); `3ft6in` -> 3 ft 6 in (1,067 mm).

    Template:Track gauge. |disp=1 shows one of the two, |al=on names the gauge; a width that is not in the table is
    shown as it is written.
    """
    written = arguments.get("1", "")
    text = written.lower()
    for mark in ("&nbsp;", " ", ","):
        text = text.replace(mark, "")
    text = text.removesuffix("mm")
    text = GAUGE_NAMES.get(text, text)

    is_metric = text in GAUGES
    width = text if is_metric else WIDTHS.get(text.replace("+", ""))
    if width is None:
        return written.strip()

    metric = f"{int(width):,} mm"
    imperial = FRACTION.sub(fraction_of, GAUGES[width])
    first, second = (metric, imperial) if is_metric else (imperial, metric)
    is_one = arguments.get("disp") in ("1", "s")
    shown = first if is_one else f"{first} ({second})"

    is_named = "on" in (arguments.get("al"), arguments.get("allk"))
    if is_named and width in NAMED_GAUGES:
        return f"{shown} {NAMED_GAUGES[width]}"
    return shown


def fraction_of(match: re.Match) -> str:
    """A match of FRACTION as it is shown: 8 1/2 -> 8 1⁄2."""
    whole, numerator, denominator = match.groups()
    return mixed_fraction(whole, numerator, denominator)


def height(arguments: Arguments, language: str) -> str:
    """How tall somebody is: `ft=5|in=11` -> 5 ft 11 in (1.80 m); `m=1.80` -> 1.80 m (5 ft 11 in). Template:Height."""
    feet, inches, metres, centimetres = texts_of(arguments, "ft", "in", "m", "cm")
    precision = arguments.get("precision", "") or "2"
    if feet and inches:
        parts = [feet, "ft", inches, "in", "m", precision]
    elif feet:
        parts = [feet, "ft", "m", precision]
    elif inches:
        parts = [inches, "in", "m", precision]
    elif metres:
        parts = [metres, "m", "ftin"]
    elif centimetres:
        parts = [centimetres, "cm", "ftin"]
    else:
        raise ValueError("no height")

    call = {str(place): part for place, part in enumerate(parts, 1)}
    call["abbr"] = "on"
    return convert(call, language)


def population_density(arguments: Arguments, language: str) -> str:
    """People per area: `3645257|640081.87|km2|sqmi|prec=1` -> 5.7/km² (14.8/sq mi). Template:Pop density."""
    people, area, unit = texts_of(arguments, "1", "2", "3")
    size = parse_number(area).value
    if not size:
        raise ValueError("people per area of 0")
    density = parse_number(people).value / size

    precision = text_of(arguments, "prec")
    if not precision:
        precision = "0" if density >= 100 else "1"
    call = {
        "1": rounded(density, possible_places(int(precision))),
        "2": f"/{unit}",
        "abbr": "on",
    }
    other_unit = arguments.get("4")
    if other_unit:
        call["3"] = f"/{other_unit}"
    if other_unit and "prec" in arguments:
        call["4"] = precision
    return convert(call, language)


def bible_verse(arguments: Arguments, language: str) -> str:
    """A place in the Bible: `1|Chronicles|24:1` -> 1 Chronicles 24:1; `Exodus|4:14|KJV` -> Exodus 4:14.

    Template:Bibleverse. The text behind the version is shown instead.
    """
    first = text_of(arguments, "1")
    has_number = not first or BOOK_NUMBER.fullmatch(first) is not None
    if has_number:
        number, book, verses, instead = texts_of(arguments, "1", "2", "3", "5")
    else:
        number = ""
        book, verses, instead = texts_of(arguments, "1", "2", "4")

    if instead:
        return instead
    if not book:
        raise ValueError("no book of the Bible")
    return words([number, book, verses])


def music(arguments: Arguments, language: str) -> str:
    """Signs of music: `sharp` -> ♯; `time|3|4` -> 3/4; `scale|5` -> 5. Template:Music."""
    kind, *values = unnamed(arguments) or [""]
    kind = kind.lower()
    if kind in ("time", "timesig") and len(values) == 2:
        beats, note = values
        return f"{beats}/{note}"
    if kind in ("scale", "scaledegree") and len(values) == 1:
        return values[0]
    if kind not in MUSIC:
        raise ValueError(f"no sign of music: {kind[:20]!r}")
    return MUSIC[kind]


# --- lists, quotations ---


def ordered_list(arguments: Arguments, language: str) -> str:
    """A numbered list: `one|two` -> lines "# one", "# two". Template:Ordered list."""
    return list_of_lines("# ", arguments)


def unbulleted_list(arguments: Arguments, language: str) -> str:
    """A list, an item a line: `one|two` -> lines "* one", "* two". Template:Unbulleted list, Bulleted list."""
    return list_of_lines("* ", arguments)


def list_of_lines(mark: str, arguments: Arguments) -> str:
    """The unnamed arguments in lines of their own, each behind `mark`."""
    lines = [mark + item for item in unnamed(arguments)]
    return "\n" + "\n".join(lines) + "\n"


def hlist(arguments: Arguments, language: str) -> str:
    """A list on one line: `one|two` -> one · two. Template:Hlist."""
    return " · ".join(unnamed(arguments))


def quote(arguments: Arguments, language: str) -> str:
    """A quotation in lines of its own, and who said it: `text|author|source` -> text, then "— author, source".

    Template:Blockquote, Poem quote, Cquote; |text=, |author= or |sign=, |source= or |title=.
    """
    text = first_of(arguments, "text", "quote", "1")
    if not text:
        raise ValueError("a quotation without text")

    # Cquote with a picture: the width and the height of its quotation marks come first
    is_picture = bool(arguments.get("quote_marks")) or PICTURE_SIZE.fullmatch(text_of(arguments, "2")) is not None
    author_place, source_place = ("4", "5") if is_picture else ("2", "3")
    author = first_of(arguments, "author", "sign", "by", "character", author_place)
    source = first_of(arguments, "source", "title", source_place)

    shown = f"\n{text}\n"
    if author and source:
        return f"{shown}— {author}, {source}\n"
    if author or source:
        return f"{shown}— {author or source}\n"
    return shown


# --- countries ---


def country(arguments: Arguments, language: str) -> str:
    """The name of a country in the language of the wiki: `FR|France` -> Frankreich in German.

    1: its ISO 3166 code. 2: its name in the English Wikipedia, also for languages that CLDR does not know.
    """
    english = arguments.get("2", "")
    known = locales.known_locale(language)
    if language in ENGLISH or known is None:
        return english
    return known.territories.get(arguments.get("1", ""), english)


NAMES: dict[str, Twin] = {
    "ship": ship,
    "ship_of": ship_of,
    "ship_class": ship_class,
    "chem": chem,
    "chem2": chem2,
    "nuclide": nuclide,
    "coord": coord,
    "road": road,
    "track_gauge": track_gauge,
    "height": height,
    "population_density": population_density,
    "bible_verse": bible_verse,
    "music": music,
    "ordered_list": ordered_list,
    "unbulleted_list": unbulleted_list,
    "hlist": hlist,
    "quote": quote,
    "country": country,
}
