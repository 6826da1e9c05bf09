"""Dates as {{#time: j F Y | 2020-03-01}} reads and writes them.

Sources: mediawiki.org's Help:Extension:ParserFunctions (#time) and PHP's manual, Supported Date and Time Formats. Read
here are the common ways to write a date; of other ones nothing is said.
"""

import calendar
import datetime
import re

from corpus.templates import locales

MONTHS = "january february march april may june july august september october november december".split()
DAYS = "monday tuesday wednesday thursday friday saturday sunday".split()
UNITS = "second sec minute min hour day week fortnight month year".split()
OTHER_WORDS = "today now midnight noon tomorrow yesterday ago am pm utc gmt z t st nd rd th of next last previous this"
ORDINALS = "first second third fourth fifth sixth seventh eighth ninth tenth"

NUMBER_OF_MONTH = {"sept": 9}
for number, month in enumerate(MONTHS, 1):
    NUMBER_OF_MONTH[month] = number
    NUMBER_OF_MONTH[month[:3]] = number

SHORT_DAYS = [day[:3] for day in DAYS]
PLURAL_UNITS = [f"{unit}s" for unit in UNITS]
WORDS = {*NUMBER_OF_MONTH, *DAYS, *SHORT_DAYS, *UNITS, *PLURAL_UNITS}  # that a date may hold
WORDS.update(OTHER_WORDS.split(), ORDINALS.split())

LONGEST = 100  # characters of a date or a form that is read

LONGEST_FIRST = sorted(NUMBER_OF_MONTH, key=len, reverse=True)
MONTH = rf"(?P<name>{'|'.join(LONGEST_FIRST)})\.?"
DAY = r"(?P<day>\d{1,2})(?:st|nd|rd|th)?"
YEAR = r"(?P<year>\d{4})"
FORMS = [  # of a date, in lower case, without commas
    rf"{YEAR}-(?P<month>\d{{1,2}})-(?P<day>\d{{1,2}})",
    rf"{YEAR}-(?P<month>\d{{1,2}})",
    rf"{YEAR}/(?P<month>\d{{1,2}})/(?P<day>\d{{1,2}})",
    rf"(?P<month>\d{{1,2}})/(?P<day>\d{{1,2}})/{YEAR}",
    rf"(?P<day>\d{{1,2}})[.-](?P<month>\d{{1,2}})[.-]{YEAR}",
    r"(?P<year>\d{4})(?P<month>\d\d)(?P<day>\d\d)(?:t?(?P<hour>\d\d)(?P<minute>\d\d)(?P<second>\d\d))?",
    rf"{DAY}[ -]*{MONTH}[ -]*{YEAR}",
    rf"{MONTH} *{DAY} +{YEAR}",
    rf"{YEAR}[ -]*{MONTH}[ -]*{DAY}",
    rf"{MONTH} *{YEAR}",
    rf"{YEAR} *{MONTH}",
    rf"{DAY} *{MONTH}",
    rf"{MONTH} *{DAY}",
    MONTH,
    YEAR,
]
DATE = [re.compile(form) for form in FORMS]
TIME = re.compile(r"(?:^|[t ])(\d{1,2}):(\d\d)(?::(\d\d)(?:\.\d+)?)?(?: ?([ap])\.?m\b\.?)?(?: ?(?:z|utc|gmt))?(?=$| )")
WEEKDAY = re.compile(rf"^(?:{'|'.join(DAYS)}|{'|'.join(SHORT_DAYS)})\b ?")
STEP = re.compile(rf" *([+-]? *\d{{1,6}}) *({'|'.join(UNITS)})s?\b( +ago)?")
SECONDS = {
    "sec": 1,
    "second": 1,
    "min": 60,
    "minute": 60,
    "hour": 3600,
    "day": 86_400,
    "week": 604_800,
    "fortnight": 1_209_600,
}
CODE = re.compile(r'"([^"]*)"|\\(.)|(x[kjomi]?[a-zA-Z])|(.)', re.DOTALL)


class DateError(ValueError):
    """What is no date, in MediaWiki's words."""


def time_text(form: str, text: str, language: str, now: datetime.date | None) -> str | None:
    """A date in another form: ("j F Y", "2020-03-01", "en") is "1 March 2020". None where nothing can be said.

    now: the day that "" and "today" mean, if it is known. Raises DateError for what is certainly no date.
    """
    if len(form) > LONGEST:
        return None
    read = read_date(text, now)
    if read is None:
        return None
    moment, missing = read

    pieces: list[str] = []
    raw_numbers = False  # xn: the next number in 0 to 9; xN: all that follow
    for quoted, escaped, special, letter in CODE.findall(form):
        code = special or letter
        if code in ("xn", "xN"):
            raw_numbers = True
        elif code == "xx":
            pieces.append("x")
        elif code in NEEDED:
            if missing & set(NEEDED[code]):
                return None
            written = write_date(code, moment, language)
            pieces.append(written if raw_numbers else locales.digits(written, language))
            raw_numbers = False
        elif special:
            return None  # another calendar
        else:
            pieces.append(quoted or escaped or letter)
    return "".join(pieces)


# --- reading ---


def read_date(text: str, now: datetime.date | None) -> tuple[datetime.datetime, set[str]] | None:
    """The moment that a text names, and which of y, m, d it leaves open ("May 2020" is its first day, that is known).

    None where nothing can be said. Raises DateError for what is certainly no date.
    """
    written = text.lower().replace("&nbsp;", " ")
    written = re.sub(r"[\s,]+", " ", written).strip()
    if len(written) > LONGEST:
        return None
    refuse_no_date(written)

    # "monday 2 march 2020 12:30 +1 day": the steps, the time, the day of the week; what is left is the day
    steps = STEP.findall(written)
    rest = STEP.sub("", written)
    time = TIME.search(rest)
    rest = TIME.sub("", rest, count=1).strip()
    rest = WEEKDAY.sub("", rest)

    today = now or datetime.date(2000, 1, 1)
    found = read_day(rest, today)
    if found is None:
        return None
    moment, missing = found

    if time:
        moment = moment.replace(hour=0) + time_of_day(*time.groups())
    for amount, unit, ago in steps:
        count = int(amount.replace(" ", ""))
        moment = later(moment, -count if ago else count, unit)
    if now is not None:
        return moment, set()
    if missing and steps:
        return moment, {"y", "m", "d"}  # a day after 1 March may be another month
    return moment, missing


def read_day(text: str, today: datetime.date) -> tuple[datetime.datetime, set[str]] | None:
    """The first moment of a day, and which of y, m, d are taken from `today`; None for a form that is not known."""
    midnight = datetime.datetime(today.year, today.month, today.day)
    one_day = datetime.timedelta(days=1)
    if text in ("", "today", "now", "midnight"):
        return midnight, {"y", "m", "d"}
    if text == "tomorrow":
        return midnight + one_day, {"y", "m", "d"}
    if text == "yesterday":
        return midnight - one_day, {"y", "m", "d"}

    for form in DATE:
        match = form.fullmatch(text)
        if match:
            return named_day(match.groupdict(), today)
    return None


def refuse_no_date(written: str) -> None:
    """Raise DateError where a long word stands that no date has. A time zone, Europe/Paris, is none."""
    if re.search(r"[a-z]/[a-z]", written):
        return
    for word in re.findall(r"[^\W\d_]+", written):
        if word not in WORDS and (len(word) > 4 or not word.isascii()):
            raise DateError("Error: Invalid time.")


def named_day(fields: dict[str, str | None], today: datetime.date) -> tuple[datetime.datetime, set[str]]:
    """The moment that the fields of a date name, what they lack taken from `today`, and which of y, m, d that is."""
    year = number_in(fields, "year")
    day = number_in(fields, "day")
    month = number_in(fields, "month") or None
    name = fields.get("name")
    if name:
        month = NUMBER_OF_MONTH[name]

    missing: set[str] = set()
    if year is None:
        missing.add("y")
    if month is None:
        missing.update("md")
    elif day is None and year is None:
        missing.add("d")

    if month is None:
        month = today.month
    if day is None:
        day = today.day if "d" in missing else 1
    if month > 12 or day > 31 or year == 0:
        raise DateError("Error: Invalid time.")

    first = datetime.datetime(year or today.year, month, 1)
    moment = shifted(first, days=day - 1)  # 31 April is 1 May
    since_midnight = datetime.timedelta(
        hours=number_in(fields, "hour") or 0,
        minutes=number_in(fields, "minute") or 0,
        seconds=number_in(fields, "second") or 0,
    )
    return moment + since_midnight, missing


def number_in(fields: dict[str, str | None], name: str) -> int | None:
    """The number in a field of a date; None where the form has no such field, or it is empty."""
    digits = fields.get(name)
    return int(digits) if digits else None


def time_of_day(hour: str, minute: str, second: str | None, half: str | None) -> datetime.timedelta:
    """3:05 p(m) as what has passed since midnight."""
    hours = int(hour)
    if half:
        hours %= 12
    if half == "p":
        hours += 12
    if hours > 24 or int(minute) > 59:
        raise DateError("Error: Invalid time.")
    return datetime.timedelta(hours=hours, minutes=int(minute), seconds=int(second or 0))


def later(moment: datetime.datetime, amount: int, unit: str) -> datetime.datetime:
    """`moment` and so many units more; a month after 31 January is 3 March (2 March in leap years)."""
    if unit == "year":
        return months_later(moment, 12 * amount)
    if unit == "month":
        return months_later(moment, amount)
    return shifted(moment, seconds=amount * SECONDS[unit])


def months_later(moment: datetime.datetime, amount: int) -> datetime.datetime:
    """`moment` and so many months more."""
    months = moment.month - 1 + amount
    year = moment.year + months // 12
    if not 1 <= year <= 9999:
        raise DateError("Error: #time only supports years up to 9999.")
    first = moment.replace(year=year, month=months % 12 + 1, day=1)
    return shifted(first, days=moment.day - 1)


def shifted(moment: datetime.datetime, **amount: int) -> datetime.datetime:
    """`moment` and a timedelta. Raises DateError beyond the years 1 to 9999."""
    try:
        return moment + datetime.timedelta(**amount)
    except OverflowError:
        raise DateError("Error: #time only supports years up to 9999.") from None


# --- what the letters of a form write ---

# Which of y, m, d the letters need.
LETTERS = {
    "y": "Y y L xkY",
    "m": "n m M F xg",
    "ym": "t",
    "d": "j d S",
    "ymd": "o z W N w D l U c r",
    "": "a A g h G H i s e T I O P Z",
}
NEEDED: dict[str, str] = {}
for parts, letters in LETTERS.items():
    NEEDED.update(dict.fromkeys(letters.split(), parts))

# The zone is always UTC.
ZONE = {
    "e": "UTC",
    "T": "UTC",
    "I": "0",
    "O": "+0000",
    "P": "+00:00",
    "Z": "0",
}


def write_date(code: str, moment: datetime.datetime, language: str) -> str:
    """What a letter of a form writes: "F" -> "March". `code` is one of NEEDED."""
    if code in ZONE:
        return ZONE[code]
    match NEEDED[code]:
        case "y":
            return write_year(code, moment.year)
        case "m":
            return write_month(code, moment.month, language)
        case "ym":
            _, days = calendar.monthrange(moment.year, moment.month)
            return str(days)
        case "d":
            return write_day(code, moment.day)
        case "ymd":
            return write_whole_date(code, moment, language)
    return write_clock(code, moment)


def write_year(code: str, year: int) -> str:
    """Y 2020, y 20, L 1 in leap years, xkY of the Thai calendar."""
    match code:
        case "Y":
            return f"{year:04d}"
        case "y":
            return f"{year % 100:02d}"
        case "L":
            return "1" if calendar.isleap(year) else "0"
    return str(year + 543)


def write_month(code: str, month: int, language: str) -> str:
    """n 3, m 03, M Mar, F March, xg the genitive of the name."""
    match code:
        case "n":
            return str(month)
        case "m":
            return f"{month:02d}"
        case "M":
            return locales.month_name(month, language, is_short=True)
        case "F":
            return locales.month_name(month, language)
    return locales.month_name(month, language, is_genitive=True)


def write_day(code: str, day: int) -> str:
    """j 1, d 01, S st."""
    match code:
        case "j":
            return str(day)
        case "d":
            return f"{day:02d}"
    return ordinal_suffix(day)


def ordinal_suffix(day: int) -> str:
    """1st, 2nd, 3rd, 4th, 11th."""
    if 10 < day < 20:
        return "th"
    suffixes = {1: "st", 2: "nd", 3: "rd"}
    return suffixes.get(day % 10, "th")


def write_whole_date(code: str, moment: datetime.datetime, language: str) -> str:
    """o, W: year and week of ISO 8601; z the day of the year; N, w, D, l of the week; U, c, r the whole."""
    iso = moment.isocalendar()
    match code:
        case "o":
            return str(iso.year)
        case "W":
            return f"{iso.week:02d}"
        case "z":
            return str(moment.timetuple().tm_yday - 1)
        case "N":
            return str(iso.weekday)
        case "w":
            return str(iso.weekday % 7)
        case "D":
            return locales.day_name(moment, language, is_short=True)
        case "l":
            return locales.day_name(moment, language)
        case "U":
            in_utc = moment.replace(tzinfo=datetime.UTC)
            return str(int(in_utc.timestamp()))
        case "c":
            return moment.isoformat(timespec="seconds") + "+00:00"
    return f"{moment:%a, %d %b} {moment.year:04d} {moment:%H:%M:%S} +0000"


def write_clock(code: str, moment: datetime.datetime) -> str:
    """a pm, A PM, g 3, h 03, G 15, H 15, i the minutes, s the seconds."""
    half = "am" if moment.hour < 12 else "pm"
    hour_of_half = (moment.hour - 1) % 12 + 1
    match code:
        case "a":
            return half
        case "A":
            return half.upper()
        case "g":
            return str(hour_of_half)
        case "h":
            return f"{hour_of_half:02d}"
        case "G":
            return str(moment.hour)
        case "H":
            return f"{moment.hour:02d}"
        case "i":
            return f"{moment.minute:02d}"
    return f"{moment.second:02d}"
