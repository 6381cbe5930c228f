"""The two Gaussians between a noisier and a less noisy level that every ancestral step is made of."""

from __future__ import annotations

from typing import Generic, NamedTuple, Protocol, TypeVar

from torch import Tensor

Number = TypeVar("Number", float, Tensor)
Given = TypeVar("Given", float, Tensor, covariant=True)


class AnyLevel(Protocol[Given]):
    """One level as numbers, or the levels of several images as tensors that multiply them."""

    @property
    def alpha(self) -> Given:
        """The signal level."""

    @property
    def sigma(self) -> Given:
        """The noise level."""


class Levels(NamedTuple):
    """The levels of several images, shaped to multiply them."""

    alpha: Tensor
    sigma: Tensor


class Transition(NamedTuple, Generic[Number]):
    """q(x_t | x_s) = N(alpha x_s, variance I)."""

    alpha: Number
    variance: Number


class Posterior(NamedTuple, Generic[Number]):
    """q(x_s | x_t, x_0) = N(x0 * x_0 + xt * x_t, variance I)."""

    x0: Number
    xt: Number
    variance: Number


def transition(t: AnyLevel[Number], s: AnyLevel[Number]) -> Transition[Number]:
    """Return q(x_t | x_s) from level s to the noisier level t.

    ``alpha_ts = alpha_t / alpha_s``, ``variance_ts = sigma_t² - alpha_ts² sigma_s²`` (Kingma et al. 2021,
    appendix A.1). Between neighbouring times of a DDPM the variance is beta_t; between any two it is the effective
    beta ``1 - alpha_bar_t / alpha_bar_s``.
    """
    alpha = t.alpha / s.alpha
    return Transition(alpha, t.sigma**2 - (alpha * s.sigma) ** 2)


def posterior(t: AnyLevel[Number], s: AnyLevel[Number]) -> Posterior[Number]:
    """Return q(x_s | x_t, x_0) from level t to the less noisy level s.

    ``mean = (alpha_s variance_ts / sigma_t²) x_0 + (alpha_ts sigma_s² / sigma_t²) x_t``,
    ``variance = variance_ts sigma_s² / sigma_t²`` (Ho et al. 2020, eq. 6 and 7, for any two levels). At the
    clean end it is x_0 itself, with no variance.
    """
    alpha, variance = transition(t, s)
    erased, kept = variance / t.sigma**2, (s.sigma / t.sigma) ** 2
    return Posterior(s.alpha * erased, alpha * kept, variance * kept)
