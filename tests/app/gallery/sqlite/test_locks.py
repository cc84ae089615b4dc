from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from app.gallery.sqlite.locks import ReadersWriterLock

SECONDS = 5.0


def test_readers_share_it() -> None:
    lock = ReadersWriterLock()
    both_inside = threading.Barrier(2, timeout=SECONDS)

    def read() -> None:
        with lock.reading():
            both_inside.wait()

    with ThreadPoolExecutor(2) as pool:
        for reader in [pool.submit(read) for _ in range(2)]:
            reader.result()


def test_a_writer_is_alone() -> None:
    lock = ReadersWriterLock()
    inside = {"readers": 0, "writers": 0}

    def write() -> None:
        for _ in range(200):
            with lock.writing():
                inside["writers"] += 1
                assert inside == {"readers": 0, "writers": 1}
                time.sleep(0)
                assert inside == {"readers": 0, "writers": 1}
                inside["writers"] -= 1

    def read() -> None:
        for _ in range(200):
            with lock.reading():
                assert inside["writers"] == 0
                time.sleep(0)
                assert inside["writers"] == 0

    with ThreadPoolExecutor(5) as pool:
        for future in [pool.submit(work) for work in (write, write, read, read, read)]:
            future.result(timeout=SECONDS)


def test_a_waiting_writer_goes_before_new_readers() -> None:
    lock = ReadersWriterLock()
    order: list[str] = []

    def write() -> None:
        with lock.writing():
            order.append("writer")

    def read() -> None:
        with lock.reading():
            order.append("reader")

    with ThreadPoolExecutor(2) as pool:
        with lock.reading():
            writer = pool.submit(write)
            time.sleep(0.05)
            reader = pool.submit(read)
            time.sleep(0.05)
            assert order == []
        writer.result(timeout=SECONDS)
        reader.result(timeout=SECONDS)
    assert order == ["writer", "reader"]


def test_it_is_free_again_after_a_failure() -> None:
    lock = ReadersWriterLock()
    for context in (lock.writing, lock.reading):
        with pytest.raises(RuntimeError), context():
            raise RuntimeError("failed inside")
    with lock.writing():
        pass
