"""Two thousand requests at once: no error and no wrong answer."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import numpy.typing as npt
import pytest

from app.crowding import load_crowding
from app.decisions import Calibration
from app.encoding import EncoderRuntime
from app.faces import FaceFinder, FacePolicy
from app.settings import EncodingSettings
from tests.app.api.helpers import Files, files, ok
from tests.app.process import Server

pytestmark = pytest.mark.slow

CONNECTIONS = 200
TOLERANCE = 0.001
"""Between distances computed in another process."""
ENROLMENTS, IDENTIFICATIONS, VERIFICATIONS, LOOKUPS, ERASURES = 500, 500, 500, 300, 200


@dataclass(frozen=True)
class Crowd:
    """People whose distances to each other are known, float [N, N]: a photograph each, and its crowding, [N]."""

    photographs: list[bytes]
    distances: npt.NDArray[np.float32]
    crowding: npt.NDArray[np.float32]


@pytest.fixture(scope="module")
def crowd(
    people: dict[str, tuple[bytes, ...]], face_finder: FaceFinder, encoder: EncoderRuntime, calibration: Calibration
) -> Crowd:
    photographs = [images[0] for images in people.values()]
    chips = [face_finder.find(image, FacePolicy.LARGEST).faces[0].chip for image in photographs]
    embeddings = np.concatenate([encoder.encode(chip[None]).embeddings for chip in chips])
    crowding = load_crowding(EncodingSettings().directory, calibration.cohort_sha256)
    return Crowd(photographs, 2 - 2 * embeddings @ embeddings.T, crowding(embeddings))


class Visitors:
    """The requests, each of which checks its answer."""

    def __init__(self, client: httpx.AsyncClient, crowd: Crowd) -> None:
        self._client, self._crowd = client, crowd
        self._connections = asyncio.Semaphore(CONNECTIONS)
        self._count = len(crowd.photographs)
        self.answered: Counter[str] = Counter()

    async def _ask(self, method: str, path: str, **options: Any) -> httpx.Response:
        # Requests that wait in httpx's own pool cost it time in proportion to their square.
        async with self._connections:
            return await self._client.request(method, path, **options)

    def _photograph(self, number: int) -> bytes:
        return self._crowd.photographs[number % self._count]

    async def _post(self, path: str, status: int, images: Files, **form: str) -> dict[str, Any]:
        body = ok(await self._ask("POST", path, files=images, data=form | {"face_policy": "largest"}), status)
        self.answered[path] += 1
        return body

    def _check(self, found: dict[str, Any], expected: float, threshold: float) -> None:
        assert found["distance"] == pytest.approx(expected, abs=TOLERANCE)
        assert (found["decision"] == "match") is (found["distance"] <= threshold)

    async def enroll(self, number: int, name: str, collection: str) -> None:
        subject_id = f"{name}-{number}"
        form = {"subject_id": subject_id, "collection": collection, "metadata": f'{{"number": {number}}}'}
        answer = await self._post("/enroll", 201, files(self._photograph(number)), **form)
        assert (answer["subject_id"], answer["collection"]) == (subject_id, collection)
        assert (answer["template_count"], answer["failures"]) == (1, [])

    async def identify(self, number: int) -> None:
        person = number % self._count
        answer = await self._post("/identify", 200, files(self._photograph(person)), top_k="2")
        first, second = answer["candidates"]
        assert answer["subject_id"] == first["subject_id"] == f"known-{person}"
        assert first["metadata"] == {"number": person}
        self._check(first, 0, answer["threshold"])
        other = int(second["subject_id"].removeprefix("known-"))
        self._check(second, self._crowd.distances[person, other], second["threshold"])
        # Of all others it has the smallest distance together with its crowding.
        ranked = np.sort(np.delete(self._crowd.distances[person] + self._crowd.crowding, person))
        assert second["distance"] + self._crowd.crowding[other] == pytest.approx(ranked[0], abs=TOLERANCE)
        crowding = self._crowd.crowding[person] + self._crowd.crowding[other]
        assert second["crowding"] == pytest.approx(crowding, abs=TOLERANCE)

    async def verify_subject(self, number: int) -> None:
        subject, probe = number % self._count, (number // 2) % self._count
        answer = await self._post("/verify", 200, files(self._photograph(probe)), subject_id=f"known-{subject}")
        assert answer["subject_id"] == f"known-{subject}"
        self._check(answer, self._crowd.distances[subject, probe], answer["threshold"])

    async def verify_photographs(self, number: int) -> None:
        one, other = number % self._count, (number // 3) % self._count
        answer = await self._post("/verify", 200, files(self._photograph(one), reference=self._photograph(other)))
        self._check(answer, self._crowd.distances[one, other], answer["threshold"])

    async def look_up(self, number: int) -> None:
        person = number % self._count
        answer = ok(await self._ask("GET", f"/subjects/known-{person}"))
        assert (answer["id"], answer["metadata"]) == (f"known-{person}", {"number": person})
        assert len(answer["templates"]) == 1
        self.answered["get"] += 1

    async def erase(self, number: int) -> None:
        response = await self._ask("DELETE", f"/subjects/doomed-{number}", params={"collection": "crowd"})
        assert ok(response)["templates"] == 1
        self.answered["delete"] += 1

    async def subjects(self, collection: str) -> set[str]:
        page = ok(await self._client.get("/subjects", params={"collection": collection, "limit": 1000}))
        assert page["next_cursor"] is None
        return {subject["id"] for subject in page["subjects"]}


async def visit(url: str, crowd: Crowd) -> None:
    limits = httpx.Limits(max_connections=CONNECTIONS)
    async with httpx.AsyncClient(base_url=url, limits=limits, timeout=None) as client:
        visitors = Visitors(client, crowd)
        ok(await client.post("/collections", json={"id": "crowd"}), 201)
        people = range(len(crowd.photographs))
        await asyncio.gather(*(visitors.enroll(n, "known", "default") for n in people))
        await asyncio.gather(*(visitors.enroll(n, "doomed", "crowd") for n in range(ERASURES)))

        visitors.answered.clear()
        requests: list[Callable[[], Awaitable[None]]] = [
            *((lambda n=n: visitors.enroll(n, "new", "crowd")) for n in range(ENROLMENTS)),
            *((lambda n=n: visitors.identify(n)) for n in range(IDENTIFICATIONS)),
            *((lambda n=n: visitors.verify_subject(n)) for n in range(VERIFICATIONS // 2)),
            *((lambda n=n: visitors.verify_photographs(n)) for n in range(VERIFICATIONS // 2)),
            *((lambda n=n: visitors.look_up(n)) for n in range(LOOKUPS)),
            *((lambda n=n: visitors.erase(n)) for n in range(ERASURES)),
        ]
        random.Random(7).shuffle(requests)
        assert len(requests) == 2000
        await asyncio.gather(*(request() for request in requests))
        assert visitors.answered.total() == 2000

        assert await visitors.subjects("crowd") == {f"new-{n}" for n in range(ENROLMENTS)}
        assert await visitors.subjects("default") == {f"known-{n}" for n in people}
        assert ok(await client.get("/readyz"))["status"] == "ok"
        assert 'status="5' not in (await client.get("/metrics")).text


def test_two_thousand_requests_at_once_are_all_answered_rightly(tmp_path: Path, crowd: Crowd) -> None:
    with Server(tmp_path / "data") as server:
        asyncio.run(visit(server.url, crowd))
        assert "Traceback" not in server.log.read_text()
