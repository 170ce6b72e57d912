"""A certificate of ``tidegate calibrate`` as part of a policy: the threshold, and the promise that travels with it.

Enters: the path of a ``certificate.json``. Leaves: a ``CertifiedThreshold``, or a ``ConfigError`` that names the file.
Only what was certified can be promised: a certificate that certifies nothing is refused, with its own reason.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import msgspec

from tidegate.errors import ConfigError
from tidegate.types import Guarantee

__all__ = ["MAX_CERTIFICATE_BYTES", "CertifiedThreshold", "read_certified_threshold"]

MAX_CERTIFICATE_BYTES = 2**20


@dataclass(frozen=True, kw_only=True)
class CertifiedThreshold:
    """What a certificate says about routing."""

    tau: float
    """Base score at or over which a video is escalated; ``-inf``: every one."""
    lam: float
    """Score at or over which the last stage flags: the promise is about these flags and no others."""
    guarantee: Guarantee
    """The promise, and what it rests on."""

    def __str__(self) -> str:
        promise = self.guarantee
        return f"{promise.certificate_id or 'without id'} (tau {self.tau:g}, {promise.target}, delta {promise.delta:g})"


class _Written(msgspec.Struct, frozen=True):
    """The fields of ``certificate.json`` that are read here."""

    certified: bool
    delta: float
    recall_bound: float
    n_audit: int
    n_positives: int
    reason: str
    target: str
    tau: float | None = None
    lam: float | None = None
    escalate_everything: bool = False
    target_recall: float | None = None
    precision_bound: float | None = None
    assumptions: tuple[str, ...] = ()
    certificate_id: str = ""


def read_certified_threshold(path: Path) -> CertifiedThreshold:
    """The threshold of a certificate, with its promise."""
    written = _read(path)
    if not written.certified:
        raise ConfigError(f"{path}: expected a certificate, got one that certifies nothing: {written.reason}")
    tau = -math.inf if written.tau is None and written.escalate_everything else written.tau
    if tau is None or written.lam is None:
        raise ConfigError(f"{path}: expected tau and lam, got {written.tau} and {written.lam}")
    bound = written.precision_bound if written.target_recall is None else written.recall_bound
    return CertifiedThreshold(tau=tau, lam=written.lam, guarantee=Guarantee(
        target=written.target, delta=written.delta, bound=math.nan if bound is None else bound,
        n_audit=written.n_audit, n_positives=written.n_positives, assumptions=written.assumptions,
        certificate_id=written.certificate_id,
    ))


def _read(path: Path) -> _Written:
    try:
        with path.open("rb") as file:
            content = file.read(MAX_CERTIFICATE_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"{path}: expected a readable certificate.json, got {error.strerror}") from error
    if len(content) > MAX_CERTIFICATE_BYTES:
        raise ConfigError(f"{path}: expected at most {MAX_CERTIFICATE_BYTES} bytes of certificate, got more")
    try:
        return msgspec.json.decode(content, type=_Written)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigError(f"{path}: expected the certificate.json of tidegate calibrate: {error}") from error
