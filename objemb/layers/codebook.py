"""Visual words, and how rare each of them is: what aggregators of local features learn."""

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

#: Fewer features per word leave the centres noisy, as faiss has it.
FEW = 39
#: Stands for an image among the numbers of its words.
IMAGE = -1.0


class Codebook(Fitted):
    """Centres of clusters of local features, by k-means: each is a visual word (Sivic and Zisserman, "Video Google",
    ICCV 2003).

    Args:
        dim: Length D of the features.
        words: Number k of words, from 2 on. Detect-to-retrieve has 65,536, and 1,024 as a small one.
        iterations: Most rounds of k-means.
        samples: Features per word that k-means sees, an even sample of those of all photos. More than 256 do not move
            the centres any more, fewer than :data:`FEW` leave them noisy; 1 at least.
        seed: Of the first centres.

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
        """See :meth:`Fitted.learn`; from local features. Raises ``ValueError`` for fewer features than words."""
        words, dim = self.centres.shape
        checks.shape("vectors", vectors, (None, dim))
        self._expect_enough(len(vectors), str(len(vectors)))
        if len(vectors) < FEW * words:
            logger.warning(
                "codebook: %d local features for %d words are few: below %d a word, the words are noisy",
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
                f"codebook: expected at least {words} local features for as many words, found {found}; give more "
                "photos to --fit-on, or take fewer words"
            )

    @property
    def array(self) -> Float32Array:
        """The centres on the CPU. Raises ``NotFittedError`` where nothing was learned yet."""
        self.check_fitted()
        centres: Float32Array = self.centres.cpu().numpy()
        return centres

    def assign(self, vectors: Float32Array, count: int) -> Int64Array:
        """Numbers of the nearest words of features float32 ``(N, D)``: int64 ``(N, min(count, k))``, nearest first.

        Raises:
            NotFittedError: Nothing was learned yet.
            ImportError: faiss is not installed.
        """
        return nearest(vectors, self.array, count)


class InverseFrequency(Fitted):
    """``log(N / n_c)``: how rare a word c is, that n_c of N images have (Sivic and Zisserman, "Video Google", 2003).

    It learns from the words of images once, and stays as it is: what is indexed later does not change the scores of
    what was indexed before. A word that none of those images has counts as one that one of them has.

    Args:
        words: Number of words.

    Attributes:
        idf: float32 ``(words,)``; 0 for a word that all images have.
    """

    needed = 100_000_000
    idf: Tensor

    def __init__(self, words: int) -> None:
        super().__init__()
        self.register_buffer("idf", torch.zeros(checks.whole("words", words)))

    @property
    def array(self) -> Float32Array:
        """The idf on the CPU. Raises ``NotFittedError`` where nothing was learned yet."""
        self.check_fitted()
        idf: Float32Array = self.idf.cpu().numpy()
        return idf

    @staticmethod
    def rows(words: Int64Array) -> Tensor:
        """An image as it is learned from: float32 ``(1 + n, 1)``, a row that stands for the image, and the number of
        each of its words, which occur once."""
        return torch.from_numpy(np.concatenate([[IMAGE], words]).astype(np.float32)[:, None])

    def learn(self, vectors: Tensor) -> None:
        """See :meth:`Fitted.learn`; from what :meth:`rows` gives of many images."""
        numbers = checks.shape("vectors", vectors, (None, 1))[:, 0].long()
        images = int((numbers < 0).sum())
        if not images:
            raise ValueError("idf: expected the words of at least one image, found none")
        counts = torch.bincount(numbers[numbers >= 0], minlength=len(self.idf)).clamp_min(1)
        self.idf.copy_((images / counts.double()).log().clamp_min(0))
