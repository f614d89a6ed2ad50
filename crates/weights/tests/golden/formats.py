"""Makes the golden files of stored formats, with the packages that define these.

    python -m venv V; V/bin/pip install compressed-tensors==0.20.0 torch mlx[cpu]==0.32.4 gguf numpy safetensors
    V/bin/python formats.py

Writes, beside itself, formats/model.safetensors with every weight as its package stores it, formats/values.safetensors with the
same names and the numbers that the package reads there, and experts.gguf with stacks of experts.
"""

import pathlib

import gguf
import mlx.core as mx
import numpy as np
import torch
from compressed_tensors.compressors.pack_quantized.helpers import pack_to_int32, unpack_from_int32
from safetensors.torch import save_file

HERE = pathlib.Path(__file__).parent
stored, values = {}, {}
torch.manual_seed(1)


def from_mlx(array):
    return torch.from_numpy(np.array(array.astype(mx.float32))).clone()


def packed(name, bits, n_out, n_in, dtype, smallest):
    """compressed-tensors' pack-quantized, around the middle code, groups of 32; some scales are far smaller than others."""
    codes = torch.randint(-(1 << bits - 1), 1 << bits - 1, (n_out, n_in), dtype=torch.int8)
    scales = (torch.rand(n_out, n_in // 32) * 0.01 + smallest).to(dtype)
    scales[0, 0] = smallest
    words = pack_to_int32(codes, bits)
    stored[f"{name}.weight_packed"] = words
    stored[f"{name}.weight_scale"] = scales
    stored[f"{name}.weight_shape"] = torch.tensor([n_out, n_in], dtype=torch.int32 if bits == 4 else torch.int64)
    read = unpack_from_int32(words, bits, torch.Size([n_out, n_in]))
    values[f"{name}.weight"] = read.to(torch.float32) * scales.to(torch.float32).repeat_interleave(32, 1)


def affine(name, bits, group_size, dtype):
    w = mx.random.normal((6, 128), dtype=mx.float32, key=mx.random.key(bits * group_size)).astype(dtype)
    words, scales, biases = mx.quantize(w, group_size, bits)
    stored[f"{name}.weight"] = torch.from_numpy(np.array(words))
    for kind, array in [("scales", scales), ("biases", biases)]:
        stored[f"{name}.{kind}"] = from_mlx(array).to(getattr(torch, str(dtype).split(".")[-1]))
    exact = [array.astype(mx.float32) for array in (scales, biases)]
    values[f"{name}.weight"] = from_mlx(mx.dequantize(words, *exact, group_size, bits))


def mxfp4(name):
    powers = mx.power(2.0, mx.random.randint(-20, 4, (5, 1), key=mx.random.key(5)))
    w = mx.random.normal((5, 96), key=mx.random.key(4)) * powers
    words, scales = mx.quantize(w, 32, 4, mode="mxfp4")
    stored[f"{name}.weight"] = torch.from_numpy(np.array(words))
    stored[f"{name}.scales"] = torch.from_numpy(np.array(scales))
    values[f"{name}.weight"] = from_mlx(mx.dequantize(words, scales, group_size=32, bits=4, mode="mxfp4"))


def fp8(name, n_out, n_in):
    weight = (torch.randn(n_out, n_in) * 20).to(torch.float8_e4m3fn)
    scales = torch.rand((n_out + 127) // 128, (n_in + 127) // 128) * 1e-3 + 1e-4
    stored[f"{name}.weight"] = weight
    stored[f"{name}.weight_scale_inv"] = scales
    wide = scales.repeat_interleave(128, 0)[:n_out].repeat_interleave(128, 1)[:, :n_in]
    values[f"{name}.weight"] = weight.to(torch.float32) * wide


def stacks():
    """Three experts of each kind, as the engine's converter writes them."""
    writer = gguf.GGUFWriter(HERE / "experts.gguf", "llama")
    rng = np.random.default_rng(1)
    for kind in ["Q4_0", "Q8_0", "Q4_K"]:
        dtype = gguf.GGMLQuantizationType[kind]
        name = f"blk.0.ffn_{kind.lower()}_exps.weight"
        shape = (3, 4, 256 if kind == "Q4_K" else 64)
        if kind == "Q4_K":  # the package reads these and does not make them
            data = rng.integers(0, 256, (3, 4, 144), dtype=np.uint8)
            data[..., :4] = np.frombuffer(np.array([0.01, 0.02], np.float16).tobytes(), np.uint8)
        else:
            data = gguf.quants.quantize(rng.standard_normal(shape, np.float32), dtype)
        writer.add_tensor(name, data, raw_dtype=dtype)
        values[name] = torch.from_numpy(gguf.quants.dequantize(data, dtype).reshape(shape)).clone()
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


packed("int4", 4, 5, 96, torch.bfloat16, 1e-3)
packed("int4.small", 4, 3, 64, torch.bfloat16, 1e-9)
packed("int8", 8, 3, 64, torch.float16, 1e-3)
for bits in [4, 5, 6, 8]:
    for group_size in [32, 64, 128]:
        affine(f"affine.{bits}.{group_size}", bits, group_size, [mx.float16, mx.bfloat16, mx.float32][bits % 3])
mxfp4("mxfp4")
fp8("fp8", 130, 136)
stacks()
(HERE / "formats").mkdir(exist_ok=True)
(HERE / "formats" / "config.json").write_text("{}\n")
save_file(stored, HERE / "formats" / "model.safetensors")
save_file({name: v.contiguous() for name, v in values.items()}, HERE / "formats" / "values.safetensors")
