"""Exponentials and logarithms of many small matrices at once.

ASE asks scipy for one matrix after the other, which takes a thousand times as long as the numbers do. Here each step is
taken for a whole stack of them; what becomes of one matrix depends on no other one, to the last bit. A matrix that has
no logarithm, or an exponential beyond all numbers, gives NaN or infinity and raises nothing: the others are right.

- Exponential: scaling and squaring, N. J. Higham, Functions of Matrices (SIAM 2008), chapter 10. The scaled matrix is
  so small that a Taylor polynomial of degree 12 is exact to rounding, and needs no equations solved.
- Its derivative L(X, E) in the direction E, Fréchet's: exp([[X, E], [0, X]]) has it in its upper right corner (Higham,
  section 3.2; A. H. Al-Mohy and N. J. Higham, SIAM J. Matrix Anal. Appl. 30, 1639 (2009), which scipy follows, computes
  the same product by product).
- Logarithm: inverse scaling and squaring (Higham, chapter 11), with square roots by the iteration of Denman and Beavers
  in its product form (section 6.3), then log(A) = 2 artanh((A - 1)(A + 1)^-1).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Stack = NDArray[np.float64]  # of matrices, along the first axis

_NEAR = 0.25  # norms up to this one need neither squares nor roots
_DEGREE = 12  # 0.25**13 / 13! < 3e-18
_TERMS = 9  # of artanh: (0.25 / 1.75)**19 / 19 < 2e-17
_ROOTS = 24  # a norm of 10**6 needs so many
_MOST = 1024  # doublings after which every number overflows
_ITERATIONS = 10  # of a root, whose digits double with each; always so many, whatever the other matrices need
_NEXT, _LAST = [1, 2, 0], [2, 0, 1]


def exponentials(matrices: Stack) -> Stack:
    """Return the exponential of each matrix.

    Parameters
    ----------
    matrices : ndarray, shape (n, m, m)
    """
    with np.errstate(all="ignore"):
        norms = _norms(matrices)
        doublings = np.clip(np.ceil(np.log2(norms / _NEAR)), 0, _MOST)
        doublings = np.where(np.isfinite(doublings), doublings, 0).astype(int)
        scaled = np.ldexp(matrices, -doublings[:, None, None])
        one = np.eye(matrices.shape[-1])
        found: Stack = one + scaled / _DEGREE
        for k in range(_DEGREE - 1, 0, -1):
            found = one + scaled @ found / k
        for k in range(doublings.max(initial=0)):
            more = doublings > k
            found[more] = found[more] @ found[more]
        return found


def exponential_derivatives(matrices: Stack, directions: Stack) -> Stack:
    """Return the derivative of each exponential in a direction.

    Parameters
    ----------
    matrices, directions : ndarray, shape (n, 3, 3)
    """
    with np.errstate(all="ignore"):
        # The derivative is linear in the direction, which therefore need not be large.
        exponents = np.frexp(_norms(directions) / _NEAR)[1][:, None, None]
        blocks = np.zeros((len(matrices), 6, 6))
        blocks[:, :3, :3] = blocks[:, 3:, 3:] = matrices
        blocks[:, :3, 3:] = np.ldexp(directions, -exponents)
        return np.ldexp(exponentials(blocks)[:, :3, 3:], exponents)


def logarithms(matrices: Stack) -> Stack:
    """Return the principal logarithm of each matrix.

    Parameters
    ----------
    matrices : ndarray, shape (n, 3, 3)
    """
    one = np.eye(3)
    with np.errstate(all="ignore"):
        roots, halvings = matrices.copy(), np.zeros(len(matrices), int)
        for _ in range(_ROOTS):
            far = _norms(roots - one) > _NEAR
            if not far.any():
                break
            roots[far] = _square_roots(roots[far])
            halvings[far] += 1
        quotients = (roots - one) @ inverses(roots + one)
        squares = quotients @ quotients
        found = one / (2 * _TERMS - 1) + squares / (2 * _TERMS + 1)
        for k in range(2 * _TERMS - 3, 0, -2):
            found = one / k + squares @ found
        return np.ldexp(quotients @ found, halvings[:, None, None] + 1)  # type: ignore[no-any-return]


def inverses(matrices: Stack) -> Stack:
    """Return the inverse of each matrix: infinite or NaN where there is none.

    Parameters
    ----------
    matrices : ndarray, shape (n, 3, 3)
    """
    with np.errstate(all="ignore"):
        cofactors = _cofactors(matrices)
        return cofactors.swapaxes(1, 2) / _along_first_row(matrices, cofactors)[:, None, None]


def determinants(matrices: Stack) -> NDArray[np.float64]:
    """Return the determinant of each matrix.

    Parameters
    ----------
    matrices : ndarray, shape (n, 3, 3)
    """
    return _along_first_row(matrices, _cofactors(matrices))


def _cofactors(matrices: Stack) -> Stack:
    after, before = matrices[:, _NEXT], matrices[:, _LAST]
    return after[..., _NEXT] * before[..., _LAST] - after[..., _LAST] * before[..., _NEXT]


def _along_first_row(matrices: Stack, cofactors: Stack) -> NDArray[np.float64]:
    return (matrices[:, 0] * cofactors[:, 0]).sum(axis=1)  # type: ignore[no-any-return]


def _square_roots(matrices: Stack) -> Stack:
    one, roots, products = np.eye(3), matrices, matrices
    for _ in range(_ITERATIONS):
        inverted = inverses(products)
        roots = roots @ (one + inverted) / 2
        products = (one + (products + inverted) / 2) / 2
    return roots


def _norms(matrices: Stack) -> NDArray[np.float64]:
    return np.abs(matrices).sum(axis=2).max(axis=1, initial=0.0)  # type: ignore[no-any-return]
