"""What templates of dates and ages show: {{as of}}, {{circa}}, {{start date}}, {{death date and age}}, {{age}}.

Nothing here knows what day it is: an age today or "3 years ago" raises ValueError, and where a page shows a date and
the age today behind it, the date alone is shown. Names of months in other languages than English are those of CLDR.
"""

import datetime
import re
from collections.abc import Callable

from corpus.locales import digits, locale
from corpus.twins_numbers import only_english, ordinal_text

MONTHS = "January February March April May June July August September October November December".split()
ENGLISH = ("en", "simple")
YES = ("y", "yes", "true", "on", "1", "dmy")
ISO = re.compile(r"(\d{4})-(\d{1,2})(?:-(\d{1,2}))?")

MARRIAGE_ENDS = {"div": "div.", "divorced": "div.", "divorce": "div.", "d": "died", "died": "died", "death": "died"}
MARRIAGE_ENDS |= {
    "ann": "ann.",
    "annulled": "ann.",
    "sep": "sep.",
    "separated": "sep.",
    "widowed": "wid.",
    "wid": "wid.",
}


# --- dates ---


def month_number(text: str) -> int:
    """1 to 12 of a number or an English name, whole or its first three letters. Raises ValueError for anything else."""
    if text.isdigit() and 1 <= int(text) <= 12:
        return int(text)
    names = [month for month in MONTHS if len(text) >= 3 and month.lower().startswith(text.lower().rstrip("."))]
    if len(names) != 1:
        raise ValueError(f"no month: {text[:20]!r}")
    return MONTHS.index(names[0]) + 1


def day_number(text: str) -> int:
    """1 to 31. Raises ValueError for anything else."""
    if not re.fullmatch(r"\d{1,2}", text) or not 1 <= int(text) <= 31:
        raise ValueError(f"no day of a month: {text[:20]!r}")
    return int(text)


def year_number(text: str) -> int:
    """Raises ValueError for a year that no calendar of Python has."""
    if not re.fullmatch(r"\d{1,4}", text):
        raise ValueError(f"no year: {text[:20]!r}")
    return int(text)


def show_date(year: str, month: str, day: str, language: str, day_first: bool) -> str:
    """A date, of which day and month may be empty: February 12, 1809; with `day_first` 12 February 1809."""
    if not month:
        return year
    number = month_number(month)
    if language not in ENGLISH:
        return foreign_date(year_number(year), number, day, language)

    name = MONTHS[number - 1]
    if not day:
        return f"{name} {year}".strip()
    if not year:
        return f"{day_number(day)} {name}" if day_first else f"{name} {day_number(day)}"
    return f"{day_number(day)} {name} {year}" if day_first else f"{name} {day_number(day)}, {year}"


def foreign_date(year: int, month: int, day: str, language: str) -> str:
    """A date as CLDR writes it in a language."""
    from babel.dates import format_date, format_skeleton

    date = datetime.date(year, month, day_number(day or "1"))
    if day:
        return digits(format_date(date, "long", locale=locale(language)), language)
    return digits(format_skeleton("yMMMM", date, locale=locale(language)), language)


def parts_of(arguments: dict[str, str], first: int = 1) -> tuple[str, str, str]:
    """Year, month, day from three unnamed arguments, or from one that holds 1809-02-12."""
    year, month, day = (arguments.get(str(place), "").strip() for place in range(first, first + 3))
    iso = ISO.fullmatch(year)
    if iso and not month:
        return iso[1], iso[2], iso[3] or ""
    return year, month, day


def is_yes(arguments: dict[str, str], name: str) -> bool:
    return arguments.get(name, "").strip().lower() in YES


def date(arguments: dict[str, str], language: str) -> str:
    """A date: `1809|2|12` -> February 12, 1809; `1809|2|12|df=y` -> 12 February 1809; `7 May 1941` as it is written.

    Template:Start date, Birth date, End date, Death date. Leaves out the age that some of them show behind the date,
    zones other than UTC, and hidden dates for machines.
    """
    year, month, day = parts_of(arguments)
    if not year and not month:
        raise ValueError("a date without a year is that of today")
    if not re.fullmatch(r"\d+", year):
        return year
    shown = show_date(year, month, day, language, day_first=is_yes(arguments, "df"))

    hour, minute, second, zone = (arguments.get(str(place), "").strip() for place in (4, 5, 6, 7))
    if not (hour.isdigit() and minute.isdigit() and int(hour) < 25):
        return shown
    clock = ":".join([f"{int(hour):02}", f"{int(minute):02}", *([f"{int(second):02}"] if second.isdigit() else [])])
    return f"{clock}, {shown}" + (" (UTC)" if zone == "Z" else "")


def film_date(arguments: dict[str, str], language: str) -> str:
    """Dates and places of first nights: `2014|5|16|New York` -> May 16, 2014 (New York). Template:Film date.

    Four arguments are one date; a comma parts them.
    """
    shown: list[str] = []
    for place in range(1, 40, 4):
        year, month, day = parts_of(arguments, place)
        if not year:
            break
        where = arguments.get(str(place + 3), "").strip()
        text = show_date(year, month, day, language, day_first=is_yes(arguments, "df"))
        shown.append(f"{text} ({where})" if where else text)
    if not shown:
        raise ValueError("no date of a film")
    return ", ".join(shown)


def date_sorting(arguments: dict[str, str], language: str) -> str:
    """A date of a table that can be sorted: `1777|12|16` -> 16 December 1777. Template:Date table sorting.

    |format= is dmy, mdy, my, y ...; |abbr=on shortens the month. Leaves out the sort key.
    """
    year, month, day = parts_of(arguments)
    if not re.fullmatch(r"-?\d*", year):
        return year
    style = arguments.get("format", "dmy")
    if style in ("dm", "md"):
        year = ""
    if style in ("my", "y") or "d" not in style:
        day = ""
    if style == "y":
        month = ""
    is_before_christ = year.startswith("-")
    text = show_date(year.lstrip("-"), month, day, language, day_first=not style.startswith("m"))
    if arguments.get("abbr") == "on":
        text = re.sub(r"[A-Z][a-z]{3,}", lambda match: match[0][:3], text)
    return text + (" BC" if is_before_christ else "")


def as_of(arguments: dict[str, str], language: str) -> str:
    """ "As of" and a date: `2010` -> As of 2010; `2010|1|3|lc=y` -> as of 3 January 2010; |since=y: Since 2010.

    Template:As of; |alt= is shown instead, |df=us puts the month first, |bare=y leaves the words out. Raises ValueError
    without a date, which is that of today.
    """
    if arguments.get("alt"):
        return arguments["alt"].strip()
    year, month, day = parts_of(arguments)
    if not year:
        raise ValueError("as of today")

    american = arguments.get("df", "").lower() in ("us", "mdy")
    is_number = re.fullmatch(r"\d+", year)
    shown = show_date(year, month, day, language, day_first=not american) if is_number else year
    before = arguments.get("pre", "").strip()
    shown = f"{before} {shown}".strip() + arguments.get("post", "")
    if is_yes(arguments, "bare"):
        return shown
    only_english(language)
    words = "Since" if arguments.get("since") else "As of"
    return f"{words.lower() if arguments.get('lc') else words} {shown}"


def before_years(word: str) -> Callable[[dict[str, str], str], str]:
    """A twin that puts `word` before one year or two: fl. 1547–1580."""

    def show(arguments: dict[str, str], language: str) -> str:
        years = [arguments.get(place, "").strip() for place in ("1", "2")]
        return f"{word} {'–'.join(year for year in years if year)}".strip()

    return show


def circa(arguments: dict[str, str], language: str) -> str:
    """A year that is not known exactly: `1200` -> c. 1200; `1200|1250` -> c. 1200 – c. 1250; none -> c.

    Template:Circa.
    """
    years = [arguments.get(place, "").strip() for place in ("1", "2")]
    shown = [f"c. {year}" for year in years if year]
    return " – ".join(shown) or "c."


def century(arguments: dict[str, str], language: str) -> str:
    """`19` -> 19th century; `-1` -> 1st century BC. Template:Century."""
    only_english(language)
    number = int(arguments.get("1", ""))
    return f"{ordinal_text(abs(number))} century" + (" BC" if number < 0 else "")


# --- ages ---


def full_date(year: str, month: str, day: str) -> datetime.date:
    if not (year and month and day):
        raise ValueError("a date that is not whole: the age is not known to a year")
    return datetime.date(year_number(year), month_number(month), day_number(day))


def two_dates(arguments: dict[str, str]) -> tuple[datetime.date, datetime.date]:
    """The two dates of a template of ages: six unnamed arguments, year1=, month1= ..., or two ISO dates."""
    named = [[arguments.get(f"{part}{which}", "").strip() for part in ("year", "month", "day")] for which in (1, 2)]
    if named[0][0] and named[1][0]:
        return full_date(*named[0]), full_date(*named[1])
    if ISO.fullmatch(arguments.get("1", "").strip()) and ISO.fullmatch(arguments.get("2", "").strip()):
        return full_date(*parts_of({"1": arguments["1"]})), full_date(*parts_of({"1": arguments["2"]}))
    if not arguments.get("4", "").strip():
        raise ValueError("the age today is not known")
    return full_date(*parts_of(arguments)), full_date(*parts_of(arguments, 4))


def years_between(first: datetime.date, last: datetime.date) -> int:
    return last.year - first.year - ((last.month, last.day) < (first.month, first.day))


def same_day(first: datetime.date, year: int) -> datetime.date:
    """The day and month of `first` in another year; 1 March for a 29 February that is not there."""
    try:
        return first.replace(year=year)
    except ValueError:
        return datetime.date(year, 3, 1)


def counted(number: int, name: str) -> str:
    return f"{number:,} {name}" + ("" if number == 1 else "s")


def age(arguments: dict[str, str], language: str) -> str:
    """Years between two dates: `1989|7|23|2003|7|14` -> 13. Template:Age; ValueError for an age today."""
    first, last = two_dates(arguments)
    return str(years_between(first, last))


def age_in_days(arguments: dict[str, str], language: str) -> str:
    """Days between two dates: `2003|7|1|2003|7|14` -> 13. Template:Age in days."""
    first, last = two_dates(arguments)
    return f"{(last - first).days:,}".replace("-", "−")


def age_in_years_and_days(arguments: dict[str, str], language: str) -> str:
    """`1989|7|23|2003|7|14` -> 13 years, 356 days. Template:Age in years and days."""
    only_english(language)
    first, last = two_dates(arguments)
    years = years_between(first, last)
    days = (last - same_day(first, first.year + years)).days
    return f"{counted(years, 'year')}, {counted(days, 'day')}"


def age_in_years_months_days(arguments: dict[str, str], language: str) -> str:
    """`2001|1|10|2003|3|14` -> 2 years, 2 months, 4 days. Template:Age in years, months and days.

    Parts of 0 are left out.
    """
    only_english(language)
    first, last = two_dates(arguments)
    months = (last.year - first.year) * 12 + last.month - first.month - (last.day < first.day)
    year, month = divmod(first.month - 1 + months, 12)
    start = datetime.date(first.year + year, month + 1, 1) + datetime.timedelta(days=first.day - 1)
    days = (last - start).days
    parts = [(months // 12, "year"), (months % 12, "month"), (days, "day")]
    return ", ".join(counted(number, name) for number, name in parts if number) or "0 days"


def death_date_and_age(arguments: dict[str, str], language: str) -> str:
    """`1865|4|15|1809|2|12` -> April 15, 1865 (aged 56). Template:Death date and age."""
    year, month, day = parts_of(arguments)
    shown = show_date(year, month, day, language, day_first=is_yes(arguments, "df"))
    birth = parts_of(arguments, 4)
    if not birth[0]:
        return shown
    if month and day and birth[1] and birth[2]:
        lived = str(years_between(full_date(*birth), full_date(year, month, day)))
    else:
        years = year_number(year) - year_number(birth[0])
        lived = f"{years - 1}–{years}"
    return f"{shown} (aged {lived})" if language in ENGLISH else f"{shown} ({lived})"


def death_year_and_age(arguments: dict[str, str], language: str) -> str:
    """`1950|1900` -> 1950 (aged 49–50). Template:Death year and age; the third argument is the month of death."""
    death, birth, month = parts_of(arguments)
    return death_date_and_age({"1": death, "2": month, "4": birth}, language)


def marriage(arguments: dict[str, str], language: str) -> str:
    """`Maria Nys|1919|1955|end=died` -> Maria Nys (m. 1919; died 1955). Template:Marriage."""
    name, start, end = parts_of(arguments)
    reason = MARRIAGE_ENDS.get(arguments.get("end", arguments.get("reason", "")).strip().lower().rstrip("."), "")
    if not start:
        return name
    if not end:
        return f"{name} (m. {start})"
    return f"{name} (m. {start}; {reason} {end})" if reason else f"{name} (m. {start}–{end})"


DATES: dict[str, Callable[[dict[str, str], str], str]] = {
    "date": date,
    "birth_date_and_age": date,
    "film_date": film_date,
    "date_sorting": date_sorting,
    "as_of": as_of,
    "circa": circa,
    "floruit": before_years("fl."),
    "born": before_years("b."),
    "died": before_years("d."),
    "reign": before_years("r."),
    "century": century,
    "age": age,
    "age_in_days": age_in_days,
    "age_in_years_and_days": age_in_years_and_days,
    "age_in_years_months_days": age_in_years_months_days,
    "death_date_and_age": death_date_and_age,
    "death_year_and_age": death_year_and_age,
    "marriage": marriage,
}
