"""The arguments of a call as the Python twins of templates read them: {"1": "180", "2": "km", "abbr": "on"}."""

from collections.abc import Callable

Arguments = dict[str, str]  # by name; those without a name are "1", "2" ...
Twin = Callable[[Arguments, str], str]  # (arguments, language of the wiki) -> wikitext

ENGLISH = ("en", "simple")  # the wikis whose words are English


def text_of(arguments: Arguments, name: str) -> str:
    """An argument without spaces around it; "" where the call has none: {"1": " 180 "}, "1" -> "180"."""
    return arguments.get(name, "").strip()


def texts_of(arguments: Arguments, *names: str) -> list[str]:
    """Several arguments: {"1": "USS", "3": "CVN-68"}, "1", "2", "3" -> ["USS", "", "CVN-68"]."""
    return [text_of(arguments, name) for name in names]


def first_of(arguments: Arguments, *names: str) -> str:
    """The first of these arguments that is not empty; "" when all are."""
    for name in names:
        text = text_of(arguments, name)
        if text:
            return text
    return ""


def unnamed(arguments: Arguments, most: int = 60) -> list[str]:
    """The unnamed arguments that are not empty, in their order: {"1": "one", "3": "two"} -> ["one", "two"]."""
    texts: list[str] = []
    for place in range(1, most + 1):
        text = text_of(arguments, str(place))
        if text:
            texts.append(text)
    return texts


def only_english(language: str) -> None:
    """Raise ValueError for a template with English words in a wiki of another language: what it shows is not known."""
    if language not in ENGLISH:
        raise ValueError(f"the words of this template are not known in {language!r}")
