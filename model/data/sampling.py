"""How batches are drawn. A batch is a function of seed and step, so that a resumed run continues exactly."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import numpy.typing as npt

Index = npt.NDArray[np.int64]


class Sampler(Protocol):
    """Draws the members of each step's batch."""

    def batch(self, step: int) -> Index:
        """Positions in the face set, int64 [B]."""
        ...


class ShuffledSampler:
    """Every face once per epoch, reshuffled each time; an incomplete last batch is dropped."""

    def __init__(self, size: int, batch_size: int, seed: int) -> None:
        if size < batch_size:
            raise ValueError(f"a batch of {batch_size} needs as many faces; there are {size}")
        self._size, self._batch_size, self._seed = size, batch_size, seed
        self._epoch, self._order = -1, np.empty(0, dtype=np.int64)

    def batch(self, step: int) -> Index:
        epoch, position = divmod(step, self._size // self._batch_size)
        if epoch != self._epoch:
            self._epoch, self._order = epoch, np.random.default_rng([self._seed, epoch]).permutation(self._size)
        return self._order[position * self._batch_size : (position + 1) * self._batch_size]


class IdentitySampler:
    """P identities with K faces each (FaceNet; Hermans et al. 2017, arXiv 1703.07737).

    Only identities with two or more faces are drawn; with fewer than K, faces repeat once all have been taken
    (augmentation makes the copies differ). ``source`` (str [N]) and ``balance`` favour the people of small sources:
    the weight is ``n ** (balance - 1)``, where the source of most of their faces has n people.
    """

    def __init__(
        self,
        identity: Index,
        identities: int,
        images: int,
        seed: int,
        source: npt.NDArray[np.str_] | None = None,
        balance: float = 1,
    ) -> None:
        order = np.argsort(identity, kind="stable")
        labels, starts, counts = np.unique(identity[order], return_index=True, return_counts=True)
        usable = (labels >= 0) & (counts >= 2)
        if images < 2:
            raise ValueError("an anchor needs a positive: at least 2 images an identity")
        if usable.sum() < identities:
            raise ValueError(f"{identities} identities of two or more faces wanted, {usable.sum()} are there")
        self._members = [order[s : s + c] for s, c in zip(starts[usable], counts[usable], strict=True)]
        self._identities, self._images, self._seed = identities, images, seed
        self._chances: npt.NDArray[np.float64] | None = None
        if source is not None and balance != 1:
            names, codes = np.unique(source, return_inverse=True)
            own = np.array([np.bincount(codes[m], minlength=len(names)).argmax() for m in self._members])
            chances = np.bincount(own)[own] ** (balance - 1.0)
            self._chances = chances / chances.sum()

    def batch(self, step: int) -> Index:
        rng = np.random.default_rng([self._seed, step])
        chosen = rng.choice(len(self._members), self._identities, replace=False, p=self._chances)
        return np.concatenate([self._draw(self._members[i], rng) for i in chosen])

    def _draw(self, members: Index, rng: np.random.Generator) -> Index:
        rounds = -(-self._images // len(members))
        return np.concatenate([rng.permutation(members) for _ in range(rounds)])[: self._images]
