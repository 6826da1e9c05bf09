"""The objects of a JSON file one after the other, without the whole file in memory.

A file may be one array, `[{...}, {...}]`, or objects that follow each other, on a line each (jsonl) or on several.
"""

import json
import re
from collections.abc import Iterator
from typing import Any, TextIO

READ_CHARS = 1 << 20
SMALL_READ = 1 << 12  # what a damaged place can cost of the text before it
BLANKS = re.compile(r"[ \t\r\n]*")
DECODER = json.JSONDecoder()
# An error so close to the end of what was read may only mean that a word such as `Infinity` goes on behind it.
LONGEST_WORD = 16
WANTED = 'an array of objects is wanted, [{"text": "..."}, ...]'


class Reader:
    """A file of JSON, of which only the value that is being read is in memory."""

    def __init__(self, file: TextIO):
        self.file = file
        self.text = ""  # what was read of the file and not yet forgotten
        self.position = 0  # in `text`: what comes before is done with
        self.failure: OSError | None = None  # why nothing can be read behind `text`

    def read_more(self) -> bool:
        """Forget what is done with, read on, and return whether there was more.

        As much as waits is read, so that a long object, tried again after each reading, is tried a few times only.
        Raises OSError where the file is damaged, after what comes before was given.
        """
        if self.failure is not None:
            raise self.failure

        waiting = self.text[self.position :]
        wanted = max(READ_CHARS, len(waiting))
        chunks: list[str] = []
        try:
            while wanted > 0:
                chunk = self.file.read(min(wanted, SMALL_READ))
                if not chunk:
                    break
                chunks.append(chunk)
                wanted -= len(chunk)
        except OSError as error:
            if not chunks:
                raise
            self.failure = error
        self.text = waiting + "".join(chunks)
        self.position = 0
        return bool(chunks)

    def next_character(self) -> str:
        """The next character that is not blank; "" at the end of the file."""
        while True:
            self.position = BLANKS.match(self.text, self.position).end()
            if self.position < len(self.text):
                return self.text[self.position]
            if not self.read_more():
                return ""

    def skip(self, character: str) -> bool:
        """Whether the next character is this one; if it is, go behind it."""
        if self.next_character() != character:
            return False
        self.position += 1
        return True

    def read_object(self) -> tuple[str, dict[str, Any]]:
        """The next object, as it is written and as a dict. Raises ValueError, or EOFError where the file is cut off."""
        character = self.next_character()
        if not character:
            raise EOFError("the file ends where an object is wanted")
        if character != "{":
            raise ValueError(f"{self.text[self.position : self.position + 20]!r} is no object; {WANTED}")
        while True:
            try:
                fields, end = DECODER.raw_decode(self.text, self.position)
            except json.JSONDecodeError as error:
                may_go_on = error.msg.startswith("Unterminated") or error.pos > len(self.text) - LONGEST_WORD
                if not may_go_on:
                    raise ValueError(f"{error.msg} before {self.text[error.pos : error.pos + 20]!r}") from None
                if not self.read_more():
                    raise EOFError("the file ends inside an object") from None
            else:
                written = self.text[self.position : end]
                self.position = end
                return written, fields


def read_objects(file: TextIO) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield each object of a JSON file, as it is written and as a dict.

    Raises ValueError for what is no JSON of this form, EOFError where the file is cut off.
    """
    reader = Reader(file)
    if not reader.skip("["):
        while reader.next_character():
            yield reader.read_object()
        return

    if not reader.skip("]"):
        yield reader.read_object()
        while reader.skip(","):
            yield reader.read_object()
        if not reader.skip("]"):
            found = reader.next_character()
            if not found:
                raise EOFError("the file ends inside its array")
            raise ValueError(f"{found!r} stands where ',' or ']' is wanted")
    if reader.next_character():
        raise ValueError("there is text behind the array")
