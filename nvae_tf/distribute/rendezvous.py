"""The processes of a run meet before they start: who is missing is told.

TensorFlow would wait for a missing process without an end, in code that
nothing interrupts.  The first process listens at the address that its server
is going to have; the others tell it their numbers, and it tells them when all
are there.  No TensorFlow here.
"""

import contextlib
import socket
import time
from collections.abc import Iterator, Sequence

from nvae_tf.core.errors import UserError

__all__ = ["PATIENCE_SECONDS", "meet"]

# A process that is started by hand, or by a cluster, may be late by so much.
PATIENCE_SECONDS = 50.0
_RETRY_SECONDS = 0.2
# What the first process takes to answer once its patience has ended.
_ANSWER_SECONDS = 5.0
_LINE = 256


def meet(
    addresses: Sequence[str],
    index: int,
    patience: float = PATIENCE_SECONDS,
    *,
    run: str = "",
) -> None:
    """Returns once all processes have called this.

    Args:
      addresses: of the processes' servers, "host:port".
      index: of this process.
      patience: seconds to wait for the others.
      run: a name that all have; who comes with another belongs elsewhere.

    Raises:
      UserError: if a process does not come in time.
    """
    deadline = time.monotonic() + patience
    if len(addresses) < 2:
        return
    hello = f"nvae_tf process of {run}"
    if index:
        _report(addresses, index, deadline, patience, hello)
    else:
        _receive(addresses, deadline, patience, hello)


def _receive(
    addresses: Sequence[str], deadline: float, patience: float, hello: str
) -> None:
    """The first process: waits for the others and tells them the outcome."""
    missing = set(range(1, len(addresses)))
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(_listening(addresses[0]))
        others = []
        while missing and (left := deadline - time.monotonic()) > 0:
            server.settimeout(left)
            with contextlib.suppress(OSError, ValueError):
                other = stack.enter_context(server.accept()[0])
                other.settimeout(_ANSWER_SECONDS)
                who, _, number = _read_line(other).rpartition(" ")
                if who == hello and int(number) in missing:
                    missing.remove(int(number))
                    others.append(other)
        numbers = " ".join(map(str, sorted(missing)))
        for other in others:
            with contextlib.suppress(OSError):
                other.sendall(f"missing {numbers}\n".encode())
    _require(missing, addresses, patience)


def _report(
    addresses: Sequence[str],
    index: int,
    deadline: float,
    patience: float,
    hello: str,
) -> None:
    """Another process: tells the first that it is there."""
    host, port = _split(addresses[0])
    while True:
        left = deadline - time.monotonic()
        try:
            if left <= 0:
                raise TimeoutError
            with socket.create_connection((host, port), left) as first:
                first.sendall(f"{hello} {index}\n".encode())
                first.settimeout(left + _ANSWER_SECONDS)
                answer, *numbers = _read_line(first).split() or [""]
                if answer != "missing":
                    raise ConnectionError
                missing = {int(number) for number in numbers}
            break
        except TimeoutError:
            missing = {0}
            break
        except (OSError, ValueError):
            # It does not listen yet, or something else does.
            time.sleep(_RETRY_SECONDS)
    _require(missing, addresses, patience)


def _require(
    missing: set[int], addresses: Sequence[str], patience: float
) -> None:
    if missing:
        which = ", ".join(f"{i} ({addresses[i]})" for i in sorted(missing))
        raise UserError(
            f"Of the {len(addresses)} processes of this run, these were not "
            f"there within {patience:g} seconds: {which}. Start all of them "
            "at about the same time, with the same list of addresses in "
            "TF_CONFIG where that is what describes them, and see that they "
            "can reach each other."
        )


@contextlib.contextmanager
def _listening(address: str) -> Iterator[socket.socket]:
    host, port = _split(address)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            # Whatever name the others know this machine by.
            server.bind(("", port))
        except OSError as error:
            raise UserError(
                f"Port {port}, at which the other processes of this run look "
                f"for the first one ({address}), cannot be had: "
                f"{error.strerror}. End the program that has it, or choose "
                "another in TF_CONFIG; under Slurm another step of the job, or "
                "another job, has other ports."
            ) from error
        server.listen()
        yield server


def _read_line(connection: socket.socket) -> str:
    data = b""
    while not data.endswith(b"\n") and len(data) < _LINE:
        more = connection.recv(_LINE)
        if not more:
            break
        data += more
    return data.decode("ascii", "replace").strip()


def _split(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    if not port.isdecimal():
        raise UserError(
            f"{address!r} in TF_CONFIG is not an address, such as node1:12345."
        )
    return host.strip("[]"), int(port)
