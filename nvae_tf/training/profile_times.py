"""Which operations took the time of a profile, without TensorBoard.

An operation counts from its start to its end, without the operations that ran
within it; one that uses several cores counts once.  `StepProfiler` writes the
profiles.
"""

from __future__ import annotations

import collections
import pathlib
import re
import typing
from collections.abc import Iterator

from nvae_tf.core.errors import UserError

__all__ = [
    "OpTime",
    "Operation",
    "latest_profile",
    "op_times",
    "operations",
    "table",
]

# TensorFlow names the event of an operation NAME:KIND.
_OPERATION = re.compile(r"(?P<name>[^:\s]+):(?P<kind>[A-Za-z_]\w*)")
_PICOSECONDS = 1e-12


class Operation(typing.NamedTuple):
    """One run of one operation.

    Attributes:
      name: in the graph that ran.
      kind: such as "Conv2DBackpropFilter".
      seconds: without what ran within it.
    """

    name: str
    kind: str
    seconds: float


class OpTime(typing.NamedTuple):
    """What the operations of one kind took.

    Attributes:
      kind: such as "Conv2DBackpropFilter".
      count: how often it ran.
      seconds: in all.
      share: of the time of all operations.
    """

    kind: str
    count: int
    seconds: float
    share: float


def latest_profile(folder) -> pathlib.Path:
    """The newest profile below a folder of TensorBoard.

    Raises:
      UserError: if there is none.
    """
    found = sorted(pathlib.Path(folder).glob("plugins/profile/*/*.xplane.pb"))
    if not found:
        raise UserError(
            f"There is no profile in {folder}; `nvae train --profile=5` "
            "writes one."
        )
    return found[-1]


def operations(path) -> Iterator[Operation]:
    """Yields what ran on CPUs.

    Args:
      path: an `.xplane.pb` file.

    Raises:
      UserError: if it is not a profile, or holds no operation of a CPU.
    """
    from google.protobuf.message import DecodeError
    from tensorflow.tsl.profiler.protobuf import xplane_pb2

    try:
        space = xplane_pb2.XSpace.FromString(pathlib.Path(path).read_bytes())
    except (DecodeError, OSError) as error:
        raise UserError(f"{path} is not a profile: {error}.") from error
    found = False
    for plane in space.planes:
        matches = {
            key: _OPERATION.fullmatch(metadata.name)
            for key, metadata in plane.event_metadata.items()
        }
        for line in plane.lines:
            # What runs within an operation and is none is a part of it.
            events = [e for e in line.events if matches[e.metadata_id]]
            found = found or bool(events)
            for event, own in _own_times(events):
                match = matches[event.metadata_id]
                yield Operation(
                    match["name"], match["kind"], own * _PICOSECONDS
                )
    if not found:
        raise UserError(
            f"{path} holds no operation of a CPU; look at it in TensorBoard."
        )


def op_times(path) -> list[OpTime]:
    """Times by kind of operation, the longest first.

    Args:
      path: see `operations`.

    Raises:
      UserError: see `operations`.
    """
    seconds: dict[str, float] = collections.defaultdict(float)
    counts: collections.Counter[str] = collections.Counter()
    for operation in operations(path):
        seconds[operation.kind] += operation.seconds
        counts[operation.kind] += 1
    total = sum(seconds.values())
    return [
        OpTime(kind, counts[kind], time, time / total)
        for kind, time in sorted(seconds.items(), key=lambda x: -x[1])
    ]


def _own_times(events):
    """Yields events of a thread, with their time less that of inner ones."""
    open_events: list[list] = []  # (event, own time), outermost first.
    for event in sorted(events, key=lambda e: (e.offset_ps, -e.duration_ps)):
        while open_events and _end(open_events[-1][0]) <= event.offset_ps:
            yield open_events.pop()
        if open_events:
            open_events[-1][1] -= event.duration_ps
        open_events.append([event, event.duration_ps])
    yield from reversed(open_events)


def _end(event) -> int:
    return event.offset_ps + event.duration_ps


def table(path, num: int) -> str:
    """The kinds of operations that took most time, a line each.

    Args:
      path: see `op_times`.
      num: how many kinds.
    """
    lines = [f"{'share':>6s}{'cumulated':>11s}{'calls':>9s}  operation"]
    cumulated = 0.0
    for time in op_times(path)[:num]:
        cumulated += time.share
        lines.append(
            f"{time.share:6.1%}{cumulated:11.1%}{time.count:9,d}  {time.kind}"
        )
    return "\n".join(lines)
