"""The measurements. In each, services take turns, so that a busy moment of the machine affects all of them."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import typer

from app.encoding import load_weights
from app.settings import Settings
from benchmarks.galleries import fill_gallery
from benchmarks.peers import results as keys
from benchmarks.peers.contenders import SINGLE, Arrangement, Contender
from benchmarks.peers.photographs import Pair, webcam, write_forms
from benchmarks.peers.processes import ANSWER_SECONDS, Running, ask, cold_start, resident_mb, run_load, start
from benchmarks.peers.results import Gallery, Load, Results, Service
from benchmarks.peers.sizes import installed_mb

WARM_UP = 1.0
CHOOSING_CLIENTS = 8
GALLERY_TEMPLATES = 100_000
GALLERY_CLIENTS = 64
STEADY_SHARE = 0.8
MARGIN = 1.1
"""So that requests at random moments are enough, too."""
MOST_SECONDS = 500
STALLED = 5
"""A closed loop is not repeated if it took this many times its length because clients waited for a first answer."""


@dataclass
class Bench:
    """State shared by all stages. ``pairs`` are those in which every service finds faces, by image size."""

    contenders: list[Contender]
    venv: Path
    out: Path
    results: Results
    pairs: dict[str, list[Pair]]

    @property
    def cores(self) -> list[int]:
        """The cores available to this process."""
        return sorted(os.sched_getaffinity(0))

    def service(self, contender: Contender) -> Service:
        """Its results."""
        return self.results.services[contender.name]

    def able(self) -> list[Contender]:
        """Those that have not failed to start so far."""
        return [contender for contender in self.contenders if self.service(contender).failure is None]

    def fail(self, contender: Contender, error: Exception) -> None:
        """Records that it can no longer take part."""
        text = str(error).strip()
        self.service(contender).failure = text.splitlines()[-1] if text else type(error).__name__
        typer.echo(f"{contender.title} cannot be run:\n{text}", err=True)

    @contextmanager
    def running(
        self, arrangements: list[tuple[Contender, Arrangement]], core: int | None = None
    ) -> Iterator[list[Running]]:
        """Those that could be started, all at once."""
        with ExitStack() as stack:
            ready = []
            for contender, arrangement in arrangements:
                try:
                    ready.append(stack.enter_context(start(contender, arrangement, self.venv, core=core)))
                except (RuntimeError, OSError) as error:
                    self.fail(contender, error)
            yield ready

    def forms(self, contender: Contender, size: str = "lfw") -> Path:
        """The file with its forms."""
        return write_forms(self.out / "photographs", size, contender.fields, self.pairs[size])

    def load(
        self,
        one: Running,
        forms: Path,
        *options: str,
        path: str = "/verify",
        core: int | None = None,
        seconds: float | None = None,
    ) -> Load:
        """One load, of the usual length if ``seconds`` is None."""
        urls, length = [f"{url}{path}" for url in one.urls], seconds or self.results.seconds
        return run_load(urls, forms, length, "--warm-up", str(WARM_UP), *options, core=core)

    def closed(self, key: str, one: Running, forms: Path, *options: str, path: str = "/verify") -> Load:
        """A closed loop, as long as its key needs; a short one tells how long that is."""
        load = self.load(one, forms, *options, path=path)
        seconds = self.length(key, load.answers_per_second)
        return load if seconds <= load.seconds else self.load(one, forms, *options, path=path, seconds=seconds)

    def length(self, key: str, rate: float) -> float:
        """Seconds that a load with this many requests a second has to last."""
        wanted = keys.ENOUGH / self.results.rounds if key in keys.LONG else 0
        return max(self.results.seconds, min(MARGIN * wanted / rate, MOST_SECONDS) if rate else 0)

    def keep(self, contender: Contender, key: str, load: Load) -> None:
        """Records a load and prints it."""
        self.service(contender).loads.setdefault(key, []).append(load)
        typer.echo(f"{contender.name:<14} {key:<60} {load.answers_per_second:8.1f}/s  {load.statuses}", err=True)


def installed_sizes(bench: Bench) -> None:
    """Disk space that each needs."""
    for contender in bench.able():
        try:
            bench.service(contender).installed_mb = installed_mb(contender, bench.venv)
        except (ValueError, OSError) as error:
            bench.fail(contender, error)


def turns(ready: list[Running], round_: int) -> list[Running]:
    """Rotates the order, so that every round begins with another service."""
    first = round_ % max(len(ready), 1)
    return ready[first:] + ready[:first]


def answered(one: Running, pairs: list[Pair]) -> list[bool]:
    """Which pairs a service answers with 200."""
    with httpx.Client(timeout=ANSWER_SECONDS) as client:

        def is_answered(pair: Pair) -> bool:
            try:
                return ask(client, one.urls[0], one.contender, pair).status_code == httpx.codes.OK
            except httpx.TransportError:
                return False

        return [is_answered(pair) for pair in pairs]


def common_pairs(bench: Bench, ready: list[Running], candidates: list[Pair]) -> list[Pair]:
    """Pairs in which every service finds both faces; a service that finds them in none is excluded.

    Raises RuntimeError if no pair is left.
    """
    left = [True] * len(candidates)
    for one in ready:
        found = answered(one, candidates)
        if any(found):
            left = [a and b for a, b in zip(left, found, strict=True)]
        else:
            bench.fail(one.contender, RuntimeError("it answers no pair of photographs with 200"))
    if not any(left):
        raise RuntimeError("there is no pair of photographs in which every service finds both faces")
    return [pair for pair, common in zip(candidates, left, strict=True) if common]


def one_core(bench: Bench, candidates: list[Pair]) -> None:
    """Every service on the first core, the load on the last; also settles which pairs are used from here on."""
    with bench.running([(contender, SINGLE) for contender in bench.able()], bench.cores[0]) as ready:
        bench.pairs["lfw"] = common_pairs(bench, ready, candidates)
        bench.pairs["640x480"] = common_pairs(bench, ready, [(webcam(a), webcam(b)) for a, b in candidates])
        bench.results.pairs = len(bench.pairs["lfw"])
        able = [one for one in ready if bench.service(one.contender).failure is None]
        kinds = ((keys.CORE_LFW, "lfw", 1), (keys.CORE_VGA, "640x480", 1), (keys.CORE_TWO, "lfw", 2))
        for number in range(bench.results.rounds):
            for key, size, clients in kinds:
                for one in turns(able, number):
                    forms = bench.forms(one.contender, size)
                    load = bench.load(one, forms, "--clients", str(clients), core=bench.cores[-1])
                    bench.keep(one.contender, key, load)


def choose(bench: Bench, contender: Contender) -> tuple[Arrangement, Arrangement] | None:
    """The arrangements with the most answers per second for one client and for several; None if none can be started."""
    candidates = {1: contender.for_one(len(bench.cores)), CHOOSING_CLIENTS: contender.for_many(len(bench.cores))}
    best = {clients: arrangements[0] for clients, arrangements in candidates.items()}
    if any(len(arrangements) > 1 for arrangements in candidates.values()):
        every = dict.fromkeys(arrangement for arrangements in candidates.values() for arrangement in arrangements)
        with bench.running([(contender, arrangement) for arrangement in every]) as ready:
            if len(ready) < len(every):
                return None
            for clients, arrangements in candidates.items():
                rates = {}
                for one in (running for running in ready if running.arrangement in arrangements):
                    load = bench.load(one, bench.forms(contender), "--clients", str(clients))
                    bench.keep(contender, f"choosing for {clients}: {one.arrangement}", load)
                    rates[load.answers_per_second] = one.arrangement
                best[clients] = rates[max(rates)]
    return best[1], best[CHOOSING_CLIENTS]


def all_cores(bench: Bench) -> None:
    """Closed loops, then open loops at shares of each one's capacity, on all cores; memory after all of it."""
    single, crowd = [], []
    for contender in bench.able():
        chosen = choose(bench, contender)
        if chosen:
            one, many = chosen
            bench.service(contender).arrangement = str(many) if one == many else f"{many}; for one client, {one}"
            single.append((contender, one))
            crowd.append((contender, many))
    with bench.running(crowd) as many_ready, bench.running([s for s in single if s not in crowd]) as one_ready:
        alone = {running.contender.name: running for running in (*many_ready, *one_ready)}
        stalled: set[tuple[str, int]] = set()
        for number in range(bench.results.rounds):
            for clients, key in keys.CLIENTS.items():
                for crowded in turns(many_ready, number):
                    if (crowded.contender.name, clients) in stalled:
                        continue
                    running, begin = alone[crowded.contender.name] if clients == 1 else crowded, time.monotonic()
                    load = bench.closed(key, running, bench.forms(running.contender), "--clients", str(clients))
                    bench.keep(running.contender, key, load)
                    if time.monotonic() - begin > STALLED * load.seconds:
                        stalled.add((crowded.contender.name, clients))
        open_loops(bench, many_ready)
        for running in many_ready:
            bench.service(running.contender).resident_mb = resident_mb(running.processes)


def open_loops(bench: Bench, ready: list[Running]) -> None:
    """At shares of each one's own capacity; arrival times are the same for all up to scale."""
    capacities = {one.contender.name: bench.service(one.contender).capacity() for one in ready}
    for number in range(bench.results.rounds):
        for share, key in keys.SHARES.items():
            for one in turns(ready, number):
                capacity = capacities[one.contender.name]
                if capacity:
                    load = steady(bench, key, one, bench.forms(one.contender), share / 100 * capacity, number)
                    bench.keep(one.contender, key, load)


def steady(bench: Bench, key: str, one: Running, forms: Path, rate: float, seed: int, *options: str) -> Load:
    """An open loop, as long as its key needs."""
    length = bench.length(key, rate)
    load = bench.load(one, forms, "--rate", str(rate), "--seed", str(seed), *options, seconds=length)
    return load.model_copy(update={"offered": round(rate, 3)})


def cold_starts(bench: Bench) -> None:
    """One process of each, started in turn."""
    for _ in range(bench.results.rounds):
        for contender in bench.able():
            try:
                seconds = cold_start(contender, bench.venv, bench.pairs["lfw"][0])
            except (RuntimeError, OSError) as error:
                bench.fail(contender, error)
            else:
                bench.service(contender).cold_start_s.append(round(seconds, 3))


def with_gallery(bench: Bench, tessera: Contender, templates: int = GALLERY_TEMPLATES) -> None:
    """Tessera with many subjects of one template: comparison with a subject, search, and a service under load."""
    photograph = bench.pairs["lfw"][0][0]
    folder = bench.out / "photographs"
    identify = write_forms(folder, "identify", ("image",), [(photograph,)])
    verify = write_forms(folder, "subject", ("image",), [(photograph,)], subject_id="ada")
    arrangement = tessera.for_many(len(bench.cores))[0]
    with tempfile.TemporaryDirectory() as temporary:
        fill_gallery(Path(temporary), load_weights(Settings().encoding.directory).sha256, templates, each=1)
        with start(tessera, arrangement, bench.venv, data_dir=Path(temporary)) as one:
            sent = {"image": ("a.jpg", photograph)}
            httpx.post(f"{one.urls[0]}/enroll", files=sent, data={"subject_id": "ada"}, timeout=60).raise_for_status()
            for _ in range(bench.results.rounds):
                bench.keep(tessera, keys.SUBJECT, bench.closed(keys.SUBJECT, one, verify))
                bench.keep(tessera, keys.IDENTIFY, bench.closed(keys.IDENTIFY, one, identify, path="/identify"))
                crowd = bench.load(one, verify, "--clients", str(GALLERY_CLIENTS))
                bench.keep(tessera, keys.SUBJECT_CROWD, crowd)
            capacity = bench.service(tessera).rate(keys.SUBJECT_CROWD)
            for number in range(bench.results.rounds if capacity else 0):
                rate, places = STEADY_SHARE * (capacity or 0), ("--most-open", str(GALLERY_CLIENTS))
                load = steady(bench, keys.SUBJECT_STEADY, one, verify, rate, number, *places)
                bench.keep(tessera, keys.SUBJECT_STEADY, load)
            bench.results.gallery = Gallery(templates=templates, resident_mb=resident_mb(one.processes))
