"""Counts the nodes of the graph that mlx-lm builds for one decode step, and prints them as JSON.

    python count_nodes.py FOLDER [--bits 4] [--group-size 32]

Only FOLDER/config.json is read: values do not matter to a count. The KV cache is filled and evaluated before, nothing is
evaluated in the step itself. `per_layer` is what the graph has more with one layer more, so embedding and head drop out; `views`
of these nodes only look at memory that is there and launch nothing; `by_name` says what they are.

`cpu` counts the graph as the CPU build makes it, where the operations of mx.fast are spelled out. `gpu` counts each of
these as one node, as a GPU runs it.
"""

import argparse
import collections
import contextlib
import json
import pathlib
import re
import tempfile

import mlx.core as mx
import mlx.nn as nn

import peer

N_PROMPT_TOKENS = 5
VIEWS = {
    "AsStrided",
    "Broadcast",
    "BroadcastAxes",
    "ExpandDims",
    "Flatten",
    "Reshape",
    "Slice",
    "Split",
    "Squeeze",
    "StopGradient",
    "Transpose",
    "Unflatten",
    "View",
}
PRIMITIVE = re.compile(r'\{ \d+ \[label ="(\w+)", shape=rectangle\]; \}')
# what a GPU runs as one kernel, by its name in mx.fast: the inputs that the node depends on beside the first
FUSED = {
    "rms_norm": lambda x, weight, *_, **__: [weight if weight is not None else x],
    "rope": lambda x, *_, freqs=None, **__: [x if freqs is None else freqs],
    "scaled_dot_product_attention": lambda q, k, v, **__: [k, v],
}


@contextlib.contextmanager
def fused_as_one_node(calls):
    """Puts one-node stand-ins in the place of the fused operations and counts their calls."""
    originals = {name: getattr(mx.fast, name) for name in FUSED}

    def stand_in(name):
        def call(x, *args, **kwargs):
            calls[name] += 1
            return mx.depends(x, FUSED[name](x, *args, **kwargs))

        return call

    for name in FUSED:
        setattr(mx.fast, name, stand_in(name))
    try:
        yield
    finally:
        for name, original in originals.items():
            setattr(mx.fast, name, original)


def primitives(outputs):
    """Names of all primitives of a graph that was not evaluated, with their numbers."""
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "graph.dot"
        mx.export_to_dot(str(path), *outputs)
        return collections.Counter(PRIMITIVE.findall(path.read_text()))


def decode_step(config, n_layers, args, gpu):
    """Primitives of one decode step of a model of `n_layers`."""
    model = peer.build({**config, "num_hidden_layers": n_layers})
    if args.bits:
        nn.quantize(model, group_size=args.group_size, bits=args.bits)
    cache = peer.new_cache(model)
    logits = model(mx.arange(N_PROMPT_TOKENS)[None], cache=cache)
    mx.eval(model.parameters(), logits, peer.cache_arrays(cache))
    token = mx.array([[1]])
    mx.eval(token)
    calls = collections.Counter()
    with fused_as_one_node(calls) if gpu else contextlib.nullcontext():
        logits = model(token, cache=cache)
    nodes = primitives([logits, *peer.cache_arrays(cache)])
    if gpu:
        assert nodes.pop("Depends") == sum(calls.values()), "each stand-in is one node"
        nodes += calls
    return nodes


def count(config, args, gpu):
    more, less = (decode_step(config, n, args, gpu) for n in (3, 2))
    layer = more - less
    assert sum(layer.values()) == sum(more.values()) - sum(less.values()), "no kind of node becomes fewer"
    views = sum(n for name, n in layer.items() if name in VIEWS)
    by_name = dict(sorted(layer.items()))
    return {"per_layer": sum(layer.values()), "views": views, "total": sum(more.values()), "by_name": by_name}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("folder")
    parser.add_argument("--bits", type=int, help="quantise the weights; absent: as they are")
    parser.add_argument("--group-size", type=int, default=32)
    args = parser.parse_args()
    config = peer.read_config(args.folder)
    print(json.dumps({device: count(config, args, device == "gpu") for device in ("cpu", "gpu")}, indent=1))


if __name__ == "__main__":
    main()
