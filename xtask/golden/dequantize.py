"""Writes a GGUF file again with every tensor in F32: the model that the file means, without any quantisation of its own.

    pip install gguf
    python dequantize.py MODEL.gguf OUT.gguf

The dequantisation is that of the `gguf` package. An engine that multiplies F32 with F32 answers on the result as exactly
as it can, so its answers tell what the quantised arithmetic of another run has cost.
"""

import sys

import numpy as np
from gguf import GGUFReader, GGUFValueType, GGUFWriter, LlamaFileType, dequantize

ARCHITECTURE = "general.architecture"
FILE_TYPE = "general.file_type"


def copy_metadata(reader, writer):
    for key, field in reader.fields.items():
        if key.startswith("GGUF.") or key in (ARCHITECTURE, FILE_TYPE):
            continue  # the writer's own
        if field.types[0] == GGUFValueType.ARRAY:
            writer.add_array(key, field.contents())
        else:
            writer.add_key_value(key, field.contents(), field.types[0])
    writer.add_file_type(LlamaFileType.ALL_F32)


def main(model, out):
    reader = GGUFReader(model)
    writer = GGUFWriter(out, reader.fields[ARCHITECTURE].contents())
    copy_metadata(reader, writer)
    for tensor in reader.tensors:
        values = dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        writer.add_tensor(tensor.name, values.reshape([int(n) for n in reversed(tensor.shape)]))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
