"""Makes the golden file of `tiktoken.model` vocabularies with the PyPI package that defines them.

    pip install tiktoken
    python xtask/golden/tiktoken_model.py [--check]

Trains a small vocabulary of byte pairs on prose that every Python has and on texts that are hard to get right, always the
same one, and writes crates/text/tests/golden/tiktoken.json: the vocabulary in the file's own form, its
`tokenizer_config.json`, and the ids that `tiktoken` gives the corpus. `ids[i]` belongs to `corpus[i]`; `parsed[i]` is the
same text with special tokens read as such. Of the large random corpus only the seed of each text and a checksum of its
ids are kept. `--check` compares instead of writing.
"""

import base64
import collections
import json
import pydoc_data.topics
import sys
from pathlib import Path

import tiktoken

OUT = Path(__file__).resolve().parents[2] / "crates/text/tests/golden/tiktoken.json"
N_TOKENS, N_SPECIAL = 1200, 256
LONGEST_RUN = 25_000
N_RANDOM, N_PIECES = 400, 600

HAN, NOT_HAN = r"\p{Han}", r"&&[^\p{Han}]"
UPPER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}" + NOT_HAN + "]"
LOWER = r"[\p{Ll}\p{Lm}\p{Lo}\p{M}" + NOT_HAN + "]"
SHORT = "(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
PATTERN = "|".join(
    [
        f"[{HAN}]+",
        r"[^\r\n\p{L}\p{N}]?" + UPPER + "*" + LOWER + "+" + SHORT,
        r"[^\r\n\p{L}\p{N}]?" + UPPER + "+" + LOWER + "*" + SHORT,
        r"\p{N}{1,3}",
        r" ?[^\s\p{L}\p{N}]+[\r\n]*",
        r"\s*[\r\n]+",
        r"\s+(?!\S)",
        r"\s+",
    ]
)
# Offset behind the ordinary tokens, text, whether decoding leaves it out.
SPECIAL = [
    (0, "[BOS]", True),
    (1, "[EOS]", True),
    (2, "<|im_end|>", True),
    (3, "<|im_user|>", True),
    (4, "<|im_assistant|>", True),
    (10, "<|im_system|>", True),
    (11, "<|tool_calls_section_begin|>", True),
    (12, "<|tool_calls_section_end|>", True),
    (13, "<|tool_call_begin|>", True),
    (14, "<|tool_call_argument_begin|>", True),
    (15, "<|tool_call_end|>", True),
    (17, "<|im_middle|>", True),
    (22, "<think>", False),
    (23, "</think>", False),
    (254, "[UNK]", True),
    (255, "[PAD]", True),
]

MORE = [
    "你好世界Hello世界abc，。「引用」々〇ㄅ",
    "汉字 漢字\n漢字\t漢 字 12漢34",
    "ABCdefGHI dontDON'T WE'LLgo I'Ve x'S 'S's'T",
    "カタカナひらがな漢字ｶﾅー한글",
    "Aʰb ǅungla ǈ ñÑ éÉ́ ß ẞ ſ ﬁ",
    "   \n \n\t x\u3000\u3000y \r\n\r\n z   ",
    "12345 ⅫⅬ ½¼ ٣٤٥٦ १२३४ ①②③④",
    "<|reserved_token_1205|><|im_user|>user<|im_middle|>hi<|im_end|>[EOS][PAD][BOS",
    "<think>a</think><|tool_call_begin|>functions.f:0<|tool_call_argument_begin|>{}<|tool_call_end|>",
    "…—–‘’“”«»¡¿€£¥₿°±×÷≠≤≥∞∑√∫🙂🙃🧑‍💻\n\n🏴󠁧󠁢󠁥󠁮󠁧󠁿\r\n",
    "a" * 500,
    " " * 500 + "x",
    "ab" * 700 + " " + "漢" * 300,
    "=" * 300 + "\n" * 200,
]

# What random texts are put together from; the test has the same list, and the same generator.
PIECES = [
    "the", " and", " Of", "ING", "ed ", "I'm", "'ll", "'S", "漢", "字漢", "。", "Ж", "я", "é", "e\u0301", "ß", "ǅ", "ʰ", "ア",
    "ー", "한", "ไ", "ी", "1", "23", "4567", "½", "٣", "\n", "\r\n", " ", "  ", "\t", "\u3000", "\u00a0", "\u2028", "!", "?!",
    "...", "/", "_", "{", "\"", "\\", "<", "|>", "👍🏽", "\u200d", "\ufeff", "\0",
]  # fmt: skip


def next_random(state):
    """Numerical Recipes' linear congruential generator."""
    return (state * 1664525 + 1013904223) % 2**32


def checksum(ids):
    """FNV-1a over whole ids."""
    state = 0x811C9DC5
    for token in ids:
        state = (state ^ token) * 16777619 % 2**32
    return state


def random_text(seed):
    state, text = seed, []
    for _ in range(N_PIECES):
        state = next_random(state)
        text.append(PIECES[(state >> 16) % len(PIECES)])
    return "".join(text)


def train(texts):
    """Byte pairs, the most frequent first; of equally frequent ones the smaller."""
    words = collections.Counter()
    for text in texts:
        words.update(words_of(text))
    tokens = [bytes([b]) for b in range(256)]
    split = {word: [bytes([b]) for b in word] for word in words}
    known = set(tokens)
    while len(tokens) < N_TOKENS:
        pairs = collections.Counter()
        for word, parts in split.items():
            for pair in zip(parts, parts[1:]):
                pairs[pair] += words[word]
        (left, right), _ = min(pairs.items(), key=lambda item: (-item[1], item[0]))
        whole = left + right
        if whole not in known:
            known.add(whole)
            tokens.append(whole)
        for word, parts in split.items():
            i = 0
            while i + 1 < len(parts):
                if parts[i] == left and parts[i + 1] == right:
                    parts[i : i + 2] = [whole]
                i += 1
    return tokens


def words_of(text):
    """Words for training only, so that a plain cut is enough."""
    word = ""
    for c in text:
        if word and (c.isspace() != word[-1].isspace() or len(word) > 12):
            yield word.encode()
            word = ""
        word += c
    if word:
        yield word.encode()


def runs(text):
    """Parts whose runs of blanks and of others are not too long, as the family's tokenizer makes them."""
    start, n, blank = 0, 0, None
    for i, c in enumerate(text):
        n, blank = (n + 1 if c.isspace() == blank else 1), c.isspace()
        if n > LONGEST_RUN:
            yield text[start:i]
            start, n = i, 1
    yield text[start:]


def main():
    prose = "\n".join(pydoc_data.topics.topics[key] for key in sorted(pydoc_data.topics.topics)[:6])
    corpus = json.loads((OUT.parent / "corpus.json").read_text()) + MORE
    if "--check" in sys.argv:
        # The prose differs between versions of Python, and so would the vocabulary.
        lines = json.loads(OUT.read_text())["model"].splitlines()
        tokens = [base64.b64decode(line.split()[0]) for line in lines]
    else:
        tokens = train(prose.split("\n") + [text[:400] for text in corpus for _ in range(2)])
    special = {f"<|reserved_token_{len(tokens) + i}|>": len(tokens) + i for i in range(N_SPECIAL)}
    for offset, text, _ in SPECIAL:
        del special[f"<|reserved_token_{len(tokens) + offset}|>"]
        special[text] = len(tokens) + offset
    ranks = {token: rank for rank, token in enumerate(tokens)}
    encoding = tiktoken.Encoding("golden", pat_str=PATTERN, mergeable_ranks=ranks, special_tokens=special)

    def ids(text, allowed):
        parts = [encoding.encode(part, allowed_special=allowed, disallowed_special=()) for part in runs(text)]
        return [token for part in parts for token in part]

    randoms = []
    for seed in range(N_RANDOM):
        found = ids(random_text(seed), set())
        randoms.append(checksum(found))
    golden = {
        "model": "".join(f"{base64.b64encode(token).decode()} {rank}\n" for rank, token in enumerate(tokens)),
        "config": {
            "bos_token": "[BOS]",
            "eos_token": {"content": "[EOS]"},
            "added_tokens_decoder": {
                str(len(tokens) + offset): {"content": text, "special": special} for offset, text, special in SPECIAL
            },
        },
        "corpus": corpus,
        "ids": [ids(text, set()) for text in corpus],
        "parsed": [ids(text, "all") for text in corpus],
        "long": [len(ids(c * 60_000 + "b", set())) for c in ("a", " ", "漢", "\n", "=")],
        "pieces": PIECES,
        "random": randoms,
    }
    text = json.dumps(golden, ensure_ascii=True, separators=(",", ":")) + "\n"
    if "--check" in sys.argv:
        sys.exit(None if OUT.read_text() == text else f"{OUT} is not what is made here")
    OUT.write_text(text)
    print(f"{len(tokens)} tokens, {len(text)} bytes")


if __name__ == "__main__":
    main()
