"""Quantises a GGUF file with llama.cpp's own quantiser, without an importance matrix.

    pip install llama-cpp-python
    python quantize.py F32.gguf OUT.gguf Q4_K_M
"""

import ctypes
import sys

import llama_cpp as ll


def main(model, out, name):
    silent = ll.llama_log_callback(lambda level, text, data: None)
    ll.llama_log_set(silent, ctypes.c_void_p(0))
    ll.llama_backend_init()
    params = ll.llama_model_quantize_default_params()
    params.ftype = getattr(ll, f"LLAMA_FTYPE_MOSTLY_{name}")
    if ll.llama_model_quantize(model.encode(), out.encode(), ctypes.byref(params)) != 0:
        raise SystemExit(f"llama.cpp cannot quantise {model} to {name}")


if __name__ == "__main__":
    main(*sys.argv[1:])
