"""Kills a service under load again and again, and counts what was lost.

    python -m benchmarks.durability --rounds 200

In each round clients enrol, replace, change and erase people over HTTP, each client its own people, one request at a
time; after a random time the service is killed (SIGKILL). Then the gallery is opened, everything in it is checked, and
every subject must be as its last acknowledged request left it, or as the request under way would have; every receipt
of an erasure must be in the audit trail, whole.
"""

from __future__ import annotations

import os
import random
import signal
import tempfile
import threading
import time
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import httpx
import typer

from app.composition import load_encoder_files, open_gallery, open_security
from app.gallery import Gallery, SubjectNotFound
from app.security.trail import AuditTrail, Receipt
from app.settings import EncodingSettings, GallerySettings, Settings
from benchmarks.running import process
from tests.app.photographs import collins, hopper, jpeg

PEOPLE_A_CLIENT = 6
LONGEST_ROUND = 1.5

State = tuple[tuple[str, ...], str] | None
"""Ids of the templates and a mark in the metadata; None: not enrolled."""


@dataclass
class Client:
    """One client's people: what was acknowledged of each, and what the request under way may have made of one."""

    number: int
    known: dict[str, State] = field(default_factory=dict)
    under_way: dict[str, str] = field(default_factory=dict)
    receipts: list[Receipt] = field(default_factory=list)
    acknowledged: int = 0

    def work(self, url: str, images: list[bytes], stop: threading.Event, seed: int) -> None:
        """Sends random requests until the service is gone."""
        chance = random.Random(seed)
        with httpx.Client(base_url=url, timeout=30) as http:
            while not stop.is_set():
                subject = f"c{self.number}-{chance.randrange(PEOPLE_A_CLIENT)}"
                action = chance.choice(("append", "append", "replace", "patch", "delete"))
                mark = f"{seed}-{self.acknowledged}"
                self.under_way = {subject: action}
                try:
                    self._send(http, subject, action, mark, chance.choice(images))
                except httpx.TransportError:
                    return
                self.under_way = {}
                self.acknowledged += 1

    def _send(self, http: httpx.Client, subject: str, action: str, mark: str, image: bytes) -> None:
        before = self.known.get(subject)
        if action in ("append", "replace"):
            form = {"subject_id": subject, "on_conflict": action, "metadata": f'{{"mark":"{mark}"}}'}
            answer = http.post("/enroll", files={"image": ("a.jpg", image, "image/jpeg")}, data=form)
            answer.raise_for_status()
            new = tuple(t["template_id"] for t in answer.json()["templates"])
            old = before[0] if before is not None and action == "append" else ()
            self.known[subject] = (old + new, mark)
        elif before is None:
            assert http.delete(f"/subjects/{subject}").status_code == httpx.codes.NOT_FOUND
        elif action == "patch":
            http.patch(f"/subjects/{subject}", json={"metadata": {"mark": mark}}).raise_for_status()
            self.known[subject] = (before[0], mark)
        else:
            answer = http.delete(f"/subjects/{subject}").raise_for_status()
            sequence, _, digest = answer.json()["receipt"].partition(":")
            self.receipts.append(Receipt(int(sequence), digest))
            self.known[subject] = None


def stored(gallery: Gallery, subject: str) -> State:
    """What the gallery holds of a subject."""
    try:
        found = gallery.subject("default", subject)
    except SubjectNotFound:
        return None
    return tuple(t.id for t in found.templates), str(found.metadata["mark"])


def possible(before: State, action: str | None, after: State) -> bool:
    """Whether a request under way may have led from what was acknowledged to what is stored."""
    if after == before:
        return True
    old = before[0] if before is not None else ()
    if action == "append":
        return after is not None and len(after[0]) == len(old) + 1 and after[0][: len(old)] == old
    if action == "replace":
        return after is not None and len(after[0]) == 1
    if action == "patch":
        return after is not None and before is not None and after[0] == before[0]
    return action == "delete" and after is None


def wrong_after(settings: Settings, clients: list[Client]) -> list[str]:
    """What is not as it was acknowledged; what is stored then counts as acknowledged."""
    files, wrong = load_encoder_files(settings), []
    with closing(open_gallery(settings, files.weights.sha256, files.crowding)) as gallery:
        gallery.check()
        for client in clients:
            for number in range(PEOPLE_A_CLIENT):
                subject = f"c{client.number}-{number}"
                before, after = client.known.get(subject), stored(gallery, subject)
                if not possible(before, client.under_way.get(subject), after):
                    wrong.append(f"{subject}: {before} became {after} ({client.under_way.get(subject)})")
                client.known[subject] = after
    with closing(open_security(settings)) as store:
        trail = AuditTrail(store)
        wrong += trail.verify()
        there = {(record.sequence, record.hash) for record in trail.records()}
        for client in clients:
            wrong += [f"receipt {r.sequence} is missing" for r in client.receipts if tuple(r) not in there]
    return wrong


def main(
    rounds: Annotated[int, typer.Option(help="how often it is killed", min=1)] = 200,
    clients: Annotated[int, typer.Option(help="how many clients at once", min=1)] = 6,
    encrypted: Annotated[bool, typer.Option("--encrypted", help="encrypt the templates at rest")] = False,
    seed: Annotated[int, typer.Option(help="of the random requests and times")] = 1,
) -> None:
    """Prints what was acknowledged and what was lost; exit code 1 if anything was."""
    chance = random.Random(seed)
    images = [jpeg(picture, quality) for picture in (collins(), hopper()) for quality in (60, 80, 95)]
    everyone = [Client(number) for number in range(clients)]
    with tempfile.TemporaryDirectory() as folder:
        data, key = Path(folder) / "data", Path(folder) / "master.key"
        key.write_text(os.urandom(32).hex())
        gallery = GallerySettings(data_dir=data, master_key_file=key if encrypted else None)
        settings = Settings(gallery=gallery, encoding=EncodingSettings(encoder="tessera-s"))
        variables = {"TESSERA_ENCODING__ENCODER": "tessera-s"}
        if encrypted:
            variables["TESSERA_GALLERY__MASTER_KEY_FILE"] = str(key)
        wrong: list[str] = []
        for number in range(rounds):
            with process(data, **variables) as (url, pid):
                stop = threading.Event()
                threads = [
                    threading.Thread(target=c.work, args=(url, images, stop, seed * 10**6 + number * 100 + i))
                    for i, c in enumerate(everyone)
                ]
                for thread in threads:
                    thread.start()
                time.sleep(chance.uniform(0.05, LONGEST_ROUND))
                os.kill(pid, signal.SIGKILL)
                stop.set()
                for thread in threads:
                    thread.join()
            wrong += [f"round {number}: {problem}" for problem in wrong_after(settings, everyone)]
            if number % 10 == 9 or number == rounds - 1:
                done, receipts = sum(c.acknowledged for c in everyone), sum(len(c.receipts) for c in everyone)
                typer.echo(f"{number + 1} kills: {done} requests acknowledged, {receipts} erasures, {len(wrong)} wrong")
    for problem in wrong:
        typer.echo(problem)
    raise typer.Exit(code=bool(wrong))


if __name__ == "__main__":
    typer.run(main)
