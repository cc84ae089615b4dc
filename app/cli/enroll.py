"""``tessera enroll``: enrols many people at once, as fast as the machine can."""

from __future__ import annotations

import hashlib
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import closing, contextmanager
from pathlib import Path
from threading import Event, Lock
from typing import Annotated

import typer

from app.api.problems import KINDS
from app.cli.options import DataDirOption, load_settings, read_photograph, refusing
from app.cli.output import ExitCode, JsonOption, print_json, say, steps
from app.cli.people import Photograph, photographs_by_subject
from app.cli.recording import Recorder, recorder
from app.cli.refusals import Refusal, Refusals, ReportOption, refusals_of
from app.composition import THREADS_A_CORE, build_service, open_beside
from app.errors import TesseraError
from app.faces import FacePolicy
from app.gallery import DEFAULT_COLLECTION
from app.openvino import available_cores
from app.recognition.results import Enrolment, EnrolmentRequest
from app.recognition.service import RecognitionService
from app.settings import Settings

SERVER_ERROR = 500
DUPLICATE = "possible_duplicate"
"""The reason of what is enrolled and listed all the same."""


def enroll(
    source: Annotated[
        Path,
        typer.Argument(
            help="folder with a sub-folder of photographs for each person, named by subject id, or a CSV file with the "
            "columns subject_id, path and, if you like, metadata (a JSON object); paths are relative to the file",
            exists=True,
            metavar="SOURCE",
        ),
    ],
    collection: Annotated[str, typer.Option(help="where to enrol; it must exist")] = DEFAULT_COLLECTION,
    face_policy: Annotated[FacePolicy, typer.Option(help="which face of a photograph is meant; not all")] = (
        FacePolicy.DOMINANT
    ),
    report: ReportOption = None,
    as_json: JsonOption = False,
    data_dir: DataDirOption = None,
) -> None:
    """Enrols the people of a folder or of a CSV file; exit code 1 if some photographs could not be used.

    Run it again to go on after a stop, or to add what is new: photographs that are enrolled under the same subject are
    skipped. (Those of subjects that were erased since are not enrolled, so they would be enrolled anew.) Ctrl-C stops
    it; every photograph is enrolled or not, nothing is half done. The service must not be running.
    """
    if face_policy is FacePolicy.ALL:
        raise typer.BadParameter("a subject is one person: face-policy is dominant, single or largest")
    if report is not None and report.exists() and report.samefile(source):
        raise typer.BadParameter(f"the report would replace {source}, which says whom to enrol; give it another name")
    with refusing():
        settings = load_settings(data_dir=data_dir)
        with refusals_of(report) as refusals:
            people = photographs_by_subject(source, refusals, settings.server.max_metadata_bytes)
            with closing(build_service(settings, open_beside)) as service, recorder(settings) as trail:
                service.gallery.size(collection)
                run = _Run(settings, service, trail, refusals, collection, face_policy)
                outcome = run.all_of(people)
    _conclude(outcome, as_json=as_json)


def _conclude(outcome: dict[str, object], *, as_json: bool) -> None:
    if as_json:
        print_json(outcome)
    else:
        typer.echo(
            f"{outcome['enrolled']} photographs enrolled, {outcome['skipped']} enrolled before, {outcome['refused']} "
            f"refused, {outcome['possible_duplicates']} like another subject; {outcome['seconds']} s, "
            f"{outcome['photographs_per_second']} photographs a second"
        )
    if outcome["left"]:
        say(
            f"stopped with {outcome['left']} photographs left; what is enrolled is kept. Run the same command to go on."
        )
        raise typer.Exit(ExitCode.STOPPED)
    raise typer.Exit(ExitCode.NO if outcome["refused"] else ExitCode.OK)


class _Run:
    """One run: subjects in parallel, the photographs of a subject one after the other."""

    def __init__(
        self,
        settings: Settings,
        service: RecognitionService,
        trail: Recorder,
        refusals: Refusals,
        collection: str,
        face_policy: FacePolicy,
    ) -> None:
        self._settings, self._service, self._trail, self._refusals = settings, service, trail, refusals
        self._collection, self._face_policy = collection, face_policy
        self._lock, self._counts = Lock(), Counter[str]()

    def all_of(self, people: Sequence[Sequence[Photograph]]) -> dict[str, object]:
        """Enrols everybody; returns what came of it. Raises TesseraError where it is no photograph's fault."""
        total = sum(map(len, people))
        threads = self._settings.server.threads or THREADS_A_CORE * available_cores()
        began = time.monotonic()
        with (
            _stopped_by_signals() as stop,
            steps("enrolling", total) as step,
            ThreadPoolExecutor(threads) as pool,
        ):
            try:
                futures = [pool.submit(self._person, photographs, stop, step) for photographs in people]
                for future in as_completed(futures):
                    future.result()
            finally:
                # Also after an error: what is under way is finished, the rest is left.
                stop.set()
        seconds, done = time.monotonic() - began, self._counts.total()
        return {
            "enrolled": self._counts["enrolled"],
            "skipped": self._counts["skipped"],
            # With those that were refused before anything was read.
            "refused": self._refusals.codes.total() - self._refusals.codes[DUPLICATE],
            "possible_duplicates": self._refusals.codes[DUPLICATE],
            "left": total - done,
            "seconds": round(seconds, 1),
            "photographs_per_second": round((done - self._counts["skipped"]) / seconds, 1),
        }

    def _person(self, photographs: Sequence[Photograph], stop: Event, step: Callable[[str], None]) -> None:
        for photograph in photographs:
            if stop.is_set():
                return
            try:
                came = self._photograph(photograph)
            except BaseException:
                stop.set()
                raise
            with self._lock:
                self._counts[came] += 1
                step(f"{self._counts['refused']} refused")

    def _photograph(self, photograph: Photograph) -> str:
        """What came of it: enrolled, skipped or refused."""
        try:
            image = read_photograph(photograph.path, self._settings)
            template = self._template_id(photograph.subject_id, image)
            if self._service.gallery.stored_templates([template]):
                return "skipped"
            result = self._service.enroll(
                EnrolmentRequest(
                    images=[image],
                    subject_id=photograph.subject_id,
                    collection=self._collection,
                    metadata=photograph.metadata,
                    face_policy=self._face_policy,
                    report_duplicates=self._settings.gallery.report_duplicates,
                    template_ids=[template],
                )
            )
        except OSError as error:
            self._refuse(photograph, "unreadable", f"It cannot be read: {error.strerror or error}.")
            return "refused"
        except TesseraError as error:
            if KINDS[error.code].status >= SERVER_ERROR:
                raise
            self._refuse(photograph, error.code, error.message)
            return "refused"
        assert isinstance(result, Enrolment)
        self._trail.record(
            "enroll", "append", collection=self._collection, subject=photograph.subject_id, details={"templates": 1}
        )
        if result.possible_duplicates:
            nearest = result.possible_duplicates[0][0]
            self._refuse(photograph, DUPLICATE, f"It is enrolled, and matches subject {nearest.subject_id}, too.")
        return "enrolled"

    def _template_id(self, subject_id: str, image: bytes) -> str:
        """The id of the template of a photograph: the same every time, and telling nobody which photograph it is."""
        digest = hashlib.sha256(image).hexdigest()
        return self._trail.store.secret.digest("template", self._collection, subject_id, digest)[:16].hex()

    def _refuse(self, photograph: Photograph, code: str, detail: str) -> None:
        self._refusals.add(Refusal(photograph.subject_id, photograph.path, code, detail))


@contextmanager
def _stopped_by_signals() -> Iterator[Event]:
    """An event that SIGINT and SIGTERM set, in place of ending the process."""
    stop = Event()
    before = {number: signal.signal(number, lambda *_: stop.set()) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
