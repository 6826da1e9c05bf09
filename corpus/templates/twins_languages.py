"""What templates of languages show: {{langx}}, {{IPA}}, {{IPAc-en}}, {{respell}}, {{nihongo}}, {{zh}}, {{Korean}}.

Names of languages are those of CLDR in the language of the wiki. A code that CLDR does not know gives the words without
a label: better than a hole in their sentence.
"""

import re
from functools import cache

from corpus.templates import locales
from corpus.templates.twins_arguments import ENGLISH, Arguments, Twin, first_of, text_of, texts_of, unnamed

# Codes whose name in the English Wikipedia is not CLDR's, and codes of its own.
NAMES = {
    "grc-gre": "Greek",
    "el": "Greek",
    "sh": "Serbo-Croatian",
    "rus": "Russian",
    "fas": "Persian",
    "fa": "Persian",
    "ky": "Kyrgyz",
    "nan": "Min Nan Chinese",
    "be-tarask": "Belarusian",
    "pa": "Punjabi",
    "my": "Burmese",
    "sco": "Scots",
    "ltg": "Latgalian",
    "nah": "Nahuatl",
    "sq-definite": "Albanian",
    "mul": "",
    "und": "",
    "zh-hans": "simplified Chinese",
    "zh-hant": "traditional Chinese",
    "cat": "Catalan",
    "cmn": "Mandarin Chinese",
    "bn": "Bengali",
    "fy": "West Frisian",
    "frr": "North Frisian",
    "os": "Ossetian",
    "ab": "Abkhaz",
    "pal": "Middle Persian",
    "xcl": "Classical Armenian",
    "nci": "Classical Nahuatl",
    "als": "Alemannic German",
}

# What {{IPA-fr|...|lang}} puts before the brackets.
IPA_LABELS = {
    "pron": "pronounced ",
    "lang": "{language}: ",
    "local": "locally ",
    "also": "also ",
    "ipa": "IPA: ",
    "us": "US: ",
    "uk": "UK: ",
    "": "",
    "none": "",
    "hide": "",
    "generic": "",
    "small": "",
    "label": "",
}
IPAC_LABELS = ("lang", "pron", "also", "local", "us", "uk", "ipa", "alsolocal")  # those that {{IPAc-en}} knows
SOUNDS = (".ogg", ".wav", ".oga")
LANGUAGE_CODE = re.compile(r"[a-z]{2,3}(?:-[A-Za-z]+)*")

# The signs of {{IPAc-en}} that differ from what is written.
ENGLISH_SOUNDS = {
    "_": " ",
    ",": "ˌ",
    "'": "ˈ",
    ",_": ", ",
    ";": "; ",
    "-": "-",
    "g": "ɡ",
    "h\\": "h",
}


# --- languages ---


@cache
def language_name(code: str, language: str) -> str:
    """The name of a language in the language of a wiki: "de", "en" -> German. Empty when it is not known."""
    code = code.strip().lower().replace("_", "-")
    if language in ENGLISH and code in NAMES:
        return NAMES[code]
    main = code.split("-")[0]
    return locales.language_name(code, language) or locales.language_name(main, language) or ""


def label(name: str, text: str, language: str) -> str:
    """A text behind a name: "German: Wort"; the text alone without a name."""
    if not name:
        return text
    if language in ("zh", "ja"):
        return f"{name}：{text}"
    if language == "fr":
        return f"{name} : {text}"
    return f"{name}: {text}"


def langx(arguments: Arguments, language: str) -> str:
    """Words of a language behind its name: `ar|كلمة|kalima|word` -> Arabic: كلمة, romanized: kalima, lit. 'word'.

    Template:Langx; with |code=, the first argument is the text, as in Template:Lang-ar. |label=none shows no name.
    Leaves out links and italics.
    """
    code = arguments.get("code")
    if code:
        text, romanized, literal = texts_of(arguments, "1", "2", "3")
    else:
        code = arguments.get("1", "")
        text, romanized, literal = texts_of(arguments, "2", "3", "4")
    text = text or arguments.get("text", "")
    romanized = romanized or first_written(arguments, "translit", "tr", "r")
    literal = literal or first_written(arguments, "lit", "translation")
    if not text and not romanized:
        raise ValueError("langx without words")

    name = arguments.get("label") or language_name(code, language)
    if name in ("none", "no"):
        name = ""
    pieces = [label(name, text, language)]
    pronunciation = arguments.get("p")
    if pronunciation:
        pieces.append(f"IPA: {in_brackets(pronunciation)}")
    if romanized:
        is_named = language in ENGLISH and text
        pieces.append(f"romanized: {romanized}" if is_named else romanized)
    if literal:
        pieces.append(f"lit. '{literal}'")
    return ", ".join(piece for piece in pieces if piece)


def first_written(arguments: Arguments, *names: str) -> str:
    """The first of these arguments that is there and not empty, as it is written; "" without one."""
    for name in names:
        if arguments.get(name):
            return arguments[name]
    return ""


def native(arguments: Arguments, language: str) -> str:
    """The words of a language, the last unnamed argument: `ar|ALA|Allāh` -> Allāh. Template:Transliteration, Lang."""
    places = [place for place in ("1", "2", "3", "4", "5") if text_of(arguments, place)]
    if not places:
        raise ValueError("no words of another language")
    last = places[-1]
    return arguments.get("text") or arguments[last]


# --- pronunciation ---


def in_brackets(text: str) -> str:
    """ "paʁi" -> "[paʁi]"; what has brackets or slashes already stays."""
    text = text.strip()
    return text if text[:1] in "[/⟨(" else f"[{text}]"


def ipa(arguments: Arguments, language: str) -> str:
    """A pronunciation: `/a/` -> /a/; `fr|paʁi` -> French pronunciation: [paʁi]; `fr|paʁi|lang` -> French: [paʁi].

    Template:IPA; with |code= as Template:IPA-fr, whose first argument is the pronunciation. Leaves out the sound.
    """
    code = arguments.get("code", "")
    first, second, third = texts_of(arguments, "1", "2", "3")
    if not code and second and LANGUAGE_CODE.fullmatch(first):  # fr|paʁi|lang
        code, first, second = first, second, third
    if not first:
        raise ValueError("no pronunciation")
    if not code:
        return first

    before = ipa_label(arguments, code, second, language)
    return before + in_brackets(first)


def ipa_label(arguments: Arguments, code: str, style: str, language: str) -> str:
    """What {{IPA}} puts before the brackets: "French pronunciation: "; for the style `lang`, "French: "."""
    own = arguments.get("label")
    if own:
        return f"{own} "

    name = language_name(code, language) if code != "all" else ""
    is_sound = style.lower().endswith(SOUNDS)
    if style and not is_sound:
        other = "{language}: " if style.lower() == code else f"{style}: "
        before = IPA_LABELS.get(style.lower(), other)
        return before.replace("{language}", name or "IPA")

    is_left_empty = bool(arguments.get("code")) and "2" in arguments  # {{IPA-fr|paʁi|}}
    if is_left_empty or not name:
        return ""
    return f"{name} pronunciation: "


def ipac_en(arguments: Arguments, language: str) -> str:
    """An English pronunciation, sound by sound: `k|æ|t` -> /kæt/; `pron|k|æ|t` -> pronounced /kæt/.

    Template:IPAc-en.
    """
    before = ""
    sounds: list[str] = []
    for sound in written_in_order(arguments, most=79):
        is_label = sound.lower() in IPAC_LABELS
        if is_label and not sounds:
            words = IPA_LABELS.get(sound.lower(), "also locally ")
            before += words.replace("{language}", "English")
            continue
        long = sound.replace(":", "ː")
        sounds.append(ENGLISH_SOUNDS.get(sound, long))
    if not sounds:
        raise ValueError("no pronunciation")
    return f"{before}/{''.join(sounds)}/"


def written_in_order(arguments: Arguments, most: int) -> list[str]:
    """The unnamed arguments up to the first that is not there, empty ones too."""
    texts: list[str] = []
    for place in range(1, most + 1):
        text = arguments.get(str(place))
        if text is None:
            break
        texts.append(text.strip())
    return texts


# Template:IPAc-pl is spelled as Polish is. What is not here is shown as it is.
POLISH = {
    "ą": "ɔ̃",
    "c": "t͡s",
    "ć": "t͡ɕ",
    "cz": "t͡ʂ",
    "dz": "d͡z",
    "dź": "d͡ʑ",
    "dż": "d͡ʐ",
    "e": "ɛ",
    "e1": "ɛ",
    "ę": "ɛ̃",
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
    "w": "v",
    "y": "ɨ",
    "ź": "ʑ",
    "-": " ",
    "'": "ˈ",
    ",": "ˌ",
    "J": "ʲ",
    "I": "i̯",
    "U": "u̯",
    "N": "ŋ",
}
# The first arguments that are no letters: "[]", "//", "/-" are the brackets, - for none; AUD: a file of sound follows.
POLISH_STYLE = re.compile(r"(--|[\[/-][\]/-])?(AUD)?")


def ipac_pl(arguments: Arguments, language: str) -> str:
    """A Polish pronunciation, letter by letter: `'|w|r|o|c|ł|a|f` -> [ˈvrɔt͡swaf]. Template:IPAc-pl."""
    sounds = unnamed(arguments, most=39)
    brackets = "[]"
    style = POLISH_STYLE.fullmatch(sounds[0]) if sounds else None
    if style and sounds[0] != "-":
        own_brackets, has_sound = style.groups()
        brackets = own_brackets or brackets
        sounds = sounds[2:] if has_sound else sounds[1:]
    if not sounds:
        raise ValueError("no pronunciation")

    signs = [POLISH.get(sound, sound) for sound in sounds]
    opening, closing = brackets.replace("-", " ")
    shown = opening + "".join(signs) + closing
    return shown.strip()


def ipac(arguments: Arguments, language: str) -> str:
    """The template of a language, |code=: `ipac_en` or `ipac_pl`; the keys of others are not known: ValueError."""
    code = arguments.get("code", "en")
    if code == "pl":
        return ipac_pl(arguments, language)
    if code != "en":
        raise ValueError(f"the keys of IPAc-{code} are not known")
    return ipac_en(arguments, language)


def respell(arguments: Arguments, language: str) -> str:
    """A pronunciation by English syllables: `ASS|kee` -> ASS-kee; `_` parts words. Template:Respell."""
    written = written_in_order(arguments, most=len(arguments))
    syllables = [syllable for syllable in written if syllable]
    text = "-".join(syllables)
    text = re.sub(r"-?_-?", " ", text)
    return text.replace("-,-", ", ")


# --- Japanese, Chinese, Korean ---


def nihongo(arguments: Arguments, language: str) -> str:
    """`headquarters|本部道場|honbu dōjō` -> headquarters (本部道場, honbu dōjō). Template:Nihongo.

    Without English words the Latin letters stand first. |lead=yes names the language and the system of Latin letters.
    """
    english, kanji, romaji, more, behind = texts_of(arguments, "1", "2", "3", "4", "5")
    more = more or arguments.get("extra", "")
    behind = behind or arguments.get("extra2", "")
    if not english:
        english = romaji
        romaji = ""
    names_systems = arguments.get("lead", "").lower() in ("yes", "y")
    if names_systems:
        kanji = label("Japanese", kanji, "en") if kanji else ""
        romaji = label("Hepburn", romaji, "en") if romaji else ""
    return with_brackets(english, [kanji, romaji, more], behind)


def nihongo_romaji_first(arguments: Arguments, language: str) -> str:
    """`cherry|桜|sakura` -> sakura (桜, cherry). Template:Nihongo3."""
    english, kanji, romaji, more, behind = texts_of(arguments, "1", "2", "3", "4", "5")
    return with_brackets(romaji, [kanji, english, more], behind)


def nihongo_kanji_first(arguments: Arguments, language: str) -> str:
    """`cherry|桜|sakura` -> 桜 (sakura, cherry). Template:Nihongo krt."""
    english, kanji, romaji, more, behind = texts_of(arguments, "1", "2", "3", "4", "5")
    return with_brackets(kanji, [romaji, english, more], behind)


def nihongo_in_note(arguments: Arguments, language: str) -> str:
    """`cherry|桜|sakura` -> cherry; the rest is in a note. Template:Nihongo foot."""
    return first_of(arguments, "1", "3", "2")


def with_brackets(first: str, inside: list[str], behind: str = "") -> str:
    """Words with others in brackets: "sakura", ["桜", "", "cherry"] -> sakura (桜, cherry)."""
    others = ", ".join(part for part in inside if part)
    if not first and not others:
        raise ValueError("no words")
    brackets = f"({others})" if others else ""
    parts = [first, brackets, behind]
    return " ".join(part for part in parts if part)


ZH_LABELS = {
    "c": "Chinese",
    "s": "simplified Chinese",
    "t": "traditional Chinese",
    "p": "pinyin",
    "hp": "pinyin",
    "tp": "Tongyong Pinyin",
    "w": "Wade–Giles",
    "j": "Jyutping",
    "cy": "Cantonese Yale",
    "sl": "Sidney Lau",
    "poj": "Pe̍h-ōe-jī",
    "tl": "Tâi-lô",
    "zhu": "Zhuyin Fuhao",
    "bpmf": "Bopomofo",
    "mps": "Wu",
    "ci": "Cantonese",
}


def zh(arguments: Arguments, language: str) -> str:
    """`c=中文|p=Zhōngwén|l=word` -> Chinese: 中文; pinyin: Zhōngwén; lit. 'word'. Template:Lang-zh.

    |first=t puts traditional characters first, |labels=no leaves the names out.
    """
    given = {key: value.strip() for key, value in arguments.items() if value.strip()}
    has_characters = "c" in given or "s" in given or "t" in given
    if "1" in given and not has_characters:
        given["c"] = given["1"]
    if "s" in given and given["s"] == given.get("t"):  # simplified and traditional are the same
        given["c"] = given.pop("s")
        del given["t"]

    keys = list(ZH_LABELS)  # c, s, t ...
    if "t" in given.get("first", ""):
        keys.remove("t")
        keys.insert(1, "t")
    labels = ZH_LABELS if given.get("labels") != "no" else {}
    pieces = [label(labels.get(key, ""), given[key], "en") for key in keys if key in given]

    if "l" in given:
        meanings = re.split(r"[;；]", given["l"])
        pieces.append(lit_text([meaning.strip() for meaning in meanings]))
    if "tr" in given:
        pieces.append(f"trans. {given['tr']}")
    if not pieces:
        raise ValueError("zh without words")
    return "; ".join(pieces)


def zh_old(arguments: Arguments, language: str) -> str:
    """Template:Zh-cp and its like: |code= names the unnamed arguments, `中文|Zhōngwén|code=cp`; else as `zh`."""
    keys = [key for key in arguments.get("code", "") if key in ZH_LABELS]
    moved: Arguments = {}
    for place, key in enumerate(keys, 1):
        text = arguments.get(str(place))
        if text:
            moved[key] = text
    for key, text in arguments.items():
        if not key.isdigit():
            moved[key] = text
    return zh(moved, language)


# In the order of the unnamed arguments.
KOREAN_LABELS = {
    "hangul": "Korean",
    "hanja": "Hanja",
    "rr": "RR",
    "mr": "MR",
}


def korean(arguments: Arguments, language: str) -> str:
    """`hangul=한국|hanja=韓國|rr=Hanguk` -> Korean: 한국; Hanja: 韓國; RR: Hanguk. Template:Korean."""
    with_labels = arguments.get("labels") != "no"
    pieces: list[str] = []
    for place, (key, name) in enumerate(KOREAN_LABELS.items(), 1):
        text = first_written(arguments, key, str(place)).strip()
        if text:
            pieces.append(label(name if with_labels else "", text, "en"))

    meaning = first_written(arguments, "lit", "l")
    if meaning:
        pieces.append(f"lit. {meaning}")
    if not pieces:
        raise ValueError("no words of Korean")
    return "; ".join(pieces)


# --- meanings ---


def literal(arguments: Arguments, language: str) -> str:
    """`word` -> lit. 'word'; `word|name` -> lit. 'word' or 'name'. Template:Literal translation."""
    return lit_text(unnamed(arguments, most=4))


def lit_text(meanings: list[str]) -> str:
    """What words mean: ["word", "name"] -> lit. 'word' or 'name'."""
    quoted = [f"'{meaning}'" for meaning in meanings]
    return f"lit. {' or '.join(quoted)}".strip()


def join(arguments: Arguments, language: str) -> str:
    """All unnamed arguments that are not empty, with |sep= between them and |last= before the last: a, b and c."""
    places = sorted(int(place) for place in arguments if place.isdigit())
    texts = texts_of(arguments, *(str(place) for place in places))
    words = [text for text in texts if text]
    if len(words) < 2:
        return "".join(words)

    separator = arguments.get("sep", "")
    before_last = arguments.get("last") or separator
    *others, last = words
    return separator.join(others) + before_last + last


def etymology(arguments: Arguments, language: str) -> str:
    """`la|verbum|word` -> from Latin verbum 'word'. Template:Etymology; further origins come in threes."""
    origins: list[str] = []
    for place in range(1, 30, 3):
        code, word, meaning = texts_of(arguments, str(place), str(place + 1), str(place + 2))
        if not word:
            break
        name = language_name(code, language) or code
        origin = f"{name} {word}"
        origins.append(f"{origin} '{meaning}'" if meaning else origin)
    if not origins:
        raise ValueError("no origin of a word")
    return "from " + ", and ".join(origins)


LANGUAGES: dict[str, Twin] = {
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
