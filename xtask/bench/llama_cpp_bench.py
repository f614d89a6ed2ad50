"""Measures llama.cpp (PyPI: llama-cpp-python) as its own benchmark does: a prompt of N random tokens at once, then N
tokens one after the other from an empty context. Prints JSON.

    python llama_cpp_bench.py MODEL.gguf --threads 1 -p 512 -n 128 --repeat 5
"""

import argparse
import ctypes
import json
import os
import random
import time

import llama_cpp as ll


def decode(context, tokens):
    array = (ll.llama_token * len(tokens))(*tokens)
    if ll.llama_decode(context, ll.llama_batch_get_one(array, len(tokens))) != 0:
        raise RuntimeError("llama_decode failed")
    ll.llama_synchronize(context)


def rate(context, vocab, n, one_by_one):
    ll.llama_memory_clear(ll.llama_get_memory(context), True)
    tokens = [random.randrange(vocab) for _ in range(n)]
    start = time.perf_counter()
    if one_by_one:
        for token in tokens:
            decode(context, [token])
    else:
        decode(context, tokens)
    return n / (time.perf_counter() - start)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("-p", type=int, default=512)
    parser.add_argument("-n", type=int, default=128)
    parser.add_argument("--repeat", type=int, default=5)
    args = parser.parse_args()

    cores = sorted(os.sched_getaffinity(0))[: args.threads]
    os.sched_setaffinity(0, cores)
    silent = ll.llama_log_callback(lambda level, text, data: None)
    ll.llama_log_set(silent, ctypes.c_void_p(0))
    ll.llama_backend_init()
    model = ll.llama_model_load_from_file(args.model.encode(), ll.llama_model_default_params())
    params = ll.llama_context_default_params()
    params.n_ctx = max(args.p, args.n) + 64
    params.n_batch = params.n_ubatch = 512
    params.n_threads = params.n_threads_batch = args.threads
    context = ll.llama_init_from_model(model, params)
    vocab = ll.llama_vocab_n_tokens(ll.llama_model_get_vocab(model))

    tests = []
    for name, n, one_by_one in ((f"pp{args.p}", args.p, False), (f"tg{args.n}", args.n, True)):
        if n > 0:
            rate(context, vocab, n, one_by_one)  # not counted
            rates = sorted(rate(context, vocab, n, one_by_one) for _ in range(args.repeat))
            tests.append({"test": name, "tok_s": rates})
    print(json.dumps({"engine": f"llama-cpp-python {ll.__version__}", "threads": args.threads, "tests": tests}))


if __name__ == "__main__":
    main()
