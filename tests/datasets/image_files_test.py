"""Listing image files, whatever links lead to, and parting them."""

import collections
import os
import shutil

import numpy as np
import pytest

from nvae_tf.config import DataConfig, config_from_dict
from nvae_tf.core.errors import DataError
from nvae_tf.datasets import image_files
from nvae_tf.datasets.image_files import (
    content_fractions,
    find_images,
    hash_fraction,
    list_images,
)
from nvae_tf.datasets.pipeline import open_source
from nvae_tf.datasets.sources import CorruptImageError
from tests.support.data_helpers import make_config, write_picture


def _listed(root):
    return [path.relative_to(root).as_posix() for path in list_images(root)]


def _write(path, content=b"x"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    "links",
    [
        {"self": "."},
        {"a": ".", "b": "."},
        {"inner/up": ".."},
        {"inner/a": "../other", "other/b": "../inner"},
        {"0": "inner", "zz": "inner"},
    ],
    ids=str,
)
def test_links_to_folders_list_no_file_twice(tmp_path, links):
    for name in ("x.png", "inner/y.png", "other/z.png"):
        _write(tmp_path / name)
    for name, target in links.items():
        (tmp_path / name).symlink_to(target, target_is_directory=True)
    assert _listed(tmp_path) == ["inner/y.png", "other/z.png", "x.png"]


def test_links_to_elsewhere_are_followed_once(tmp_path):
    root, elsewhere = tmp_path / "root", tmp_path / "elsewhere"
    _write(elsewhere / "deep" / "a.png")
    _write(elsewhere / "b.png")
    _write(elsewhere / ".hidden" / "c.data")
    _write(root / "own.png")
    (root / "folder").symlink_to(elsewhere)
    (root / "folder_again").symlink_to(elsewhere / "deep")
    # Files that are listed by another path, or of another name, already.
    (root / "a_again.png").symlink_to(elsewhere / "deep" / "a.png")
    (root / "own_again.png").symlink_to("own.png")
    (root / "c.png").symlink_to(elsewhere / ".hidden" / "c.data")
    (root / "d.png").symlink_to(elsewhere / ".hidden" / "c.data")
    assert _listed(root) == [
        "c.png",
        "folder/b.png",
        "folder/deep/a.png",
        "own.png",
    ]


def test_folders_nested_however_deep_are_listed(tmp_path):
    folder = str(tmp_path)
    folders = []
    try:
        for _ in range(1500):
            folder += "/d"
            os.mkdir(folder)
            folders.append(folder)
        with open(f"{folder}/x.png", "wb"):
            pass
        (path,) = list_images(tmp_path)
        assert str(path) == f"{folder}/x.png"
    finally:
        if os.path.exists(f"{folder}/x.png"):
            os.unlink(f"{folder}/x.png")
        # What removes trees is recursive too.
        for folder in reversed(folders):
            os.rmdir(folder)


def test_what_is_no_regular_file_is_left_out(tmp_path):
    _write(tmp_path / "x.png")
    # Whoever opened it would wait for a writer for ever.
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "link.png").symlink_to("pipe.png")
    (tmp_path / "folder.png").mkdir()
    assert _listed(tmp_path) == ["x.png"]
    with pytest.raises(DataError, match="neither a folder nor a file"):
        find_images([str(tmp_path / "pipe.png")])
    (tmp_path / "x.png").unlink()
    with pytest.raises(DataError, match="no images"):
        list_images(tmp_path)


@pytest.mark.parametrize("target", ["nothing.png", "dangling.png"])
def test_link_that_leads_nowhere_is_named(tmp_path, target):
    write_picture(tmp_path / "x.png")
    (tmp_path / "dangling.png").symlink_to(target)
    data = {"source": "image_folder", "path": str(tmp_path)}
    with pytest.raises(CorruptImageError, match=r"dangling\.png cannot be"):
        open_source(make_config(**data), "train")
    config = make_config(**data, skip_corrupt=True, validation_fraction=1e-9)
    assert len(open_source(config, "train")) == 2


def test_images_are_listed_with_what_a_folder_may_hold(tmp_path):
    _write(tmp_path / "a" / "x.PNG")
    _write(tmp_path / "a.png")
    _write(tmp_path / ".hidden.png")
    _write(tmp_path / "a" / "notes.txt")
    assert _listed(tmp_path) == ["a.png", "a/x.PNG"]
    found = find_images([str(tmp_path / "a"), str(tmp_path / "a.png")])
    assert [path.name for path in found] == ["x.PNG", "a.png"]
    for path, message in (
        (tmp_path / "none.png", "does not exist"),
        (tmp_path / "a" / "notes.txt", "neither"),
    ):
        with pytest.raises(DataError, match=message):
            find_images([str(path)])


# --- splits ------------------------------------------------------------------


def _splits(root, split_by="content", fraction=0.3):
    """Contents of the files of both splits."""
    config = make_config(
        source="image_folder",
        path=str(root),
        split_by=split_by,
        validation_fraction=fraction,
    )
    sources = (open_source(config, split) for split in ("train", "test"))
    return [
        {os.path.relpath(source.describe(i), root) for i in range(len(source))}
        for source in sources
    ]


@pytest.fixture
def pictures(tmp_path):
    """40 files, of each a copy under another name in another folder."""
    for number in range(40):
        path = tmp_path / "one" / f"{number}.png"
        write_picture(path, seed=number)
        copy = tmp_path / "two" / f"copy_of_{number}.png"
        copy.parent.mkdir(exist_ok=True)
        shutil.copy(path, copy)
    return tmp_path


def test_copies_of_an_image_are_on_one_side(pictures):
    assert DataConfig().split_by == "content"
    train, held_out = _splits(pictures)
    assert len(train) + len(held_out) == 80
    assert 8 < len(held_out) < 40
    for side in (train, held_out):
        originals = {n for n in side if n.startswith("one")}
        copies = {f"two/copy_of_{os.path.basename(n)}" for n in originals}
        assert side == originals | copies


def test_renaming_moves_no_image_to_the_other_side(pictures):
    def contents(names):
        return {(pictures / name).read_bytes() for name in names}

    before = [contents(side) for side in _splits(pictures)]
    (pictures / "two").rename(pictures / "three")
    for number in range(40):
        old = pictures / "one" / f"{number}.png"
        old.rename(pictures / "three" / f"renamed_{number}.png")
    assert [contents(side) for side in _splits(pictures)] == before


def test_runs_of_before_keep_the_split_by_path(pictures):
    # As config.json of such a run has it.
    values = make_config(
        source="image_folder", path=str(pictures), split_by="hash"
    ).to_dict()
    assert config_from_dict(values).data.split_by == "hash"
    train, held_out = _splits(pictures, "hash")
    assert held_out == {
        name for name in train | held_out if hash_fraction(name) < 0.3
    }
    # These must never change.
    assert hash_fraction("one/3.png") == pytest.approx(0.18899991, abs=1e-7)
    copied = {n for n in held_out if n.startswith("one")}
    assert {f"two/copy_of_{os.path.basename(n)}" for n in copied} - held_out


def test_contents_of_large_files_are_told_apart(tmp_path):
    rng = np.random.default_rng(0)
    size = 5 * image_files._PIECE
    content = rng.bytes(size)
    paths = [_write(tmp_path / "0.png", content)]
    for place in (0, size // 2, size - 1):
        changed = bytearray(content)
        changed[place] ^= 1
        paths.append(_write(tmp_path / f"{place + 1}.png", bytes(changed)))
    paths.append(_write(tmp_path / "longer.png", content + content[-1:]))
    fractions = content_fractions(paths)
    assert len(set(fractions)) == len(paths)
    copy = _write(tmp_path / "copy.png", content)
    assert content_fractions([copy]) == fractions[:1]


def test_fractions_are_spread_evenly_and_in_the_order_of_the_files(tmp_path):
    paths = [
        _write(tmp_path / f"{i}.png", str(i).encode()) for i in range(1000)
    ]
    fractions = content_fractions(paths)
    tenths = collections.Counter(int(10 * f) for f in fractions)
    assert set(tenths) == set(range(10))
    assert min(tenths.values()) > 60
    assert content_fractions(paths[::-1]) == fractions[::-1]


def test_file_that_was_changed_is_read_again(tmp_path):
    path = _write(tmp_path / "x.png", b"before")
    (before,) = content_fractions([path])
    _write(path, b"afterwards")
    assert content_fractions([path]) != [before]
