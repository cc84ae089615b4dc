"""Which target applies: the request's, else the collection's, else the service's own."""

from __future__ import annotations

from dataclasses import replace

from app.decisions import (
    Calibration,
    Claim,
    Criterion,
    CriterionKind,
    CriterionSource,
    DecisionPolicy,
    RequestedCriterion,
    identification_policy,
    verification_policy,
)
from app.gallery import Gallery, Targets


class Criteria:
    """The service's own targets, and how they combine with those of collections and requests."""

    def __init__(
        self,
        calibration: Calibration,
        *,
        target_fmr: float | None = None,
        target_fpir: float | None = None,
        claim: Claim = Claim.EVERY_GROUP,
    ) -> None:
        """Checks the service's own targets.

        Args:
            calibration: that of the encoder.
            target_fmr: of verifications; the calibration's default if None.
            target_fpir: of searches; the calibration's default if None.
            claim: for whom these rates are claimed.

        Raises:
            TargetUnsupported: the calibration cannot show ``target_fmr``.
        """
        self.calibration = calibration
        fmr = calibration.default_fmr if target_fmr is None else target_fmr
        fpir = calibration.default_fpir if target_fpir is None else target_fpir
        self._verification = Criterion(CriterionKind.TARGET_FMR, fmr, CriterionSource.SERVER, claim)
        self._identification = Criterion(CriterionKind.TARGET_FPIR, fpir, CriterionSource.SERVER, claim)
        # Refuse an unsupported default here, not at the first request.
        self._require(self._verification)

    @property
    def target_fmr(self) -> float:
        """The service's own false match rate of verifications."""
        return self._verification.value

    @property
    def target_fpir(self) -> float:
        """The service's own false positive identification rate of searches."""
        return self._identification.value

    @property
    def claim(self) -> Claim:
        """For whom those rates are claimed."""
        return self._verification.claim

    def default_policy(self, templates: int = 1) -> DecisionPolicy:
        """The policy for comparisons with a subject of this many templates, by the service's own targets."""
        return verification_policy(self.calibration, self._verification, templates)

    def verification(self, requested: RequestedCriterion, targets: Targets) -> Criterion:
        """The criterion of a comparison in a collection with these targets."""
        return _resolve(self._verification, requested, targets, targets.fmr)

    def identification(self, requested: RequestedCriterion, gallery: Gallery, collection: str) -> DecisionPolicy:
        """The policy of a search in a collection. Raises TargetUnsupported, CollectionNotFound."""
        targets = gallery.targets(collection)
        criterion = _resolve(self._identification, requested, targets, targets.fpir)
        size = gallery.size(collection)
        return identification_policy(self.calibration, criterion, size.subjects, size.most_templates)

    def check(self, targets: Targets) -> None:
        """Raises TargetUnsupported for an unsupported FMR; whether an FPIR is depends on the number of subjects."""
        claim = self.claim if targets.claim is None else Claim(targets.claim)
        if targets.fmr is not None:
            self._require(Criterion(CriterionKind.TARGET_FMR, targets.fmr, CriterionSource.COLLECTION, claim))

    def _require(self, criterion: Criterion) -> None:
        """Raises TargetUnsupported unless the rate is supported for any number of templates."""
        # From the most, which support the least: the message names a rate that is supported for all of them.
        for templates in range(self.calibration.most_templates, 0, -1):
            verification_policy(self.calibration, criterion, templates)


def _resolve(default: Criterion, requested: RequestedCriterion, targets: Targets, own: float | None) -> Criterion:
    """``own`` is the collection's target for this kind of decision."""
    claim = requested.claim or (default.claim if targets.claim is None else Claim(targets.claim))
    if requested.max_distance is not None:
        return Criterion(CriterionKind.MAX_DISTANCE, requested.max_distance, CriterionSource.REQUEST, claim)
    if requested.target is not None:
        return Criterion(default.kind, requested.target, CriterionSource.REQUEST, claim)
    if own is not None:
        return Criterion(default.kind, own, CriterionSource.COLLECTION, claim)
    return replace(default, claim=claim)
