"""Parts of a method that are fitted to vectors, without labels, before anything is described."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor, nn

from objemb import checks
from objemb.checks import NotFittedError
from objemb.layers.frozen import Frozen
from objemb.registry import Plugin


class Fitted(nn.Module, ABC):
    """A codebook, a basis, a mean: state that is learned from vectors once and is saved with the weights.

    A plug-in inherits from this beside the contract of its kind. Buffers or parameters have their final shapes once the
    describer is built, so that a saved model fills them; :meth:`learn` computes their content; whatever reads them
    calls :meth:`check_fitted` first. A describer says by its ``samples`` which vectors a part learns from.

    Attributes:
        needed: The most vectors that are gathered for it; more do not improve the fit.
        fitted_on: What it was learned from, in words: for people, and for a warning on the evaluation set. Empty
            before.
        count: Number of vectors it was learned from, an int64 scalar buffer; 0 before.
    """

    needed: int = 100_000
    fitted_on: str
    count: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.fitted_on = ""
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))

    @abstractmethod
    def learn(self, vectors: Tensor) -> None:
        """Fill the buffers, in place.

        The same vectors in the same order always give the same state: what is random has a fixed seed of its own.

        Args:
            vectors: float32 ``(N, D)``, N at least 1, finite, on the device of the buffers.

        Raises:
            ValueError: Too few vectors, or vectors of another length.
        """

    def expect(self, most: int | None) -> None:
        """Raise an error that :meth:`learn` is known to raise, so that no photo is described in vain.

        Args:
            most: The most vectors that can be gathered; None where that is not known.

        Raises:
            ImportError: A library that it needs is not installed.
            ValueError: Too few vectors.
        """
        del most

    @torch.no_grad()
    def fit(
        self, vectors: Tensor, *, fitted_on: str, on_step: Callable[[int, int], None] = lambda done, of: None
    ) -> None:
        """Learn from vectors, replacing what was learned before.

        Args:
            vectors: float ``(N, D)``, any device.
            fitted_on: See the class.
            on_step: Called by parts that take long, such as a codebook after each round of k-means: with the number of
                steps that are done, from 1, and that of all.

        Raises:
            ValueError: No vectors or too few, NaN or infinite ones, or of another length.
        """
        if not fitted_on:
            raise ValueError("fitted_on: expected a description of the origin of the vectors, found none")
        checks.finite("vectors", checks.shape("vectors", vectors, (None, None)))
        if len(vectors) == 0:
            raise ValueError(f"{self.label}: expected vectors to learn from, found none")
        self._on_step = on_step
        try:
            self.learn(vectors.to(self.count.device, torch.float32))
        finally:
            del self._on_step
        self.fitted_on = fitted_on
        self.count.fill_(len(vectors))

    def step(self, done: int, of: int) -> None:
        """Called by :meth:`learn` of a part that takes long, see ``on_step`` of :meth:`fit`."""
        self._on_step(done, of)

    def settings(self) -> dict[str, object]:
        """What it has learned from, JSON-ready, for the card of a model folder."""
        return {"fitted_on": self.fitted_on, "count": int(self.count)}

    @property
    def label(self) -> str:
        """What messages call it: the name of the plug-in, or that of the class."""
        return (isinstance(self, Plugin) and self.registry_name) or type(self).__name__

    @property
    def is_fitted(self) -> bool:
        """Whether it has learned."""
        return bool(self.count > 0)

    def check_fitted(self) -> None:
        """Raise :class:`~objemb.checks.NotFittedError` where nothing has been learned yet."""
        if not self.is_fitted:
            raise NotFittedError(f"{self.label}: expected to be fitted, found a fresh one; add --fit-on PHOTOS")


class WithFittedParts(Frozen):
    """A frozen module that may contain :class:`Fitted` parts: a describer, an aggregator, an extractor of features."""

    def fitted_parts(self) -> dict[str, Fitted]:
        """Parts that learn from vectors, by dotted module name, in the order in which they have to learn."""
        return {name: part for name, part in self.named_modules() if isinstance(part, Fitted)}

    def check_fitted(self) -> None:
        """Raise :class:`~objemb.checks.NotFittedError` if a part has not learned yet."""
        for part in self.fitted_parts().values():
            part.check_fitted()
