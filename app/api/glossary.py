"""What the fields mean that have no description of their own: one word a thing, in every schema and parameter."""

from __future__ import annotations

from typing import Any

GLOSSARY = {
    "box": "the rectangle around the face",
    "calibrated": "the false match rate that the calibration states for the threshold",
    "calibration_version": "of the calibration that thresholds and rates follow from",
    "candidates": "subjects compared with this face, best first",
    "checks": "each part of the service by name",
    "code": "stable and machine-readable, as that of an error",
    "collection": "the isolated set of subjects that is meant",
    "collections": "those that the key may use",
    "created_at": "UTC",
    "criterion": "what the threshold follows from",
    "decision": "match, no_match, or inconclusive with a reason",
    "definition": "who belongs to the group",
    "detail": "what happened and what to do",
    "device": "the processor that runs the encoder",
    "distance": "squared L2 of unit vectors, 0..4",
    "duplicate": "id of the subject that was merged and is gone",
    "duplicate_count": "pairs of subjects within the default threshold",
    "encoder": "the network that is in use",
    "encoder_version": "of the encoder that made the embeddings",
    "error": "why the audit failed; null unless it did",
    "eye_distance": "distance between the eyes, pixels",
    "face": "the face that was used",
    "face_policy": "which face of a photograph is meant",
    "faces": "one entry a face, or the number of faces measured",
    "faces_detected": "number of faces in the photograph",
    "failures": "photographs that gave no template, each with its reason",
    "false_match_rate": "share of pairs of different people that match at the threshold",
    "false_non_match_rate": "share of pairs of one person that do not match at the threshold",
    "first": "id of one subject",
    "group": "name of the group of people",
    "height": "pixels",
    "high": "upper bound of the 95 % interval",
    "id": "1 to 128 letters, digits or any of . _ @ : + ~ -, beginning with a letter or digit",
    "image": "index of the photograph in the request, from 0",
    "issues": "names of the measures outside their limits",
    "kind": "which of the criteria it is",
    "landmarks": "five points of the face",
    "left_eye": "x and y, pixels",
    "left_mouth": "x and y of the corner of the mouth, pixels",
    "limit": "most subjects on a page",
    "low": "lower bound of the 95 % interval",
    "metadata": "the JSON object kept with the subject",
    "name": "of what is described",
    "next_cursor": "cursor of the next page; null on the last one",
    "norm": "of the embedding",
    "nose": "x and y of its tip, pixels",
    "observed": "share of the collection's own pairs within the threshold",
    "operating_point": "the threshold and the error rates measured at it",
    "operating_points": "thresholds and the error rates measured at them",
    "outlier_count": "number of templates that do not match the rest of their subject",
    "outliers": "the most notable of them",
    "pairs": "number of pairs compared",
    "possible_duplicates": "other subjects within the threshold",
    "precision": "arithmetic of the encoder",
    "probe": "the face of the photograph that was used",
    "quality": "measures of the face",
    "rates": "calibrated and observed rates, threshold by threshold",
    "reference": "the face of the second photograph; null for an enrolled subject",
    "report": "the findings; null until the audit is done",
    "right_eye": "x and y, pixels",
    "right_mouth": "x and y of the corner of the mouth, pixels",
    "runtime": "the library that runs the encoder",
    "second": "id of the other subject",
    "set_by": "the request, the collection or the server",
    "sha256": "digest of the encoder's file",
    "similarity": "cosine: 1 - distance / 2",
    "started_at": "UTC",
    "status": "whether it works, or how far it is",
    "subject": "the subject that stays",
    "subject_id": "id of the subject",
    "subjects": "number of subjects",
    "template_id": "id of the template",
    "templates": "number of templates",
    "threshold": "squared distance up to which two faces match",
    "updated_at": "UTC",
    "value": "the measured rate, 0..1",
    "version": "of the encoder",
    "weak": "the weakest of them",
    "weak_count": "number of templates whose embedding has a small norm",
    "width": "pixels",
    "x": "of the left edge, pixels",
    "y": "of the upper edge, pixels",
    "JsonValue": "any JSON value",
    "EnrollResponse.subject_id": "as given, or generated",
    "EnrollResponse.templates": "those that were stored, one for each photograph that gave one",
    "SubjectOut.templates": "what is stored of the person's face",
    "SubjectPage.subjects": "ordered by id",
    "VerifyResponse.subject_id": "id of the subject compared with; null for a second photograph",
    "VerifyRequest.subject_id": "the enrolled subject to compare with, in place of `reference`",
    "VerifyForm.subject_id": "the enrolled subject to compare with, in place of `reference`",
}
"""By the name of a field, or of its schema and a field where the name alone has another meaning."""


def describe_fields(name: str, schema: dict[str, Any]) -> None:
    """Gives a schema and each of its properties a description, where they have none of their own."""
    if name in GLOSSARY:
        schema.setdefault("description", GLOSSARY[name])
    for field, described in schema.get("properties", {}).items():
        meaning = GLOSSARY.get(f"{name}.{field}") or GLOSSARY.get(field)
        if "description" not in described and meaning:
            described["description"] = meaning


def describe_parameter(parameter: dict[str, Any]) -> None:
    """Gives a parameter of a path or query a description, if it has none of its own."""
    meaning = GLOSSARY.get(parameter["name"])
    if "description" not in parameter and meaning:
        parameter["description"] = meaning
