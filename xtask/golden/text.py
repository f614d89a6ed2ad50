"""Makes the golden files of crates/text from programs that are not ours.

    pip install tokenizers sentencepiece gguf jinja2 llama-cpp-python
    python xtask/golden/text.py [SMOLLM2.gguf]

Writes crates/text/tests/golden/: `corpus.json` (texts that are hard to get right), small vocabularies trained here
with the ids that `tokenizers`, `sentencepiece` and llama.cpp give the corpus, conversations with the text jinja2
makes of them, and, if the real file is given, the ids of its vocabulary (`smollm2.json`). `ids[i]` belongs to
`corpus[i]`; `parsed[i]` is the same text with control tokens read as such.
"""

import json
import pydoc_data.topics
import sys
import tempfile
from pathlib import Path

import gguf
import jinja2
import jinja2.ext
import jinja2.sandbox
import llama_cpp
import sentencepiece
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

OUT = Path(__file__).resolve().parents[2] / "crates/text/tests/golden"
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, BYTE = 1, 2, 3, 4, 6

CORPUS = [
    "",
    " ",
    "Hello, world! How are you?",
    "  two leading, two trailing  ",
    "tabs\tand\t\tmore\t \t mixed \t",
    "runs of     spaces          and\n\n\nnewlines\n\n \n  \n end",
    "line one\r\nline two\r\n\r\nline four\rold mac",
    "\n",
    "\r\n \r\n",
    "I'm you're he'll we've they'd it's 'quoted' I'M YOU'RE HE'LL WE'VE IT'S ’s ’re",
    "1 12 123 1234 12345 1234567890 3.14159 1,000,000 0x1F600 ½ ² Ⅷ ٣٤٥ १२३",
    "emoji 👍🏽 👨‍👩‍👧‍👦 🏳️‍🌈 🇩🇪🇯🇵 ❤️ 1️⃣ 🧑🏿‍🚀",
    "漢字かな交じり文。カタカナ、한국어 텍스트，中文文本！「引用」",
    "مرحبا بالعالم שלום עולם ١٢٣ \u200fRTL\u200e mixed עברית text",
    "combining e\u0301 n\u0303 a\u030a\u0323 Z\u0351\u036b\u0343\u036a\u0302 q\u0307\u0323 composed é ñ Å ﬁ",
    "हिन्दी ไทย தமிழ் বাংলা မြန်မာ",
    "nul\0inside\0\0 bell\a back\b form\f esc\x1b[0m del\x7f vt\v",
    "\u00a0nbsp\u00a0 \u2003em\u2003 \u3000ideographic\u3000 \u200bzero\u200dwidth\ufeffbom \u2028ls\u2029ps \u0085nel",
    "\ufffd \uffff \U0010ffff \ue000 \U000f0000 \U0001d54f \ud7ff ÿ Ā \x80 \x9f",
    "<|im_start|>user\nplain text?<|im_end|>\n<|endoftext|><think>hm</think> <s>[INST]</s> <unk> <0x0A>",
    "<|im_start|> spaced <|im_end|>",
    "x" * 300 + " " + "ab" * 150,
    "Donaudampfschifffahrtselektrizitätenhauptbetriebswerkbauunterbeamtengesellschaft",
    "aaaaaaaaaaaaaaaaa bbbbbbb ababababab aabaabaab  aaa",
    "def f(x):\n    return {'a': [1, 2, 3], \"b\": x**2 != 0}  # comment\n\n\nclass A:\n\tpass\n",
    "https://example.org/a?b=c&d=%20#frag user@example.org C:\\path\\file.txt --flag=value $HOME",
    "CamelCaseWords snake_case_words SCREAMING_CASE kebab-case iPhone McDonald HTTPServer éÉ ÀB",
    "!!! ??? ... --- *** ### $$$ %%% ^^^ &&& ((())) [[[]]] {{{}}} /// \\\\\\ ||| ~~~ ```",
    " \n\n  x\n\n y \n",
    "end with newline run\n\n\n",
    "▁ is ▁▁ itself Ġ Ċ Â",
    "Zürich façade naïve Ωmega Привет мир ΣΊΣΥΦΟΣ ǅ ʰ",
]

# The patterns of the published tokenizers, by the name GGUF files give the family.
SPACES = r"\s*[\r\n]+|\s+(?!\S)|\s+"
SHORT = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
UPPER, LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
FIRST = r"[^\r\n\p{L}\p{N}]?"
CASED = [FIRST + UPPER + "*" + LOWER + "+", FIRST + UPPER + "+" + LOWER + "*"]
PATTERNS = {
    "llama-bpe": ["|".join([SHORT, FIRST + r"\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*", SPACES])],
    "qwen2": ["|".join([SHORT, FIRST + r"\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*", SPACES])],
    "tekken": ["|".join([*CASED, r"\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*", SPACES])],
    "gpt-4o": ["|".join([c + SHORT + "?" for c in CASED] + [r"\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*", SPACES])],
    "deepseek-v3": [
        r"\p{N}{1,3}",
        "[一-龥\u3040-\u309f\u30a0-\u30ff]+",
        "|".join(
            [
                r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+""",
                r"[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*",
                SPACES,
            ]
        ),
    ],
}
# Where llama.cpp knowingly leaves something out, it does not decide: marks in words, composing.
LLAMA_CPP_DIFFERS = {"tekken", "gpt-4o", "qwen2"}


def write(name, value):
    text = json.dumps(value, ensure_ascii=True, separators=(",", ":"))
    (OUT / name).write_text(text + "\n")


def training_text():
    """English prose that every Python has, and the corpus."""
    prose = "\n".join(pydoc_data.topics.topics[key] for key in sorted(pydoc_data.topics.topics)[:12])
    return prose.split("\n") + [text for text in CORPUS for _ in range(3)]


def llama_vocab(model, pre, tokens, types, merges=None, scores=None, **flags):
    """llama.cpp's tokenizer for a vocabulary, through a GGUF file that holds nothing else."""
    with tempfile.NamedTemporaryFile(suffix=".gguf") as file:
        writer = gguf.GGUFWriter(file.name, "llama")
        writer.add_context_length(64)
        writer.add_embedding_length(64)
        writer.add_block_count(1)
        writer.add_feed_forward_length(64)
        writer.add_head_count(1)
        writer.add_layer_norm_rms_eps(1e-5)
        writer.add_tokenizer_model(model)
        writer.add_tokenizer_pre(pre)
        writer.add_token_list(tokens)
        writer.add_token_types(types)
        if merges:
            writer.add_token_merges(merges)
        if scores:
            writer.add_token_scores(scores)
        for key, value in flags.items():
            getattr(writer, "add_" + key)(value)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return llama_cpp.Llama(file.name, vocab_only=True, verbose=False)


def llama_ids(llama, parse):
    return [llama.tokenize(text.encode(), add_bos=False, special=parse) for text in CORPUS]


def byte_level_pipeline(tokenizer, pre):
    """Steps of the published tokenizers that the `tokenizers` package has under their own names."""
    bytes_only = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    gpt2 = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    if pre == "smollm":
        steps = [pre_tokenizers.Digits(individual_digits=True), gpt2]
    elif pre == "gpt-2":
        steps = [gpt2]
    else:
        steps = [pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in PATTERNS[pre]] + [bytes_only]
    if pre == "qwen2":
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(steps)


def compare(name, hf, llama):
    """The ids of the corpus; both programs must agree unless it is known why not."""
    cases = {}
    for key, parse in [("ids", False), ("parsed", True)]:
        hf.encode_special_tokens = not parse
        cases[key] = [hf.encode(text, add_special_tokens=False).ids for text in CORPUS]
        differ = [text for text, a, b in zip(CORPUS, cases[key], llama_ids(llama, parse)) if a != b]
        assert not differ or name in LLAMA_CPP_DIFFERS, (name, key, differ)
        print(f"{name} {key}: tokenizers and llama.cpp differ on {len(differ)} of {len(CORPUS)}")
    return cases


def byte_level():
    """One vocabulary whose merges run over words, so that every cut between words shows."""
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    trainer = trainers.BpeTrainer(
        vocab_size=1400,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        max_token_length=10,
        show_progress=False,
    )
    tokenizer.train_from_iterator(training_text(), trainer)
    model = json.loads(tokenizer.to_str())["model"]
    tokens = sorted(model["vocab"], key=model["vocab"].get) + ["<think>"]
    merges = [" ".join(pair) for pair in model["merges"]]
    types = [CONTROL] * len(special) + [NORMAL] * (len(tokens) - len(special) - 1) + [USER_DEFINED]

    cases = {}
    vocab = {token: id for id, token in enumerate(tokens[:-1])}
    pairs = [tuple(pair) for pair in model["merges"]]
    for pre in ["qwen2", "tekken", "gpt-4o", "deepseek-v3", "gpt-2", "smollm", "llama-bpe"]:
        hf = Tokenizer(models.BPE(vocab, pairs, ignore_merges=pre in ["llama-bpe", "tekken"]))
        hf.add_special_tokens([AddedToken(text, normalized=False, special=True) for text in special])
        hf.add_tokens([AddedToken("<think>", normalized=False)])
        byte_level_pipeline(hf, pre)
        llama = llama_vocab("gpt2", pre, tokens, types, merges, bos_token_id=1, eos_token_id=2)
        cases[pre] = compare(pre, hf, llama)
    write("byte_level.json", {"tokens": tokens, "token_types": types, "merges": merges, "cases": cases})

    hf.post_processor = processors.Sequence(
        [
            processors.ByteLevel(trim_offsets=False),
            processors.TemplateProcessing(
                single="<|im_start|> $A <|im_end|>", special_tokens=[("<|im_start|>", 1), ("<|im_end|>", 2)]
            ),
        ]
    )
    hf.decoder = decoders.ByteLevel()
    write_json_tokenizer("byte_level", hf)


def write_json_tokenizer(name, hf):
    """A `tokenizer.json` with the ids it gives the corpus, special tokens added and control tokens read as such."""
    hf.encode_special_tokens = False
    rows = [hf.encode(text).ids for text in CORPUS]
    decoded = [hf.decode(row) for row in rows]
    write(name + "_json.json", {"tokenizer": json.loads(hf.to_str()), "ids": rows, "decoded": decoded})


def sentence_piece():
    """A BPE vocabulary with scores and byte fallback, made as Llama 2's was."""
    with tempfile.TemporaryDirectory() as folder:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(training_text()),
            model_prefix=folder + "/m",
            model_type="bpe",
            vocab_size=1100,
            byte_fallback=True,
            character_coverage=0.999,
            normalization_rule_name="identity",
            remove_extra_whitespaces=False,
            split_digits=True,
            allow_whitespace_only_pieces=True,
            minloglevel=2,
        )
        sp = sentencepiece.SentencePieceProcessor(model_file=folder + "/m.model")
    n = sp.get_piece_size()
    tokens = [sp.id_to_piece(i) for i in range(n)]
    scores = [sp.get_score(i) for i in range(n)]
    kind = lambda i: UNKNOWN if sp.is_unknown(i) else CONTROL if sp.is_control(i) else BYTE if sp.is_byte(i) else NORMAL
    types = [kind(i) for i in range(n)]
    ids = [sp.encode(text) for text in CORPUS]
    llama = llama_vocab(
        "llama", "default", tokens, types, scores=scores, bos_token_id=1, eos_token_id=2, unk_token_id=0
    )
    assert ids == llama_ids(llama, False)
    decoded = [sp.decode(row) for row in ids]
    cases = {"ids": ids, "parsed": llama_ids(llama, True), "decoded": decoded}
    write("sentence_piece.json", {"tokens": tokens, "scores": scores, "token_types": types, "cases": cases})

    vocab = {token: id for id, token in enumerate(tokens)}
    cuts = [(vocab[t], t[:i], t[i:]) for t in tokens for i in range(1, len(t)) if t[:i] in vocab and t[i:] in vocab]
    merges = [(left, right) for _, left, right in sorted(cuts, key=lambda cut: -scores[cut[0]])]
    hf = Tokenizer(models.BPE(vocab, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    hf.add_special_tokens([AddedToken(text, normalized=False, special=True) for text in ["<unk>", "<s>", "</s>"]])
    hf.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    hf.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    hf.decoder = decoders.Sequence(steps)
    write_json_tokenizer("sentence_piece", hf)


def real_file(path):
    reader = gguf.GGUFReader(path)
    get = lambda key: reader.fields["tokenizer.ggml." + key].contents()
    vocab = {token: id for id, token in enumerate(get("tokens"))}
    hf = Tokenizer(models.BPE(vocab, [tuple(merge.split(" ")) for merge in get("merges")]))
    special = [token for token, kind in zip(get("tokens"), get("token_type")) if kind == CONTROL]
    hf.add_special_tokens([AddedToken(text, normalized=False, special=True) for text in special])
    byte_level_pipeline(hf, get("pre"))
    cases = compare("smollm2", hf, llama_cpp.Llama(path, vocab_only=True, verbose=False))
    write("smollm2.json", cases)


CHATML = """{% for message in messages %}
    {% if loop.first and message.role != 'system' %}
<|im_start|>system
You are helpful.<|im_end|>
    {% endif %}
{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] | trim + '<|im_end|>\\n' }}
{%- endfor %}
{% if add_generation_prompt %}
<|im_start|>assistant
{% endif %}
"""

LLAMA_3 = """{{- bos_token }}
{%- if strftime_now is defined %}{% set date = strftime_now("%d %b %Y") %}{% else %}{% set date = "26 Jul 2024" %}{% endif %}
{%- if messages[0]['role'] == 'system' %}{% set system = messages[0]['content']|trim %}{% set messages = messages[1:] %}{% else %}{% set system = "" %}{% endif %}
{{- "<|start_header_id|>system<|end_header_id|>\\n\\nToday: " + date + "\\n\\n" + system + "<|eot_id|>" }}
{%- for message in messages %}
    {%- if not (message.role == 'tool' or 'tool_calls' in message) %}
        {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n'+ message['content'] | trim + '<|eot_id|>' }}
    {%- elif 'tool_calls' in message %}
        {%- if not message.tool_calls|length == 1 %}
            {{- raise_exception("one call at a time") }}
        {%- endif %}
        {%- set call = message.tool_calls[0].function %}
        {{- '{"name": "' + call.name + '", "parameters": ' }}{{- call.arguments | tojson }}{{- "}<|eot_id|>" }}
    {%- else %}
        {%- if message.content is mapping or message.content is iterable and message.content is not string %}
            {{- message.content | tojson(indent=2) }}
        {%- else %}{{- message.content }}{%- endif %}
        {{- "<|eot_id|>" }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{%- endif %}"""

MISTRAL = """{%- if messages[0]['role'] == 'system' %}{%- set system_message = messages[0]['content'] %}{%- set loop_messages = messages[1:] %}
{%- else %}{%- set loop_messages = messages %}{%- endif %}
{{- bos_token }}
{%- for message in loop_messages %}
{%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('roles must alternate: ' ~ loop.index0) }}{% endif %}
{%- if message['role'] == 'user' %}
{%- if loop.first and system_message is defined %}{{- ' [INST] ' + system_message + '\\n\\n' + message['content'] + ' [/INST]' }}
{%- else %}{{- ' [INST] ' + message['content'] + ' [/INST]' }}{%- endif %}
{%- else %}{{- ' ' + message['content'] + eos_token }}{%- endif %}
{%- endfor %}"""

QWEN = """{%- if tools %}
    {{- '<|im_start|>system\\n' }}
    {%- if messages[0].role == 'system' %}{{- messages[0].content + '\\n\\n' }}{%- endif %}
    {{- "# Tools\\n<tools>" }}
    {%- for tool in tools %}{{- "\\n" }}{{- tool | tojson }}{%- endfor %}
    {{- "\\n</tools><|im_end|>\\n" }}
{%- endif %}
{%- set ns = namespace(multi_step=true, last=messages|length - 1) %}
{%- for message in messages[::-1] %}
    {%- set index = (messages|length - 1) - loop.index0 %}
    {%- if ns.multi_step and message.role == "user" and not(message.content.startswith('<tool_response>') and message.content.endswith('</tool_response>')) %}
        {%- set ns.multi_step = false %}{%- set ns.last = index %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- if message.role == "assistant" %}
        {%- set content = message.content or '' %}{%- set thought = '' %}
        {%- if '</think>' in content %}
            {%- set thought = content.split('</think>')[0].rstrip('\\n').split('<think>')[-1].lstrip('\\n') %}
            {%- set content = content.split('</think>')[-1].lstrip('\\n') %}
        {%- endif %}
        {{- '<|im_start|>' + message.role + '\\n' + ('<think>' ~ thought ~ '</think>' if loop.index0 > ns.last and thought else '') + content }}
        {%- for call in message.tool_calls or [] %}
            {%- if call.function %}{%- set call = call.function %}{%- endif %}
            {{- '\\n<tool_call>\\n{"name": "' }}{{- call.name }}{{- '", "arguments": ' }}
            {%- if call.arguments is string %}{{- call.arguments }}{%- else %}{{- call.arguments | tojson }}{%- endif %}
            {{- '}\\n</tool_call>' }}
        {%- endfor %}
        {{- '<|im_end|>\\n' }}
    {%- elif message.role == "tool" %}
        {%- if loop.first or (loop.previtem and loop.previtem.role != "tool") %}{{- '<|im_start|>user' }}{%- endif %}
        {{- '\\n<tool_response>\\n' }}{{- message.content }}{{- '\\n</tool_response>' }}
        {%- if loop.last or (loop.nextitem and loop.nextitem.role != "tool") %}{{- '<|im_end|>\\n' }}{%- endif %}
    {%- elif message.role != "system" or not tools %}
        {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"""

PYTHON = """{%- macro show(x) %}[{{ x }}]{%- endmacro %}
{%- for m in messages %}{% if loop.index0 == 2 %}{% break %}{% endif %}{% if m.skip %}{% continue %}{% endif %}
{{ show(m) }} {{ m.get('content', 'none') }} {{ m.none }} {{ m.missing }} {{ m.items()|list|length }}
{%- endfor %}
{{ none }} {{ true }} {{ 1.0 }} {{ 1e-7 }} {{ 1e22 }} {{ 3 // 2 }} {{ 7 % 3 }} {{ [1, 'a', none, "it's"] }} {{ {'k': 'v'} }}
{{ 'Ab c'.upper() }} {{ 'a,b'.split(',') }} {{ ' x '.strip() }}| {{ 'abc'[::-1] }} {{ 'abc'[-2:] }} {{ 'a' in 'abc' }}
{{ {'b': [1, 2.5, {}], 'a': '<é\\n"\\'>'} | tojson }} {{ [] | tojson(indent=4) }} {{ {'b': [1, {'c': none}]} | tojson(indent=2) }}
{{ {'b': 'é👍', 'a': 1} | tojson(ensure_ascii=true, sort_keys=true, separators=(',', ':')) }}
{{- messages | map(attribute='role') | join(', ') }} {{ messages | selectattr('role', 'equalto', 'user') | list | length }} {{ 'x' | default('y') }} {{ nope | default('y') }}
{% set text %}a {{ 1 }} b{% endset %}{{ text }} {{ '%d' | string }} {{ messages|last|attr('role') if false else (messages|last).role }}
"""

TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "description": "Weather at a place <now> & 'then' – \"é\"",
            "parameters": {
                "type": "object",
                "properties": {"place": {"type": "string"}, "days": {"type": "integer", "default": 1}},
                "required": ["place"],
            },
        },
    }
]
USER = {"role": "user", "content": "  What is 1+1? <é> "}
SYSTEM = {"role": "system", "content": "Be brief."}
ANSWER = {"role": "assistant", "content": "<think>\nadd\n</think>\n\nTwo."}
CALL = {
    "role": "assistant",
    "content": None,
    "tool_calls": [{"function": {"name": "get_weather", "arguments": {"place": "Zürich", "days": 2}}}],
}
RESULT = {"role": "tool", "content": "sunny"}
RESULTS = {"role": "tool", "content": {"sky": ["sunny", "cold"], "degrees": -1.5}}
ODD = {"role": "user", "zeta": 1, "alpha": [True, None, "x"], "none": None}


def tojson(value, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def raise_exception(message):
    raise jinja2.exceptions.TemplateError(message)


def templates():
    """Rendered as the transformers package does it."""
    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[jinja2.ext.loopcontrols]
    )
    environment.filters["tojson"] = tojson
    environment.globals["raise_exception"] = raise_exception
    conversations = [
        (CHATML, [USER], None),
        (CHATML, [SYSTEM, USER, ANSWER, USER], None),
        (LLAMA_3, [SYSTEM, USER, ANSWER, USER], None),
        (LLAMA_3, [USER, CALL, RESULT], None),
        (LLAMA_3, [USER, CALL, RESULTS], None),
        (LLAMA_3, [USER, {**CALL, "tool_calls": []}], None),
        (MISTRAL, [SYSTEM, USER, ANSWER, USER], None),
        (MISTRAL, [USER, USER], None),
        (QWEN, [USER, ANSWER, USER], None),
        (QWEN, [SYSTEM, USER, CALL, RESULT, RESULT, ANSWER], TOOLS),
        (PYTHON, [ODD, {"role": "user", "skip": True}, USER], None),
    ]
    cases = []
    for source, messages, tools in conversations:
        for prompt in [True, False]:
            case = {"template": source, "messages": messages, "tools": tools, "add_generation_prompt": prompt}
            try:
                case["text"] = environment.from_string(source).render(
                    messages=messages,
                    tools=tools,
                    documents=None,
                    add_generation_prompt=prompt,
                    bos_token="<s>",
                    eos_token="</s>",
                )
            except jinja2.exceptions.TemplateError as error:
                case["error"] = str(error)
            cases.append(case)
    write("templates.json", cases)


if __name__ == "__main__":
    OUT.mkdir(parents=True, exist_ok=True)
    write("corpus.json", CORPUS)
    byte_level()
    sentence_piece()
    templates()
    if len(sys.argv) > 1:
        real_file(sys.argv[1])
