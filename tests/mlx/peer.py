"""Opens a Hugging Face folder with mlx-lm (PyPI: mlx-lm[cpu]), the engine that others here are compared with."""

import importlib
import json
import os
import pathlib

os.environ.setdefault("MLX_ENABLE_TF32", "0")  # on a GPU, f32 is to mean f32

import mlx.core as mx
from mlx_lm.models.cache import make_prompt_cache


def build(config):
    """A model of random weights from the values of a config.json."""
    architecture = importlib.import_module("mlx_lm.models." + config["model_type"])
    return architecture.Model(architecture.ModelArgs.from_dict(config))


def read_config(folder):
    return json.loads((pathlib.Path(folder) / "config.json").read_text())


def load(folder):
    """The folder's model with its own weights, in their own number format."""
    model = build(read_config(folder))
    weights = mx.load(str(pathlib.Path(folder) / "model.safetensors"))
    model.load_weights(list(model.sanitize(weights).items()), strict=True)
    mx.eval(model.parameters())
    return model


def new_cache(model):
    """An empty KV cache, one entry per layer."""
    return make_prompt_cache(model)


def cache_arrays(cache):
    return [array for layer in cache for array in (layer.keys, layer.values)]
