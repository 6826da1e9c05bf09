"""serve.py by OpenAI's own client, by hostile ones, by those that leave, and its end."""

import contextlib
import json
import re
import signal
import socket
import subprocess
import sys
import threading
import time

import httpx
import openai
import pytest
from conftest import PYTHON, REPO
from served import serving, slow_down, tiny_folder
from tokenizer_kinds import made

import configurator
import sample
import serve
from benchmarks import soak_serve
from serve import ServeConfig
from serving.answers import token_bytes
from tokenizer import Tokenizer

QUESTION = [{"role": "user", "content": "What is a llama?"}]
LONG = 1500  # tokens of answers that are to last: seconds, however fast the machine is


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_folder(tmp_path_factory.mktemp("serve") / "tiny")


@pytest.fixture(scope="module")
def running(folder):
    with serving(folder, context=512) as running:
        yield running


@pytest.fixture
def client(running):
    with openai.OpenAI(base_url=f"{running.address}/v1", api_key="none", max_retries=0) as client:
        yield client


@pytest.fixture
def plain(running):
    with httpx.Client(base_url=running.address, timeout=60) as plain:
        yield plain


def ask(client, messages=QUESTION, **options):
    """A chat's answer, greedy and short unless told otherwise."""
    return client.chat.completions.create(
        **{"model": "tiny", "messages": messages, "temperature": 0, "max_tokens": 20, **options}
    )


def streamed(chunks) -> str:
    return "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)


# --- what OpenAI's client gets ---


def test_an_answer_is_that_of_the_model(client, running, folder):
    """Reference: sample.generate with the ids of the chat template."""
    answer = ask(client)
    served = running.state.served
    prompt = served.template.encode(QUESTION, generation_prompt=True)
    engine = running.state.engine
    steps = sample.generate(
        engine.model, [prompt], 20, served.tokenizer.vocab_size, served.template.stop_ids, temperature=0
    )
    expected = [token for (token,) in steps]

    (choice,) = answer.choices
    assert choice.message.content == served.tokenizer.decode(expected)
    assert choice.message.role == "assistant"
    assert choice.finish_reason == "length"
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (len(prompt), 20)
    assert answer.usage.total_tokens == len(prompt) + 20
    assert answer.object == "chat.completion" and answer.model == "tiny"


def test_a_stream_is_the_same_in_pieces(client):
    whole = ask(client)
    chunks = list(ask(client, stream=True, stream_options={"include_usage": True}))
    assert streamed(chunks) == whole.choices[0].message.content
    assert sum(1 for chunk in chunks if chunk.choices and chunk.choices[0].delta.content) > 5
    assert chunks[0].choices[0].delta.role == "assistant"
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] == "length"
    assert chunks[-1].choices == [] and chunks[-1].usage.completion_tokens == 20
    assert {chunk.id for chunk in chunks} == {chunks[0].id} and chunks[0].object == "chat.completion.chunk"


def test_a_stream_ends_with_done(plain):
    body = {"prompt": "the ", "stream": True, "max_tokens": 3}
    response = plain.post("/v1/completions", json=body)
    assert response.headers["content-type"].startswith("text/event-stream")
    assert response.text.endswith("data: [DONE]\n\n")
    assert "usage" not in response.text


def test_stop_strings_end_an_answer(client):
    text = ask(client, max_tokens=60).choices[0].message.content
    stop = text[12:14]
    for options in ({"stop": stop}, {"stop": ["never there", stop]}):
        found = ask(client, max_tokens=60, **options)
        assert found.choices[0].message.content == text[: text.index(stop)]
        assert found.choices[0].finish_reason == "stop"
        assert streamed(ask(client, max_tokens=60, stream=True, **options)) == text[: text.index(stop)]


def test_a_seed_repeats_a_text_and_other_seeds_give_others(client):
    def texts(**options):
        answer = ask(client, temperature=1.2, **options)
        return [choice.message.content for choice in sorted(answer.choices, key=lambda choice: choice.index)]

    first = texts(seed=5)
    assert texts(seed=5) == first != texts(seed=6)
    several = texts(seed=5, n=3)
    assert several[0] == first[0]
    assert len(set(several)) == 3
    assert texts() != texts()


def test_n_answers_come_in_one_stream(client):
    texts = {0: "", 1: "", 2: ""}
    for chunk in ask(client, temperature=1.2, seed=5, n=3, stream=True):
        texts[chunk.choices[0].index] += chunk.choices[0].delta.content or ""
    answer = ask(client, temperature=1.2, seed=5, n=3)
    assert texts == {choice.index: choice.message.content for choice in answer.choices}


def test_logprobs_of_a_chat(client):
    answer = ask(client, logprobs=True, top_logprobs=3, max_tokens=10)
    (choice,) = answer.choices
    content = choice.logprobs.content
    assert len(content) == 10
    assert b"".join(bytes(token.bytes) for token in content).decode(errors="replace") == choice.message.content
    for token in content:  # greedy: each is the likeliest
        assert token.logprob == token.top_logprobs[0].logprob >= token.top_logprobs[2].logprob
        assert token.token == token.top_logprobs[0].token
    pieces = ask(client, logprobs=True, top_logprobs=3, max_tokens=10, stream=True)
    found = [token for chunk in pieces if chunk.choices[0].logprobs for token in chunk.choices[0].logprobs.content]
    assert found == content


def test_completions_take_texts_and_ids(client, running):
    tokenizer = running.state.served.tokenizer
    options = {"model": "tiny", "max_tokens": 12, "temperature": 0, "logprobs": 2}
    ids = tokenizer.encode_prompt("the king")
    one = client.completions.create(prompt="the king", **options)
    assert client.completions.create(prompt=ids, **options).choices == one.choices
    both = client.completions.create(prompt=["a ", "the king"], n=2, **options)
    assert [choice.index for choice in both.choices] == [0, 1, 2, 3]
    assert both.choices[2].text == both.choices[3].text == one.choices[0].text != both.choices[0].text
    assert both.usage.prompt_tokens == len(tokenizer.encode_prompt("a ")) + len(ids)

    logprobs = one.choices[0].logprobs
    assert "".join(logprobs.tokens) == one.choices[0].text
    assert logprobs.text_offset == [sum(map(len, logprobs.tokens[:i])) for i in range(12)]
    assert all(len(best) == 2 for best in logprobs.top_logprobs)
    chunks = list(client.completions.create(prompt="the king", stream=True, **options))
    offsets = [
        offset for chunk in chunks if chunk.choices[0].logprobs for offset in chunk.choices[0].logprobs.text_offset
    ]
    assert offsets == logprobs.text_offset


def test_characters_of_several_tokens_are_never_cut(tmp_path):
    """Tokens are bytes here, and the model writes any of them: pieces and the whole are decoded as one."""
    folder = tiny_folder(tmp_path / "bytes", kind="ours")
    with serving(folder) as running, openai.OpenAI(base_url=f"{running.address}/v1", api_key="x") as client:
        options = {"model": "bytes", "prompt": "é", "max_tokens": 60, "seed": 1, "temperature": 2.0, "logprobs": 0}
        whole = client.completions.create(**options)
        pieces = client.completions.create(stream=True, **options)
        assert "".join(piece.choices[0].text for piece in pieces) == whole.choices[0].text
        assert "\ufffd" in whole.choices[0].text


def test_parts_of_type_text_are_one_text(client):
    parts = [{"type": "text", "text": "What is "}, {"type": "text", "text": "a llama?"}]
    assert ask(client, [{"role": "user", "content": parts}]).choices == ask(client).choices


def test_the_model_is_listed(client):
    (model,) = client.models.list().data
    assert model.id == "tiny" and model.chat and model.context == 512
    assert client.models.retrieve("tiny").id == "tiny"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("gpt-4o")


def test_errors_are_those_that_the_client_knows(client):
    with pytest.raises(openai.NotFoundError, match="tiny"):
        ask(client, model="gpt-4o")
    with pytest.raises(openai.BadRequestError, match="temperature") as raised:
        ask(client, temperature=9)
    assert raised.value.param == "temperature"
    with pytest.raises(openai.BadRequestError, match="did you mean 'temperature'") as raised:
        ask(client, extra_body={"temprature": 1})
    with pytest.raises(openai.BadRequestError, match="context 512") as raised:
        ask(client, [{"role": "user", "content": "x " * 600}])
    assert raised.value.code == "context_length_exceeded"
    with pytest.raises(openai.BadRequestError, match="tools"):
        ask(client, tools=[{"type": "function", "function": {"name": "f"}}])


def test_neutral_values_of_what_is_not_served_are_taken(client):
    options = {"tools": [], "tool_choice": "none", "response_format": {"type": "text"}, "user": "me", "store": False}
    assert ask(client, **options, extra_body={"reasoning_effort": None}).choices == ask(client).choices


def test_a_model_without_template_says_what_to_do(tmp_path):
    folder = tiny_folder(tmp_path / "base", with_template=False)
    with serving(folder) as running, openai.OpenAI(base_url=f"{running.address}/v1", api_key="x") as client:
        with pytest.raises(openai.BadRequestError, match="/v1/completions") as raised:
            ask(client, model="base")
        assert raised.value.code == "no_chat_template"
        assert client.completions.create(model="base", prompt="the ", max_tokens=4).usage.completion_tokens == 4
        assert not client.models.list().data[0].chat


def test_many_clients_at_once_get_what_each_gets_alone(client, running):
    """Twelve threads on four rows, half of them streams."""
    alone = [
        ask(client, [{"role": "user", "content": f"Say {i}."}], max_tokens=30).choices[0].message.content
        for i in range(12)
    ]
    found = [""] * 12

    def one(i):
        answer = ask(client, [{"role": "user", "content": f"Say {i}."}], max_tokens=30, stream=i % 2 == 0)
        found[i] = streamed(answer) if i % 2 == 0 else answer.choices[0].message.content

    threads = [threading.Thread(target=one, args=(i,)) for i in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == alone


# --- hostile requests ---

VALID = {"model": "tiny", "messages": QUESTION, "max_tokens": 2}


def body(**fields) -> bytes:
    return json.dumps({**VALID, **fields}).encode()


def nested(depth: int) -> bytes:
    return b'{"messages":' + b"[" * depth + b"]" * depth + b"}"


HOSTILE = {
    "no JSON": (400, b"{messages"),
    "empty body": (400, b""),
    "an array": (400, b"[]"),
    "null": (400, b"null"),
    "not UTF-8": (400, b'{"model": "\xff\xfe"}'),
    "a null byte": (400, b'{"model": "tiny"\x00}'),
    "deep nesting": (400, nested(100_000)),
    "nesting that can be read": (400, nested(200)),
    "NaN": (400, body(temperature=float("nan"))),
    "Infinity": (400, body(top_p=float("inf"))),
    "a number beyond float": (400, b'{"messages":[{"role":"user","content":"x"}],"temperature":1e999}'),
    "an integer of 5000 digits": (400, b'{"seed":' + b"9" * 5000 + b"}"),
    "an integer beyond 64 bits": (400, body(seed=2**70)),
    "max_tokens negative": (400, body(max_tokens=-1)),
    "max_tokens zero": (400, body(max_tokens=0)),
    "max_tokens huge": (400, body(max_tokens=10**30)),
    "max_tokens a string": (400, body(max_tokens="9")),
    "max_tokens a boolean": (400, body(max_tokens=True)),
    "temperature negative": (400, body(temperature=-0.1)),
    "temperature an object": (400, body(temperature={})),
    "top_p above one": (400, body(top_p=1.1)),
    "n zero": (400, body(n=0)),
    "n huge": (400, body(n=10**6)),
    "stream a string": (400, body(stream="yes")),
    "stream_options without stream": (400, body(stream_options={"include_usage": True})),
    "stop an empty string": (400, body(stop="")),
    "stop too long": (400, body(stop="x" * 10_000)),
    "stop too many": (400, body(stop=["x"] * 1000)),
    "stop a number": (400, body(stop=[1])),
    "no messages": (400, b'{"model":"tiny"}'),
    "messages empty": (400, body(messages=[])),
    "messages a string": (400, body(messages="hi")),
    "a message that is null": (400, body(messages=[None])),
    "a role that is unknown": (400, body(messages=[{"role": "root", "content": "x"}])),
    "a role that is a list": (400, body(messages=[{"role": [], "content": "x"}])),
    "content missing": (400, body(messages=[{"role": "user"}])),
    "content a number": (400, body(messages=[{"role": "user", "content": 7}])),
    "content an image": (400, body(messages=[{"role": "user", "content": [{"type": "image_url"}]}])),
    "half a surrogate pair": (400, body(messages=[{"role": "user", "content": "\ud83d"}])),
    "a tool's message": (400, body(messages=[{"role": "tool", "content": "x"}])),
    "an unknown field": (400, body(__class__="x")),
    "logit_bias of no token": (400, body(logit_bias={"-1": 1})),
    "logit_bias too large": (400, body(logit_bias={"5": 1000})),
    "top_logprobs too many": (400, body(logprobs=True, top_logprobs=21)),
    "another model": (404, body(model="../../etc/passwd")),
    "too long for the context": (400, body(messages=[{"role": "user", "content": "x" * 5000}])),
    "too large": (413, body(user="x" * (1 << 20))),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_bodies_get_a_proper_error(name, plain):
    status, content = HOSTILE[name]
    response = plain.post("/v1/chat/completions", content=content, headers={"content-type": "application/json"})
    assert response.status_code == status, response.text
    error = response.json()["error"]
    assert error["message"] and error["type"] and len(response.content) < 1000
    assert plain.post("/v1/chat/completions", json=VALID).status_code == 200  # the server lives


def test_a_body_in_chunks_has_the_same_limit(plain):
    """It does not say how long it is."""
    content = iter([b'{"user": "'] + [b"x" * 65536] * 17)
    response = plain.post("/v1/completions", content=content, headers={"content-type": "application/json"})
    assert response.status_code == 413


COMPLETIONS = {
    "an id beyond the vocabulary": {"prompt": [10**9]},
    "an id below zero": {"prompt": [-1]},
    "an id that is a boolean": {"prompt": [True, False]},
    "prompts of both kinds": {"prompt": ["x", 5]},
    "no prompts": {"prompt": []},
    "an empty list of ids": {"prompt": [[]]},
    "an object": {"prompt": {"a": 1}},
    "echo": {"prompt": "x", "echo": True},
    "best_of": {"prompt": "x", "best_of": 5},
    "suffix": {"prompt": "x", "suffix": "y"},
    "a chat's field": {"prompt": "x", "messages": QUESTION},
    "too many answers": {"prompt": ["x"] * 10, "n": 10},
}


@pytest.mark.parametrize("name", COMPLETIONS)
def test_hostile_completions_get_a_proper_error(name, plain):
    response = plain.post("/v1/completions", json=COMPLETIONS[name])
    assert response.status_code == 400, response.text
    assert response.json()["error"]["message"]


REQUESTS = {
    "another method": (405, "GET", "/v1/chat/completions", {}),
    "a method of its own": (405, "BREW", "/v1/models", {}),
    "no such path": (404, "GET", "/v2", {}),
    "up and out": (404, "GET", "/../../../../etc/passwd", {}),
    "up and out, escaped": (404, "GET", "/%2e%2e/%2e%2e/etc/passwd", {}),
    "up and out of the page's folder": (404, "GET", "/page.css/../../../serve.py", {}),
    "a null byte in the path": (404, "GET", "/page.css%00.txt", {}),
    "a name of a file": (404, "GET", "/v1/models/..%2f..%2fserve.py", {}),
    "no content type": (415, "POST", "/v1/chat/completions", {}),
    "a form, as pages of other sites may send": (415, "POST", "/v1/chat/completions", {"content-type": "text/plain"}),
    "another host": (403, "GET", "/v1/models", {"host": "evil.example"}),
    "a page of another site": (403, "GET", "/v1/models", {"origin": "https://evil.example"}),
    "a page of nowhere": (403, "GET", "/v1/models", {"origin": "null"}),
}


@pytest.mark.parametrize("name", REQUESTS)
def test_hostile_requests_get_a_proper_error(name, running):
    """By a socket, for a client would tidy the path."""
    status, method, path, headers = REQUESTS[name]
    headers = {"host": f"127.0.0.1:{running.port}", **headers, "connection": "close"}
    head = f"{method} {path} HTTP/1.1\r\n" + "".join(f"{key}: {value}\r\n" for key, value in headers.items())
    found = talk(running.port, f"{head}content-length: 2\r\n\r\n{{}}".encode())
    assert found.startswith(f"HTTP/1.1 {status} ".encode()), found
    assert b'"error"' in found


def talk(port: int, data: bytes, timeout: float = 30) -> bytes:
    """What the server answers until it closes the connection."""
    with socket.create_connection(("127.0.0.1", port), timeout=timeout) as connection:
        connection.sendall(data)
        answer = b""
        while chunk := connection.recv(65536):
            answer += chunk
        return answer


RAW = {
    "no HTTP": b"\x16\x03\x01 hello\r\n\r\n",
    "a chunk that lies about its length": (
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
        b"transfer-encoding: chunked\r\n\r\n5\r\n{}\r\nzz\r\n\r\n"
    ),
    "two lengths": b"POST / HTTP/1.1\r\nhost: localhost\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\n{}",
    "a length below zero": b"POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ncontent-length: -5\r\n\r\n",
    "a head without an end": b"GET / HTTP/1.1\r\nhost: localhost\r\nx: " + b"a" * 200_000,
    "no host": b"GET /v1/models HTTP/1.1\r\n\r\n",
}


@pytest.mark.parametrize("name", RAW)
def test_what_is_no_http_is_refused(name, running, plain):
    found = b""
    with contextlib.suppress(ConnectionError):  # closed while we were still sending
        found = talk(running.port, RAW[name])
        assert found.startswith(b"HTTP/1.1 4"), found
    assert plain.get("/health").status_code == 200


def test_clients_that_say_nothing_are_given_up(folder):
    """Nothing at all; a head that comes byte by byte; half a body; half a second request."""
    with serving(folder, patience_s=0.5) as running:
        assert talk(running.port, b"") == b""
        head = (
            b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
            b"content-length: 100\r\n\r\n"
        )
        assert talk(running.port, head + b'{"mess').startswith(b"HTTP/1.1 408 ")
        half = b"GET /health HTTP/1.1\r\nhost: localhost\r\n\r\nGET /health HT"
        assert talk(running.port, half).count(b"HTTP/1.1 ") == 1

        with socket.create_connection(("127.0.0.1", running.port), timeout=30) as slow:
            with pytest.raises(ConnectionError):
                for byte in b"GET / HTTP/1.1\r\nx: " + b"a" * 10_000:
                    slow.sendall(bytes([byte]))
                    time.sleep(0.05)


# --- keys and other sites ---


def test_a_key_is_asked_for(folder):
    with serving(folder, api_key="secret") as running:
        with openai.OpenAI(base_url=f"{running.address}/v1", api_key="secret") as client:
            assert ask(client).choices
        with openai.OpenAI(base_url=f"{running.address}/v1", api_key="wrong", max_retries=0) as client:
            with pytest.raises(openai.AuthenticationError):
                ask(client)
        for path, status in {"/": 200, "/health": 200, "/page.js": 200, "/metrics": 401, "/v1/models": 401}.items():
            assert httpx.get(running.address + path).status_code == status
        odd = {"authorization": "Bearer s\u00e9cret".encode()}
        assert httpx.get(running.address + "/v1/models", headers=odd).status_code == 401
        assert httpx.get(running.address + "/v1/models", headers={"authorization": "Basic secret"}).status_code == 401


def test_other_sites_are_let_in_by_name_only(folder):
    with serving(folder, cors="https://a.example", hosts="box.example") as running:
        url = f"{running.address}/v1/models"
        allowed = httpx.get(url, headers={"origin": "https://a.example"})
        assert allowed.headers["access-control-allow-origin"] == "https://a.example"
        assert httpx.get(url, headers={"origin": "https://b.example"}).status_code == 403
        ask_first = {"origin": "https://a.example", "access-control-request-method": "POST"}
        assert httpx.options(url, headers={**ask_first, "access-control-request-headers": "content-type"}).is_success
        assert httpx.get(url, headers={"host": f"box.example:{running.port}"}).is_success
        assert httpx.get(url, headers={"host": "c.example"}).status_code == 403
        assert httpx.get(url, headers={"origin": running.address}).is_success


def test_the_page_may_load_nothing_from_elsewhere(plain):
    page = plain.get("/")
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy and "script-src 'self'" in policy and "unsafe" not in policy
    for path in ("/", "/page.js", "/page.css"):
        assert not re.search(r"\w//|:\s*//", plain.get(path).text)
    assert "innerHTML" not in plain.get("/page.js").text


# --- clients that leave, full queues, the end ---


def start_stream(address: str, client: httpx.Client):
    """A long answer that has begun: (response, its lines)."""
    fields = {"prompt": "the ", "stream": True, "max_tokens": LONG, "temperature": 0}
    request = client.build_request("POST", f"{address}/v1/completions", json=fields)
    response = client.send(request, stream=True)
    lines = response.iter_lines()
    assert next(lines).startswith("data: ")
    return response, lines


def test_who_leaves_frees_a_row(folder, monkeypatch):
    """One row. Each of three clients leaves after its first token, one in a stream and one that waits for the whole."""
    with serving(folder, rows=1, max_new_tokens=LONG) as running, httpx.Client() as client:
        engine = running.state.engine
        slow_down(running, monkeypatch, seconds=0.01)
        for _ in range(2):
            response, _ = start_stream(running.address, client)
            assert engine.running == 1
            response.close()
            running.wait(lambda: engine.running == 0)
        with pytest.raises(httpx.ReadTimeout):
            fields = {"prompt": "the ", "max_tokens": LONG, "temperature": 0}
            httpx.post(f"{running.address}/v1/completions", json=fields, timeout=0.1)
        running.wait(lambda: engine.running == 0)
        assert engine.metrics.gone._value.get() >= 2
        written = engine.metrics.new_tokens._value.get()
        assert written < 3 * LONG


def test_a_full_queue_says_when_to_come_back(folder):
    with serving(folder, rows=1, queue=1) as running, httpx.Client() as client:
        fields = {"prompt": "the ", "max_tokens": 2}
        full = httpx.post(f"{running.address}/v1/completions", json={**fields, "n": 4})
        assert full.status_code == 503
        assert int(full.headers["retry-after"]) > 0
        assert client.post(f"{running.address}/v1/completions", json=fields).is_success


def test_metrics_count(running, plain):
    """Differences over one answer."""

    def figures():
        lines = plain.get("/metrics").text.splitlines()
        return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines if not line.startswith("#")}

    before = figures()
    plain.post("/v1/completions", json={"prompt": "abc", "max_tokens": 7, "temperature": 0})
    after = figures()

    def more(name):
        return after[name] - before.get(name, 0)

    assert more("nonllama_new_tokens_total") == 7
    assert more("nonllama_first_token_seconds_count") == 1
    assert more("nonllama_prompt_tokens_total") == len(running.state.served.tokenizer.encode_prompt("abc"))
    assert more('nonllama_requests_total{path="/v1/completions",status="200"}') == 1
    assert after["nonllama_rows"] == 4 and after["nonllama_rows_used"] == 0


@contextlib.contextmanager
def process(folder):
    """(python serve.py, its address)."""
    command = [PYTHON, "serve.py", f"--checkpoint={folder}", "--port=0", "--device=cpu", f"--max_new_tokens={LONG}"]
    with subprocess.Popen(command, cwd=REPO, stderr=subprocess.PIPE, text=True) as started:
        try:
            lines = []
            for line in started.stderr:
                lines.append(line)
                if line.startswith("listening on "):
                    break
            yield started, lines[-1].split()[2]
        finally:
            started.kill()


@pytest.mark.slow
@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_the_end_waits_for_running_answers(folder, sent):
    with process(folder) as (started, address), httpx.Client(timeout=60) as client:
        response, lines = start_stream(address, client)
        started.send_signal(sent)
        rest = list(lines)
        assert rest[-2] == "data: [DONE]"
        assert sum('"text"' in line for line in rest) > 100
        response.close()
        assert started.wait(60) == 0
        assert "closing: 1 running" in started.stderr.read()


@pytest.mark.slow
def test_a_second_signal_ends_at_once(folder):
    with process(folder) as (started, address), httpx.Client(timeout=60) as client:
        response, _ = start_stream(address, client)
        started.send_signal(signal.SIGINT)
        assert "closing" in next(started.stderr)
        started.send_signal(signal.SIGINT)
        assert started.wait(60) == 130
        response.close()


# --- settings ---


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"rows": 0}, "rows (0) must be at least 1"),
        ({"context": 1}, "context (1) must be at least 2"),
        ({"port": 70000}, "port (70000)"),
        ({"cors": "a.example"}, "an origin is written https://a.example"),
        ({"api_key": " x"}, "the API key must be"),
        ({"patience_s": 0.0}, "patience_s (0.0)"),
        ({"context": 9000}, "is above the model's 8192; lower --context"),
        ({"checkpoint": "nowhere"}, "nowhere"),
    ],
)
def test_settings_that_cannot_work_are_refused(folder, settings, message):
    with pytest.raises(ValueError) as raised:
        serve.load(ServeConfig(**{"checkpoint": str(folder), **settings}))
    assert message in str(raised.value)


def test_a_port_that_is_taken_is_one_line(folder, running, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["serve.py", f"--checkpoint={folder}", f"--port={running.port}"])
    with pytest.raises(SystemExit):
        configurator.run(serve.main, ServeConfig, show=False)
    assert f"--port={running.port} cannot be listened on" in capsys.readouterr().err


def test_an_open_address_without_a_key_is_warned_of(folder, running):
    lines = serve.describe(running.state, ServeConfig(host="0.0.0.0"), "http://0.0.0.0:8000")
    assert "warning: 0.0.0.0 can be reached by others" in lines
    assert "warning" not in serve.describe(running.state, ServeConfig(), running.address)
    assert serve.limits_of(ServeConfig(host="0.0.0.0")).hosts is None
    assert "localhost" in serve.limits_of(ServeConfig()).hosts


@pytest.mark.parametrize("kind", ["ours", "llama2"])
def test_bytes_of_tokens_make_the_text(kind):
    """Byte-level BPE, and SentencePiece with bytes for what it does not know: most of these characters are split."""
    tokenizer = Tokenizer(made(kind))
    text = "x🦙Müße 汉 \u00a0\x01"
    ids = tokenizer.encode(text)
    found = bytes(byte for token in ids for byte in token_bytes(tokenizer, token))
    assert found.decode().replace(" ", "") == text.replace(" ", "")  # a lone SentencePiece token has no space before it


# --- load ---


@pytest.mark.slow
def test_a_soak_finds_nothing(folder):
    """Sixteen clients for some seconds, a quarter of which leave."""
    cfg = soak_serve.SoakConfig(str(folder), minutes=0.1, clients=16, rows=4)
    counts, _, metrics = soak_serve.run(cfg)
    assert counts.complete > 10 and counts.left > 0
    assert counts.different == counts.failed == 0
    assert metrics["nonllama_rows_used"] == metrics["nonllama_waiting"] == 0
