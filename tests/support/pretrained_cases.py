"""Folders of pretrained models, small enough for a test."""

from __future__ import annotations

import json
import pathlib
import struct
from typing import Any

import yaml

from nvae_tf.config import Config
from nvae_tf.runs import pretrained
from tests.support.model_cases import random_model
from tests.support.run_helpers import SMALLEST, make_config

CARD = {
    "license": "cc-by-4.0",
    "datasets": ["blobs"],
    "description": "Blobs, for the tests.",
}


def small_config(images: str = "images.npy") -> Config:
    """Of a model that is built in a moment."""
    return make_config(pathlib.Path(images), model=SMALLEST)


def write_pretrained(folder: pathlib.Path, **options: Any):
    """Writes the folder of a random model; returns the model."""
    config = small_config()
    model = random_model(config.model)
    pretrained.save(model, config, folder, CARD, **options)
    return model


def read_header(page: str) -> dict[str, Any]:
    """The YAML at the start of a card, as a strict reader takes it."""
    start, header, rest = page.split("---\n", 2)
    assert start == ""
    assert rest.startswith("\n#")
    return yaml.safe_load(header)


def safetensors_bytes(header: object, data: bytes = b"") -> bytes:
    """A file of safetensors, whatever the header is."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def tensor_at(start, end, shape=(1,), dtype="F32") -> dict:
    """What the header says of one array."""
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}
