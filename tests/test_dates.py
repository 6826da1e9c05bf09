"""#time: dates are read as PHP reads them and written as MediaWiki does."""

import datetime

import pytest
from conftest import examples
from hypothesis import given
from hypothesis import strategies as st

from corpus.templates.dates import DateError, time_text

TODAY = datetime.date(2024, 2, 29)


@pytest.mark.parametrize(
    "text",
    [
        "2020-03-01",
        "2020-3-1",
        "2020/03/01",
        "3/1/2020",
        "1.3.2020",
        "20200301",
        "20200301000000",
        "1 March 2020",
        "1st mar. 2020",
        "March 1, 2020",
        "mar 1st 2020",
        "2020 March 1",
        "Sunday, 1 March 2020",
        "2020-03",
        "March 2020",
        "2020-02-30",
        "00:00, 1 March 2020",
        "1 March 2020 12:00 am",
        "2020-03-01T00:00:00Z",
        "29 February 2020 + 1 day",
        "2020-03-31 -1 month -1 day",
        "2 weeks ago 2020-03-15",
        "15 March 2020 2 weeks ago",
        "1 March 2021 -1 year",
    ],
)
def test_the_first_of_march_2020(text):
    assert time_text("Y-m-d H:i:s", text, "en", None) == "2020-03-01 00:00:00"


@pytest.mark.parametrize(
    ("form", "expected"),
    [
        ("d j D l N w z", "03 3 Tue Tuesday 2 2 33"),
        ("W n m M F t L", "06 2 02 Feb February 28 0"),
        ("Y y o", "2015 15 2015"),
        ("a A g h G H i s", "pm PM 3 03 15 15 04 05"),
        ('"Y" \\Y Y, jS', "Y Y 2015, 3rd"),
        ("U c", "1422975845 2015-02-03T15:04:05+00:00"),
        ("r", "Tue, 03 Feb 2015 15:04:05 +0000"),
        ("xx xnY xkY", "x 2015 2558"),
    ],
)
def test_forms(form, expected):
    assert time_text(form, "2015-02-03 15:04:05", "en", None) == expected


@pytest.mark.parametrize(
    ("language", "form", "expected"),
    [
        ("de", "j. F Y, l", "3. Februar 2015, Dienstag"),
        ("pl", "F; j xg", "luty; 3 lutego"),
        ("ja", "Y年n月j日", "2015年2月3日"),
        ("fa", "Y xnY", "۲۰۱۵ 2015"),
        ("xx", "F", "February"),
    ],
)
def test_languages(language, form, expected):
    assert time_text(form, "2015-02-03", language, None) == expected


def test_what_a_date_leaves_open_is_not_said():
    """A year, a month, or nothing: the rest is today's, and today is known only of a dump with a date."""
    assert time_text("Y", "1999", "en", None) == "1999"
    assert time_text("F", "1999", "en", None) is None
    assert time_text("j F", "5 May", "en", None) == "5 May"
    assert time_text("l", "5 May", "en", None) is None
    assert time_text("F", "May", "en", None) == "May"
    assert time_text("Y", "May", "en", None) is None
    assert time_text("Y", "", "en", None) is None
    assert time_text("H:i", "now 10:30", "en", None) == "10:30"

    assert time_text("j F", "2000", "en", TODAY) == "29 February"
    assert time_text("j F", "1999", "en", TODAY) == "1 March"  # its 29 February
    assert time_text("Y-m-d", "", "en", TODAY) == "2024-02-29"
    assert time_text("Y-m-d", "tomorrow", "en", TODAY) == "2024-03-01"
    assert time_text("Y-m-d", "-1 year", "en", TODAY) == "2023-03-01"
    assert time_text("Y", "5 May", "en", TODAY) == "2024"


def test_what_is_no_date():
    for text in ["unknown", "circa 1850", "май 1990", "2020-13-01", "1 May 2020 99:00", "9999-12-31 + 1 day"]:
        with pytest.raises(DateError):
            time_text("Y", text, "en", None)
    for text in ["c. 1850", "10:00 Europe/Paris 2011-01-01", "last monday", "1850s", "9" * 50]:
        assert time_text("Y", text, "en", None) is None, text
    assert time_text("Y" * 1000, "2020-01-01", "en", None) is None
    assert time_text("xjY", "2020-01-01", "en", None) is None  # another calendar


@examples(300)
@given(st.datetimes(datetime.datetime(1, 1, 1)), st.sampled_from(["Y-m-d", "j F Y", "F j, Y", "D, d M Y", "Ymd"]))
def test_what_is_written_is_read_again(moment, form):
    date = moment.date().isoformat()
    written = time_text(form, date, "en", None)
    assert time_text("Y-m-d", written, "en", None) == date
