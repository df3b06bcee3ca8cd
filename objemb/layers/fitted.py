"""Parts of a method that are fitted on vectors, without labels, before anything is described."""

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
    """State that is fitted on vectors once and saved with the weights: a codebook, a basis, a mean.

    A plug-in inherits from this class and from the contract of its kind. Buffers or parameters have their final shapes
    when the describer is built, so that a saved model can fill them; :meth:`learn` computes their contents; everything
    that uses them calls :meth:`check_fitted` first. A describer defines by its ``samples`` on which vectors a part is
    fitted.

    Attributes:
        needed: Maximum number of vectors that are gathered for it; more do not improve the fit.
        fitted_on: A description of the data that it was fitted on, also used to warn about the evaluation set. Empty
            before.
        count: Number of vectors it was fitted on, an int64 scalar buffer; 0 before.
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

        The same vectors in the same order always give the same state; random numbers have a fixed seed.

        Args:
            vectors: float32 ``(N, D)``, N at least 1, finite, on the device of the buffers.

        Raises:
            ValueError: There are too few vectors, or they have another dimension.
        """

    def expect(self, most: int | None) -> None:
        """Raise early an error that :meth:`learn` would raise, before photos are described.

        Args:
            most: Maximum number of vectors that can be gathered; None if not known.

        Raises:
            ImportError: A required library is not installed.
            ValueError: There are too few vectors.
        """
        del most

    @torch.no_grad()
    def fit(
        self, vectors: Tensor, *, fitted_on: str, on_step: Callable[[int, int], None] = lambda done, of: None
    ) -> None:
        """Fit on vectors, replacing any earlier state.

        Args:
            vectors: float ``(N, D)``, any device.
            fitted_on: See the class.
            on_step: Called during long computations, such as by a codebook after each round of k-means, with the number
                of the step, from 1, and the total number.

        Raises:
            ValueError: There are too few vectors, or they are not finite or of another dimension.
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
        """Called during a long :meth:`learn`, see ``on_step`` of :meth:`fit`."""
        self._on_step(done, of)

    def settings(self) -> dict[str, object]:
        """The data that it was fitted on, JSON-ready, for the card of a model folder."""
        return {"fitted_on": self.fitted_on, "count": int(self.count)}

    @property
    def label(self) -> str:
        """Name in messages: that of the plug-in, or of the class."""
        return (isinstance(self, Plugin) and self.registry_name) or type(self).__name__

    @property
    def is_fitted(self) -> bool:
        """Whether it has been fitted."""
        return bool(self.count > 0)

    def check_fitted(self) -> None:
        """Raise :class:`~objemb.checks.NotFittedError` if it has not been fitted yet.

        While a program is traced, nothing is read: what is exported has run once before.
        """
        if not torch.compiler.is_compiling() and not self.is_fitted:
            raise NotFittedError(f"{self.label}: expected a fitted part, found an unfitted one; add --fit-on PHOTOS")


class WithFittedParts(Frozen):
    """A frozen module that may contain :class:`Fitted` parts: a describer, an aggregator, an extractor of features."""

    def fitted_parts(self) -> dict[str, Fitted]:
        """The fitted parts by dotted module name, in the order in which they have to be fitted."""
        return {name: part for name, part in self.named_modules() if isinstance(part, Fitted)}

    def check_fitted(self) -> None:
        """Raise :class:`~objemb.checks.NotFittedError` if a part has not been fitted yet."""
        for part in self.fitted_parts().values():
            part.check_fitted()
