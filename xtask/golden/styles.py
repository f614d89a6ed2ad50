"""Makes the golden file of chat templates in the manner of the families that call tools.

    pip install transformers jinja2
    python xtask/golden/styles.py [--check]

The templates are our own, written after what is known of each family's conversations, and use what templates in use are
seen to use. `transformers` compiles and renders them; crates/text/tests/golden/styles.json holds templates, conversations
and texts. `--check` compares instead of writing.
"""

import datetime
import json
import sys
from pathlib import Path

import jinja2
from transformers.utils.chat_template_utils import _compile_jinja_template

OUT = Path(__file__).resolve().parents[2] / "crates/text/tests/golden/styles.json"
NOW = 1_762_441_445  # 2025-11-06 15:04:05 UTC

KIMI = """
{%- macro text_of(content) -%}
  {%- if content is string -%}{{ content }}
  {%- elif content is iterable and content is not none -%}
    {%- for part in content -%}{{ part['text'] if part['type'] == 'text' else raise_exception('no ' ~ part.type) }}{%- endfor -%}
  {%- endif -%}
{%- endmacro -%}
{%- macro opening(message) -%}
  {%- set role = message.role -%}
  {%- if role in ['user', 'assistant'] -%}<|im_{{ role }}|>{{ message.get('name') or role }}<|im_middle|>
  {%- else -%}<|im_system|>{{ message.get('name') or role }}<|im_middle|>{%- endif -%}
{%- endmacro -%}
{%- set ns = namespace(last=-1) -%}
{%- for i in range(messages|length - 1, -1, -1) -%}
  {%- if messages[i].role == 'assistant' and not messages[i].get('tool_calls') -%}{%- set ns.last = i -%}{%- break -%}{%- endif -%}
{%- endfor -%}
{%- if tools -%}<|im_system|>tool_declare<|im_middle|>{{ tools | tojson(separators=(',', ':')) }}<|im_end|>{%- endif -%}
{%- if messages|length == 0 or messages[0].role != 'system' -%}<|im_system|>system<|im_middle|>A default.<|im_end|>{%- endif -%}
{%- for message in messages -%}
  {{ opening(message) }}
  {%- if message.role == 'assistant' -%}
    {%- set thought = '' if loop.index0 <= ns.last else message.get('reasoning_content', '') or '' -%}
    <think>{{ thought }}</think>{{ text_of(message.content) }}
    {%- if message.get('tool_calls') -%}<|tool_calls_section_begin|>
      {%- for call in message.tool_calls -%}
        <|tool_call_begin|>{{ call['id'] }}<|tool_call_argument_begin|>
        {%- if call['function']['arguments'] is string -%}{{ call['function']['arguments'] }}{%- else -%}{{ call['function']['arguments'] | tojson }}{%- endif -%}
        <|tool_call_end|>
      {%- endfor -%}<|tool_calls_section_end|>
    {%- endif -%}
  {%- elif message.role == 'tool' -%}
    {{ '## Return of ' ~ message.tool_call_id ~ '\\n' }}{{ text_of(message.content) }}
  {%- elif message.content is not none -%}{{ text_of(message.content) }}
  {%- endif -%}<|im_end|>
{%- endfor -%}
{%- if add_generation_prompt -%}<|im_assistant|>assistant<|im_middle|>{%- endif -%}
"""

DEEPSEEK = """{% if not add_generation_prompt is defined %}{% set add_generation_prompt = false %}{% endif %}
{%- set ns = namespace(is_first=true, is_tool=false, in_output=false, system='', is_last_user=false) -%}
{%- for m in messages %}{%- if m['role'] == 'system' %}{%- if ns.is_first %}{% set ns.system = ns.system + m['content'] %}{% set ns.is_first = false %}{%- else %}{% set ns.system = ns.system + '\\n\\n' + m['content'] %}{%- endif %}{%- endif %}{%- endfor -%}
{%- if tools is defined and tools is not none %}{% set text %}

## Tools
{% for tool in tools %}
### {{ tool.function.name }}
Description: {{ tool.function.description | default('none') }}

Parameters: {{ tool.function.parameters | tojson }}
{% endfor %}{% endset %}{% set ns.system = ns.system + text %}{% endif -%}
{{ bos_token }}{{ ns.system }}
{%- for message in messages %}
  {%- if message['role'] == 'user' %}{%- set ns.is_tool = false -%}{%- set ns.is_last_user = true -%}{{ '<｜User｜>' + message['content'] }}{%- endif %}
  {%- if message['role'] == 'assistant' and message['tool_calls'] is defined and message['tool_calls'] is not none %}
    {%- if ns.is_last_user %}{{ '<｜Assistant｜></think>' }}{%- endif %}{%- set ns.is_last_user = false -%}{%- set ns.is_first = false %}
    {%- for tool in message['tool_calls'] %}
      {%- if not ns.is_first %}
        {%- if message['content'] is none %}{{ '<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>' + tool['function']['name'] + '<｜tool▁sep｜>' + tool['function']['arguments'] + '<｜tool▁call▁end｜>' }}
        {%- else %}{{ message['content'] + '<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>' + tool['function']['name'] + '<｜tool▁sep｜>' + tool['function']['arguments'] + '<｜tool▁call▁end｜>' }}{%- endif %}
        {%- set ns.is_first = true -%}
      {%- else %}{{ '<｜tool▁call▁begin｜>' + tool['function']['name'] + '<｜tool▁sep｜>' + tool['function']['arguments'] + '<｜tool▁call▁end｜>' }}{%- endif %}
    {%- endfor %}{{ '<｜tool▁calls▁end｜>' + eos_token }}
  {%- elif message['role'] == 'assistant' %}
    {%- set content = message['content'] %}{%- if '</think>' in content %}{%- set content = content.split('</think>', 1)[1] -%}{%- endif %}
    {{- ('<｜Assistant｜>' if ns.is_last_user else '') + content + eos_token }}{%- set ns.is_last_user = false -%}
  {%- endif %}
  {%- if message['role'] == 'tool' %}{{ '<｜tool▁output▁begin｜>' + message['content'] + '<｜tool▁output▁end｜>' }}{%- set ns.is_tool = true -%}{%- endif %}
{%- endfor -%}
{%- if add_generation_prompt and ns.is_last_user and not ns.is_tool %}{{ '<｜Assistant｜>' }}{{ '<think>' if thinking is defined and thinking else '</think>' }}{% endif %}"""

QWEN = """{%- if tools %}
    {{- '<|im_start|>system\\n' }}
    {%- if messages[0].role == 'system' %}{{- messages[0].content + '\\n\\n' }}{%- endif %}
    {{- "# Tools\\n<tools>" }}
    {%- for tool in tools %}{{- "\\n" }}{{- tool | tojson }}{%- endfor %}
    {{- "\\n</tools>\\n<tool_call>\\n{\\"name\\": <name>, \\"arguments\\": <args>}\\n</tool_call><|im_end|>\\n" }}
{%- endif %}
{%- set ns = namespace(searching=true, last=messages|length - 1) %}
{%- for message in messages[::-1] %}
    {%- set index = (messages|length - 1) - loop.index0 %}
    {%- if ns.searching and message.role == "user" and message.content is string and not(message.content.startswith('<tool_response>') and message.content.endswith('</tool_response>')) %}
        {%- set ns.searching = false %}{%- set ns.last = index %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- set content = message.content if message.content is string else '' %}
    {%- if message.role == 'assistant' %}
        {%- set thought = '' %}
        {%- if message.reasoning_content is string %}{%- set thought = message.reasoning_content %}
        {%- elif '</think>' in content %}
            {%- set thought = content.split('</think>')[0].rstrip('\\n').split('<think>')[-1].lstrip('\\n') %}
            {%- set content = content.split('</think>')[-1].lstrip('\\n') %}
        {%- endif %}
        {%- if loop.index0 > ns.last and (loop.last or (not loop.last and thought)) %}
            {{- '<|im_start|>' + message.role + '\\n<think>\\n' + thought.strip('\\n') + '\\n</think>\\n\\n' + content.lstrip('\\n') }}
        {%- else %}{{- '<|im_start|>' + message.role + '\\n' + content }}{%- endif %}
        {%- for call in message.tool_calls or [] %}
            {%- if (loop.first and content) or (not loop.first) %}{{- '\\n' }}{%- endif %}
            {%- if call.function %}{%- set call = call.function %}{%- endif %}
            {{- '<tool_call>\\n{"name": "' ~ call.name ~ '", "arguments": ' }}
            {{- call.arguments if call.arguments is string else call.arguments | tojson }}
            {{- '}\\n</tool_call>' }}
        {%- endfor %}
        {{- '<|im_end|>\\n' }}
    {%- elif message.role == "tool" %}
        {%- if loop.first or (messages[loop.index0 - 1].role != "tool") %}{{- '<|im_start|>user' }}{%- endif %}
        {{- '\\n<tool_response>\\n' + content + '\\n</tool_response>' }}
        {%- if loop.last or (messages[loop.index0 + 1].role != "tool") %}{{- '<|im_end|>\\n' }}{%- endif %}
    {%- elif not (loop.first and message.role == 'system' and tools) %}
        {{- '<|im_start|>' + message.role + '\\n' + content + '<|im_end|>' + '\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}{{- '<think>\\n\\n</think>\\n\\n' }}{%- endif %}
{%- endif %}"""

GLM = """[gMASK]<sop>
{%- if tools -%}
<|system|>
# Tools
<tools>
{% for tool in tools %}
{{ tool | tojson(ensure_ascii=False) }}
{% endfor %}
</tools>
<tool_call>{function-name}
<arg_key>{arg-key}</arg_key>
</tool_call>{%- endif -%}
{%- macro visible(content) -%}
    {%- if content is string -%}{{- content }}
    {%- elif content is iterable and content is not mapping -%}
        {%- for item in content -%}
            {%- if item is mapping and item.type == 'text' -%}{{- item.text }}{%- elif item is string -%}{{- item }}{%- endif -%}
        {%- endfor -%}
    {%- else -%}{{- content }}{%- endif -%}
{%- endmacro -%}
{%- set ns = namespace(last_user=-1) %}
{%- for m in messages %}{%- if m.role == 'user' %}{% set ns.last_user = loop.index0 -%}{%- endif %}{%- endfor %}
{% for m in messages %}
{%- if m.role == 'user' -%}<|user|>
{{ visible(m.content) }}
{{- '/nothink' if (enable_thinking is defined and not enable_thinking and not visible(m.content).endswith("/nothink")) else '' -}}
{%- elif m.role == 'assistant' -%}
<|assistant|>
{%- set reasoning = '' %}{%- set content = visible(m.content) %}
{%- if m.reasoning_content is string %}{%- set reasoning = m.reasoning_content %}
{%- elif '</think>' in content %}
    {%- set reasoning = content.split('</think>')[0].rstrip('\\n').split('<think>')[-1].lstrip('\\n') %}
    {%- set content = content.split('</think>')[-1].lstrip('\\n') %}
{%- endif %}
{%- if loop.index0 > ns.last_user and reasoning -%}{{ '\\n<think>' + reasoning.strip() + '</think>' }}{%- else -%}{{ '\\n<think></think>' }}{%- endif -%}
{%- if content.strip() -%}{{ '\\n' + content.strip() }}{%- endif -%}
{% if m.tool_calls %}{% for tc in m.tool_calls %}{%- if tc.function %}{%- set tc = tc.function %}{%- endif %}
{{ '\\n<tool_call>' + tc.name }}
{% set _args = tc.arguments %}
{% for k, v in _args.items() %}
<arg_key>{{ k }}</arg_key>
<arg_value>{{ v | tojson(ensure_ascii=False) if v is not string else v }}</arg_value>
{% endfor %}
</tool_call>{% endfor %}{% endif %}
{%- elif m.role == 'tool' -%}
{%- if loop.first or (messages[loop.index0 - 1].role != "tool") %}{{- '<|observation|>' }}{%- endif %}
{{- '\\n<tool_response>\\n' }}{{- visible(m.content) }}{{- '\\n</tool_response>' }}
{%- elif m.role == 'system' -%}<|system|>
{{ visible(m.content) }}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}<|assistant|>{{- '\\n<think></think>' if (enable_thinking is defined and not enable_thinking) else '' -}}{%- endif -%}"""

HARMONY = """{#- types of parameters as a type script -#}
{%- macro type_of(spec, required) -%}
    {%- if spec.type == "array" -%}{{ type_of(spec['items'], []) + "[]" if spec['items'] else "any[]" }}{%- if spec.nullable %}{{ " | null" }}{%- endif -%}
    {%- elif spec.type is defined and spec.type is iterable and spec.type is not string and spec.type is not mapping and spec.type[0] is defined -%}
        {%- if spec.type | length > 1 %}{{ spec.type | join(" | ") }}{%- else %}{{ spec.type[0] }}{%- endif -%}
    {%- elif spec.oneOf -%}{%- for variant in spec.oneOf -%}{{ type_of(variant, required) }}{{ " | " if not loop.last }}{%- endfor -%}
    {%- elif spec.type == "string" -%}{%- if spec.enum -%}{{ '"' + spec.enum|join('" | "') + '"' }}{%- else -%}string{%- endif -%}
    {%- elif spec.type in ["number", "integer"] -%}number
    {%- elif spec.type == "object" -%}
        {%- if spec.properties -%}{{ "{\\n" }}
            {%- for name, inner in spec.properties.items() -%}{{ name }}{%- if name not in (required or []) -%}?{%- endif -%}{{ ": " }}{{ type_of(inner, spec.required or []) }}{%- if not loop.last -%}{{ ", " }}{%- endif -%}{%- endfor -%}{{ "}" }}
        {%- else -%}object{%- endif -%}
    {%- else -%}any{%- endif -%}
{%- endmacro -%}
<|start|>system<|message|>Knowledge.
Current date: {{ strftime_now("%Y-%m-%d") }}

Reasoning: {{ reasoning_effort | default("medium") }}
{%- if tools %}
Calls go to commentary.{% endif -%}<|end|>
{%- set first = messages[0] if messages and messages[0].role in ["developer", "system"] else none %}
{%- set loop_messages = messages[1:] if first else messages %}
{%- if first or tools -%}<|start|>developer<|message|>{{ "# Instructions\\n\\n" + first.content + "\\n\\n" if first else "" }}
    {%- if tools -%}# Tools{{ "\\n\\nnamespace functions {\\n\\n" }}
        {%- for tool in tools -%}{%- set tool = tool.function -%}
            {{ "// " + tool.description + "\\n" if tool.description }}{{ "type " + tool.name + " = (" }}
            {%- if tool.parameters and tool.parameters.properties -%}{{ "_: {\\n" }}
                {%- for name, spec in tool.parameters.properties.items() -%}
                    {%- if spec.description -%}{{ "// " + spec.description + "\\n" }}{%- endif -%}
                    {{ name }}{%- if name not in (tool.parameters.required or []) -%}?{%- endif -%}{{ ": " + type_of(spec, tool.parameters.required or []) }}
                    {%- if spec.default is defined -%}{%- if spec.default is string -%}{{ ', // default: "' + spec.default + '"' }}{%- else -%}{{ ", // default: " ~ (spec.default | tojson) }}{%- endif -%}{%- endif -%}
                    {{ ",\\n" if not loop.last else "\\n" }}
                {%- endfor -%}{{ "}) => any;\\n\\n" }}
            {%- else -%}{{ ") => any;\\n\\n" }}{%- endif -%}
        {%- endfor -%}{{ "}" }}
    {%- endif -%}<|end|>
{%- endif -%}
{%- set last_tool_call = namespace(name=none) -%}
{%- for message in loop_messages -%}
    {%- if message.role == "assistant" -%}
        {%- if message.content is string and "<|channel|>" in message.content -%}{{ raise_exception("No channels in content, please.") }}{%- endif -%}
        {%- if "tool_calls" in message -%}
            {%- set call = message.tool_calls[0].function -%}
            {%- if message.content and message.thinking -%}{{ raise_exception("Cannot pass both content and thinking in an assistant message with tool calls!") }}
            {%- elif message.content -%}{{ "<|start|>assistant<|channel|>analysis<|message|>" + message.content + "<|end|>" }}
            {%- elif message.thinking -%}{{ "<|start|>assistant<|channel|>analysis<|message|>" + message.thinking + "<|end|>" }}{%- endif -%}
            {{ "<|start|>assistant to=functions." + call.name + "<|channel|>commentary json<|message|>" + (call.arguments | tojson) + "<|call|>" }}
            {%- set last_tool_call.name = call.name -%}
        {%- else -%}{{ "<|start|>assistant<|channel|>final<|message|>" + message.content + "<|end|>" }}{%- set last_tool_call.name = none -%}{%- endif -%}
    {%- elif message.role == "tool" -%}
        {%- if last_tool_call.name is none -%}{{ raise_exception("Message has tool role, but there was no previous assistant message with a tool call!") }}{%- endif -%}
        {{ "<|start|>functions." + last_tool_call.name + " to=assistant<|channel|>commentary<|message|>" + (message.content | tojson) + "<|end|>" }}
    {%- elif message.role == "user" -%}{{ "<|start|>user<|message|>" + message.content + "<|end|>" }}
    {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}<|start|>assistant{%- endif -%}"""

LLAMA = """{{- bos_token }}
{%- if custom_tools is defined %}{%- set tools = custom_tools %}{%- endif %}
{%- if not tools_in_user_message is defined %}{%- set tools_in_user_message = true %}{%- endif %}
{%- if not date_string is defined %}{%- if strftime_now is defined %}{%- set date_string = strftime_now("%d %b %Y") %}{%- else %}{%- set date_string = "26 Jul 2024" %}{%- endif %}{%- endif %}
{%- if messages[0]['role'] == 'system' %}{%- set system_message = messages[0]['content']|trim %}{%- set messages = messages[1:] %}{%- else %}{%- set system_message = "" %}{%- endif %}
{{- "<|start_header_id|>system<|end_header_id|>\\n\\n" }}
{%- if tools is not none %}{{- "Environment: ipython\\n" }}{%- endif %}
{{- "Today Date: " + date_string + "\\n\\n" }}{{- system_message }}{{- "<|eot_id|>" }}
{%- if tools_in_user_message and not tools is none %}
    {%- if messages | length != 0 %}{%- set first_user_message = messages[0]['content']|trim %}{%- set messages = messages[1:] %}
    {%- else %}{{- raise_exception("Cannot put tools in the first user message when there's no first user message!") }}{%- endif %}
    {{- '<|start_header_id|>user<|end_header_id|>\\n\\n' -}}
    {{- 'Respond in the format {"name": function name, "parameters": dictionary of argument name and its value}.\\n\\n' }}
    {%- for t in tools %}{{- t | tojson(indent=4) }}{{- "\\n\\n" }}{%- endfor %}
    {{- first_user_message + "<|eot_id|>"}}
{%- endif %}
{%- for message in messages %}
    {%- if not (message.role == 'ipython' or message.role == 'tool' or 'tool_calls' in message) %}
        {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n'+ message['content'] | trim + '<|eot_id|>' }}
    {%- elif 'tool_calls' in message %}
        {%- if not message.tool_calls|length == 1 %}{{- raise_exception("This model only supports single tool-calls at once!") }}{%- endif %}
        {%- set tool_call = message.tool_calls[0].function %}
        {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' -}}
        {{- '{"name": "' + tool_call.name + '", ' }}{{- '"parameters": ' }}{{- tool_call.arguments | tojson }}{{- "}" }}{{- "<|eot_id|>" }}
    {%- elif message.role == "tool" or message.role == "ipython" %}
        {{- "<|start_header_id|>ipython<|end_header_id|>\\n\\n" }}
        {%- if message.content is mapping or message.content is iterable %}{{- message.content | tojson }}{%- else %}{{- message.content }}{%- endif %}
        {{- "<|eot_id|>" }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{%- endif %}"""

# Corners of the language that the above leave out.
CORNERS = """{%- set d = {'b': 1, 'a': [1.5, none, true], 'é': '<&>\\'"'} -%}
{{ d | tojson }}|{{ d | tojson(indent=2) }}|{{ d | tojson(sort_keys=true) }}|{{ d | tojson(ensure_ascii=true) }}|{{ [] | tojson }}{{ {} | tojson(indent=2) }}
{{ d.keys() | list }} {{ d.values() | list }} {{ d.get('x') }} {{ d.get('x', 3) }} {{ 'b' in d }} {{ d | length }}
{% for k, v in d.items() %}{{ loop.index }}/{{ loop.length }}{{ k }}={{ v }};{% if loop.first %}{% continue %}{% endif %}{% if loop.revindex0 == 0 %}{% break %}{% endif %}{% endfor %}{% for k, v in d | dictsort %}{{ k }}{% endfor %}
{{ 'a-b_c'.replace('-', '+').title() }} {{ 'x y z'.split() }} {{ 'x,y,z'.rsplit(',', 1) }} {{ 'x,y,z'.rsplit(',') }} {{ ' pad '.lstrip() }}|{{ 'abc'.find('c') }} {{ 'ab'.join(['1', '2']) }} {{ 'a\\nb'.splitlines() }} {{ 'aXbX'.count('X') }} {{ 'aBc'.capitalize() }} {{ 'pre-x'.removeprefix('pre-') }}{{ 'x.y'.removesuffix('.y') }} {{ 'k=v=w'.partition('=')[2] }}
{{ strftime_now('%A, %d %B %Y, %H:%M:%S %p %j') }} {{ 7 // 2 }} {{ 7 / 2 }} {{ 7 % 4 }} {{ 3.0 }} {{ 1e16 }} {{ 0.1 + 0.2 }} {{ '5' | int + 1 }}
{{ [3, 1, 2] | sort | join('-') }} {{ [1, 2, 3] | last }} {{ [1, 2, 3, 4][1:3] }} {{ [1, 1, 2] | unique | list }} {{ range(2, 8, 3) | list }} {{ [1, 2] + [3] }} {{ ['a', 'b'] | map('upper') | list }} {{ [{'r': 'x'}, {'r': 'y'}] | selectattr('r', 'eq', 'x') | list }} {{ [{'r': 'x'}] | rejectattr('r', 'equalto', 'x') | list | length }} {{ [{'r': 1}, {'r': 2}] | map(attribute='r') | list }}
{{ none is none }} {{ 'x' is string }} {{ 1 is number }} {{ true is boolean }} {{ [] is sequence }} {{ {} is mapping }} {{ 'x' is iterable }} {{ none is iterable }} {{ missing is iterable }} {{ 1 is iterable }} {{ missing is defined }} {{ true is sameas true }} {{ missing | default('d') }} {{ '' | default('e', true) }} {{ missing or 'f' }}
{{ not false and true }} {{ 'a' ~ 1 ~ none ~ true }} {{ 'tab\\t"q"' }} {{ ["it's", 'a"b', 'c\\\\d'] }} {{ 'a b ' | replace(' ', '-') | upper | lower | title | trim }} {{ 'line\\nnext' | indent(4) }} {{ 'a<b' | safe }} {{ 'abc' | first }}
{%- set ns = namespace(a=1) %}{% for m in messages %}{% set ns.a = ns.a + 1 %}{% set inner = m.role %}{% endfor %}{{ ns.a }}{{ inner is defined }}
{%- macro f(a, b='z') %}{{ a }}{{ b }}{% endmacro %}{{ f('x') }}{{ f(b=1, a=2) }}
{%- filter upper %}shout{% endfilter %}{% raw %}{{ raw }}{% endraw %}{# comment #}{% with y = 5 %}{{ y }}{% endwith %}{{ messages[0]['content'][:5] }}
"""

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Weather at a <place> – now",
        "parameters": {
            "type": "object",
            "properties": {
                "place": {"type": "string", "description": "Where?", "enum": ["Zürich", "東京"]},
                "days": {"type": ["integer", "null"], "default": 1},
                "units": {"type": "array", "items": {"type": "object", "properties": {"n": {"type": "number"}}}},
            },
            "required": ["place"],
        },
    },
}
NOW_TOOL = {"type": "function", "function": {"name": "now", "description": "", "parameters": {"type": "object", "properties": {}}}}
SYSTEM = {"role": "system", "content": " Be brief. "}
USER = {"role": "user", "content": "How is  Zürich? <é> 🙂\n"}
AGAIN = {"role": "user", "content": "Again."}
ANSWER = {"role": "assistant", "content": "<think>\nadd\n</think>\n\nTwo."}
THOUGHT = {"role": "assistant", "content": "Fine.", "reasoning_content": "\nso\n"}
RESULT = {"role": "tool", "tool_call_id": "functions.get_weather:0", "content": '{"sky": "сине", "t": -1.50}'}
OTHER = {"role": "tool", "tool_call_id": "functions.now:1", "content": "noon"}


def call(name, index, arguments, as_text):
    arguments = json.dumps(arguments, ensure_ascii=False) if as_text else arguments
    return {"id": f"functions.{name}:{index}", "type": "function", "function": {"name": name, "arguments": arguments}}


def conversations(style):
    as_text = style in ("kimi", "deepseek")
    thinking = "thinking" if style == "harmony" else "reasoning_content"
    weather = call("get_weather", 0, {"place": "Zürich", "days": 2, "units": [{"n": 1.0}, None, True]}, as_text)
    now = call("now", 1, {}, as_text)
    one = {"role": "assistant", "content": None, thinking: "look it up", "tool_calls": [weather]}
    two = {"role": "assistant", "content": "I look.", "tool_calls": [weather, now]}
    yield [USER], None
    yield [SYSTEM, USER, ANSWER, AGAIN], None
    yield [USER, THOUGHT, AGAIN], [WEATHER]
    yield [SYSTEM, USER], [WEATHER, NOW_TOOL]
    yield [USER, one, RESULT], [WEATHER]
    yield [USER, one, RESULT, THOUGHT, AGAIN], [WEATHER]
    yield [SYSTEM, USER, two, RESULT, OTHER], [WEATHER, NOW_TOOL]
    yield [USER, {**two, "thinking": "x"}, RESULT], None
    yield [RESULT], None


def render(source, messages, tools, prompt):
    template = _compile_jinja_template(source)
    moment = datetime.datetime.fromtimestamp(NOW, datetime.timezone.utc)
    template.environment.globals["strftime_now"] = moment.strftime
    template.globals["strftime_now"] = moment.strftime
    return template.render(
        messages=messages, tools=tools, documents=None, add_generation_prompt=prompt, bos_token="<s>", eos_token="</s>"
    )


def main():
    styles = {"kimi": KIMI, "deepseek": DEEPSEEK, "qwen": QWEN, "glm": GLM, "harmony": HARMONY, "llama": LLAMA}
    golden = {"now_s": NOW, "templates": {**styles, "corners": CORNERS}, "conversations": [], "cases": []}
    seen = []
    for style, source in golden["templates"].items():
        for messages, tools in [([USER], None)] if style == "corners" else conversations(style):
            if [messages, tools] not in seen:
                seen.append([messages, tools])
                golden["conversations"].append({"messages": messages, "tools": tools})
            for prompt in [True, False][: 1 if style == "corners" else 2]:
                case = {"template": style, "conversation": seen.index([messages, tools]), "prompt": prompt}
                try:
                    case["text"] = render(source, messages, tools, prompt)
                except (jinja2.exceptions.TemplateError, TypeError) as error:
                    case["error"] = str(error)
                golden["cases"].append(case)
    text = json.dumps(golden, ensure_ascii=True, separators=(",", ":")) + "\n"
    if "--check" in sys.argv:
        sys.exit(None if OUT.read_text() == text else f"{OUT} is not what is made here")
    OUT.write_text(text)
    errors = [case["error"] for case in golden["cases"] if "error" in case]
    print(f"{len(golden['cases'])} texts, {len(errors)} refused, {len(text)} bytes", *sorted(set(errors)), sep="\n")


if __name__ == "__main__":
    main()
