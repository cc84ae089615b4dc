"""What the client does before it sends anything, and what its errors are like: nothing listens here."""

from __future__ import annotations

import copy
import inspect
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import pytest

from tessera_client import AsyncClient, Client, InvalidRequestError, LockedOutError, Retries, TesseraError
from tessera_client.errors import error_of
from tessera_client.photographs import content_of

NOBODY = "http://127.0.0.1:9"


@pytest.fixture
def client() -> Client:
    """A client whose requests fail at once."""
    return Client(NOBODY, retries=Retries(times=0))


@pytest.mark.parametrize("part", ["", ".", "..", "a/b", "../other"])
@pytest.mark.parametrize(
    "call",
    [
        lambda client, part: client.get_subject(part),
        lambda client, part: client.delete_subject(part),
        lambda client, part: client.delete_template("ada", part),
        lambda client, part: client.merge_subjects(part, "ada-2"),
        lambda client, part: client.delete_collection(part, force=True),
    ],
)
def test_no_id_makes_the_path_of_something_else(
    client: Client, call: Callable[[Client, str], object], part: str
) -> None:
    with pytest.raises(InvalidRequestError, match="is no id") as refused:
        call(client, part)
    assert (refused.value.code, refused.value.status) == ("invalid_request", 0)


@pytest.mark.parametrize("field", ["subject_id", "collection"])
def test_an_empty_name_is_not_one_left_out(client: Client, field: str) -> None:
    given: dict[str, Any] = {field: ""}
    with pytest.raises(InvalidRequestError, match=f"{field}: is empty"):
        client.enroll(b"photograph", **given)


def test_there_is_a_photograph_to_send(client: Client) -> None:
    with pytest.raises(InvalidRequestError, match="a photograph at least"):
        client.enroll([], "ada")
    wrong: Any
    for wrong in (None, 5, {"a.jpg"}):
        with pytest.raises(TypeError, match="a photograph is a path, bytes or a file, not"):
            client.detect(wrong)


def test_a_member_of_an_archive_is_a_photograph(tmp_path: Path) -> None:
    with ZipFile(tmp_path / "people.zip", "w") as archive:
        archive.writestr("ada.jpg", b"photograph")
        with archive.open("ada.jpg") as member:
            assert content_of(member) == b"photograph"


@pytest.mark.parametrize(
    "url", ["faces.example", "ftp://faces.example", "http://", "http://[::1", "http://faces.example/?key=1"]
)
@pytest.mark.parametrize("kind", [Client, AsyncClient])
def test_what_is_no_address_is_refused_at_once(kind: type, url: str) -> None:
    with pytest.raises(ValueError, match="no address of a service"):
        kind(url)


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, lambda error: pickle.loads(pickle.dumps(error))])
def test_errors_come_whole_from_other_processes(copied: Callable[[TesseraError], TesseraError]) -> None:
    body = {"code": "locked_out", "detail": "wait", "request_id": "r", "failures": 5}
    error = error_of(429, body, {"retry-after": "7"})
    again = copied(error)
    assert type(again) is LockedOutError
    assert vars(again) == vars(error)
    assert (str(again), again.retry_after, again.details) == ("locked_out: wait", 7.0, {"failures": 5})


def test_awaited_calls_are_coroutines_that_a_task_takes() -> None:
    call = AsyncClient(NOBODY).livez()
    assert inspect.iscoroutine(call)
    call.close()
