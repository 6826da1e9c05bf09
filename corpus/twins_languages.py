"""What templates of languages show: {{langx}}, {{IPA}}, {{IPAc-en}}, {{respell}}, {{nihongo}}, {{zh}}, {{Korean}}.

Names of languages are those of CLDR in the language of the wiki. A code that CLDR does not know gives the words without
a label: better than a hole in their sentence.
"""

import re
from collections.abc import Callable
from functools import cache

from corpus import locales

ENGLISH = ("en", "simple")

# Codes whose name in the English Wikipedia is not CLDR's, and codes of its own.
NAMES = {"grc-gre": "Greek", "el": "Greek", "sh": "Serbo-Croatian", "rus": "Russian", "fas": "Persian", "fa": "Persian"}
NAMES |= {"ky": "Kyrgyz", "nan": "Min Nan Chinese", "be-tarask": "Belarusian", "pa": "Punjabi", "my": "Burmese"}
NAMES |= {"sco": "Scots", "ltg": "Latgalian", "nah": "Nahuatl", "sq-definite": "Albanian", "mul": "", "und": ""}
NAMES |= {
    "zh-hans": "simplified Chinese",
    "zh-hant": "traditional Chinese",
    "cat": "Catalan",
    "cmn": "Mandarin Chinese",
}
NAMES |= {"bn": "Bengali", "fy": "West Frisian", "frr": "North Frisian", "os": "Ossetian", "ab": "Abkhaz"}
NAMES |= {"pal": "Middle Persian", "xcl": "Classical Armenian", "nci": "Classical Nahuatl", "als": "Alemannic German"}

# What {{IPA-fr|...|lang}} puts before the brackets.
IPA_LABELS = {"pron": "pronounced ", "lang": "{language}: ", "local": "locally ", "also": "also ", "ipa": "IPA: "}
IPA_LABELS |= {"us": "US: ", "uk": "UK: ", "": "", "none": "", "hide": "", "generic": "", "small": "", "label": ""}


@cache
def language_name(code: str, language: str) -> str:
    """The name of a language in the language of a wiki: "de", "en" -> German. Empty when it is not known."""
    code = code.strip().lower().replace("_", "-")
    if language in ENGLISH and code in NAMES:
        return NAMES[code]
    return locales.language_name(code, language) or locales.language_name(code.split("-")[0], language) or ""


def label(name: str, text: str, language: str) -> str:
    """ "German: Wort"; the text alone without a name."""
    colon = "：" if language in ("zh", "ja") else " : " if language == "fr" else ": "
    return f"{name}{colon}{text}" if name else text


def langx(arguments: dict[str, str], language: str) -> str:
    """Words of a language behind its name: `ar|كلمة|kalima|word` -> Arabic: كلمة, romanized: kalima, lit. 'word'.

    Template:Langx; with |code=, the first argument is the text, as in Template:Lang-ar. |label=none shows no name.
    Leaves out links and italics.
    """
    shift = 0 if arguments.get("code") else 1
    code = arguments.get("code") or arguments.get("1", "")
    text, romanized, literal = (arguments.get(str(place + shift), "").strip() for place in (1, 2, 3))
    text = text or arguments.get("text", "")
    romanized = romanized or arguments.get("translit", "") or arguments.get("tr", "") or arguments.get("r", "")
    literal = literal or arguments.get("lit", "") or arguments.get("translation", "")
    if not text and not romanized:
        raise ValueError("langx without words")

    name = arguments.get("label", "") or language_name(code, language)
    name = "" if name in ("none", "no") else name
    pieces = [label(name, text, language)]
    if arguments.get("p"):
        pieces.append(f"IPA: {in_brackets(arguments['p'])}")
    if romanized:
        pieces.append(f"romanized: {romanized}" if language in ENGLISH and text else romanized)
    if literal:
        pieces.append(f"lit. '{literal}'")
    return ", ".join(piece for piece in pieces if piece)


def native(arguments: dict[str, str], language: str) -> str:
    """The words of a language, the last unnamed argument: `ar|ALA|Allāh` -> Allāh. Template:Transliteration, Lang."""
    words = [arguments[str(place)] for place in range(1, 6) if arguments.get(str(place), "").strip()]
    if not words:
        raise ValueError("no words of another language")
    return arguments.get("text", "") or words[-1]


# --- pronunciation ---


def in_brackets(text: str) -> str:
    """ "paʁi" -> "[paʁi]"; what has brackets or slashes already stays."""
    text = text.strip()
    return text if text[:1] in "[/⟨(" else f"[{text}]"


def ipa(arguments: dict[str, str], language: str) -> str:
    """A pronunciation: `/a/` -> /a/; `fr|paʁi` -> French pronunciation: [paʁi]; `fr|paʁi|lang` -> French: [paʁi].

    Template:IPA; with |code= as Template:IPA-fr, whose first argument is the pronunciation. Leaves out the sound.
    """
    code = arguments.get("code", "")
    first, second, third = (arguments.get(place, "").strip() for place in ("1", "2", "3"))
    if not code and second and re.fullmatch(r"[a-z]{2,3}(?:-[A-Za-z]+)*", first):
        code, first, second = first, second, third
    if not first:
        raise ValueError("no pronunciation")
    if not code:
        return first

    name = language_name(code, language) if code != "all" else ""
    default = f"{name} pronunciation: " if name else ""
    style = second.lower() if "2" in arguments or "3" in arguments else None
    if style is None or second.lower().endswith((".ogg", ".wav", ".oga")) or not second:
        before = default if not arguments.get("code") or "2" not in arguments else ""
    else:
        before = IPA_LABELS.get(style, "{language}: " if style == code else f"{second}: ")
    before = arguments["label"] + " " if arguments.get("label") else before.replace("{language}", name or "IPA")
    return before + in_brackets(first)


def ipac_en(arguments: dict[str, str], language: str) -> str:
    """An English pronunciation, sound by sound: `k|æ|t` -> /kæt/; `pron|k|æ|t` -> pronounced /kæt/.

    Template:IPAc-en.
    """
    sounds: list[str] = []
    before = ""
    for place in range(1, 80):
        sound = arguments.get(str(place))
        if sound is None:
            break
        sound = sound.strip()
        if not sounds and sound.lower() in ("lang", "pron", "also", "local", "us", "uk", "ipa", "alsolocal"):
            before += IPA_LABELS.get(sound.lower(), "also locally ").replace("{language}", "English")
            continue
        sounds.append(sound)
    if not sounds:
        raise ValueError("no pronunciation")
    signs = {"_": " ", ",": "ˌ", "'": "ˈ", ",_": ", ", ";": "; ", "-": "-", "g": "ɡ", "h\\": "h"}
    shown = "".join(signs.get(sound, sound.replace(":", "ː")) for sound in sounds)
    return f"{before}/{shown}/"


# Template:IPAc-pl is spelled as Polish is. What is not here is shown as it is.
POLISH = {"ą": "ɔ̃", "c": "t͡s", "ć": "t͡ɕ", "cz": "t͡ʂ", "dz": "d͡z", "dź": "d͡ʑ", "dż": "d͡ʐ", "e": "ɛ", "e1": "ɛ", "ę": "ɛ̃"}
POLISH |= {
    "g": "ɡ",
    "h": "x",
    "ch": "x",
    "ł": "w",
    "ń": "ɲ",
    "o": "ɔ",
    "ó": "u",
    "rz": "ʐ",
    "ż": "ʐ",
    "ś": "ɕ",
    "sz": "ʂ",
}
POLISH |= {"w": "v", "y": "ɨ", "ź": "ʑ", "-": " ", "'": "ˈ", ",": "ˌ", "J": "ʲ", "I": "i̯", "U": "u̯", "N": "ŋ"}


def ipac_pl(arguments: dict[str, str], language: str) -> str:
    """A Polish pronunciation, letter by letter: `'|w|r|o|c|ł|a|f` -> [ˈvrɔt͡swaf]. Template:IPAc-pl."""
    sounds = [arguments[str(place)].strip() for place in range(1, 40) if arguments.get(str(place), "").strip()]
    brackets = "[]"
    style = re.fullmatch(r"(--|[\[/-][\]/-])?(AUD)?", sounds[0]) if sounds else None
    if style and sounds[0] != "-":
        brackets = style[1] or brackets
        sounds = sounds[2:] if style[2] else sounds[1:]
    if not sounds:
        raise ValueError("no pronunciation")
    opening, closing = brackets.replace("-", " ")
    return (opening + "".join(POLISH.get(sound, sound) for sound in sounds) + closing).strip()


def ipac(arguments: dict[str, str], language: str) -> str:
    """The template of a language, |code=: `ipac_en` or `ipac_pl`; the keys of others are not known: ValueError."""
    code = arguments.get("code", "en")
    if code == "pl":
        return ipac_pl(arguments, language)
    if code != "en":
        raise ValueError(f"the keys of IPAc-{code} are not known")
    return ipac_en(arguments, language)


def respell(arguments: dict[str, str], language: str) -> str:
    """A pronunciation by English syllables: `ASS|kee` -> ASS-kee; `_` parts words. Template:Respell."""
    syllables: list[str] = []
    while str(len(syllables) + 1) in arguments:
        syllables.append(arguments[str(len(syllables) + 1)].strip())
    text = "-".join(syllable for syllable in syllables if syllable)
    return re.sub(r"-?_-?", " ", text).replace("-,-", ", ")


# --- Japanese, Chinese, Korean ---


def nihongo(arguments: dict[str, str], language: str) -> str:
    """`headquarters|本部道場|honbu dōjō` -> headquarters (本部道場, honbu dōjō). Template:Nihongo.

    Without English words the Latin letters stand first. |lead=yes names the language and the system of Latin letters.
    """
    english, kanji, romaji, more, behind = (arguments.get(str(place), "").strip() for place in range(1, 6))
    more = more or arguments.get("extra", "")
    behind = behind or arguments.get("extra2", "")
    if not english:
        english, romaji = romaji, ""
    if arguments.get("lead", "").lower() in ("yes", "y"):
        kanji = kanji and f"Japanese: {kanji}"
        romaji = romaji and f"Hepburn: {romaji}"
    return with_brackets(english, [kanji, romaji, more], behind)


def nihongo_romaji_first(arguments: dict[str, str], language: str) -> str:
    """`cherry|桜|sakura` -> sakura (桜, cherry). Template:Nihongo3."""
    english, kanji, romaji, more, behind = (arguments.get(str(place), "").strip() for place in range(1, 6))
    return with_brackets(romaji, [kanji, english, more], behind)


def nihongo_kanji_first(arguments: dict[str, str], language: str) -> str:
    """`cherry|桜|sakura` -> 桜 (sakura, cherry). Template:Nihongo krt."""
    english, kanji, romaji, more, behind = (arguments.get(str(place), "").strip() for place in range(1, 6))
    return with_brackets(kanji, [romaji, english, more], behind)


def nihongo_in_note(arguments: dict[str, str], language: str) -> str:
    """`cherry|桜|sakura` -> cherry; the rest is in a note. Template:Nihongo foot."""
    return arguments.get("1", "").strip() or arguments.get("3", "").strip() or arguments.get("2", "").strip()


def with_brackets(first: str, inside: list[str], behind: str = "") -> str:
    inside = [part for part in inside if part]
    if not first and not inside:
        raise ValueError("no words")
    brackets = f"({', '.join(inside)})" if inside else ""
    return " ".join(part for part in (first, brackets, behind) if part)


ZH_LABELS = {"c": "Chinese", "s": "simplified Chinese", "t": "traditional Chinese", "p": "pinyin", "hp": "pinyin"}
ZH_LABELS |= {"tp": "Tongyong Pinyin", "w": "Wade–Giles", "j": "Jyutping", "cy": "Cantonese Yale", "sl": "Sidney Lau"}
ZH_LABELS |= {
    "poj": "Pe̍h-ōe-jī",
    "tl": "Tâi-lô",
    "zhu": "Zhuyin Fuhao",
    "bpmf": "Bopomofo",
    "mps": "Wu",
    "ci": "Cantonese",
}


def zh(arguments: dict[str, str], language: str) -> str:
    """`c=中文|p=Zhōngwén|l=word` -> Chinese: 中文; pinyin: Zhōngwén; lit. 'word'. Template:Lang-zh.

    |first=t puts traditional characters first, |labels=no leaves the names out.
    """
    given = {key: value.strip() for key, value in arguments.items() if value.strip()}
    text = given.get("1", "")
    if text and not {"c", "s", "t"} & given.keys():
        given["c"] = text
    if given.get("s") and given.get("s") == given.get("t"):
        given["c"] = given.pop("s")
        del given["t"]

    order = ["c", "t", "s"] if "t" in given.get("first", "") else ["c", "s", "t"]
    order += [key for key in ZH_LABELS if key not in order]
    with_labels = given.get("labels") != "no"
    pieces = [f"{ZH_LABELS[key]}: {given[key]}" if with_labels else given[key] for key in order if key in given]
    if "l" in given:
        pieces.append("lit. " + " or ".join(f"'{meaning.strip()}'" for meaning in re.split(r"[;；]", given["l"])))
    if "tr" in given:
        pieces.append(f"trans. {given['tr']}")
    if not pieces:
        raise ValueError("zh without words")
    return "; ".join(pieces)


def zh_old(arguments: dict[str, str], language: str) -> str:
    """Template:Zh-cp and its like: |code= names the unnamed arguments, `中文|Zhōngwén|code=cp`; else as `zh`."""
    keys = [key for key in arguments.get("code", "") if key in ZH_LABELS]
    unnamed = {key: arguments[str(place)] for place, key in enumerate(keys, 1) if arguments.get(str(place))}
    named = {key: value for key, value in arguments.items() if not key.isdigit()}
    return zh(unnamed | named, language)


KOREAN_LABELS = {"hangul": "Korean", "hanja": "Hanja", "rr": "RR", "mr": "MR", "lk": ""}


def korean(arguments: dict[str, str], language: str) -> str:
    """`hangul=한국|hanja=韓國|rr=Hanguk` -> Korean: 한국; Hanja: 韓國; RR: Hanguk. Template:Korean."""
    keys = ("hangul", "hanja", "rr", "mr")
    given = {key: (arguments.get(key) or arguments.get(str(place), "")).strip() for place, key in enumerate(keys, 1)}
    with_labels = arguments.get("labels") != "no"
    pieces = [f"{KOREAN_LABELS[key]}: {text}" if with_labels else text for key, text in given.items() if text]
    literal = arguments.get("lit") or arguments.get("l")
    if literal:
        pieces.append(f"lit. {literal}")
    if not pieces:
        raise ValueError("no words of Korean")
    return "; ".join(pieces)


def literal(arguments: dict[str, str], language: str) -> str:
    """`word` -> lit. 'word'; `word|name` -> lit. 'word' or 'name'. Template:Literal translation."""
    meanings = [arguments[str(place)].strip() for place in range(1, 5) if arguments.get(str(place), "").strip()]
    if not meanings:
        return "lit."
    return "lit. " + " or ".join(f"'{meaning}'" for meaning in meanings)


def join(arguments: dict[str, str], language: str) -> str:
    """All unnamed arguments that are not empty, with |sep= between them and |last= before the last: a, b and c."""
    places = sorted(int(place) for place in arguments if place.isdigit())
    words = [arguments[str(place)].strip() for place in places if arguments[str(place)].strip()]
    separator = arguments.get("sep", "")
    last = arguments.get("last") or separator
    if len(words) < 2:
        return "".join(words)
    return separator.join(words[:-1]) + last + words[-1]


def etymology(arguments: dict[str, str], language: str) -> str:
    """`la|verbum|word` -> from Latin verbum 'word'. Template:Etymology; further origins come in threes."""
    pieces: list[str] = []
    for place in range(1, 30, 3):
        code, word, meaning = (arguments.get(str(place + step), "").strip() for step in (0, 1, 2))
        if not word:
            break
        name = language_name(code, language) or code
        pieces.append(f"{name} {word}" + (f" '{meaning}'" if meaning else ""))
    if not pieces:
        raise ValueError("no origin of a word")
    return "from " + ", and ".join(pieces)


LANGUAGES: dict[str, Callable[[dict[str, str], str], str]] = {
    "langx": langx,
    "native": native,
    "ipa": ipa,
    "ipa_old": ipa,
    "ipac": ipac,
    "respell": respell,
    "nihongo": nihongo,
    "nihongo3": nihongo_romaji_first,
    "nihongo_romaji_first": nihongo_romaji_first,
    "nihongo_kanji_first": nihongo_kanji_first,
    "nihongo_in_note": nihongo_in_note,
    "zh": zh,
    "zh_old": zh_old,
    "korean": korean,
    "literal": literal,
    "join": join,
    "etymology": etymology,
}
