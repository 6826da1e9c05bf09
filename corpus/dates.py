"""Dates as {{#time: j F Y | 2020-03-01}} reads and writes them.

Sources: mediawiki.org's Help:Extension:ParserFunctions (#time) and PHP's manual, Supported Date and Time Formats. Read
here are the common ways to write a date; of other ones nothing is said.
"""

import calendar
import datetime
import re
from collections.abc import Callable

from corpus import locales

MONTHS = "january february march april may june july august september october november december".split()
DAYS = "monday tuesday wednesday thursday friday saturday sunday".split()
NUMBER_OF_MONTH = {name: number for number, name in enumerate(MONTHS, 1)}
NUMBER_OF_MONTH |= {name[:3]: number for number, name in enumerate(MONTHS, 1)} | {"sept": 9}
UNITS = "second sec minute min hour day week fortnight month year".split()
OTHER_WORDS = "today now midnight noon tomorrow yesterday ago am pm utc gmt z t st nd rd th of next last previous this"
WORDS = {*NUMBER_OF_MONTH, *DAYS, *(day[:3] for day in DAYS), *UNITS, *(f"{unit}s" for unit in UNITS)}
WORDS |= {*OTHER_WORDS.split(), *"first second third fourth fifth sixth seventh eighth ninth tenth".split()}

LONGEST = 100  # characters of a date or a form that is read

MONTH = "(?P<name>" + "|".join(sorted(NUMBER_OF_MONTH, key=len, reverse=True)) + r")\.?"
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
WEEKDAY = re.compile(rf"^(?:{'|'.join(DAYS)}|{'|'.join(day[:3] for day in DAYS)})\b ?")
STEP = re.compile(rf" *([+-]? *\d{{1,6}}) *({'|'.join(UNITS)})s?\b( +ago)?")
CODE = re.compile(r'"([^"]*)"|\\(.)|(x[kjomi]?[a-zA-Z])|(.)', re.DOTALL)


class DateError(ValueError):
    """What is no date, in MediaWiki's words."""


def time_text(form: str, text: str, language: str, now: datetime.date | None) -> str | None:
    """A date in another form: ("j F Y", "2020-03-01", "en") is "1 March 2020". None where nothing can be said.

    now: the day that "" and "today" mean, if it is known. Raises DateError for what is certainly no date.
    """
    read = read_date(text, now) if len(form) <= LONGEST else None
    if read is None:
        return None
    moment, missing = read

    pieces = []
    raw_numbers = False  # xn: the next number in 0 to 9; xN: all that follow
    for quoted, escaped, special, code in CODE.findall(form):
        if special in ("xn", "xN"):
            raw_numbers = True
            continue
        if special == "xx":
            pieces.append("x")
            continue
        name = special or code
        if not name or name not in CODES:
            if special:
                return None  # another calendar
            pieces.append(quoted or escaped or code)
            continue

        needed, write = CODES[name]
        if missing & set(needed):
            return None
        written = write(moment, language)
        pieces.append(written if raw_numbers else locales.digits(written, language))
        raw_numbers = False
    return "".join(pieces)


def read_date(text: str, now: datetime.date | None) -> tuple[datetime.datetime, set[str]] | None:
    """The moment that a text names, and which of y, m, d it leaves open ("May 2020" is its first day, that is known).

    None where nothing can be said. Raises DateError for what is certainly no date.
    """
    written = re.sub(r"[\s,]+", " ", text.lower().replace("&nbsp;", " ")).strip()
    if len(written) > LONGEST:
        return None
    refuse_no_date(written)
    steps = STEP.findall(written)
    rest = STEP.sub("", written)
    time = TIME.search(rest)
    rest = TIME.sub("", rest, count=1).strip()
    rest = WEEKDAY.sub("", rest)

    today = now or datetime.date(2000, 1, 1)
    missing: set[str] = set()
    moment = datetime.datetime(today.year, today.month, today.day)
    if rest in ("", "today", "now", "midnight", "tomorrow", "yesterday"):
        missing = {"y", "m", "d"}
        if rest == "tomorrow" or rest == "yesterday":
            moment += datetime.timedelta(days=1 if rest == "tomorrow" else -1)
    else:
        match = next((match for form in DATE if (match := form.fullmatch(rest))), None)
        if match is None:
            return None
        moment, missing = named_day(match.groupdict(), today)

    if time:
        moment = moment.replace(hour=0) + time_of_day(*time.groups())
    for amount, unit, ago in steps:
        moment = later(moment, int(amount.replace(" ", "")) * (-1 if ago else 1), unit)
        missing = {"y", "m", "d"} if missing else set()
    return moment, (missing if now is None else set())


def refuse_no_date(written: str) -> None:
    """Raise DateError where a long word stands that no date has. A time zone, Europe/Paris, is none."""
    if re.search(r"[a-z]/[a-z]", written):
        return
    for word in re.findall(r"[^\W\d_]+", written):
        if word not in WORDS and (len(word) > 4 or not word.isascii()):
            raise DateError("Error: Invalid time.")


def named_day(fields: dict[str, str | None], today: datetime.date) -> tuple[datetime.datetime, set[str]]:
    """The moment that the fields of a date name, what they lack taken from `today`, and which of y, m, d that is."""
    missing = set()
    year = int(fields["year"] or 0) if fields.get("year") else None
    month = NUMBER_OF_MONTH[fields["name"]] if fields.get("name") else int(fields.get("month") or 0) or None
    day = int(fields["day"]) if fields.get("day") else None
    if year is None:
        missing.add("y")
    if month is None:
        missing |= {"m", "d"}
    elif day is None and year is None:
        missing.add("d")
    if day is None:
        day = today.day if "d" in missing else 1

    month = month or today.month
    if month > 12 or day > 31 or year == 0:
        raise DateError("Error: Invalid time.")
    first = datetime.datetime(year or today.year, month, 1)
    moment = shifted(first, days=day - 1)  # 31 April is 1 May
    hours = [int(fields.get(name) or 0) for name in ("hour", "minute", "second")]
    return moment + datetime.timedelta(hours=hours[0], minutes=hours[1], seconds=hours[2]), missing


def time_of_day(hour: str, minute: str, second: str | None, half: str | None) -> datetime.timedelta:
    """3:05 p(m) as what has passed since midnight."""
    hours = int(hour)
    if half:
        hours = hours % 12 + (12 if half == "p" else 0)
    if hours > 24 or int(minute) > 59:
        raise DateError("Error: Invalid time.")
    return datetime.timedelta(hours=hours, minutes=int(minute), seconds=int(second or 0))


def later(moment: datetime.datetime, amount: int, unit: str) -> datetime.datetime:
    """`moment` and so many units more; a month after 31 January is 3 March (2 March in leap years)."""
    if unit in ("month", "year"):
        months = moment.month - 1 + amount * (12 if unit == "year" else 1)
        year = moment.year + months // 12
        if not 1 <= year <= 9999:
            raise DateError("Error: #time only supports years up to 9999.")
        first = moment.replace(year=year, month=months % 12 + 1, day=1)
        return shifted(first, days=moment.day - 1)

    seconds = {"sec": 1, "second": 1, "min": 60, "minute": 60, "hour": 3600, "week": 604_800, "fortnight": 1_209_600}
    return shifted(moment, seconds=amount * seconds.get(unit, 86_400))


def shifted(moment: datetime.datetime, **amount: int) -> datetime.datetime:
    """`moment` and a timedelta. Raises DateError beyond the years 1 to 9999."""
    try:
        return moment + datetime.timedelta(**amount)
    except OverflowError:
        raise DateError("Error: #time only supports years up to 9999.") from None


# --- what the letters of a form write, and which of y, m, d they need ---


def ordinal_suffix(day: int) -> str:
    """1st, 2nd, 3rd, 4th, 11th."""
    if 10 < day < 20:
        return "th"
    return {1: "st", 2: "nd", 3: "rd"}.get(day % 10, "th")


Writer = Callable[[datetime.datetime, str], str]
CODES: dict[str, tuple[str, Writer]] = {
    "Y": ("y", lambda moment, language: f"{moment.year:04d}"),
    "y": ("y", lambda moment, language: f"{moment.year % 100:02d}"),
    "L": ("y", lambda moment, language: str(int(calendar.isleap(moment.year)))),
    "o": ("ymd", lambda moment, language: f"{moment.isocalendar().year}"),
    "xkY": ("y", lambda moment, language: f"{moment.year + 543}"),
    "n": ("m", lambda moment, language: str(moment.month)),
    "m": ("m", lambda moment, language: f"{moment.month:02d}"),
    "M": ("m", lambda moment, language: locales.month_name(moment.month, language, is_short=True)),
    "F": ("m", lambda moment, language: locales.month_name(moment.month, language)),
    "xg": ("m", lambda moment, language: locales.month_name(moment.month, language, is_genitive=True)),
    "t": ("ym", lambda moment, language: str(calendar.monthrange(moment.year, moment.month)[1])),
    "j": ("d", lambda moment, language: str(moment.day)),
    "d": ("d", lambda moment, language: f"{moment.day:02d}"),
    "S": ("d", lambda moment, language: ordinal_suffix(moment.day)),
    "z": ("ymd", lambda moment, language: str(moment.timetuple().tm_yday - 1)),
    "W": ("ymd", lambda moment, language: f"{moment.isocalendar().week:02d}"),
    "N": ("ymd", lambda moment, language: str(moment.isoweekday())),
    "w": ("ymd", lambda moment, language: str(moment.isoweekday() % 7)),
    "D": ("ymd", lambda moment, language: locales.day_name(moment, language, is_short=True)),
    "l": ("ymd", lambda moment, language: locales.day_name(moment, language)),
    "a": ("", lambda moment, language: "am" if moment.hour < 12 else "pm"),
    "A": ("", lambda moment, language: "AM" if moment.hour < 12 else "PM"),
    "g": ("", lambda moment, language: str((moment.hour - 1) % 12 + 1)),
    "h": ("", lambda moment, language: f"{(moment.hour - 1) % 12 + 1:02d}"),
    "G": ("", lambda moment, language: str(moment.hour)),
    "H": ("", lambda moment, language: f"{moment.hour:02d}"),
    "i": ("", lambda moment, language: f"{moment.minute:02d}"),
    "s": ("", lambda moment, language: f"{moment.second:02d}"),
    "e": ("", lambda moment, language: "UTC"),
    "T": ("", lambda moment, language: "UTC"),
    "I": ("", lambda moment, language: "0"),
    "O": ("", lambda moment, language: "+0000"),
    "P": ("", lambda moment, language: "+00:00"),
    "Z": ("", lambda moment, language: "0"),
    "U": ("ymd", lambda moment, language: str(int(moment.replace(tzinfo=datetime.UTC).timestamp()))),
    "c": ("ymd", lambda moment, language: moment.isoformat(timespec="seconds") + "+00:00"),
    "r": ("ymd", lambda moment, language: f"{moment:%a, %d %b} {moment.year:04d} {moment:%H:%M:%S} +0000"),
}
