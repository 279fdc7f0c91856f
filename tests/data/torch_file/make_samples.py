"""Makes the sample files beside it. Needs PyTorch, which the tests do not.

The files here were made with PyTorch 2.13.0:

    python tests/data/torch_file/make_samples.py
"""

import argparse
from pathlib import Path

import numpy as np
import torch

_FOLDER = Path(__file__).parent


def _make_tensors() -> dict[str, torch.Tensor]:
    grid = torch.arange(24, dtype=torch.float32).reshape(2, 3, 4)
    return {
        "grid": grid,
        "permuted": grid.permute(2, 0, 1),
        "part": grid[1, 1:, ::2],
        "expanded": torch.tensor([[1.5], [2.5]]).expand(2, 3),
        "scalar": torch.tensor(3.25),
        "empty": torch.zeros(0, 3),
        "parameter": torch.nn.Parameter(torch.tensor([1.0, -2.0])),
        "float64": torch.tensor([1 / 3], dtype=torch.float64),
        "float16": torch.tensor([0.1, -65504.0], dtype=torch.float16),
        "bfloat16": torch.tensor([0.1, -3e38, 1.0], dtype=torch.bfloat16),
        "complex64": torch.tensor([1 + 2j]),
        "int64": torch.tensor([-(2**63), 2**63 - 1]),
        "int32": torch.tensor([-(2**31), 2**31 - 1], dtype=torch.int32),
        "int16": torch.tensor([-(2**15), 2**15 - 1], dtype=torch.int16),
        "int8": torch.tensor([-128, 127], dtype=torch.int8),
        "uint8": torch.tensor([0, 255], dtype=torch.uint8),
        "bool": torch.tensor([[True, False, True]]),
    }


def _make_checkpoint() -> dict[str, object]:
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        torch.nn.Conv2d(2, 3, 2), torch.nn.BatchNorm2d(3)
    )
    optimizer = torch.optim.Adamax(model.parameters(), lr=1e-2)
    model(torch.rand(2, 2, 4, 4)).square().sum().backward()
    optimizer.step()
    return {
        "epoch": 7,
        "state_dict": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "args": argparse.Namespace(dataset="mnist", use_se=True, root=None),
        "tensors": _make_tensors(),
        "plain": [
            -1,
            300,
            70000,
            2**40,
            0.5,
            None,
            "h\u00e9",
            (1, (2,)),
            {"s"},
        ],
        "size": torch.zeros(4, 5).size(),
    }


def _flatten(name: str, value: object, arrays: dict[str, np.ndarray]) -> None:
    if isinstance(value, torch.Tensor):
        value = value.detach()
        wide = value.dtype == torch.bfloat16
        arrays[name] = (value.float() if wide else value).numpy()
    elif isinstance(value, dict):
        for key, item in value.items():
            _flatten(f"{name}/{key}" if name else str(key), item, arrays)


def main() -> None:
    """Writes the samples and what is expected of them."""
    checkpoint = _make_checkpoint()
    torch.save(checkpoint, _FOLDER / "zip.pt")
    torch.save(checkpoint, _FOLDER / "zip_protocol4.pt", pickle_protocol=4)
    torch.save(
        checkpoint,
        _FOLDER / "stream.pt",
        _use_new_zipfile_serialization=False,
    )
    arrays = {}
    _flatten("", checkpoint, arrays)
    np.savez_compressed(_FOLDER / "expected.npz", **arrays)


if __name__ == "__main__":
    main()
