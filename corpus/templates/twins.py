"""Python twins of templates: what a reader sees of those that are written in Lua or too long for a line of a table.

A twin is a function of the arguments of a call ({"1": "180", "2": "km", "abbr": "on"}) and the language of the wiki; it
returns wikitext, or raises ValueError when the call does not say what a reader sees (an age today, an inflated price):
then the sentence has a hole. A table of templates calls them: {{#python:convert|abbr=on}}.

    twins_convert.py      measures and their conversion; convert_call.py, units.py, units.txt
    twins_numbers.py      numbers, fractions, money
    twins_dates.py        dates, ages
    twins_languages.py    words of other languages, pronunciation
    twins_names.py        ships, elements, places, lists, quotations
    twins_arguments.py    how all of them read their arguments
"""

from corpus.templates.twins_arguments import Twin
from corpus.templates.twins_convert import convert, cvt
from corpus.templates.twins_dates import DATES
from corpus.templates.twins_languages import LANGUAGES
from corpus.templates.twins_names import NAMES
from corpus.templates.twins_numbers import NUMBERS

MEASURES: dict[str, Twin] = {"convert": convert, "cvt": cvt}
TWINS = MEASURES | NUMBERS | DATES | LANGUAGES | NAMES

# Functions of Lua modules, which templates of many wikis call under names of their own: {{#invoke:Convert|convert}}.
MODULES = {
    "convert/convert": "convert",
    "val/main": "val",
    "coordinates/coord": "coord",
    "zh/zh": "zh",
    "lang/lang": "native",
    "lang/langx": "langx",
    "lang/transl": "native",
    "nihongo/nihongo": "nihongo",
    "nihongo/nihongo3": "nihongo3",
    "ordinal/ordinal": "ordinal",
    "date table sorting/main": "date_sorting",
    "list/horizontal": "hlist",
    "list/unbulleted": "unbulleted_list",
    "list/bulleted": "unbulleted_list",
    "list/ordered": "ordered_list",
    "wpships utilities/ship": "ship",
    "wpships utilities/sclass": "ship_class",
}
for function, twin in MODULES.items():
    TWINS[function] = TWINS[twin]
