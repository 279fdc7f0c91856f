"""Processes of a run meet, or say who is missing."""

import socket
import threading
import time

import pytest

from nvae_tf.core.errors import UserError
from nvae_tf.distribute import rendezvous


def _addresses(count):
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return [f"127.0.0.1:{port}" for port in ports]


def _meet(addresses, delays, patience=20.0):
    """Each process after its delay, seconds; what each raised, or None."""
    outcomes = {}

    def process(index, delay):
        time.sleep(delay)
        try:
            outcomes[index] = rendezvous.meet(addresses, index, patience)
        except UserError as error:
            outcomes[index] = str(error)

    threads = [
        threading.Thread(target=process, args=item) for item in delays.items()
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return outcomes


@pytest.mark.parametrize(
    "delays",
    [{0: 0, 1: 0, 2: 0}, {0: 0.5, 1: 0, 2: 0.2}, {0: 0, 1: 0.5, 2: 0.3}],
    ids=["together", "first one late", "others late"],
)
def test_processes_meet_in_any_order(delays):
    assert _meet(_addresses(3), delays) == dict.fromkeys(range(3))


def test_all_that_are_there_tell_who_is_missing():
    addresses = _addresses(4)
    outcomes = _meet(addresses, {0: 0, 2: 0}, patience=1.0)
    assert set(outcomes) == {0, 2}
    for text in outcomes.values():
        assert f"1 ({addresses[1]}), 3 ({addresses[3]})" in text
        assert addresses[2] not in text


def test_missing_first_process_is_told_by_the_others():
    addresses = _addresses(2)
    begin = time.monotonic()
    outcomes = _meet(addresses, {1: 0}, patience=1.0)
    assert f"0 ({addresses[0]})" in outcomes[1]
    assert time.monotonic() - begin < 10


def test_strangers_at_the_port_are_not_counted():
    addresses = _addresses(2)
    host, port = addresses[0].split(":")

    def stranger():
        for line in (b"GET / HTTP/1.1\n", b"nvae_tf process 7\n", b"\xff\n"):
            for _ in range(50):
                try:
                    with socket.create_connection((host, int(port))) as other:
                        other.sendall(line)
                        break
                except OSError:
                    time.sleep(0.02)

    thread = threading.Thread(target=stranger)
    thread.start()
    outcomes = _meet(addresses, {0: 0}, patience=2.0)
    thread.join()
    assert f"1 ({addresses[1]})" in outcomes[0]


def test_process_of_another_run_is_not_counted():
    addresses = _addresses(2)
    outcomes = {}

    def process(index, run, patience):
        try:
            rendezvous.meet(addresses, index, patience, run=run)
            outcomes[index, run] = None
        except UserError as error:
            outcomes[index, run] = str(error)

    threads = [
        threading.Thread(target=process, args=arguments)
        for arguments in ((0, "a", 3.0), (1, "b", 1.0))
    ]
    for thread in threads:
        thread.start()
    time.sleep(0.5)
    # What is missing is there in time after all.
    process(1, "a", 2.0)
    for thread in threads:
        thread.join()
    assert outcomes[0, "a"] is outcomes[1, "a"] is None
    assert "0 (" in outcomes[1, "b"]


def test_port_is_free_for_the_server_that_comes_after():
    addresses = _addresses(2)
    assert _meet(addresses, {0: 0, 1: 0}) == {0: None, 1: None}
    with socket.socket() as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        server.bind(("127.0.0.1", int(addresses[0].split(":")[1])))


def test_port_that_is_taken_is_named():
    addresses = _addresses(2)
    port = int(addresses[0].split(":")[1])
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", port))
        taken.listen()
        with pytest.raises(UserError, match=f"Port {port}"):
            rendezvous.meet(addresses, 0, 1.0)


def test_address_without_a_port_is_named():
    with pytest.raises(UserError, match="'node7' in TF_CONFIG"):
        rendezvous.meet(["node7", "node8:1"], 1, 1.0)


def test_process_alone_waits_for_nobody():
    rendezvous.meet(["node7:1"], 0)
