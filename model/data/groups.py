"""Demographic groups for error rates within each: who is a member, and which faces are used for evaluation.

Origin and sex are what the sources of the faces say (``FaceSet.origin``, ``sex``); they are labels of public data sets,
not self-reported. Nothing here looks at pixels, and the service never guesses anybody's group.

A third of the single faces, of the children and of the masked faces, chosen by a digest, forms the cohort that crowding
is measured against (``model.cohort``); the rest are used for evaluation. A face that shaped the cohort would seem more
crowded than a stranger's.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from model.data.face_set import UNLABELLED, FaceSet
from model.data.lookalikes import (
    ADULT,
    SAME_ORIGIN,
    STRANGER_SPLITS,
    VERDICTS_FILE,
    lowest_age,
    merge_same_people,
    read_verdicts,
)

Ints = npt.NDArray[np.int64]
Masks = npt.NDArray[np.bool_]

ORIGINS = {**SAME_ORIGIN, "Latino_Hispanic": "Latino", "Multiracial": "", "Others": ""}
"""Finer or alternative names in the sources -> the origin they count towards; empty: none."""

FINER = ("East Asian", "Southeast Asian")
"""Names that form groups of their own in addition to the origin they count towards."""

SEXES = {"female": "women", "male": "men", "": "celebrities"}
"""Names of the sexes in group titles; the sources without this label are of celebrities."""

LABELLED = "calibrate"
SINGLES = "impostor"
CHILDREN = "children"
MASKED = "masked"
EVERYBODY = "everybody"
ALIKE = "one origin and sex"
HELD_OUT = "celebrities and families"
COHORT_SHARE = 3
"""One in this many goes to the cohort."""
SMALLEST_GROUP = 150
"""With fewer people than this, a rate of 3e-4 cannot be shown; they count only towards their origin as a whole."""


@dataclass(frozen=True, slots=True)
class GroupMembers:
    """A group before its faces are encoded: see ``app.evaluation.groups.GroupFaces``.

    parts: positions in ``faces``, int64 [N] each. person: int64 for every face of ``faces``, equal for one person.
    """

    name: str
    definition: str
    faces: FaceSet
    parts: Sequence[Ints]
    person: Ints
    claimed: bool = True
    part_of: str | None = None


def for_cohort(faces: FaceSet, members: Ints) -> Masks:
    """Which of these single faces form the cohort; the rest evaluate. Chosen by a digest of each chip."""
    return np.array(
        [hashlib.sha256(chip.tobytes()).digest()[0] % COHORT_SHARE == 0 for chip in faces.images(members)],
        dtype=np.bool_,
    )


def people_for_cohort(person: Ints) -> Masks:
    """Which people with several faces form the cohort, by a digest of their number."""
    return np.array(
        [hashlib.sha256(str(p).encode()).digest()[0] % COHORT_SHARE == 0 for p in person.tolist()], dtype=np.bool_
    )


def adults(faces: FaceSet, split: str) -> Ints:
    """The faces in a split, except of people known to be under age, int64 [N]."""
    grown = [age is None or age >= ADULT for age in map(lowest_age, faces.age.tolist())]
    return np.flatnonzero((faces.split == split) & np.array(grown, dtype=np.bool_))


def people(faces: FaceSet) -> Ints:
    """A number for every person, int64 [N]; each unlabelled face is its own person.

    Identities judged by eye to be one person count as one (``model.data.lookalikes``).
    """
    own = faces.identity.max(initial=-1) + 1 + np.arange(len(faces))
    person = np.where(faces.identity == UNLABELLED, own, faces.identity)
    strangers = np.isin(faces.split, STRANGER_SPLITS)
    merged = merge_same_people(faces.where(strangers), read_verdicts(VERDICTS_FILE))
    person[strangers] = person.max(initial=-1) + 1 + merged
    return person


def evaluation_groups(faces: FaceSet, split: str) -> list[GroupMembers]:
    """The groups that the labels allow; none without origins.

    Women and men of each origin, each origin as a whole (women among women and men among men), all origins combined
    that way, the people of ``split``, everybody; and, measured without a claim, children, masked faces and relatives.
    """
    person = people(faces)
    labelled, singles = np.flatnonzero(faces.split == LABELLED), adults(faces, SINGLES)
    singles = singles[~for_cohort(faces, singles)]
    # One single face per person: the others were found by similarity, so they say nothing about FNMR.
    _, first = np.unique(person[singles], return_index=True)
    singles = singles[first][~np.isin(person[singles[first]], person[labelled])]
    judges = np.sort(np.concatenate([singles, labelled]))
    if not len(judges):
        return []
    held = np.flatnonzero((faces.split == split) & (faces.identity != UNLABELLED))
    everyone = np.sort(np.concatenate([judges, held]))
    return [
        *_groups_of_origin(faces, person, judges),
        GroupMembers(HELD_OUT, f"the faces of the split {split}", faces, [held], person, part_of=EVERYBODY),
        GroupMembers(EVERYBODY, "all of these faces with each other", faces, [everyone], person),
        *_groups_not_promised(faces, person, held),
    ]


def _groups_of_origin(faces: FaceSet, person: Ints, judges: Ints) -> Iterator[GroupMembers]:
    sex, finer = faces.sex[judges], faces.origin[judges]
    origin = np.array([ORIGINS.get(o, o) for o in finer.tolist()])

    def large(labels: npt.NDArray[np.str_], name: str) -> dict[str, Ints]:
        parts = {kind: judges[(labels == name) & (sex == s)] for s, kind in SEXES.items()}
        return {kind: part for kind, part in parts.items() if len(set(person[part].tolist())) >= SMALLEST_GROUP}

    every = list[Ints]()
    for name in sorted(set(origin.tolist()) - {""}):
        parts = large(origin, name)
        every += parts.values()
        if len(parts) > 1:
            definition = f"origin {name}: women among women, men among men, celebrities of unknown sex among themselves"
            yield GroupMembers(name, definition, faces, list(parts.values()), person, part_of=ALIKE)
        for kind, part in parts.items():
            larger = name if len(parts) > 1 else ALIKE
            yield GroupMembers(f"{name} {kind}", f"origin {name}, {kind}", faces, [part], person, part_of=larger)
    if every:
        yield GroupMembers(ALIKE, "pairs of one origin and one sex, all origins together", faces, every, person)
    for name in FINER:
        larger = ORIGINS[name]
        for kind, part in large(finer, name).items():
            if len(part) == len(large(origin, larger)[kind]):
                continue
            yield GroupMembers(f"{name} {kind}", f"origin {name}, {kind}", faces, [part], person, part_of=larger)


def _groups_not_promised(faces: FaceSet, person: Ints, held: Ints) -> Iterator[GroupMembers]:
    children = np.flatnonzero(faces.split == CHILDREN)
    children = children[~for_cohort(faces, children)]
    if len(children):
        yield GroupMembers("children", "ages 0 to 9", faces, [children], person, claimed=False)
    masked = np.flatnonzero(faces.age == MASKED)
    masked = masked[~people_for_cohort(person[masked])]
    if len(masked):
        definition = "faces with a mask, of people of the training set"
        yield GroupMembers("masked", definition, faces, [masked], person, claimed=False)
    families = [held[faces.family[held] == family] for family in np.unique(faces.family[held]) if family != UNLABELLED]
    families = [family for family in families if len(set(person[family].tolist())) > 1]
    if families:
        yield GroupMembers("relatives", "people of one family with each other", faces, families, person, claimed=False)
