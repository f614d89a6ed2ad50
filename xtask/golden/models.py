"""Writes golden files for models with llama.cpp (PyPI: llama-cpp-python) as the engine that answers.

    python models.py MODEL.gguf OUT.json --prompts prompts.txt
    python models.py MODEL.gguf OUT.json --random 8 --seed 1

For every prompt: its token ids, the greedy continuation, the second best token of each step and how far the best was
ahead of it, and the 20 likeliest tokens with log-probabilities at a few positions. Tests compare with these files and
need neither Python nor llama.cpp.

With `--exact F32.gguf`, the same weights without quantised arithmetic (dequantize.py), each case also says what that
model makes of the same tokens. `exact[i]` lists its likeliest tokens at position i of the continuation: token, its
log-probability, and the log-probability that MODEL gives it.
"""

import argparse
import json
import random

import llama_cpp
import numpy as np

N_GREEDY = 64
N_TOP = 20
TOP_AT = (0, 1, 7, 21, 42, 63)  # positions of the continuation
N_EXACT = 8  # at every position


def log_softmax(logits):
    shifted = logits.astype(np.float64) - logits.max()
    return shifted - np.log(np.exp(shifted).sum())


def open_model(path):
    return llama_cpp.Llama(path, n_ctx=512, logits_all=True, n_threads=2, verbose=False, seed=0)


def rounded(logprob):
    return round(float(logprob), 5)


def continue_greedily(llm, prompt):
    """The case, and the log-probabilities of all tokens at every position."""
    llm.reset()
    llm.eval(prompt)
    tokens, seconds, gaps, tops, rows = [], [], [], [], []
    for position in range(N_GREEDY):
        logprobs = log_softmax(np.array(llm.scores[llm.n_tokens - 1]))
        order = np.argsort(-logprobs, kind="stable")
        tokens.append(int(order[0]))
        seconds.append(int(order[1]))
        gaps.append(rounded(logprobs[order[0]] - logprobs[order[1]]))
        if position in TOP_AT:
            top = [[int(t), rounded(logprobs[t])] for t in order[:N_TOP]]
            tops.append({"position": position, "top": top})
        rows.append(logprobs)
        llm.eval([tokens[-1]])
    return {"prompt": prompt, "greedy": tokens, "seconds": seconds, "gaps": gaps, "top": tops}, rows


def judge_exactly(exact, case, rows):
    """What the exact model makes of a case whose log-probabilities are `rows`."""
    exact.reset()
    exact.eval(case["prompt"] + case["greedy"][:-1])
    first = len(case["prompt"]) - 1
    positions = []
    for position, theirs in enumerate(rows):
        logprobs = log_softmax(np.array(exact.scores[first + position]))
        order = np.argsort(-logprobs, kind="stable")
        positions.append([[int(t), rounded(logprobs[t]), rounded(theirs[t])] for t in order[:N_EXACT]])
    return positions


def prompts_of(args, llm):
    if args.prompts:
        texts = open(args.prompts, encoding="utf-8").read().split("\n---\n")
        for text in texts:
            yield text, llm.tokenize(text.encode(), add_bos=False, special=True)
        return
    generator = random.Random(args.seed)
    for i in range(args.random):
        yield None, [generator.randrange(llm.n_vocab()) for _ in range(3 + 7 * i)]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("out")
    parser.add_argument("--prompts")
    parser.add_argument("--exact")
    parser.add_argument("--random", type=int, default=0)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()

    llm = open_model(args.model)
    exact = open_model(args.exact) if args.exact else None
    cases = []
    for text, tokens in prompts_of(args, llm):
        case, rows = continue_greedily(llm, tokens)
        if exact:
            case["exact"] = judge_exactly(exact, case, rows)
        cases.append({"text": text, **case} if text is not None else case)
    lines = ",\n".join(json.dumps(case, ensure_ascii=False) for case in cases)
    with open(args.out, "w", encoding="utf-8") as out:
        out.write(f'{{"engine": "llama.cpp, llama-cpp-python {llama_cpp.__version__}", "cases": [\n{lines}\n]}}\n')


if __name__ == "__main__":
    main()
