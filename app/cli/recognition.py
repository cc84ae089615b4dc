"""``tessera verify`` and ``tessera identify``: the decisions of the API, without a server."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer
from pydantic import BaseModel, ValidationError

from app.api import presenters, schemas
from app.api.schemas.common import MAX_TOP_K
from app.api.schemas.decisions import RateOut, WorstGroupOut
from app.cli.options import DataDirOption, load_settings, read_photograph, refusing, settings_without_data
from app.cli.output import ExitCode, JsonOption, print_json, print_table
from app.cli.recording import recorder
from app.composition import build_service, no_gallery, open_copy
from app.decisions import Claim, Decision, Reason
from app.faces import FacePolicy
from app.gallery import DEFAULT_COLLECTION

Request = TypeVar("Request", bound=BaseModel)

MaxDistanceOption = Annotated[
    float | None, typer.Option(help="largest squared distance that matches, 0 to 4, in place of a target")
]
ClaimOption = Annotated[Claim | None, typer.Option(help="for whom the target holds")]
FacePolicyOption = Annotated[FacePolicy, typer.Option(help="which face of a photograph is meant")]

REASONS = {
    Reason.WEAK_PROBE: "the face is too poor to say no by",
    Reason.WEAK_REFERENCE: "the face that it is compared with is too poor to say no by",
    Reason.AMBIGUOUS_SUBJECTS: "two subjects match, too close to tell which one it is",
    Reason.AMBIGUOUS_FACE: "the photograph shows another face of like size, who may be meant",
    "empty_gallery": "nobody is enrolled in the collection",
}
WORDS = {Decision.MATCH: "match", Decision.NO_MATCH: "no match", Decision.INCONCLUSIVE: "inconclusive"}


def verify(
    photograph: Annotated[Path, typer.Argument(help="a photograph of a face", metavar="A")],
    reference: Annotated[Path, typer.Argument(help="the photograph to compare it with", metavar="B")],
    target_fmr: Annotated[float | None, typer.Option(help="highest acceptable false match rate")] = None,
    max_distance: MaxDistanceOption = None,
    claim: ClaimOption = None,
    face_policy: FacePolicyOption = FacePolicy.LARGEST,
    as_json: JsonOption = False,
) -> None:
    """Says whether two photographs show one person; exit code 0 for a match, 1 if not or inconclusive.

    Nothing is stored, and no data directory is read.
    """
    with refusing():
        settings = settings_without_data()
        request = _request(
            schemas.VerifyRequest,
            image=read_photograph(photograph, settings),
            reference=read_photograph(reference, settings),
            target_fmr=target_fmr,
            max_distance=max_distance,
            claim=claim,
            face_policy=face_policy,
        )
        with closing(build_service(settings, no_gallery)) as service:
            assert request.reference is not None
            result = service.verify(
                request.image,
                request.reference,
                face_policy=face_policy,
                requested=request.requested(),
                names=(str(photograph), str(reference)),
            )
            answer = presenters.verification(result, service.encoder, service.calibration)
    if as_json:
        print_json(answer)
    else:
        _say_decision(answer.decision, answer.reason)
        print_table(("", ""), [*_distance(answer.distance, answer), *_rates(answer)])
    raise typer.Exit(_code(answer.decision))


def identify(  # noqa: PLR0913, PLR0917
    photograph: Annotated[Path, typer.Argument(help="a photograph of a face", metavar="PHOTOGRAPH")],
    collection: Annotated[str, typer.Option(help="where to search")] = DEFAULT_COLLECTION,
    top_k: Annotated[int, typer.Option(help="most candidates to show", min=1, max=MAX_TOP_K)] = 5,
    target_fpir: Annotated[
        float | None, typer.Option(help="highest acceptable share of strangers' searches that find somebody")
    ] = None,
    max_distance: MaxDistanceOption = None,
    claim: ClaimOption = None,
    face_policy: FacePolicyOption = FacePolicy.LARGEST,
    as_json: JsonOption = False,
    data_dir: DataDirOption = None,
) -> None:
    """Says who in a collection a photograph shows; exit code 0 for a match, 1 if nobody matches or it is inconclusive.

    Searches a copy of what is enrolled at this moment: the service may be running. The search is recorded in the audit
    trail.
    """
    with refusing():
        settings = load_settings(data_dir=data_dir)
        request = _request(
            schemas.IdentifyRequest,
            image=read_photograph(photograph, settings),
            collection=collection,
            top_k=top_k,
            target_fpir=target_fpir,
            max_distance=max_distance,
            claim=claim,
            face_policy=face_policy,
        )
        with closing(build_service(settings, open_copy)) as service, recorder(settings) as trail:
            result = service.identify(
                request.image, collection, top_k, face_policy=face_policy, requested=request.requested()
            )
            answer = presenters.identification(result, service.encoder, service.calibration)
            if settings.security.audit_decisions:
                trail.record(
                    "identify",
                    answer.decision,
                    collection=collection,
                    subject=answer.subject_id,
                    details={**presenters.versions(service.encoder, service.calibration)},
                )
    if as_json:
        print_json(answer)
    else:
        _say_identification(answer)
    raise typer.Exit(_code(answer.decision))


def _request(model: type[Request], **fields: Any) -> Request:
    """The request that the API would get. Raises typer.BadParameter, naming the option."""
    try:
        return model(**{name: value for name, value in fields.items() if value is not None})
    except ValidationError as error:
        found = error.errors(include_url=False, include_input=False)
        named = ("--" + ".".join(map(str, e["loc"])).replace("_", "-") if e["loc"] else "" for e in found)
        raise typer.BadParameter(
            "; ".join(
                f"{name} {e['msg'].removeprefix('Value error, ')}".strip() for name, e in zip(named, found, strict=True)
            )
        ) from error


def _code(decision: Decision) -> ExitCode:
    return ExitCode.OK if decision is Decision.MATCH else ExitCode.NO


def _say_decision(decision: Decision, reason: str | None, who: str | None = None) -> None:
    said = WORDS[decision] + (f": {who}" if who else "")
    typer.echo(said if reason is None else f"{said} ({REASONS.get(reason, reason)})")


def _say_identification(answer: schemas.IdentifyResponse) -> None:
    for face in answer.faces:
        matched = face.decision is Decision.MATCH
        reason = face.reason or answer.reason
        _say_decision(face.decision, reason, face.candidates[0].subject_id if matched else None)
        if face.candidates:
            print_table(
                ("subject", "decision", "distance", "threshold", "FMR at this distance", "in the worst group"),
                [
                    (c.subject_id, WORDS[c.decision], f"{c.distance:.3f}", f"{c.threshold:.3f}", *_cells(c))
                    for c in face.candidates
                ],
            )
    rate = answer.false_positive_identification_rate
    bound = "at most " if answer.false_positive_identification_rate_at_most else ""
    strangers = "" if rate is None else f"; a stranger would match somebody in {bound}{rate:.2g} of such searches"
    typer.echo(f"{answer.gallery_subjects} subjects searched{strangers}")


def _distance(distance: float, answer: schemas.VerifyResponse) -> list[tuple[str, str]]:
    wanted = answer.criterion
    by = f"{wanted.kind} {wanted.value:g}, set by the {wanted.set_by}"
    if wanted.claim is not None:
        by += f", claim {wanted.claim}" + (f", bound by {wanted.bound_by}" if wanted.bound_by else "")
    return [("distance", f"{distance:.3f}"), ("threshold", f"{answer.threshold:.3f} ({by})")]


def _rates(answer: schemas.VerifyResponse) -> list[tuple[str, str]]:
    overall, worst = _cells(answer)
    return [("FMR at this distance", overall), ("in the worst group", worst)]


def _cells(compared: schemas.VerifyResponse | schemas.CandidateOut) -> tuple[str, str]:
    """The false match rate at a distance, and in the worst group."""
    worst = compared.worst_group
    return _rate(compared.false_match_rate), _rate(worst)


def _rate(rate: RateOut | None) -> str:
    if rate is None:
        return "above the measured range"
    shown = f"{'at most ' if rate.at_most else ''}{rate.value:.2g} [{rate.low:.2g}, {rate.high:.2g}]"
    return f"{shown} ({rate.group})" if isinstance(rate, WorstGroupOut) else shown
