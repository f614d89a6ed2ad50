#!/usr/bin/env python3
"""Tools with the official `openai` client, against a server without a model that says what it is told to
(`cargo run -p api --example scripted -- PORT`).

Usage: test_tools.py http://127.0.0.1:PORT

The last line is `N passed, N failed, N skipped`; the exit status is 1 if anything failed.
"""

import json
import sys

import test_openai
from test_openai import Server, equal, refused


def tool(name, **properties):
    parameters = {"type": "object", "properties": {key: {"type": kind} for key, kind in properties.items()}}
    return {"type": "function", "function": {"name": name, "description": "A tool.", "parameters": parameters}}


TOOLS = [tool("weather", place="string", days="integer"), tool("now")]
CALL = "<|tool_call_begin|>functions.{}:{}<|tool_call_argument_begin|>{}<|tool_call_end|>"
ARGUMENTS = json.dumps({"place": "Zürich \"x\"", "days": 2}, ensure_ascii=False)
TWO = (
    "<think>Which one?</think>I look.<|tool_calls_section_begin|>"
    + CALL.format("weather", 0, ARGUMENTS)
    + CALL.format("now", 1, "{}")
    + "<|tool_calls_section_end|>"
)


def say(answer, **parameters):
    return {"messages": [{"role": "user", "content": "SAY " + answer}], "tools": TOOLS, "max_tokens": 5000, **parameters}


def collected(stream):
    """A streamed answer put together as clients do it: content, reasoning, calls by index, finish reason."""
    content, reasoning, calls, reason, n_pieces = "", "", {}, None, 0
    for chunk in stream:
        for choice in chunk.choices:
            content += choice.delta.content or ""
            reasoning += getattr(choice.delta, "reasoning_content", None) or ""
            for call in choice.delta.tool_calls or []:
                n_pieces += 1
                whole = calls.setdefault(call.index, {"id": call.id, "name": call.function.name, "arguments": ""})
                whole["arguments"] += call.function.arguments or ""
            reason = choice.finish_reason or reason
    return content, reasoning, [calls[index] for index in sorted(calls)], reason, n_pieces


EXPECTED = [
    {"id": "functions.weather:0", "name": "weather", "arguments": ARGUMENTS},
    {"id": "functions.now:1", "name": "now", "arguments": "{}"},
]


def test_whole(server):
    choice = server.chat(**say(TWO)).choices[0]
    calls = choice.message.tool_calls
    found = [{"id": call.id, "name": call.function.name, "arguments": call.function.arguments} for call in calls]
    equal((choice.message.content, choice.finish_reason, found), ("I look.", "tool_calls", EXPECTED))
    equal((choice.message.reasoning_content, calls[0].type), ("Which one?", "function"))


def test_stream(server):
    content, reasoning, calls, reason, n_pieces = collected(server.chat(**say(TWO), stream=True))
    equal((content, reasoning, calls, reason), ("I look.", "Which one?", EXPECTED, "tool_calls"))
    assert n_pieces > 20, f"arguments came in {n_pieces} pieces"


def test_the_clients_own_collecting(server):
    with server.client.chat.completions.stream(model=server.model, **say(TWO)) as stream:
        for _ in stream:
            pass
        message = stream.get_final_completion().choices[0].message
    equal([call.function.arguments for call in message.tool_calls], [ARGUMENTS, "{}"])
    equal(message.content, "I look.")


def test_no_more_than_one(server):
    for stream in (False, True):
        answer = server.chat(**say(TWO, parallel_tool_calls=False), stream=stream)
        if stream:
            calls, reason = collected(answer)[2:4]
        else:
            calls, reason = answer.choices[0].message.tool_calls, answer.choices[0].finish_reason
        equal((len(calls), reason), (1, "tool_calls"))


def test_a_round_trip(server):
    first = server.chat(**say(TWO)).choices[0].message
    messages = [
        {"role": "user", "content": "What now?"},
        first.model_dump(exclude_none=True),
        {"role": "tool", "tool_call_id": first.tool_calls[0].id, "content": "sunny"},
        {"role": "tool", "tool_call_id": first.tool_calls[1].id, "content": "SAY " + CALL.format("now", 2, "{}")},
    ]
    again = server.chat(messages, tools=TOOLS, max_tokens=5000).choices[0]
    equal([call.id for call in again.message.tool_calls], ["functions.now:2"])
    equal((again.message.content, again.finish_reason), (None, "tool_calls"))


def test_no_call_wanted(server):
    for parameters in ({"tool_choice": "none"}, {"tools": []}):
        choice = server.chat(**say("<think>so</think>plain", **parameters)).choices[0]
        equal((choice.message.content, choice.message.tool_calls, choice.finish_reason), ("plain", None, "stop"))


def test_malformed_calls_are_text(server):
    choice = server.chat(**say("a <|tool_call_begin|>two words<|tool_call_end|> b")).choices[0]
    equal((choice.message.content, choice.finish_reason), ("a two words b", "stop"))


def test_a_length_inside_a_call(server):
    choice = server.chat(**say(TWO, max_tokens=100)).choices[0]
    equal(choice.finish_reason, "length")
    assert ARGUMENTS.startswith(choice.message.tool_calls[0].function.arguments), choice


def test_what_cannot_be_promised_is_refused(server):
    named = {"type": "function", "function": {"name": "now"}}
    for param, parameters in [
        ("tool_choice", {"tool_choice": "required"}),
        ("tool_choice", {"tool_choice": named}),
        ("tools[0].function.strict", {"tools": [{"type": "function", "function": {"name": "f", "strict": True}}]}),
        ("tools[0].type", {"tools": [{"type": "web_search"}]}),
        ("tools[0].function.name", {"tools": [tool("no good")]}),
    ]:
        refused(lambda: server.chat(**say("x", **parameters)), 400, param)
    orphan = [{"role": "tool", "tool_call_id": "call_9", "content": "x"}]
    refused(lambda: server.chat(orphan, tools=TOOLS), 400, "messages[0].tool_call_id")


if __name__ == "__main__":
    test_openai.run({name: test for name, test in globals().items() if name.startswith("test_") and callable(test)}, __doc__)
