"""LFW over HTTP: enrols one photograph of every person; identifies and verifies the others.

    python -m benchmarks.lfw_service lfw.tar

Everything goes through a running service as a client would use it: original photographs, multipart, defaults except
``face_policy=largest`` (LFW has bystanders).
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Any

import httpx
import typer

from benchmarks.running import service
from model.evaluation.protocols import read_lfw

CLIENTS = 8


def share(part: int, whole: int) -> str:
    """``part`` of ``whole`` in percent."""
    return f"{part} of {whole} ({100 * part / max(whole, 1):.2f} %)"


def send(client: httpx.Client, path: str, image: bytes, **fields: str) -> tuple[int, dict[str, Any]]:
    """Posts one photograph; returns status and answer."""
    response = client.post(path, files={"image": ("photograph.jpg", image, "image/jpeg")}, data=fields)
    return response.status_code, response.json()


def people(photographs: dict[str, bytes]) -> dict[str, list[bytes]]:
    """Photographs of each person, in the order of their numbers."""
    found: dict[str, list[bytes]] = {}
    for name in sorted(photographs):
        found.setdefault(name.rsplit("_", 1)[0], []).append(photographs[name])
    return found


def stranger_to(person: str, everyone: list[str], chooser: random.Random) -> str:
    """A random other person."""
    return next(other for other in chooser.sample(everyone, 2) if other != person)


def enroll_all(client: httpx.Client, pool: ThreadPoolExecutor, everyone: dict[str, list[bytes]]) -> set[str]:
    """Enrols the first photograph of everyone; returns who is in the gallery."""
    answers = pool.map(
        lambda p: send(client, "/enroll", p[1][0], subject_id=p[0], face_policy="largest"), everyone.items()
    )
    outcome = Counter({"enrolled": 0})
    enrolled, duplicates = set(), 0
    for person, (status, answer) in zip(everyone, answers, strict=True):
        if status == httpx.codes.CREATED:
            enrolled.add(person)
            duplicates += answer["possible_duplicate"]
        outcome["enrolled" if status == httpx.codes.CREATED else answer["code"]] += 1
    typer.echo(f"enroll: {dict(outcome)}; possible_duplicate reported for {share(duplicates, len(enrolled))}")
    return enrolled


def report_identification(probes: Iterable[tuple[str, bytes]], answers: Iterable[tuple[int, dict[str, Any]]]) -> None:
    """Prints how often the first candidate is the right person, and how often it is a match as well."""
    total = first = matched = wrong = 0
    for (person, _), (_, answer) in zip(probes, answers, strict=True):
        total += 1
        candidates = answer.get("candidates") or [{"subject_id": None}]
        first += candidates[0]["subject_id"] == person
        matched += answer.get("subject_id") == person
        wrong += answer.get("subject_id") not in {None, person}
    typer.echo(f"identify, person enrolled: first candidate right {share(first, total)}")
    typer.echo(f"  match with the right person {share(matched, total)}, with a wrong one {share(wrong, total)}")


def main(
    archive: Annotated[Path, typer.Argument(help="tar file with the LFW photographs and pairs.txt")],
    seed: Annotated[int, typer.Option(help="chooses the non-mated pairs")] = 1,
) -> None:
    """Prints enrolment, identification and verification over all people of the archive."""
    everyone = people(read_lfw(archive).photographs)
    chooser = random.Random(seed)
    with service() as url, httpx.Client(base_url=url, timeout=120) as client, ThreadPoolExecutor(CLIENTS) as pool:
        enrolled = enroll_all(client, pool, everyone)
        probes = [(person, image) for person in sorted(enrolled) for image in everyone[person][1:]]
        typer.echo(f"gallery: {len(enrolled)} people, one photograph each; probes: {len(probes)} other photographs")
        answers = list(pool.map(lambda p: send(client, "/identify", p[1], top_k="1"), probes))
        report_identification(probes, answers)

        mated = list(pool.map(lambda p: send(client, "/verify", p[1], subject_id=p[0])[1], probes))
        matches = sum(answer["decision"] == "match" for answer in mated)
        strangers = [(stranger_to(person, sorted(enrolled), chooser), image) for person, image in probes]
        non_mated = list(pool.map(lambda p: send(client, "/verify", p[1], subject_id=p[0])[1], strangers))
        false = sum(answer["decision"] == "match" for answer in non_mated)
        point = client.get("/model").json()["operating_point"]
        typer.echo(
            f"threshold {point['threshold']:.4f}, measured false match rate {point['false_match_rate']['value']:.1e}"
        )
        typer.echo(f"verify, same person: match {share(matches, len(mated))}")
        typer.echo(f"verify, other person: match {share(false, len(non_mated))}")


if __name__ == "__main__":
    typer.run(main)
