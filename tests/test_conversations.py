"""Rows of instruction data become conversations, or are dropped for a reason with a name."""

import json

import pytest

from corpus.conversations import CHAT_FORMATS, REASONS, Dropped, is_placeholder, read_conversation

SYSTEM = {"role": "system", "content": "Be brief."}
USER = {"role": "user", "content": "2 + 2?"}
ANSWER = {"role": "assistant", "content": "4"}
TOOL = {"role": "tool", "content": "4", "tool_call_id": "a1"}
CALL = {"role": "assistant", "content": "", "tool_calls": [{"id": "a1", "function": {"name": "add"}}]}
OWN = [{"from": "human", "value": "2 + 2?"}, {"from": "gpt", "value": "4"}]

ROWS = {  # what is read of each
    "openai": ({"messages": [SYSTEM, USER, ANSWER]}, [SYSTEM, USER, ANSWER]),
    "openai parts": (
        {"messages": [USER | {"content": [{"type": "text", "text": "2 + "}, "2?"]}, ANSWER]},
        [USER, ANSWER],
    ),
    "openai tools": ({"messages": [USER, CALL | {"content": None}, TOOL, ANSWER]}, [USER, CALL, TOOL, ANSWER]),
    "openai as parquet has it": (
        {"messages": [USER | {"name": None, "tool_calls": None}, ANSWER | {"weight": 1}], "instruction": None},
        [USER, ANSWER],
    ),
    "openai as csv has it": ({"messages": json.dumps([USER, ANSWER])}, [USER, ANSWER]),
    "developer": ({"messages": [SYSTEM | {"role": "developer"}, USER, ANSWER]}, [SYSTEM, USER, ANSWER]),
    "sharegpt": ({"id": "x", "conversations": OWN}, [USER, ANSWER]),
    "sharegpt with system": ({"conversations": OWN, "system": "Be brief."}, [SYSTEM, USER, ANSWER]),
    "sharegpt with an empty system": (
        {"conversations": [{"from": "system", "value": ""}, *OWN], "system": ""},
        [USER, ANSWER],
    ),
    "sharegpt with other names": (
        {
            "conversations": [
                {"from": "User", "value": "2 + 2?"},
                {"from": "chatgpt", "value": "I compute."},
                {"from": "observation", "value": "4"},
                {"role": "model", "content": "4"},
            ]
        },
        [USER, {"role": "assistant", "content": "I compute."}, {"role": "tool", "content": "4"}, ANSWER],
    ),
    "alpaca": (
        {"instruction": "Add the numbers.", "input": "2, 2", "output": "4"},
        [{"role": "user", "content": "Add the numbers.\n\n2, 2"}, ANSWER],
    ),
    "alpaca without input": ({"instruction": "2 + 2?", "output": "4"}, [USER, ANSWER]),
    "alpaca with an empty input": ({"instruction": "2 + 2?", "input": " \n", "output": "4"}, [USER, ANSWER]),
    "alpaca that says so": ({"instruction": "2 + 2?", "input": "<noinput>", "output": "4"}, [USER, ANSWER]),
    "alpaca with history": (
        {"instruction": "2 + 2?", "input": "", "output": "4", "system": "Be brief.", "history": [["Hi", "Hello"]]},
        [SYSTEM, {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}, USER, ANSWER],
    ),
}


@pytest.mark.parametrize("name", ROWS)
def test_a_row_is_read_as_messages(name):
    fields, messages = ROWS[name]
    conversation = read_conversation(fields)
    assert conversation.messages == messages
    assert conversation.format == name.split()[0] or name == "developer"


def chat(*messages: dict) -> dict:
    return {"messages": list(messages)}


DROPPED = [  # reason, a word of the detail, row
    ("unknown_format", "keys: id, text", {"id": 1, "text": "2 + 2?", "messages": None}),
    ("unknown_format", "keys: none", {}),
    ("preference_pair", "", {"conversations": OWN[:1], "chosen": OWN[1], "rejected": OWN[1]}),
    ("broken_message", "not an object", {"messages": ["2 + 2?", "4"]}),
    ("broken_message", "no role", chat({"content": "2 + 2?"}, ANSWER)),
    ("broken_message", "not a list", {"messages": {"user": "2 + 2?"}}),
    ("broken_message", "no JSON", {"messages": "2 + 2? 4"}),
    ("broken_message", "type image_url", chat(USER | {"content": [{"type": "image_url", "image_url": "x"}]}, ANSWER)),
    ("broken_message", "weight=0", chat(USER, ANSWER | {"weight": 0})),
    ("broken_message", "int", {"instruction": "2 + 2?", "output": 4}),
    ("broken_message", "history", {"instruction": "2 + 2?", "output": "4", "history": ["Hi", "Hello"]}),
    ("broken_message", "tools", chat(USER, ANSWER) | {"tools": "add(a, b)"}),
    ("unknown_role", "'critic'", chat(USER, ANSWER, {"role": "critic", "content": "Well done."})),
    ("no_answer", "roles: system, user", chat(SYSTEM, USER)),
    ("no_answer", "roles: none", chat()),
    ("wrong_order", "assistant first", chat(ANSWER, USER, ANSWER)),
    ("wrong_order", "assistant after system", chat(SYSTEM, ANSWER)),
    ("wrong_order", "user after user", chat(USER, USER, ANSWER)),
    ("wrong_order", "assistant after assistant", chat(USER, ANSWER, ANSWER)),
    ("wrong_order", "system after assistant", chat(USER, ANSWER, SYSTEM, USER, ANSWER)),
    ("wrong_order", "tool after user", chat(USER, TOOL, ANSWER)),
    ("unanswered", "user", chat(USER, ANSWER, USER)),
    ("unanswered", "tool", chat(USER, CALL, TOOL)),
    ("empty_prompt", "message 0", {"instruction": " ", "input": "", "output": "4"}),
    ("empty_prompt", "message 2", chat(USER, ANSWER, USER | {"content": "\u200e\n".strip("\u200e")}, ANSWER)),
    ("empty_answer", "message 1", chat(USER, ANSWER | {"content": None})),
    ("empty_answer", "message 1", {"instruction": "Draw a logo.", "input": "", "output": "&lt;No output&gt;"}),
]


@pytest.mark.parametrize("reason, detail, fields", DROPPED)
def test_a_row_that_is_no_conversation_is_dropped_by_name(reason, detail, fields):
    with pytest.raises(Dropped) as dropped:
        read_conversation(fields)
    assert dropped.value.reason == reason and reason in REASONS
    assert detail in dropped.value.detail


def test_answers_keep_their_inner_form_and_lose_what_no_tokenizer_should_see():
    """Code keeps its blank lines and indents; \\r, control characters and blanks around the text go."""
    given = "\ufeff \r\nimport os\r\n\r\n\r\ndef f():  \n\treturn 'cafe\u0301\x00'\ud800\n\n"
    conversation = read_conversation(chat(USER, ANSWER | {"content": given}))
    assert conversation.messages[1]["content"] == "import os\n\n\ndef f():  \n\treturn 'caf\u00e9'?"


@pytest.mark.parametrize("text", ["<noinput>", '"<noinput>"', "No input.", "noinput", "&lt;无输入&gt;", "没有输入。"])
def test_words_that_stand_for_nothing(text):
    assert is_placeholder(text)
    assert not is_placeholder(f"{text} of the user")


def test_conversations_are_compared_without_their_system_message():
    conversation = read_conversation(chat(SYSTEM, USER, CALL, TOOL, ANSWER))
    assert "Be brief" not in conversation.text()
    assert conversation.text().startswith("2 + 2?\n\n[{") and '"add"' in conversation.text()


def test_of_several_formats_that_fit_the_first_counts():
    both = {"messages": [USER, ANSWER], "instruction": "Another", "output": "one"}
    assert read_conversation(both).format == next(iter(CHAT_FORMATS)) == "openai"


def test_tools_are_read_from_a_list_or_from_json():
    tools = [{"type": "function", "function": {"name": "add"}}]
    for spelled in (tools, json.dumps(tools)):
        assert read_conversation(chat(USER, ANSWER) | {"tools": spelled}).tools == tools
    for none in ([], "", "[]", None):
        assert read_conversation(chat(USER, ANSWER) | {"tools": none}).tools == []
