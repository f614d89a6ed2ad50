"""Measures llama.cpp (PyPI: llama-cpp-python) as its own benchmark does: a prompt of N random tokens at once (pp), or N
tokens one after the other from an empty context (tg). Loads the model twice, with and without the weights repacked for
this machine, and then runs what it is asked for, so that whoever compares can take turns. Pinned to as many cores as it
has threads.

    python llama_cpp_bench.py MODEL.gguf THREADS

prints one line of JSON about itself, and one for each line of its input:

    repack tg 128 3   ->   {"tok_s": [21.3, 21.5, 21.4]}

The first run of a test with a setting is not counted.
"""

import ctypes
import json
import os
import random
import sys
import time

import llama_cpp as ll

MAX_TOKENS = 1024
SETTINGS = {"repack": True, "plain": False}


class Engine:
    def __init__(self, path, n_threads, is_repacked):
        params = ll.llama_model_default_params()
        params.use_extra_bufts = is_repacked
        model = ll.llama_model_load_from_file(path.encode(), params)
        if not model:
            raise RuntimeError(f"llama.cpp cannot load {path}")
        self.vocab = ll.llama_vocab_n_tokens(ll.llama_model_get_vocab(model))
        params = ll.llama_context_default_params()
        params.n_ctx = MAX_TOKENS
        params.n_batch = params.n_ubatch = 512
        params.n_threads = params.n_threads_batch = n_threads
        self.context = ll.llama_init_from_model(model, params)
        self.warm = set()

    def rates(self, test, n, n_runs):
        if (test, n) not in self.warm:
            self.warm.add((test, n))
            self.rate(test, n)
        return [self.rate(test, n) for _ in range(n_runs)]

    def rate(self, test, n):
        ll.llama_memory_clear(ll.llama_get_memory(self.context), True)
        tokens = [random.randrange(self.vocab) for _ in range(n)]
        start = time.perf_counter()
        for batch in [[token] for token in tokens] if test == "tg" else [tokens]:
            self.decode(batch)
        return n / (time.perf_counter() - start)

    def decode(self, tokens):
        array = (ll.llama_token * len(tokens))(*tokens)
        if ll.llama_decode(self.context, ll.llama_batch_get_one(array, len(tokens))) != 0:
            raise RuntimeError("llama_decode failed")
        ll.llama_synchronize(self.context)


def main(path, n_threads):
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:n_threads])
    silent = ll.llama_log_callback(lambda level, text, data: None)
    ll.llama_log_set(silent, ctypes.c_void_p(0))
    ll.llama_backend_init()
    engines = {name: Engine(path, n_threads, is_repacked) for name, is_repacked in SETTINGS.items()}
    features = ll.llama_print_system_info().decode().strip()
    print(json.dumps({"engine": f"llama-cpp-python {ll.__version__}", "features": features}), flush=True)
    for line in sys.stdin:
        setting, test, n, n_runs = line.split()
        print(json.dumps({"tok_s": engines[setting].rates(test, int(n), int(n_runs))}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
