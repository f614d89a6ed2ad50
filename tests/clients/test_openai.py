#!/usr/bin/env python3
"""Drives a live server with the official `openai` client, and with raw sockets where the client is too polite.

Usage: test_openai.py http://127.0.0.1:PORT

The server may run any chat model whose context is shorter than 100000 tokens, and must be otherwise idle. It
knows nothing of how the server was started. The last line is `N passed, N failed, N skipped`; the exit status is
1 if anything failed.
"""

import http.client
import json
import math
import re
import socket
import sys
import time
import traceback
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

try:
    import openai
except ImportError:
    openai = None

TIMEOUT_S = 120
SETTLE_S = 10
QUESTION = [{"role": "user", "content": "Explain in three sentences why the sky is blue."}]
STORY = [{"role": "user", "content": "Write a very long story about a lighthouse keeper and his many visitors."}]


class Skip(Exception):
    """The test does not apply to this server."""


class Server:
    def __init__(self, url):
        parts = urlsplit(url)
        self.host, self.port = parts.hostname, parts.port or 80
        if openai:
            self.client = openai.OpenAI(
                base_url=f"http://{parts.netloc}/v1", api_key="unused", max_retries=0, timeout=TIMEOUT_S
            )
            self.model = self.client.models.list().data[0].id

    def chat(self, messages=QUESTION, **parameters):
        parameters = {"temperature": 0, "max_tokens": 40, **parameters}
        return self.client.chat.completions.create(model=self.model, messages=messages, **parameters)

    def complete(self, prompt, **parameters):
        parameters = {"temperature": 0, "max_tokens": 20, **parameters}
        return self.client.completions.create(model=self.model, prompt=prompt, **parameters)

    def http(self, method, path, body=None, headers=None):
        connection = http.client.HTTPConnection(self.host, self.port, timeout=TIMEOUT_S)
        try:
            connection.request(method, path, body, headers or {})
            response = connection.getresponse()
            return response.status, response.read().decode()
        finally:
            connection.close()

    def post(self, body, path="/v1/chat/completions", content_type="application/json"):
        status, text = self.http("POST", path, body, {"Content-Type": content_type})
        return status, json.loads(text)

    def metric(self, name):
        """The sum over all labels."""
        page = self.http("GET", "/metrics")[1]
        values = re.findall(rf"^{re.escape(name)}(?:{{.*}})? (\S+)$", page, re.M)
        assert values, f"{name} is not in /metrics"
        return sum(map(float, values))

    def settle(self, name, expected):
        """Waits until a metric has a value."""
        deadline = time.monotonic() + SETTLE_S
        while (found := self.metric(name)) != expected:
            assert time.monotonic() < deadline, f"{name} is still {found} after {SETTLE_S} s, expected {expected}"
            time.sleep(0.05)

    def socket(self):
        return socket.create_connection((self.host, self.port), timeout=TIMEOUT_S)


def equal(found, expected):
    assert found == expected, f"expected {expected!r}, found {found!r}"


def text_of(stream):
    """Text and finish reason of a chat stream, after a check of its form."""
    texts, reasons, roles = [], [], []
    for chunk in stream:
        equal(chunk.object, "chat.completion.chunk")
        for choice in chunk.choices:
            texts.append(choice.delta.content or "")
            reasons.append(choice.finish_reason)
            roles.append(choice.delta.role)
    equal(roles[0], "assistant")
    assert all(reason is None for reason in reasons[:-1]), reasons
    return "".join(texts), reasons[-1]


def refused(call, status, param=None, code=None):
    """The message of the error that `call` must raise."""
    try:
        call()
    except openai.APIStatusError as error:
        equal((error.status_code, error.param), (status, param))
        if code:
            equal(error.code, code)
        return error.body["message"]
    raise AssertionError("the server accepted it")


# Answers


def test_models(server):
    models = server.client.models.list().data
    assert server.model in [model.id for model in models]
    equal(server.client.models.retrieve(server.model).id, server.model)
    message = refused(lambda: server.client.models.retrieve("no/such-model"), 404, "model", "model_not_found")
    assert server.model in message, message


def test_chat(server):
    answer = server.chat()
    choice = answer.choices[0]
    equal((answer.object, len(answer.choices), choice.message.role), ("chat.completion", 1, "assistant"))
    assert answer.id.startswith("chatcmpl-") and abs(answer.created - time.time()) < 60, answer
    assert choice.message.content.strip() and choice.finish_reason in ("stop", "length"), choice
    usage = answer.usage
    assert usage.prompt_tokens > 5 and 0 < usage.completion_tokens <= 40, usage
    equal(usage.total_tokens, usage.prompt_tokens + usage.completion_tokens)


def test_length_is_kept(server):
    answer = server.chat(STORY, max_tokens=3)
    equal((answer.choices[0].finish_reason, answer.usage.completion_tokens), ("length", 3))
    answer = server.chat(STORY, max_tokens=openai.omit, max_completion_tokens=3)
    equal(answer.usage.completion_tokens, 3)


def test_greedy_is_stable(server):
    equal(server.chat().choices[0].message.content, server.chat().choices[0].message.content)


def test_stream_equals_whole(server):
    whole = server.chat().choices[0]
    equal(text_of(server.chat(stream=True)), (whole.message.content, whole.finish_reason))


def test_stream_usage(server):
    whole = server.chat().usage
    chunks = list(server.chat(stream=True, stream_options={"include_usage": True}))
    equal(chunks[-1].choices, [])
    found = chunks[-1].usage
    equal((found.prompt_tokens, found.completion_tokens), (whole.prompt_tokens, whole.completion_tokens))
    assert all(chunk.usage is None for chunk in chunks[:-1])
    assert all(chunk.usage is None for chunk in server.chat(stream=True))


def test_roles_and_parts(server):
    parts = [{"type": "text", "text": "Say "}, {"type": "text", "text": "hello."}]
    messages = [
        {"role": "system", "content": "You are brief."},
        {"role": "user", "content": parts},
        {"role": "assistant", "content": "Hello."},
        {"role": "user", "content": "Again, please."},
    ]
    one = server.chat(messages).choices[0].message.content
    messages[0]["role"], messages[1]["content"] = "developer", "Say hello."
    equal(server.chat(messages).choices[0].message.content, one)


def test_stop(server):
    whole = server.chat().choices[0].message.content
    middle = len(whole) // 2
    stop = whole[middle : middle + 6]
    expected = whole[: whole.index(stop)]
    choice = server.chat(stop=["@never@", stop]).choices[0]
    equal((choice.message.content, choice.finish_reason), (expected, "stop"))
    equal(text_of(server.chat(stop=stop, stream=True)), (expected, "stop"))


def test_seed(server):
    def say(seed):
        return server.chat(STORY, temperature=1, seed=seed, max_tokens=24).choices[0].message.content

    equal(say(7), say(7))
    assert len({say(seed) for seed in range(5)}) > 1, "five seeds gave the same text"
    free = {server.chat(STORY, temperature=1, max_tokens=24).choices[0].message.content for _ in range(5)}
    assert len(free) > 1, "five requests without a seed gave the same text"


def test_sampling_parameters(server):
    plain = server.chat().choices[0].message.content
    for narrow in ({"top_p": 0.0001}, {"extra_body": {"top_k": 1}}, {"extra_body": {"min_p": 1}}):
        found = server.chat(temperature=1, **narrow).choices[0].message.content
        assert found == plain, f"{narrow} should be greedy: {found!r} is not {plain!r}"
    server.chat(presence_penalty=0.5, frequency_penalty=0.5, extra_body={"repetition_penalty": 1.2})


def test_logit_bias(server):
    # In every vocabulary in use token 70 is one printable character or a byte of one.
    forced = server.complete("The capital of France is", max_tokens=3, logit_bias={"70": 100}).choices[0].text
    assert len(forced) == 3 and len(set(forced)) == 1, f"a bias of 100 should win every time: {forced!r}"


def check_token(token, n_top):
    equal((len(token.top_logprobs), bytes(token.bytes).decode(errors="replace") != ""), (n_top, True))
    assert token.logprob <= 0, token
    scores = [top.logprob for top in token.top_logprobs]
    equal(scores, sorted(scores, reverse=True))
    assert sum(map(math.exp, scores)) < 1.001, scores
    assert not scores or token.logprob > scores[0] - 1e-4, "greedy takes the likeliest"


def test_chat_logprobs(server):
    choice = server.chat(logprobs=True, top_logprobs=5).choices[0]
    tokens = choice.logprobs.content
    equal(b"".join(bytes(token.bytes) for token in tokens).decode(), choice.message.content)
    for token in tokens:
        check_token(token, 5)
    streamed = [
        token
        for chunk in server.chat(logprobs=True, top_logprobs=5, stream=True)
        for choice in chunk.choices
        if choice.logprobs
        for token in choice.logprobs.content
    ]
    equal([token.token for token in streamed], [token.token for token in tokens])
    assert server.chat().choices[0].logprobs is None


def test_completion(server):
    answer = server.complete("The capital of France is")
    equal((answer.object, answer.choices[0].finish_reason in ("stop", "length")), ("text_completion", True))
    assert answer.id.startswith("cmpl-") and answer.usage.completion_tokens <= 20, answer
    streamed = "".join(
        choice.text for chunk in server.complete("The capital of France is", stream=True) for choice in chunk.choices
    )
    equal(streamed, answer.choices[0].text)
    assert server.complete(["One, two,"]).choices[0].text
    assert server.complete([1, 2, 3], max_tokens=2).usage.prompt_tokens == 3


def test_completion_logprobs(server):
    choice = server.complete("Once upon a time", logprobs=3).choices[0]
    lists = choice.logprobs
    equal("".join(lists.tokens), choice.text)
    equal({len(lists.tokens), len(lists.token_logprobs), len(lists.top_logprobs)}, {len(lists.text_offset)})
    for token, offset, top in zip(lists.tokens, lists.text_offset, lists.top_logprobs):
        equal(choice.text[offset : offset + len(token)], token)
        assert token in top and 3 <= len(top) <= 4, top


def test_parallel(server):
    if server.metric("onefold_queue_limit") < 8:
        raise Skip("the queue is shorter than 8")
    prompts = [[{"role": "user", "content": f"Count from {n} to {n + 9}."}] for n in range(8)]
    alone = [server.chat(prompt).choices[0].message.content for prompt in prompts]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda prompt: text_of(server.chat(prompt, stream=True))[0], prompts))
    equal(together, alone)


def test_unicode_and_control_texts(server):
    odd = "äöü 你好 🏳️‍🌈 \u0000 \ufeff \u202e <|im_end|> <|im_start|>system {{ messages }} {% raw %}"
    assert server.chat([{"role": "user", "content": odd}]).usage.prompt_tokens > 20


# Going away


def test_disconnect_in_a_stream(server):
    cancelled = server.metric('onefold_answers_total{outcome="cancelled"}')
    stream = server.chat(STORY, stream=True, max_tokens=1000)
    for _ in range(3):
        next(stream)
    stream.close()
    server.settle('onefold_answers_total{outcome="cancelled"}', cancelled + 1)
    server.settle("onefold_open_requests", 0)


def test_disconnect_from_whole_answers(server):
    body = json.dumps({"model": server.model, "messages": STORY, "max_tokens": 1000, "temperature": 0})
    cancelled = server.metric('onefold_answers_total{outcome="cancelled"}')
    sockets = [server.socket() for _ in range(3)]
    for connection in sockets:
        connection.sendall(request(server, body))
    server.settle("onefold_open_requests", 3)
    for connection in sockets:
        connection.close()
    server.settle('onefold_answers_total{outcome="cancelled"}', cancelled + 3)
    server.settle("onefold_open_requests", 0)


def test_many_disconnects_leave_nothing(server):
    def leave(n):
        stream = server.chat(STORY, stream=True, max_tokens=500, temperature=1)
        for _ in range(n % 4):
            next(stream)
        stream.close()

    if server.metric("onefold_queue_limit") < 4:
        raise Skip("the queue is shorter than 4")
    with ThreadPoolExecutor(4) as pool:
        for outcome in [pool.submit(leave, n) for n in range(16)]:
            try:
                outcome.result()
            except openai.RateLimitError:
                pass  # Cancelled requests hold their place until the engine has let go of them.
    server.settle("onefold_open_requests", 0)
    assert server.chat().choices[0].message.content


# Refusals


def test_wrong_values_are_named(server):
    for name, value in {
        "temperature": 3, "top_p": "high", "seed": 1.5, "stop": [1], "max_tokens": 0, "presence_penalty": -3,
        "frequency_penalty": {}, "logit_bias": {"x": 1}, "stream": "yes", "n": 2, "logprobs": "all",
        "tools": [{"type": "function", "function": {"name": "f"}}], "response_format": {"type": "json_object"},
    }.items():  # fmt: skip
        message = refused(lambda: server.chat(extra_body={name: value}), 400, name)
        assert name in message, message
    refused(lambda: server.chat(logprobs=True, top_logprobs=21), 400, "top_logprobs")
    for name, value in {"top_k": -2, "min_p": 2, "repetition_penalty": 0, "echo": True, "best_of": 2}.items():
        refused(lambda: server.complete("x", extra_body={name: value}), 400, name)


def test_unknown_parameters_are_named(server):
    message = refused(lambda: server.chat(extra_body={"temprature": 1}), 400, "temprature", "unknown_parameter")
    assert "`temprature`" in message, message


def test_wrong_messages_are_named(server):
    image = [{"type": "image_url", "image_url": {"url": "data:,"}}]
    for messages, param in [
        ([], "messages"),
        ("hello", "messages"),
        ([{"role": "king", "content": "x"}], "messages[0].role"),
        ([QUESTION[0], {"role": "user", "content": 5}], "messages[1].content"),
        ([{"role": "user", "content": image}], "messages[0].content[0].type"),
    ]:
        refused(lambda: server.chat(messages), 400, param)


def test_another_model_is_not_found(server):
    call = lambda: server.client.chat.completions.create(model="gpt-4o", messages=QUESTION)  # noqa: E731
    assert server.model in refused(call, 404, "model", "model_not_found")


def test_context_overflow_says_both_numbers(server):
    call = lambda: server.chat(max_tokens=1_000_000)  # noqa: E731
    message = refused(call, 400, "messages", "context_length_exceeded")
    numbers = [int(number) for number in re.findall(r"\d+", message)]
    assert 1_000_000 in numbers and len(numbers) >= 3, message


def test_a_megabyte_is_too_long(server):
    long = "All work and no play makes Jack a dull boy. " * 24_000
    assert len(long) > 1_000_000
    message = refused(lambda: server.complete(long), 400, "prompt", "context_length_exceeded")
    context, needed, prompt = (int(number) for number in re.findall(r"\d+", message)[:3])
    assert context < 100_000 < prompt < needed, message
    assert server.chat(max_tokens=2).choices


def test_bodies_that_are_no_json(server):
    for body in (b"", b"{", b'{"model": ', b"\xff\xfe\x00", b"[" * 100_000, b"nul"):
        status, found = server.post(body)
        equal((status, found["error"]["code"]), (400, "invalid_json"))
    status, found = server.post(b'{\n"model": }')
    assert "line 2 column" in found["error"]["message"], found
    for body in (b"[]", b"5", b'"text"', b"null"):
        equal(server.post(body)[0], 400)


def test_requests_of_the_wrong_kind(server):
    body = json.dumps({"model": server.model, "messages": QUESTION})
    equal(server.post(body, content_type="text/plain")[0], 415)
    equal(server.post(b" " * (9 << 20))[0], 413)
    equal(server.post(body, path="/v1/nothing")[0], 404)
    for method, path in (("GET", "/v1/chat/completions"), ("DELETE", "/v1/models")):
        status, text = server.http(method, path)
        equal((status, json.loads(text)["error"]["type"]), (405, "invalid_request_error"))
    status, text = server.http("GET", "/v1/models", headers={"Host": "evil.example"})
    equal((status, json.loads(text)["error"]["code"]), (403, "host_not_allowed"))


def request(server, body, length=None):
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: {server.host}:{server.port}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body) if length is None else length}\r\n\r\n"
    )
    return (head + body).encode()


def test_garbage_on_the_socket(server):
    body = json.dumps({"model": server.model, "messages": QUESTION})
    garbage = [
        b"",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",  # the beginning of TLS
        bytes(range(256)) * 40,
        b"GET\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 2000 + b"\r\n",
        b"GET /" + b"a" * 1_000_000 + b" HTTP/1.1\r\n\r\n",
        request(server, body, length=-1),
        request(server, body, length="99999999999999999999999"),
        request(server, body, length=len(body) + 10),
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n"
        b"Content-Type: application/json\r\n\r\nZZZ\r\n",
    ]
    for data in garbage:
        with server.socket() as connection:
            try:
                connection.sendall(data)
                connection.shutdown(socket.SHUT_WR)
                while connection.recv(1 << 16):
                    pass
            except OSError:
                pass  # Hanging up is an answer.
    equal(server.http("GET", "/health")[0], 200)
    server.settle("onefold_open_requests", 0)
    assert server.chat(max_tokens=2).choices


# The rest


def test_health_and_metrics(server):
    status, text = server.http("GET", "/health")
    equal((status, json.loads(text)["status"]), (200, "ok"))
    before = server.metric("onefold_generated_tokens_total")
    tokens = server.chat().usage.completion_tokens
    # The token that ends an answer may be counted as well.
    assert 0 <= server.metric("onefold_generated_tokens_total") - before - tokens <= 1
    for name in ("onefold_ttft_seconds_count", "onefold_tpot_seconds_sum", "onefold_prompt_tokens_total"):
        assert server.metric(name) > 0, name


def run(named, usage):
    if len(sys.argv) != 2:
        sys.exit(usage)
    tests = list(named.items())
    passed = failed = skipped = 0
    if openai is None:
        print("SKIPPED: the Python package `openai` is not installed; `python3 -m pip install openai`")
        print(f"0 passed, 0 failed, {len(tests)} skipped")
        return
    server = Server(sys.argv[1])
    for name, test in tests:
        started = time.monotonic()
        try:
            test(server)
        except Skip as why:
            skipped += 1
            outcome = f"SKIPPED: {why}"
        except Exception:  # noqa: BLE001
            failed += 1
            outcome = "FAILED\n" + traceback.format_exc()
        else:
            passed += 1
            outcome = "ok"
        print(f"{name[5:].replace('_', ' ')} ({time.monotonic() - started:.1f} s): {outcome}", flush=True)
    print(f"{passed} passed, {failed} failed, {skipped} skipped", flush=True)
    sys.exit(failed > 0)


if __name__ == "__main__":
    run({name: test for name, test in globals().items() if name.startswith("test_")}, __doc__)
