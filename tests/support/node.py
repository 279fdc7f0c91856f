"""Functions of the web page's modules, called in Node.js."""

from __future__ import annotations

import base64
import json
import pathlib
import shutil
import subprocess
from typing import Any

import numpy as np
import pytest

import nvae_tf.web

__all__ = ["CHECKS", "MODULES", "call", "needs_node"]

MODULES = pathlib.Path(nvae_tf.web.__file__).parent / "site" / "js"
# What tests need besides the page's own functions.
CHECKS = pathlib.Path(__file__).parents[1] / "web" / "checks.mjs"
_NODE = shutil.which("node")
needs_node = pytest.mark.skipif(
    _NODE is None,
    reason="there is no Node.js: apt-get install nodejs, or put node on PATH",
)

_PROGRAM = """
const [module, name] = process.argv.slice(-2);
const kinds = { Float32Array, Uint32Array, Uint8Array };
const given = (key, value) =>
  value?.bytes !== undefined
    ? new kinds[value.kind](
        new Uint8Array(Buffer.from(value.bytes, "base64")).buffer)
    : value;
const told = (key, value) =>
  ArrayBuffer.isView(value)
    ? {
        kind: value.constructor.name,
        bytes: Buffer.from(
          value.buffer, value.byteOffset, value.byteLength).toString("base64"),
      }
    : value;
let text = "";
for await (const part of process.stdin) text += part;
const calls = JSON.parse(text, given);
const { [name]: called } = await import(module);
const results = [];
for (const values of calls) results.push(await called(...values));
process.stdout.write(JSON.stringify(results, told));
"""
_KINDS = {
    "Float32Array": np.float32,
    "Uint32Array": np.uint32,
    "Uint8Array": np.uint8,
}


def call(module: str | pathlib.Path, name: str, *calls: tuple) -> list[Any]:
    """Calls a function that a module exports.

    Args:
      module: a file of the page, or the path of another.
      name: of the function.
      *calls: the arguments of each call; arrays of float32, uint32 and uint8
        arrive as typed arrays.

    Returns:
      What it returned each time, or what its promise held.
    """
    assert _NODE is not None
    done = subprocess.run(
        [
            _NODE,
            "--input-type=module",
            "--eval",
            _PROGRAM,
            "--",
            (MODULES / module).as_uri(),
            name,
        ],
        input=json.dumps(calls, default=_encoded),
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout, object_hook=_decoded)


def _encoded(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        kind = {np.dtype(v): k for k, v in _KINDS.items()}[value.dtype]
        data = base64.b64encode(value.tobytes()).decode()
        return {"kind": kind, "bytes": data}
    return value.item()


def _decoded(value: dict) -> Any:
    if value.keys() == {"kind", "bytes"}:
        data = base64.b64decode(value["bytes"])
        return np.frombuffer(data, _KINDS[value["kind"]])
    return value
