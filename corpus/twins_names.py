"""What templates of ships, formulas, places and lists show: {{USS}}, {{sclass}}, {{chem}}, {{coord}}, {{hlist}}.

Subscripts of formulas are <sub>, as people write them without a template: corpus/wikitext.py shows both alike.
"""

import re
from collections.abc import Callable

from corpus import locales
from corpus.twins_convert import convert
from corpus.twins_numbers import mixed_fraction, parse_number, rounded, superscript

Twin = Callable[[dict[str, str], str], str]

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
SYMBOLS = dict(pair.split() for pair in ELEMENTS.split(","))

MUSIC = {"sharp": "♯", "#": "♯", "flat": "♭", "b": "♭", "natural": "♮", "n": "♮", "doublesharp": "𝄪", "##": "𝄪"}
MUSIC |= {"doubleflat": "𝄫", "bb": "𝄫", "x": "𝄪", "segno": "𝄋", "coda": "𝄌", "treble": "𝄞", "treble clef": "𝄞"}
MUSIC |= {"bass": "𝄢", "bass clef": "𝄢", "alto": "𝄡", "quarternote": "♩", "quarter": "♩", "crotchet": "♩"}
MUSIC |= {"eighthnote": "♪", "eighth": "♪", "quaver": "♪", "halfnote": "𝅗𝅥", "half": "𝅗𝅥", "wholenote": "𝅝", "whole": "𝅝"}
MUSIC |= {"cut time": "𝄵", "common time": "𝄴", "dimdeg": "o", "dim": "o", "aug": "+", "halfdim": "ø"}

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
GAUGES = dict(line.strip().split(" ", 1) for line in GAUGES_TABLE.split(";"))
GAUGE_NAMES = {"sg": "1435", "standard": "1435", "std": "1435", "metre": "1000", "meter": "1000", "russian": "1520"}
GAUGE_NAMES |= {"1m": "1000", "cape": "1067", "42in": "3ft6in", "36in": "3ft", "24in": "2ft", "indian": "1676"}
GAUGE_NAMES |= {"irish": "1600", "iberian": "1668", "4ft8.5in": "4ft81/2in", "bosnian": "760"}


def unnamed(arguments: dict[str, str], most: int = 60) -> list[str]:
    """The unnamed arguments that are not empty, in their order."""
    places = [str(place) for place in range(1, most + 1)]
    return [arguments[place].strip() for place in places if arguments.get(place, "").strip()]


# --- ships ---


def ship(arguments: dict[str, str], language: str) -> str:
    """A ship: `USS|Nimitz|CVN-68` -> USS Nimitz (CVN-68). Template:Ship.

    The fourth argument says which parts are shown: 1 the number, 2 the name, 3 name and number, 5 prefix and number,
    6 prefix and name. Leaves out the link and italics.
    """
    prefix, name, number, style = (arguments.get(str(place), "").strip() for place in range(1, 5))
    if not name:
        raise ValueError("a ship without a name")
    shown_number = f"({number})" if number else ""
    shown = {
        "1": [number or name],
        "2": [name],
        "3": [name, shown_number],
        "5": [prefix, number],
        "6": [prefix, name],
    }.get(style, [prefix, name, shown_number])
    return " ".join(part for part in shown if part)


def ship_of(arguments: dict[str, str], language: str) -> str:
    """A ship of a navy, whose prefix is |prefix=: `Nimitz|CVN-68|prefix=USS` -> USS Nimitz (CVN-68).

    Template:USS and its like.
    """
    moved = {str(place + 1): arguments.get(str(place), "") for place in (1, 2, 3)}
    return ship({"1": arguments.get("prefix", "")} | moved, language)


def ship_class(arguments: dict[str, str], language: str) -> str:
    """A class of ships: `Nimitz|aircraft carrier` -> Nimitz-class aircraft carrier. Template:Sclass.

    The third argument: 0 Nimitz-class, 4 Nimitz class, 5 Nimitz; else the type is shown.
    """
    name, kind, style = (arguments.get(str(place), "").strip() for place in (1, 2, 3))
    if not name:
        raise ValueError("a class of ships without a name")
    short = {"0": f"{name}-class", "4": f"{name} class", "5": name}
    return short.get(style) or f"{name}-class {kind}".strip()


# --- chemistry ---


def chem(arguments: dict[str, str], language: str) -> str:
    """A formula in pieces: `SO|4|2-` -> SO<sub>4</sub>²⁻. Template:Chem.

    Numbers are subscripts, charges superscripts.
    """
    pieces: list[str] = []
    for place in range(1, 60):
        piece = arguments.get(str(place), "").strip()
        if not piece:
            pieces.append("")
        elif re.fullmatch(r"\d*(?:''n''|n)?[+−-]|[+−-]\d*", piece.replace("&minus;", "−")):
            pieces.append(superscript(piece.replace("&minus;", "−")))
        elif piece.isdigit() and not any(pieces):  # the mass of a kind of atom
            pieces.append(superscript(piece))
        elif re.match(r"\d|''", piece) and pieces:
            pieces.append(f"<sub>{piece}</sub>")
        else:
            pieces.append(piece)
    return "".join(pieces)


def chem2(arguments: dict[str, str], language: str) -> str:
    """A formula in one piece: `SO4(2-)` -> SO<sub>4</sub>²⁻. Template:Chem2.

    Arrows are ->, <-, <->. Digits behind letters and brackets are subscripts, digits and a sign in brackets a charge.
    """
    text = arguments.get("1", "").strip()
    for arrow, sign in (("<->", "⇌"), ("<=>", "⇌"), ("->", "→"), ("<-", "←")):
        text = text.replace(arrow, sign)
    text = re.sub(r"\((\d*[+−-])\)", lambda match: superscript(match[1]), text)
    text = re.sub(r"\^\{?([\d+−-]+)\}?", lambda match: superscript(match[1]), text)
    text = re.sub(r"(?<=[A-Za-z)\]])_?(\d+)", r"<sub>\1</sub>", text)
    return re.sub(r"(?<=[A-Za-z)\]>])([+−-])(?=$|[\s,;)])", lambda match: superscript(match[1]), text)


def nuclide(arguments: dict[str, str], language: str) -> str:
    """A kind of atom: `lithium|7` -> ⁷Li. Template:Nuclide; the number of protons is left out."""
    name, mass = (arguments.get(place, "").strip() for place in ("1", "2"))
    symbol = SYMBOLS.get(name.lower(), name if len(name) < 3 else "")
    if not symbol:
        raise ValueError(f"no element: {name[:20]!r}")
    return superscript(mass) + symbol


# --- places, roads, rails, measures ---


def coord(arguments: dict[str, str], language: str) -> str:
    """Coordinates: `13|19|N|169|9|W` -> 13°19′N 169°9′W; nothing where they stand in the title. Template:Coord."""
    if arguments.get("display", "").strip().lower() in ("title", "t"):
        return ""
    parts = [part for part in unnamed(arguments) if re.fullmatch(r"[−-]?\d+(?:\.\d+)?|[NSEWnsew]", part)]
    letters = [place for place, part in enumerate(parts) if part.isalpha()]
    if len(letters) >= 2:
        north, east = parts[: letters[0]], parts[letters[0] + 1 : letters[1]]
        return f"{degrees(north)}{parts[letters[0]].upper()} {degrees(east)}{parts[letters[1]].upper()}"
    if len(parts) != 2:
        raise ValueError("no coordinates")
    latitude, longitude = parts
    south = latitude.startswith(("-", "−"))
    west = longitude.startswith(("-", "−"))
    return f"{latitude.lstrip('-−')}°{'S' if south else 'N'} {longitude.lstrip('-−')}°{'W' if west else 'E'}"


def degrees(parts: list[str]) -> str:
    return "".join(part + sign for part, sign in zip(parts, "°′″", strict=False))


def road(arguments: dict[str, str], language: str) -> str:
    """Roads: `I|5|US|101|state=CA` -> I-5 / US 101. Template:Jct; |city1= and |location1= are the place behind it."""
    parts = unnamed(arguments)
    if not parts:
        raise ValueError("no road")
    pairs = zip(parts[::2], parts[1::2], strict=False)
    roads = [f"{kind}-{number}" if kind == "I" else f"{kind} {number}" for kind, number in pairs]
    place = arguments.get("location1") or arguments.get("city1")
    return " / ".join(roads) + (f" in {place}" if place else "")


def track_gauge(arguments: dict[str, str], language: str) -> str:
    """The width of a track: `1435mm` -> 1,435 mm (4 ft 8 1⁄2 in); `3ft6in` -> 3 ft 6 in (1,067 mm).

    Template:Track gauge. |disp=1 shows one of the two, |al=on names the gauge; a width that is not in the table is
    shown as it is written.
    """
    text = arguments.get("1", "").lower().replace("&nbsp;", "").replace(" ", "").replace(",", "").removesuffix("mm")
    text = GAUGE_NAMES.get(text, text)
    imperial = {feet.replace(" ", ""): width for width, feet in GAUGES.items()}
    width = text if text in GAUGES else imperial.get(text.replace("+", ""), "")
    if not width:
        return arguments.get("1", "").strip()

    feet = re.sub(r"(\d+) (\d+)/(\d+)", lambda match: mixed_fraction(*match.groups()), GAUGES[width])
    metric = f"{int(width):,} mm"
    first, second = (metric, feet) if text == width else (feet, metric)
    shown = first if arguments.get("disp") in ("1", "s") else f"{first} ({second})"
    is_named = "on" in (arguments.get("al"), arguments.get("allk"))
    name = {"1435": " standard gauge", "1000": " metre gauge"}.get(width, "") if is_named else ""
    return shown + name


def height(arguments: dict[str, str], language: str) -> str:
    """How tall somebody is: `ft=5|in=11` -> 5 ft 11 in (1.80 m); `m=1.80` -> 1.80 m (5 ft 11 in). Template:Height."""
    given = {name: arguments.get(name, "").strip() for name in ("ft", "in", "m", "cm")}
    if given["ft"] or given["in"]:
        parts = [given["ft"], "ft", given["in"], "in"] if given["ft"] and given["in"] else []
        parts = parts or ([given["ft"], "ft"] if given["ft"] else [given["in"], "in"])
        parts += ["m", arguments.get("precision", "") or "2"]
    elif given["m"] or given["cm"]:
        parts = [given["m"], "m", "ftin"] if given["m"] else [given["cm"], "cm", "ftin"]
    else:
        raise ValueError("no height")
    numbered = {str(place): part for place, part in enumerate(parts, 1)}
    return convert(numbered | {"abbr": "on"}, language)


def population_density(arguments: dict[str, str], language: str) -> str:
    """People per area: `3645257|640081.87|km2|sqmi|prec=1` -> 5.7/km² (14.7/sq mi). Template:Pop density."""
    people, area, unit = (arguments.get(str(place), "").strip() for place in (1, 2, 3))
    size = parse_number(area).value
    if not size:
        raise ValueError("people per area of 0")
    density = parse_number(people).value / size
    places = arguments.get("prec", "").strip() or ("0" if density >= 100 else "1")
    call = {"1": rounded(density, int(places)), "2": f"/{unit}"}
    if arguments.get("4"):
        call["3"] = f"/{arguments['4']}"
    return convert(call | ({"4": places} if "prec" in arguments and "3" in call else {}) | {"abbr": "on"}, language)


def bible_verse(arguments: dict[str, str], language: str) -> str:
    """A place in the Bible: `1|Chronicles|24:1` -> 1 Chronicles 24:1; `Exodus|4:14|KJV` -> Exodus 4:14.

    Template:Bibleverse. The text behind the version is shown instead.
    """
    first = arguments.get("1", "").strip()
    is_new = bool(first) and not re.fullmatch(r"\d|I{1,3}", first)
    parts = [first, "", ""] if is_new else ["", "", ""]
    places = ("1", "2", "4") if is_new else ("2", "3", "5")
    book, verses, instead = (arguments.get(place, "").strip() for place in places)
    if instead:
        return instead
    if not book:
        raise ValueError("no book of the Bible")
    number = "" if is_new else parts[0] or first
    return " ".join(part for part in (number, book, verses) if part)


def music(arguments: dict[str, str], language: str) -> str:
    """Signs of music: `sharp` -> ♯; `time|3|4` -> 3/4; `scale|5` -> 5. Template:Music."""
    parts = unnamed(arguments)
    kind = parts[0].lower() if parts else ""
    if kind in ("time", "timesig") and len(parts) == 3:
        return f"{parts[1]}/{parts[2]}"
    if kind in ("scale", "scaledegree") and len(parts) == 2:
        return parts[1]
    if kind not in MUSIC:
        raise ValueError(f"no sign of music: {kind[:20]!r}")
    return MUSIC[kind]


# --- lists, quotations ---


def ordered_list(arguments: dict[str, str], language: str) -> str:
    """A numbered list: `one|two` -> lines "# one", "# two". Template:Ordered list."""
    return "\n" + "\n".join(f"# {item}" for item in unnamed(arguments)) + "\n"


def unbulleted_list(arguments: dict[str, str], language: str) -> str:
    """A list, an item a line: `one|two` -> lines "* one", "* two". Template:Unbulleted list, Bulleted list."""
    return "\n" + "\n".join(f"* {item}" for item in unnamed(arguments)) + "\n"


def hlist(arguments: dict[str, str], language: str) -> str:
    """A list on one line: `one|two` -> one · two. Template:Hlist."""
    return " · ".join(unnamed(arguments))


def quote(arguments: dict[str, str], language: str) -> str:
    """A quotation in lines of its own, and who said it: `text|author|source` -> text, then "— author, source".

    Template:Blockquote, Poem quote, Cquote; |text=, |author= or |sign=, |source= or |title=.
    """

    def first_of(*names: str) -> str:
        return next((arguments[name].strip() for name in names if arguments.get(name, "").strip()), "")

    text = first_of("text", "quote", "1")
    if not text:
        raise ValueError("a quotation without text")
    is_picture = bool(arguments.get("quote_marks")) or re.fullmatch(r"\d+(?:px)?", arguments.get("2", "").strip())
    author = first_of("author", "sign", "by", "character") or ("" if is_picture else first_of("2"))
    source = first_of("source", "title") or ("" if is_picture else first_of("3"))
    if is_picture:
        author, source = author or first_of("4"), source or first_of("5")
    said = ", ".join(part for part in (author, source) if part)
    return f"\n{text}\n" + (f"— {said}\n" if said else "")


# --- countries ---


def country(arguments: dict[str, str], language: str) -> str:
    """The name of a country in the language of the wiki: `FR|France` -> Frankreich in German.

    1: its ISO 3166 code. 2: its name in the English Wikipedia, also for languages that CLDR does not know.
    """
    english = arguments.get("2", "")
    known = locales.known_locale(language)
    if language in ("en", "simple") or known is None:
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
