"""What templates of dates and ages show: {{as of}}, {{circa}}, {{start date}}, {{death date and age}}, {{age}}.

Nothing here knows what day it is: an age today or "3 years ago" raises ValueError, and where a page shows a date and
the age today behind it, the date alone is shown. Names of months in other languages than English are those of CLDR.
"""

import datetime
import re

from corpus.templates.locales import digits, locale
from corpus.templates.twins_arguments import ENGLISH, Arguments, Twin, only_english, text_of, texts_of
from corpus.templates.twins_numbers import ordinal_text

MONTHS = "January February March April May June July August September October November December".split()
YES = ("y", "yes", "true", "on", "1", "dmy")
NUMBER = re.compile(r"\d+")
ISO = re.compile(r"(\d{4})-(\d{1,2})(?:-(\d{1,2}))?")

CAPITALIZED = re.compile(r"[A-Z][a-z]{3,}")

# Why a marriage ended: as it is written -> as it is shown.
MARRIAGE_ENDS = {
    "div": "div.",
    "divorced": "div.",
    "divorce": "div.",
    "d": "died",
    "died": "died",
    "death": "died",
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

    begin = text.lower().rstrip(".")
    found = [number for number, month in enumerate(MONTHS, 1) if month.lower().startswith(begin)]
    if len(text) < 3 or len(found) != 1:
        raise ValueError(f"no month: {text[:20]!r}")
    return found[0]


def day_number(text: str) -> int:
    """1 to 31. Raises ValueError for anything else."""
    if not re.fullmatch(r"\d{1,2}", text) or not 1 <= int(text) <= 31:
        raise ValueError(f"no day of a month: {text[:20]!r}")
    return int(text)


def year_number(text: str) -> int:
    """A year of up to four digits. Raises ValueError for anything else."""
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
    if day_first:
        return f"{day_number(day)} {name} {year}".strip()
    month_and_day = f"{name} {day_number(day)}"
    return f"{month_and_day}, {year}" if year else month_and_day


def foreign_date(year: int, month: int, day: str, language: str) -> str:
    """A date as CLDR writes it in a language."""
    from babel.dates import format_date, format_skeleton

    date = datetime.date(year, month, day_number(day or "1"))
    if day:
        shown = format_date(date, "long", locale=locale(language))
    else:
        shown = format_skeleton("yMMMM", date, locale=locale(language))
    return digits(shown, language)


def parts_of(arguments: Arguments, first: int = 1) -> tuple[str, str, str]:
    """Year, month, day from three unnamed arguments, or from one that holds 1809-02-12."""
    year, month, day = texts_of(arguments, str(first), str(first + 1), str(first + 2))
    iso = ISO.fullmatch(year)
    if iso and not month:
        return iso[1], iso[2], iso[3] or ""
    return year, month, day


def shown_date(arguments: Arguments, language: str, first: int = 1) -> str:
    """The date of three unnamed arguments, with the day first where |df= says so: `1809|2|12` -> February 12, 1809."""
    year, month, day = parts_of(arguments, first)
    return show_date(year, month, day, language, day_first=is_yes(arguments, "df"))


def is_yes(arguments: Arguments, name: str) -> bool:
    """Whether an argument like |df=y asks for something."""
    return text_of(arguments, name).lower() in YES


def date(arguments: Arguments, language: str) -> str:
    """A date: `1809|2|12` -> February 12, 1809; `1809|2|12|df=y` -> 12 February 1809; `7 May 1941` as it is written.

    Template:Start date, Birth date, End date, Death date. Leaves out the age that some of them show behind the date,
    zones other than UTC, and hidden dates for machines.
    """
    year, month, _ = parts_of(arguments)
    if not year and not month:
        raise ValueError("a date without a year is that of today")
    if not NUMBER.fullmatch(year):
        return year

    shown = shown_date(arguments, language)
    clock = clock_of(arguments)
    if not clock:
        return shown
    zone = " (UTC)" if text_of(arguments, "7") == "Z" else ""
    return f"{clock}, {shown}{zone}"


def clock_of(arguments: Arguments) -> str:
    """The time of day from the unnamed arguments 4 to 6: `2008|11|1|9|5` -> 09:05; "" where none stands."""
    hour, minute, second = texts_of(arguments, "4", "5", "6")
    if not hour.isdigit() or not minute.isdigit() or int(hour) > 24:
        return ""
    clock = f"{int(hour):02}:{int(minute):02}"
    if second.isdigit():
        clock += f":{int(second):02}"
    return clock


def film_date(arguments: Arguments, language: str) -> str:
    """Dates and places of first nights: `2014|5|16|New York` -> May 16, 2014 (New York). Template:Film date.

    Four arguments are one date; a comma parts them.
    """
    shown: list[str] = []
    for place in range(1, 40, 4):
        year, _, _ = parts_of(arguments, place)
        if not year:
            break
        day = shown_date(arguments, language, place)
        where = text_of(arguments, str(place + 3))
        shown.append(f"{day} ({where})" if where else day)
    if not shown:
        raise ValueError("no date of a film")
    return ", ".join(shown)


def date_sorting(arguments: Arguments, language: str) -> str:
    """A date of a table that can be sorted: `1777|12|16` -> 16 December 1777. Template:Date table sorting.

    |format= is dmy, mdy, my, y ...; |abbr=on shortens the month. Leaves out the sort key.
    """
    year, month, day = parts_of(arguments)
    if not re.fullmatch(r"-?\d*", year):
        return year
    style = arguments.get("format", "dmy")
    if style in ("dm", "md"):
        year = ""
    if style == "y":
        month = ""
    if "d" not in style:
        day = ""

    is_before_christ = year.startswith("-")
    day_first = not style.startswith("m")
    text = show_date(year.lstrip("-"), month, day, language, day_first)
    if arguments.get("abbr") == "on":
        text = CAPITALIZED.sub(lambda match: match[0][:3], text)
    return f"{text} BC" if is_before_christ else text


def as_of(arguments: Arguments, language: str) -> str:
    """ "As of" and a date: `2010` -> As of 2010; `2010|1|3|lc=y` -> as of 3 January 2010; |since=y: Since 2010.

    Template:As of; |alt= is shown instead, |df=us puts the month first, |bare=y leaves the words out. Raises ValueError
    without a date, which is that of today.
    """
    if arguments.get("alt"):
        return arguments["alt"].strip()
    year, month, day = parts_of(arguments)
    if not year:
        raise ValueError("as of today")

    shown = year
    if NUMBER.fullmatch(year):
        month_first = arguments.get("df", "").lower() in ("us", "mdy")
        shown = show_date(year, month, day, language, day_first=not month_first)
    before = text_of(arguments, "pre")
    behind = arguments.get("post", "")
    shown = f"{before} {shown}".strip() + behind
    if is_yes(arguments, "bare"):
        return shown

    only_english(language)
    words = "Since" if arguments.get("since") else "As of"
    if arguments.get("lc"):
        words = words.lower()
    return f"{words} {shown}"


def circa(arguments: Arguments, language: str) -> str:
    """A year that is not known exactly: `1200` -> c. 1200; `1200|1250` -> c. 1200 – c. 1250; none -> c.

    Template:Circa.
    """
    years = texts_of(arguments, "1", "2")
    shown = [f"c. {year}" for year in years if year]
    return " – ".join(shown) or "c."


def floruit(arguments: Arguments, language: str) -> str:
    """When somebody was active: `1547|1580` -> fl. 1547–1580. Template:Floruit."""
    return before_years("fl.", arguments)


def born(arguments: Arguments, language: str) -> str:
    """`1980` -> b. 1980."""
    return before_years("b.", arguments)


def died(arguments: Arguments, language: str) -> str:
    """`1980` -> d. 1980."""
    return before_years("d.", arguments)


def reign(arguments: Arguments, language: str) -> str:
    """`1066|1087` -> r. 1066–1087."""
    return before_years("r.", arguments)


def before_years(word: str, arguments: Arguments) -> str:
    """A word before one year or two: "fl." -> fl. 1547–1580."""
    years = [year for year in texts_of(arguments, "1", "2") if year]
    return f"{word} {'–'.join(years)}".strip()


def century(arguments: Arguments, language: str) -> str:
    """`19` -> 19th century; `-1` -> 1st century BC. Template:Century."""
    only_english(language)
    number = int(arguments.get("1", ""))
    shown = f"{ordinal_text(abs(number))} century"
    return f"{shown} BC" if number < 0 else shown


# --- ages ---


def full_date(year: str, month: str, day: str) -> datetime.date:
    """The day that three texts name. Raises ValueError where one is empty or is no part of a date."""
    if not year or not month or not day:
        raise ValueError("a date that is not whole: the age is not known to a year")
    return datetime.date(year_number(year), month_number(month), day_number(day))


def two_dates(arguments: Arguments) -> tuple[datetime.date, datetime.date]:
    """The two dates of a template of ages: six unnamed arguments, year1=, month1= ..., or two ISO dates."""
    first = texts_of(arguments, "year1", "month1", "day1")
    last = texts_of(arguments, "year2", "month2", "day2")
    if first[0] and last[0]:
        return full_date(*first), full_date(*last)

    iso_first, iso_last = texts_of(arguments, "1", "2")
    if ISO.fullmatch(iso_first) and ISO.fullmatch(iso_last):
        return full_date(*parts_of({"1": iso_first})), full_date(*parts_of({"1": iso_last}))
    if not text_of(arguments, "4"):
        raise ValueError("the age today is not known")
    return full_date(*parts_of(arguments)), full_date(*parts_of(arguments, 4))


def years_between(first: datetime.date, last: datetime.date) -> int:
    """Whole years from one day to another: to 2003-07-14, 13 from 1989-07-23."""
    return last.year - first.year - ((last.month, last.day) < (first.month, first.day))


def same_day(first: datetime.date, year: int) -> datetime.date:
    """The day and month of `first` in another year; 1 March for a 29 February that is not there."""
    try:
        return first.replace(year=year)
    except ValueError:
        return datetime.date(year, 3, 1)


def counted(number: int, name: str) -> str:
    """A number with a noun: 1 year, 2 years."""
    ending = "" if number == 1 else "s"
    return f"{number:,} {name}{ending}"


def age(arguments: Arguments, language: str) -> str:
    """Years between two dates: `1989|7|23|2003|7|14` -> 13. Template:Age; ValueError for an age today."""
    first, last = two_dates(arguments)
    return str(years_between(first, last))


def age_in_days(arguments: Arguments, language: str) -> str:
    """Days between two dates: `2003|7|1|2003|7|14` -> 13. Template:Age in days."""
    first, last = two_dates(arguments)
    return f"{(last - first).days:,}".replace("-", "−")


def age_in_years_and_days(arguments: Arguments, language: str) -> str:
    """`1989|7|23|2003|7|14` -> 13 years, 356 days. Template:Age in years and days."""
    only_english(language)
    first, last = two_dates(arguments)
    years = years_between(first, last)
    days = (last - same_day(first, first.year + years)).days
    return f"{counted(years, 'year')}, {counted(days, 'day')}"


def age_in_years_months_days(arguments: Arguments, language: str) -> str:
    """`2001|1|10|2003|3|14` -> 2 years, 2 months, 4 days. Template:Age in years, months and days.

    Parts of 0 are left out.
    """
    only_english(language)
    first, last = two_dates(arguments)
    all_months = months_between(first, last)
    start = months_later(first, all_months)
    days = (last - start).days

    years, months = divmod(all_months, 12)
    parts = [(years, "year"), (months, "month"), (days, "day")]
    shown = [counted(number, name) for number, name in parts if number]
    return ", ".join(shown) or "0 days"


def months_between(first: datetime.date, last: datetime.date) -> int:
    """Whole months from one day to another."""
    months = 12 * (last.year - first.year) + last.month - first.month
    return months - 1 if last.day < first.day else months


def months_later(day: datetime.date, months: int) -> datetime.date:
    """The same day so many months later; 3 March for 31 February."""
    year, month = divmod(day.month - 1 + months, 12)
    first_of_month = datetime.date(day.year + year, month + 1, 1)
    return first_of_month + datetime.timedelta(days=day.day - 1)


def death_date_and_age(arguments: Arguments, language: str) -> str:
    """`1865|4|15|1809|2|12` -> April 15, 1865 (aged 56). Template:Death date and age."""
    shown = shown_date(arguments, language)
    birth_year, birth_month, birth_day = parts_of(arguments, 4)
    if not birth_year:
        return shown

    year, month, day = parts_of(arguments)
    if month and day and birth_month and birth_day:
        birth = full_date(birth_year, birth_month, birth_day)
        death = full_date(year, month, day)
        lived = str(years_between(birth, death))
    else:
        years = year_number(year) - year_number(birth_year)
        lived = f"{years - 1}–{years}"
    return f"{shown} (aged {lived})" if language in ENGLISH else f"{shown} ({lived})"


def death_year_and_age(arguments: Arguments, language: str) -> str:
    """`1950|1900` -> 1950 (aged 49–50). Template:Death year and age; the third argument is the month of death."""
    death, birth, month = parts_of(arguments)
    return death_date_and_age({"1": death, "2": month, "4": birth}, language)


def marriage(arguments: Arguments, language: str) -> str:
    """`Maria Nys|1919|1955|end=died` -> Maria Nys (m. 1919; died 1955). Template:Marriage."""
    name, start, end = parts_of(arguments)
    if not start:
        return name
    if not end:
        return f"{name} (m. {start})"

    written = arguments.get("end", arguments.get("reason", ""))
    reason = MARRIAGE_ENDS.get(written.strip().lower().rstrip("."))
    if reason:
        return f"{name} (m. {start}; {reason} {end})"
    return f"{name} (m. {start}–{end})"


DATES: dict[str, Twin] = {
    "date": date,
    "birth_date_and_age": date,
    "film_date": film_date,
    "date_sorting": date_sorting,
    "as_of": as_of,
    "circa": circa,
    "floruit": floruit,
    "born": born,
    "died": died,
    "reign": reign,
    "century": century,
    "age": age,
    "age_in_days": age_in_days,
    "age_in_years_and_days": age_in_years_and_days,
    "age_in_years_months_days": age_in_years_months_days,
    "death_date_and_age": death_date_and_age,
    "death_year_and_age": death_year_and_age,
    "marriage": marriage,
}
