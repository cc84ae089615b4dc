"""Every setting, nested by package, read from ``TESSERA_*`` variables; combinations that cannot work are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from app.decisions import Claim
from app.encoding import Precision, RuntimeName

MEBIBYTE = 1024 * 1024
DEFAULT_WEIGHTS = Path(__file__).resolve().parent.parent / "model" / "weights"


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ServerSettings(_Section):
    """Where the service listens and how much it accepts."""

    host: str = Field(default="127.0.0.1", description="address to listen on")
    port: int = Field(default=8000, ge=0, le=65535, description="port to listen on; 0 lets the system choose one")
    max_body_bytes: PositiveInt = Field(default=32 * MEBIBYTE, description="largest request body, bytes")
    max_images: PositiveInt = Field(default=16, description="most photographs in one request")
    max_metadata_bytes: PositiveInt = Field(
        default=16 * 1024, description="largest metadata of a subject, bytes of JSON"
    )
    threads: int = Field(
        default=0, ge=0, description="requests with photographs processed at once; 0: two for each core"
    )
    max_waiting: int = Field(
        default=256, ge=0, description="requests with photographs that may wait for a thread; more get 503"
    )
    request_seconds: float = Field(
        default=30, gt=0, description="how long a request may wait for a thread, seconds; then it gets 503"
    )
    graceful_seconds: PositiveInt = Field(
        default=20, description="time that requests have to finish when the service stops, seconds"
    )


class FacesSettings(_Section):
    """What is accepted as a photograph and as a face."""

    max_image_bytes: PositiveInt = Field(default=16 * MEBIBYTE, description="largest photograph, bytes")
    max_image_pixels: PositiveInt = Field(default=50_000_000, description="largest photograph, pixels")
    detection_threshold: float = Field(default=0.6, gt=0, lt=1, description="lowest detector confidence of a face")
    min_eye_distance: float = Field(default=16, ge=0, description="smallest distance between the eyes, pixels")
    enforce_quality: bool = Field(
        default=True, description="refuse to enrol a face whose quality is outside the limits"
    )


class EncodingSettings(_Section):
    """Which encoder runs, and how."""

    encoder: str = Field(
        default="tessera-l",
        pattern=r"^\w[\w.-]*$",
        description="tessera-l (accurate), tessera-m (fast, small), tessera-s (fastest)",
    )
    weights: Path = Field(default=DEFAULT_WEIGHTS, description="folder with a folder for each encoder")
    runtime: RuntimeName = Field(default=RuntimeName.OPENVINO, description="openvino or onnxruntime")
    precision: Precision = Field(default=Precision.AUTO, description="auto, bf16 or f32")
    threads: int = Field(
        default=0,
        ge=0,
        description="runs of the encoder at once, a thread each; 0: one for each core available",
    )

    @property
    def directory(self) -> Path:
        """The directory of the chosen encoder's files."""
        return self.weights / self.encoder


class DecisionsSettings(_Section):
    """The criteria for a match unless a request sets them."""

    calibration: Path | None = Field(
        default=None, description="a table of your own from `tessera calibrate`; the one beside the encoder if not set"
    )
    target_fmr: float | None = Field(
        default=None, gt=0, lt=1, description="false match rate of /verify; the calibration's default if not set"
    )
    target_fpir: float | None = Field(
        default=None,
        gt=0,
        lt=1,
        description="false positive identification rate of /identify; the calibration's default if not set",
    )
    claim: Claim = Field(
        default=Claim.EVERY_GROUP,
        description="for whom these rates hold: every_group (each group of people that was measured) or pooled (the "
        "average over all pairs)",
    )
    inconclusive: bool = Field(default=True, description="answer inconclusive where it applies; else no_match")


class GallerySettings(_Section):
    """Where templates are kept."""

    data_dir: Path = Field(default=Path("data"), description="folder of the database; one process at a time")
    report_duplicates: bool = Field(
        default=True, description="on enrolment, look for the same face under another subject"
    )


class Settings(BaseSettings):
    """All sections. ``TESSERA_SERVER__PORT=9000`` sets ``server.port``."""

    model_config = SettingsConfigDict(
        env_prefix="TESSERA_", env_nested_delimiter="__", extra="forbid", frozen=True, validate_default=True
    )

    server: ServerSettings = ServerSettings()
    faces: FacesSettings = FacesSettings()
    encoding: EncodingSettings = EncodingSettings()
    decisions: DecisionsSettings = DecisionsSettings()
    gallery: GallerySettings = GallerySettings()

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.faces.max_image_bytes > self.server.max_body_bytes:
            raise ValueError("faces.max_image_bytes is above server.max_body_bytes: no such photograph could arrive")
        return self
