"""Has mlx-lm compute the logits of every token of some sequences.

    python oracle.py REQUEST.json

REQUEST.json: {"runs": [{"model": FOLDER, "kv": "float32" or "float16", "out": FILE}], "sequences": [{"tokens": [..], "chunks": [..]}]}.
Each run takes each sequence for itself with an empty KV cache, in as many calls as it has chunks, and writes the logits of
all its tokens, [n_tokens, vocab], one sequence after the other, as raw little-endian f32. `kv` is the format in which
keys and values are kept, whatever the arithmetic.
"""

import json
import sys

import mlx.core as mx
import numpy as np

import peer


def keep_rounded(cache, dtype):
    """Makes a layer's cache round what it is given; what it holds and returns is f32 again."""
    update = cache.update_and_fetch

    def rounding(keys, values):
        return update(*(x.astype(dtype).astype(mx.float32) for x in (keys, values)))

    cache.update_and_fetch = rounding


def logits_of(model, kv, sequence):
    """[n_tokens, vocab]"""
    cache = peer.new_cache(model)
    if kv != mx.float32:
        for layer in cache:
            keep_rounded(layer, kv)
    rows, start = [], 0
    for n in sequence["chunks"]:
        tokens = mx.array([sequence["tokens"][start : start + n]])
        logits = model(tokens, cache=cache)
        mx.eval(logits, peer.cache_arrays(cache))
        rows.append(np.array(logits[0].astype(mx.float32)))
        start += n
    assert start == len(sequence["tokens"]), "chunks must cover the sequence"
    return np.concatenate(rows)


def main():
    mx.disable_compile()  # a compiler for fused CPU kernels may not be there; the arithmetic is the same
    with open(sys.argv[1], encoding="utf-8") as file:
        request = json.load(file)
    for run in request["runs"]:
        model, kv = peer.load(run["model"]), getattr(mx, run["kv"])
        logits = [logits_of(model, kv, sequence) for sequence in request["sequences"]]
        np.concatenate(logits).astype("<f4").tofile(run["out"])


if __name__ == "__main__":
    main()
