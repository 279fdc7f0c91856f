"""Emoji of four vendors, from npm's packages emoji-datasource-VENDOR.

    python -m examples.emoji --output=data/emoji
    nvae train --config=examples/presets/emoji.py --workdir=runs/emoji

Writes colour pictures on white ground, 64x64, into the folders train and test:
some 15,000 in all.  All that shows one thing is in one of them, whoever drew
it, and whatever its skin tone, gender or direction: a tenth of the things is to
test with.

Google's (Noto) are under the Apache licence 2.0, Twitter's (Twemoji) under
CC BY 4.0; Apple's are not licensed for commercial use, and Facebook's have no
clear licence: leave them out with --vendors=google,twitter where that matters.
"""

from __future__ import annotations

import hashlib
import pathlib
import tempfile

from absl import flags
from PIL import Image

from examples import packages
from nvae_tf.commands import command_line
from nvae_tf.core.errors import DataError
from nvae_tf.core.files import new_folder

__all__ = ["on_white", "split_of", "thing"]

VENDORS = ("google", "apple", "twitter", "facebook")
_TONES = frozenset(f"{0x1F3FB + i:x}" for i in range(5))
# The signs of gender, and what asks for colour instead of text.
_VARIANTS = _TONES | {"2640", "2642", "fe0f"}
_JOINER = "200d"
# Behind a joiner, an arrow to the right mirrors a person; alone it is a thing.
_MIRRORED = f"-{_JOINER}-27a1"
_ADULT = "1f9d1"
_ADULTS = frozenset({"1f468", "1f469", _ADULT})
_SHARE = 0.1


def thing(code: str) -> str:
    """What a picture shows, whatever the skin tone, gender and direction.

    Args:
      code: code points as in the file names, "1f3c3-1f3fb-200d-2642-fe0f".
    """
    code = code.lower().replace(_MIRRORED, "")
    points = [p for p in code.split("-") if p not in _VARIANTS]
    points = [_ADULT if p in _ADULTS else p for p in points]
    return "-".join(p for p in points if p != _JOINER)


def split_of(code: str) -> str:
    """The folder of a picture: that of all pictures of this thing."""
    digest = hashlib.sha256(thing(code).encode()).digest()
    held_out = int.from_bytes(digest[:8], "big") < _SHARE * 2**64
    return "test" if held_out else "train"


def on_white(picture: Image.Image) -> Image.Image:
    """The picture on white ground, without its transparency."""
    picture = picture.convert("RGBA")
    ground = Image.new("RGBA", picture.size, "white")
    return Image.alpha_composite(ground, picture).convert("RGB")


def write(source: pathlib.Path, vendor: str, folder: pathlib.Path) -> int:
    """Writes a vendor's pictures into the folders of their splits.

    Args:
      source: folder of its PNG files, named by code points.
      vendor: the names of what is written end with it.
      folder: to write to.

    Returns:
      How many there are.
    """
    paths = sorted(source.glob("*.png"))
    for path in paths:
        target = folder / split_of(path.stem)
        target.mkdir(exist_ok=True)
        with Image.open(path) as picture:
            on_white(picture).save(target / f"{path.stem}_{vendor}.png")
    return len(paths)


def main(argv) -> None:
    """Fetches, composes and writes."""
    del argv
    output, chosen = flags.FLAGS.output, flags.FLAGS.vendors
    unknown = sorted(set(chosen) - set(VENDORS))
    if unknown or not chosen:
        raise DataError(
            f"--vendors has {unknown[0] if unknown else 'no name'!r}; choose "
            f"among {', '.join(VENDORS)}."
        )
    count = 0
    with new_folder(output) as folder:
        for vendor in chosen:
            with tempfile.TemporaryDirectory() as aside:
                packages.from_npm(
                    f"emoji-datasource-{vendor}",
                    lambda path, vendor=vendor: f"/{vendor}/64/" in path,
                    aside,
                )
                count += write(pathlib.Path(aside), vendor, folder)
    print(f"{output}: {count:,} pictures.")


if __name__ == "__main__":
    # Only here: whoever imports the functions has flags of his own.
    flags.DEFINE_string(
        "output", "data/emoji", "Folder to write to; a new one."
    )
    flags.DEFINE_list(
        "vendors", list(VENDORS), f"Whose pictures: of {', '.join(VENDORS)}."
    )
    command_line.run(main)
