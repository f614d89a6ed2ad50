"""Writes golden files for models with llama.cpp (PyPI: llama-cpp-python) as the engine that answers.

    python models.py MODEL.gguf OUT.json --prompts prompts.txt
    python models.py MODEL.gguf OUT.json --random 8 --seed 1

For every prompt: its token ids, the greedy continuation, how far the best token was ahead of the second at each
step, and the 20 likeliest tokens with log-probabilities at a few positions. Tests compare with these files and need
neither Python nor llama.cpp.
"""

import argparse
import json
import random

import llama_cpp
import numpy as np

N_GREEDY = 64
N_TOP = 20
TOP_AT = (0, 1, 7, 21, 42, 63)  # positions of the continuation


def log_softmax(logits):
    shifted = logits.astype(np.float64) - logits.max()
    return shifted - np.log(np.exp(shifted).sum())


def continue_greedily(llm, prompt):
    llm.reset()
    llm.eval(prompt)
    tokens, gaps, tops = [], [], []
    for position in range(N_GREEDY):
        logprobs = log_softmax(np.array(llm.scores[llm.n_tokens - 1]))
        order = np.argsort(-logprobs, kind="stable")
        tokens.append(int(order[0]))
        gaps.append(round(float(logprobs[order[0]] - logprobs[order[1]]), 5))
        if position in TOP_AT:
            top = [[int(t), round(float(logprobs[t]), 5)] for t in order[:N_TOP]]
            tops.append({"position": position, "top": top})
        llm.eval([tokens[-1]])
    return {"prompt": prompt, "greedy": tokens, "gaps": gaps, "top": tops}


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
    parser.add_argument("--random", type=int, default=0)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()

    llm = llama_cpp.Llama(args.model, n_ctx=512, logits_all=True, n_threads=2, verbose=False, seed=0)
    cases = []
    for text, tokens in prompts_of(args, llm):
        case = continue_greedily(llm, tokens)
        cases.append({"text": text, **case} if text is not None else case)
    lines = ",\n".join(json.dumps(case, ensure_ascii=False) for case in cases)
    with open(args.out, "w", encoding="utf-8") as out:
        out.write(f'{{"engine": "llama.cpp, llama-cpp-python {llama_cpp.__version__}", "cases": [\n{lines}\n]}}\n')


if __name__ == "__main__":
    main()
