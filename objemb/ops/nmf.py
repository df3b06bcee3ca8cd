"""Non-negative matrix factorisation (Lee and Seung, "Algorithms for non-negative matrix factorization", 2001), of many
matrices at once, as deep feature factorization uses it (Collins, Achanta and Susstrunk, ECCV 2018).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from objemb import checks
from objemb.ops.batches import group_equal

INITS = ("random", "nndsvd", "nndsvda")
#: Iterations between two checks of the error.
CHECK_EVERY = 10
#: Replaces a denominator of zero.
TINY = 1e-7
#: Largest number of elements of matrices that are factorised together. A CPU is several times faster if they fit into
#: its cache, because every iteration reads them twice.
BLOCK_CPU = 1 << 19
BLOCK = 1 << 26


@dataclass(frozen=True, eq=False)
class Factors:
    """``V ~= weights @ basis``. The order and the scales of the factors are arbitrary.

    Attributes:
        weights: W, ``(n, k)``, not negative; of the dtype of the matrix, as the basis.
        basis: H, ``(k, C)``, not negative.
        errors: Frobenius norms of the residual of V, float64 on the CPU: at the start, then every ``CHECK_EVERY``
            iterations, and at the end.
    """

    weights: Tensor
    basis: Tensor
    errors: Tensor


@dataclass(frozen=True)
class Nmf:
    """Multiplicative updates of the Frobenius error, the weights first, then the basis.

    Args:
        rank: Number of factors k; at most the number of rows or columns of the matrix.
        init: ``"random"``: ``|N(0, 1)| sqrt(mean(V) / k)``, the same numbers for all matrices of a shape, regardless of
            the others in the batch. ``"nndsvd"``: the positive or the negative parts of the leading singular vectors,
            whichever are larger (Boutsidis and Gallopoulos, "SVD based initialization", 2008); zeros stay zeros, so
            that factors stay sparse. ``"nndsvda"``: the same with ``mean(V)`` instead of zeros.
        iterations: Maximum number of updates.
        tolerance: A matrix is finished when ``CHECK_EVERY`` iterations have lowered its error by no more than this
            share of its error at the start.
        seed: Seed of ``"random"``.
    """

    rank: int = 4
    init: str = "random"
    iterations: int = 200
    tolerance: float = 1e-4
    seed: int = 0

    def __post_init__(self) -> None:
        checks.whole("rank", self.rank)
        checks.one_of("init", self.init, INITS)
        checks.whole("iterations", self.iterations)
        checks.between("tolerance", self.tolerance, 0, 1)
        checks.whole("seed", self.seed, 0)

    def fit(self, matrices: Sequence[Tensor]) -> list[Factors]:
        """Factorise each matrix separately.

        Args:
            matrices: float32 or float64 ``(n, C)`` with at least one row, not negative; n may differ, but not C.

        Raises:
            ValueError: A matrix has another shape, or negative, infinite or NaN elements.
        """
        _check(matrices)
        ranks = [min(self.rank, *m.shape) for m in matrices]
        by_number: dict[int, Factors] = {}
        for group in group_equal(ranks):
            for block in _blocks(matrices, group):
                batch = _Batch.of([matrices[i] for i in block])
                start = self._start(batch, ranks[block[0]])
                by_number.update(zip(block, self._descend(batch, *start, learn_basis=True), strict=True))
        return [by_number[i] for i in range(len(matrices))]

    def project(self, matrices: Sequence[Tensor], basis: Tensor) -> list[Factors]:
        """Weights of each matrix for a given, fixed basis ``(k, C)``, not negative.

        The problem is convex, so the weights always start at random numbers.
        """
        _check([*matrices, checks.shape("basis", basis, (None, None))])
        by_number: dict[int, Factors] = {}
        for block in _blocks(matrices, range(len(matrices))):
            batch = _Batch.of([matrices[i] for i in block])
            weights, _ = self._random(batch, len(basis))
            known = basis.to(batch.values) / batch.means.sqrt()
            factors = self._descend(batch, weights, known, learn_basis=False)
            by_number.update((i, replace(f, basis=basis)) for i, f in zip(block, factors, strict=True))
        return [by_number[i] for i in range(len(matrices))]

    def _start(self, batch: _Batch, rank: int) -> tuple[Tensor, Tensor]:
        """Transposed weights ``(B, k, n)`` and basis ``(B, k, C)``; the weights of padding rows are 0."""
        if self.init == "random":
            return self._random(batch, rank)
        weights, basis = _nndsvd(batch.values, rank)
        if self.init == "nndsvda":
            filling = batch.means.sqrt()  # the mean, in units in which it is 1 for the values, and its root for factors
            weights, basis = (torch.where(x > 0, x, filling) for x in (weights, basis))
        return weights * batch.real(), basis

    def _random(self, batch: _Batch, rank: int) -> tuple[Tensor, Tensor]:
        """Random factors, drawn on the CPU for each number of rows, so that batch, padding and device have no
        effect."""
        columns = batch.values.shape[2]
        drawn = {}
        for rows in set(batch.rows):
            generator = torch.Generator().manual_seed(self.seed)
            basis = torch.randn(rank, columns, generator=generator, dtype=torch.float64).abs()
            drawn[rows] = torch.randn(rows, rank, generator=generator, dtype=torch.float64).abs(), basis
        weights = pad_sequence([drawn[rows][0] for rows in batch.rows], batch_first=True).mT
        basis = torch.stack([drawn[rows][1] for rows in batch.rows])
        return weights.to(batch.values) * rank**-0.5, basis.to(batch.values) * rank**-0.5

    def _descend(self, batch: _Batch, weights: Tensor, basis: Tensor, *, learn_basis: bool) -> Iterator[Factors]:
        """Update all matrices until each is finished; finished ones are not updated further.

        Weights are ``(B, k, n)`` here, because products of matrices with few columns are up to thirty times slower on a
        CPU.
        """
        values, active = batch.values, torch.arange(len(weights), device=weights.device)
        found_weights, found_basis = weights.clone(), basis.clone()
        first = last = _errors(values, weights, basis)
        history = [[e] for e in first.tolist()]
        for start in range(0, self.iterations, CHECK_EVERY):
            for _ in range(min(CHECK_EVERY, self.iterations - start)):
                weights = _flush_denormals(weights * _ratio(basis @ values.mT, (basis @ basis.mT) @ weights))
                if learn_basis:
                    basis = _flush_denormals(basis * _ratio(weights @ values, (weights @ weights.mT) @ basis))
            found_weights[active], found_basis[active] = weights, basis
            errors = _errors(values, weights, basis)
            for i, error in zip(active.tolist(), errors.tolist(), strict=True):
                history[i].append(error)
            going = last - errors > self.tolerance * first
            if not bool(going.any()):
                break
            last = errors
            if not bool(going.all()):
                active, values, weights, basis, first, last = (
                    x[going] for x in (active, values, weights, basis, first, last)
                )
        for i, (mean, rows) in enumerate(zip(batch.means.flatten(), batch.rows, strict=True)):
            errors = torch.tensor(history[i], dtype=torch.float64) * float(mean)
            yield Factors(found_weights[i, :, :rows].T * mean.sqrt(), found_basis[i] * mean.sqrt(), errors)


@dataclass(frozen=True, eq=False)
class _Batch:
    """A batch of matrices, padded with rows of zeros, whose weights are 0 and stay 0.

    Attributes:
        values: ``(B, n, C)``, each divided by its mean, so that products of factors do not overflow or underflow.
        means: ``(B, 1, 1)``; 1 for matrices of zeros.
        rows: Number of rows of each without padding.
    """

    values: Tensor
    means: Tensor
    rows: list[int]

    @staticmethod
    def of(matrices: Sequence[Tensor]) -> _Batch:
        means = torch.stack([m.mean() for m in matrices])[:, None, None]
        means = means.where(means > 0, 1)
        return _Batch(pad_sequence(list(matrices), batch_first=True).div_(means), means, [len(m) for m in matrices])

    def real(self) -> Tensor:
        """``(B, 1, n)``: 1 for rows of the matrices, 0 for padding."""
        numbers = torch.arange(self.values.shape[1])[None, None]
        return (numbers < torch.tensor(self.rows)[:, None, None]).to(self.values)


def _check(matrices: Sequence[Tensor]) -> None:
    for matrix in matrices:
        checks.shape("matrix", matrix, (None, matrices[0].shape[-1]))
        if 0 in matrix.shape:
            raise ValueError(f"matrix: expected at least one row and column, found shape {tuple(matrix.shape)}")
        checks.finite("matrix", matrix)
        if float(matrix.min()) < 0:
            raise ValueError(f"matrix: expected elements of at least 0, found {float(matrix.min()):g}")


def _blocks(matrices: Sequence[Tensor], numbers: Sequence[int]) -> Iterator[list[int]]:
    """Indices of matrices by descending size, as many at a time as a block allows, at least one."""
    waiting = sorted(numbers, key=lambda i: -matrices[i].numel())
    while waiting:
        largest = matrices[waiting[0]]
        count = max(1, (BLOCK_CPU if largest.device.type == "cpu" else BLOCK) // largest.numel())
        yield waiting[:count]
        waiting = waiting[count:]


def _ratio(above: Tensor, below: Tensor) -> Tensor:
    return above / below.where(below != 0, TINY)


def _flush_denormals(factors: Tensor) -> Tensor:
    """Replace by zero those numbers whose cube would be denormal, because quotients of denormals are inaccurate."""
    return factors.where(factors >= torch.finfo(factors.dtype).tiny ** (1 / 3), 0)


def _errors(values: Tensor, weights: Tensor, basis: Tensor) -> Tensor:
    """Frobenius norms ``(B,)`` of the residuals, computed directly; the formula with traces loses half of the
    digits."""
    norms: Tensor = torch.linalg.vector_norm(torch.baddbmm(values, weights.mT, basis, alpha=-1), dim=(1, 2))
    return norms


def _nndsvd(values: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Transposed weights ``(B, k, n)`` and basis ``(B, k, C)`` from the leading singular triplets."""
    left, singular, right = _leading(values.double(), rank)
    # the first pair has no mixed signs (Perron and Frobenius) except for rounding
    left[:, 0], right[:, 0] = left[:, 0].abs(), right[:, 0].abs()
    halves = [((sign * left).clamp_min(0), (sign * right).clamp_min(0)) for sign in (1, -1)]
    norms = [(a.norm(dim=2, keepdim=True), b.norm(dim=2, keepdim=True)) for a, b in halves]
    positive = norms[0][0] * norms[0][1] >= norms[1][0] * norms[1][1]
    chosen_left, chosen_right, norm_left, norm_right = (
        torch.where(positive, first, second)
        for first, second in zip((*halves[0], *norms[0]), (*halves[1], *norms[1]), strict=True)
    )
    # the unit vectors u / |u| and v / |v|, both times sqrt(singular |u| |v|)
    size = (singular[:, :, None] * norm_left * norm_right).sqrt()
    weights, basis = size * _ratio(chosen_left, norm_left), size * _ratio(chosen_right, norm_right)
    return weights.to(values), basis.to(values)


def _leading(values: Tensor, rank: int) -> tuple[Tensor, Tensor, Tensor]:
    """The ``rank`` largest singular values ``(B, k)`` between their vectors ``(B, k, n)`` and ``(B, k, C)``.

    Computed from the eigenvectors of the smaller Gram matrix, which is much faster than a full SVD; in float64, because
    squaring halves the digits. Directions below the rounding error are replaced by zeros.
    """
    if values.shape[1] > values.shape[2]:
        right, singular, left = _leading(values.mT, rank)
        return left, singular, right
    squares, vectors = torch.linalg.eigh(values @ values.mT)
    squares, left = squares.flip(1)[:, :rank].clamp_min(0), vectors.mT.flip(1)[:, :rank]
    real = squares > torch.finfo(squares.dtype).eps * values.shape[1] * squares[:, :1]
    singular = squares.sqrt() * real
    left = left * real[:, :, None]
    return left, singular, _ratio(left @ values, singular[:, :, None])
