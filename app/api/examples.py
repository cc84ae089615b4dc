"""Examples for the OpenAPI document; the tests validate each against its schema."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

from pydantic import ConfigDict

Example = dict[str, Any]


def _photograph(name: str) -> str:
    """A tiny photograph as base64: Eileen Collins (NASA, public domain), upright and mirrored."""
    return base64.b64encode((Path(__file__).parent / "photographs" / f"{name}.webp").read_bytes()).decode()


IMAGE, REFERENCE = _photograph("first"), _photograph("second")
TEMPLATE_ID = "0c9e8f4b6a5d4f0e9b7a3c2d1e0f5a6b"

PATH = {"subject_id": "ada", "collection": "staff", "template_id": TEMPLATE_ID}
"""By the names of parameters: what the examples of bodies make."""

ENCODER_SHA256 = "9d3e557f91269360238c5408454af48ede435b0f612e7c07d5d8bf190bf35450"
"""Digest of the default encoder."""
VERSION = f"tessera-l-4-{ENCODER_SHA256[:8]}"

_VERSIONS: Example = {"encoder_version": VERSION, "calibration_version": VERSION}
_FACE: Example = {
    "turned": 0,
    "box": {"x": 177.9, "y": 62.3, "width": 91.0, "height": 114.2},
    "landmarks": {
        "left_eye": [201.3, 108.8],
        "right_eye": [248.4, 109.6],
        "nose": [221.0, 136.4],
        "left_mouth": [207.6, 152.2],
        "right_mouth": [245.9, 152.8],
    },
    "confidence": 0.932,
    "quality": {
        "eye_distance": 47.1,
        "sharpness": 688.0,
        "brightness": 139.0,
        "contrast": 61.0,
        "yaw": -0.07,
        "roll": 1.0,
        "issues": [],
    },
}
_PROBE: Example = {"faces_detected": 1, "face": _FACE, "embedding_norm": 14.39}
_MEASURED: Example = {
    "threshold": 0.8123,
    "false_match_rate": {"value": 0.0000251, "low": 0.0000137, "high": 0.0000491, "at_most": False},
    "false_non_match_rate": {"value": 0.2367, "low": 0.1825, "high": 0.293},
}
_POINT: Example = _MEASURED | {
    "worst_group": {"group": "White women", "value": 0.0000397, "low": 0.0000193, "high": 0.0000669, "at_most": False}
}
_RATE: Example = {"value": 0.0000126, "low": 0.0000057, "high": 0.0000293, "at_most": True}
_WORST: Example = {
    "group": "Black women",
    "value": 0.00000312,
    "low": 0.00000063,
    "high": 0.00000738,
    "at_most": True,
}
_CRITERION: Example = {
    "kind": "target_fmr",
    "value": 0.0001,
    "set_by": "server",
    "claim": "every_group",
    "bound_by": "Indian celebrities",
    "met": True,
}
_MATCH: Example = {"decision": "match", "distance": 0.4853, "similarity": 0.75735}
_CROWDED: Example = {"threshold": 0.8683, "crowding": -0.0628}
"""A threshold of 0.8056, less the crowding."""
_CANDIDATE: Example = {
    "subject_id": "ada",
    "template_id": TEMPLATE_ID,
    "templates": 1,
    **_MATCH,
    **_CROWDED,
    "false_match_rate": _RATE,
    "worst_group": _WORST,
    "metadata": {"name": "Ada Lovelace"},
}

ENROLL_REQUEST: Example = {"image": [IMAGE], "subject_id": "ada", "metadata": {"name": "Ada Lovelace"}}
VERIFY_REQUEST: Example = {"image": IMAGE, "reference": REFERENCE}
VERIFY_SUBJECT_REQUEST: Example = {"image": IMAGE, "subject_id": "ada", "target_fmr": 0.0001}
IDENTIFY_REQUEST: Example = {"image": IMAGE, "top_k": 3, "target_fpir": 0.01}
DETECT_REQUEST: Example = {"image": IMAGE}
SUBJECT_UPDATE: Example = {"metadata": {"name": "Ada King"}}
MERGE_REQUEST: Example = {"duplicate": "ada-2"}
NEW_COLLECTION: Example = {"id": "staff", "target_fmr": 0.001}
COLLECTION_UPDATE: Example = {"target_fmr": 0.001, "target_fpir": 0.05, "claim": "every_group"}

ENROLL: Example = {
    "subject_id": "ada",
    "collection": "default",
    "template_count": 1,
    "templates": [{"image": 0, "template_id": TEMPLATE_ID, "probe": _PROBE}],
    "failures": [{"image": 1, "code": "no_face", "detail": "No face was found."}],
    "possible_duplicate": False,
    "possible_duplicates": [],
    **_VERSIONS,
}
VERIFY: Example = {
    **_MATCH,
    "reason": None,
    **_CROWDED,
    "criterion": _CRITERION,
    "false_match_rate": _RATE,
    "worst_group": _WORST,
    "operating_point": _POINT,
    "subject_id": "ada",
    "template_id": TEMPLATE_ID,
    "templates": 1,
    "probe": _PROBE,
    "reference": None,
    **_VERSIONS,
}
IDENTIFY: Example = {
    **_MATCH,
    "subject_id": "ada",
    "threshold": _CROWDED["threshold"],
    "criterion": _CRITERION | {"kind": "target_fpir", "value": 0.01},
    "operating_point": _POINT,
    "gallery_subjects": 100,
    "false_positive_identification_rate": 0.00495,
    "false_positive_identification_rate_at_most": False,
    "margin": 0.873,
    "reason": None,
    "probe": _PROBE,
    "candidates": [_CANDIDATE],
    "faces": [{"decision": "match", "reason": None, "probe": _PROBE, "candidates": [_CANDIDATE]}],
    **_VERSIONS,
}
DETECT: Example = {"width": 512, "height": 512, "faces": [_FACE]}
SUBJECT: Example = {
    "id": "ada",
    "collection": "default",
    "metadata": {"name": "Ada Lovelace"},
    "created_at": "2026-03-01T09:30:00.000000Z",
    "updated_at": "2026-03-01T09:30:00.000000Z",
    "templates": [
        {"id": TEMPLATE_ID, "created_at": "2026-03-01T09:30:00.000000Z", "embedding_norm": 14.39, "chip": False}
    ],
}
MERGED: Example = {
    "subject": SUBJECT,
    "duplicate": "ada-2",
    "template_ids": [TEMPLATE_ID],
    "distance": 0.31,
    "threshold": 0.8683,
}
SUBJECT_PAGE: Example = {"subjects": [SUBJECT], "next_cursor": "YWRh"}
COLLECTION: Example = {
    "id": "staff",
    "created_at": "2026-03-01T09:30:00.000000Z",
    "subjects": 0,
    "templates": 0,
    "target_fmr": 0.001,
    "target_fpir": None,
    "claim": None,
    "keep_chips": False,
    "chips": 0,
}
COLLECTION_LIST: Example = {"collections": [COLLECTION]}
ERASED: Example = {
    "templates": 1,
    "receipt": "42:9f2c1c0b7f3f5e0a7a4a3a5d8f7b6c1e2d3f4a5b6c7d8e9f0a1b2c3d4e5f6a7b",
}
HEALTH: Example = {"status": "ok", "checks": {"encoder": "ok", "gallery": "ok", "audit_trail": "ok"}}
MODEL: Example = {
    "encoder": {
        "name": "tessera-l",
        "version": VERSION.split("-")[2],
        "sha256": ENCODER_SHA256,
        "runtime": "openvino",
        "precision": "bf16",
        "device": "AMD EPYC",
    },
    "calibration_version": VERSION,
    "target_fmr": 0.0001,
    "target_fpir": 0.01,
    "claim": "every_group",
    "smallest_supported_fmr": 0.00000745,
    "weak_below": 11.95,
    "ambiguous_below": 0.0682,
    "most_templates": 8,
    "operating_point": _POINT,
    "operating_points": [_MEASURED],
    "groups": [
        {
            "name": "Asian women",
            "definition": "origin Asian, women",
            "claimed": True,
            "part_of": "Asian",
            "subjects": 398,
            "faces": 979,
            "smallest_supported_fmr": 0.000075,
            "operating_points": [
                {
                    "threshold": 0.9415,
                    "false_match_rate": {"value": 0.000316, "low": 0.000187, "high": 0.000482, "at_most": False},
                    "false_non_match_rate": {"value": 0.419, "low": 0.353, "high": 0.487},
                }
            ],
        }
    ],
    "cohort_sha256": "55d3986cc279e26350645339c0a2c284312116dc11be91339d4d3222fa298c06",
}
AUDIT: Example = {
    "collection": "staff",
    "status": "done",
    "started_at": "2026-03-01T09:30:00.000000Z",
    "progress": 1.0,
    "error": None,
    "report": {
        "created_at": "2026-03-01T09:30:02.000000Z",
        "subjects": 600,
        "templates": 600,
        "population": "as_measured",
        "duplicate_count": 1,
        "duplicates": [{"first": "ada", "second": "ada-2", "distance": 0.31, "false_match_rate": 0.0000126}],
        "confusable": [{"first": "ada", "second": "ada-2", "distance": 0.31, "false_match_rate": 0.0000126}],
        "outlier_count": 0,
        "outliers": [],
        "weak_count": 1,
        "weak": [{"subject_id": "bob", "template_id": TEMPLATE_ID, "norm": 8.1}],
        "compared_subjects": 600,
        "rates": [
            {
                "threshold": 1.0671,
                "calibrated": {"value": 0.000224, "low": 0.000175, "high": 0.000286},
                "observed": {"value": 0.00028, "low": 0.00017, "high": 0.00041},
                "pairs": 179700,
            }
        ],
    },
}
METRICS = 'tessera_http_requests_total{method="POST",route="/verify",status="200"} 42.0\n'


def config(*given: Example) -> ConfigDict:
    """A schema configuration that carries examples; the first one is shown."""
    return ConfigDict(json_schema_extra={"examples": list(given)})
