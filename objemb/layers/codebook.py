"""Visual words and their inverse document frequencies, which aggregators of local features are fitted with."""

from __future__ import annotations

import logging

import numpy as np
import torch
from torch import Tensor

from objemb import checks
from objemb.layers.fitted import Fitted
from objemb.ops.faiss import clusters, faiss_library, nearest
from objemb.types import Float32Array, Int64Array

logger = logging.getLogger(__name__)

#: With fewer features per word, centres are noisy; the limit is that of faiss.
FEW = 39
#: Marks the start of an image in a column of word numbers.
IMAGE = -1.0


class Codebook(Fitted):
    """Centres of clusters of local features, found by k-means; each is a visual word (Sivic and Zisserman, "Video
    Google", ICCV 2003).

    Args:
        dim: Length D of the features.
        words: Number k of words, at least 2. Detect-to-retrieve uses 65,536, and 1,024 for a small codebook.
        iterations: Maximum number of iterations of k-means.
        samples: Number of features per word that k-means is run on, at least 1, sampled evenly from all photos. More
            than 256 hardly change the centres; with fewer than :data:`FEW` they are noisy.
        seed: Seed of the initial centres.

    Attributes:
        centres: float32 ``(k, D)``.
    """

    centres: Tensor

    def __init__(self, dim: int, words: int, *, iterations: int = 25, samples: int = 64, seed: int = 0) -> None:
        super().__init__()
        self.iterations = checks.whole("iterations", iterations)
        self.seed = checks.whole("seed", seed, least=0)
        self.needed = checks.whole("words", words, least=2) * checks.whole("samples", samples)
        self.register_buffer("centres", torch.zeros(words, checks.whole("dim", dim)))

    def expect(self, most: int | None) -> None:
        """See :meth:`Fitted.expect`."""
        faiss_library("k-means")
        if most is not None:
            self._expect_enough(most, f"at most {most}")

    def learn(self, vectors: Tensor) -> None:
        """See :meth:`Fitted.learn`. Raises ``ValueError`` if there are fewer local features than words."""
        words, dim = self.centres.shape
        checks.shape("vectors", vectors, (None, dim))
        self._expect_enough(len(vectors), str(len(vectors)))
        if len(vectors) < FEW * words:
            logger.warning(
                "codebook: %d local features for %d words are few; with fewer than %d per word, the words are noisy",
                len(vectors),
                words,
                FEW,
            )
        centres = clusters(vectors.cpu().numpy(), words, iterations=self.iterations, seed=self.seed, on_round=self.step)
        self.centres.copy_(torch.from_numpy(centres))

    def _expect_enough(self, count: int, found: str) -> None:
        words = len(self.centres)
        if count < words:
            raise ValueError(
                f"codebook: expected at least {words} local features for as many words, found {found}; pass more "
                "photos to --fit-on, or choose fewer words"
            )

    @property
    def array(self) -> Float32Array:
        """The centres on the CPU. Raises ``NotFittedError`` if they have not been fitted."""
        self.check_fitted()
        centres: Float32Array = self.centres.cpu().numpy()
        return centres

    def assign(self, vectors: Float32Array, count: int) -> Int64Array:
        """The nearest words of features float32 ``(N, D)`` as int64 ``(N, min(count, k))``, nearest first.

        Raises:
            NotFittedError: The codebook has not been fitted.
            ImportError: faiss is not installed.
        """
        return nearest(vectors, self.array, count)


class InverseFrequency(Fitted):
    """The inverse document frequency ``log(N / n_c)`` of each word c, which occurs in ``n_c`` of N images (Sivic and
    Zisserman, "Video Google", ICCV 2003).

    It is fitted once and then fixed, so that images that are indexed later do not change the scores of earlier ones. A
    word that occurs in none of the images is treated as if it occurred in one.

    Args:
        words: Number of words.

    Attributes:
        idf: float32 ``(words,)``; 0 for a word that occurs in all images.
    """

    needed = 100_000_000
    idf: Tensor

    def __init__(self, words: int) -> None:
        super().__init__()
        self.register_buffer("idf", torch.zeros(checks.whole("words", words)))

    @property
    def array(self) -> Float32Array:
        """The idf on the CPU. Raises ``NotFittedError`` if it has not been fitted."""
        self.check_fitted()
        idf: Float32Array = self.idf.cpu().numpy()
        return idf

    @staticmethod
    def rows(words: Int64Array) -> Tensor:
        """The rows of an image for :meth:`learn`, float32 ``(1 + n, 1)``: :data:`IMAGE`, then the number of each of its
        distinct words."""
        return torch.from_numpy(np.concatenate([[IMAGE], words]).astype(np.float32)[:, None])

    def learn(self, vectors: Tensor) -> None:
        """See :meth:`Fitted.learn`; ``vectors`` are the :meth:`rows` of many images."""
        numbers = checks.shape("vectors", vectors, (None, 1))[:, 0].long()
        images = int((numbers < 0).sum())
        if not images:
            raise ValueError("idf: expected the words of at least one image, found none")
        counts = torch.bincount(numbers[numbers >= 0], minlength=len(self.idf)).clamp_min(1)
        self.idf.copy_((images / counts.double()).log().clamp_min(0))
