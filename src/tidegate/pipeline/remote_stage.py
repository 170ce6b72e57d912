"""``RemoteStage``: a stage that asks an OpenAI-compatible server about each clip.

Enters: clips. Leaves: one ``Score`` a clip, the server's probability of yes against no for a clause of the policy. A
deadline covers all attempts; refusals of the moment (429, 5xx, no connection) are tried again with full jitter;
everything else is a typed failure, never a score: ``ServiceUnavailable`` (trying later may help), ``ServiceRefused``
(it will not), ``ScoringError`` (the model answered neither yes nor no). No redirect is followed. The key comes from an
environment variable and travels only over TLS or to this machine itself.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import ipaddress
import json
import os
import random
import socket
import ssl
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal
from urllib.parse import SplitResult, urlsplit

from tidegate.errors import ConfigError, ScoringError, ServiceRefused, ServiceUnavailable
from tidegate.pipeline.chat_request import (
    MAX_DECISION_IMAGES,
    chat_body,
    decision_body,
    decision_probability,
    yes_probability,
)
from tidegate.types import Clip, ClipRequest, Modality, Score

__all__ = ["RemoteConfig", "RemoteStage"]

_AGAIN = frozenset({408, 425, 429, 500, 502, 503, 504})
NOTICE = "Judged by a model on another server, by the words of a policy clause: the score is not calibrated."


@dataclass(frozen=True, kw_only=True)
class RemoteConfig:
    """Which server is asked, what, and how long."""

    url: str
    """Base of the API, e.g. ``http://localhost:8000/v1``."""
    model: str
    """Name under which the server serves its model."""
    clause: str
    """The rule, in words: what a video must not show."""
    api: Literal["chat", "systemone"] = "chat"
    """``chat``: ``/chat/completions`` with token log-probabilities (vLLM, SGLang). ``systemone``: ``/systemone`` of
    ``transformers serve``, at most 4 frames and no audio."""
    issue: str = "icd"
    """Under which issue the score is reported."""
    question: str = "Does this video break the rule? Answer with one word, yes or no."
    """Asked after the clause and the video's texts."""
    yes: tuple[str, ...] = ("yes",)
    """First tokens that mean a violation; case and blanks do not matter."""
    no: tuple[str, ...] = ("no",)
    """First tokens that mean none."""
    api_key_variable: str | None = None
    """Environment variable with the key; None: no key is sent."""
    frames: int = 8
    """Pictures of each video."""
    long_edge_pixels: int = 512
    """Pictures are scaled down to this long edge."""
    jpeg_quality: int = 90
    """Of the pictures sent, 1 to 95."""
    audio: bool = False
    """Send the audio as ``input_audio``; for servers whose model hears."""
    audio_seconds: float = 30.0
    """Audio sent at most."""
    top_logprobs: int = 20
    """Alternatives asked for; servers limit them, often to 20."""
    deadline_seconds: float = 60.0
    """For one clip, all attempts together."""
    attempts: int = 3
    """Requests for one clip at most."""
    first_pause_seconds: float = 0.5
    """Longest wait before the second attempt; doubled for each further one, with full jitter."""
    concurrency: int = 4
    """Clips asked about at the same time."""
    max_request_bytes: int = 32 * 2**20
    """A larger request is not sent."""
    max_answer_bytes: int = 2**20
    """A larger answer is not read."""

    def __post_init__(self) -> None:
        _checked_url(self.url)
        if not self.clause.strip() or not self.model or not self.yes or not self.no:
            raise ConfigError("server: expected a model, a clause, and words for yes and no, got one of them empty")
        numbers = {
            "frames": self.frames, "attempts": self.attempts, "concurrency": self.concurrency,
            "top_logprobs": self.top_logprobs, "deadline_seconds": self.deadline_seconds,
            "long_edge_pixels": self.long_edge_pixels, "jpeg_quality": self.jpeg_quality,
            "audio_seconds": self.audio_seconds, "max_request_bytes": self.max_request_bytes,
            "max_answer_bytes": self.max_answer_bytes,
        }  # fmt: skip
        for name, value in numbers.items():
            if value <= 0:
                raise ConfigError(f"server: expected {name} > 0, got {value}")
        if self.api not in ("chat", "systemone"):
            raise ConfigError(f"server.api: expected chat or systemone, got {self.api!r}")
        if self.api == "systemone" and (self.audio or self.frames > MAX_DECISION_IMAGES):
            raise ConfigError(
                f"server: expected at most {MAX_DECISION_IMAGES} frames and no audio with api systemone, "
                f"got {self.frames} frames, audio {self.audio}"
            )
        if self.first_pause_seconds < 0 or self.jpeg_quality > 95:
            raise ConfigError("server: expected first_pause_seconds >= 0 and jpeg_quality <= 95")


def _checked_url(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        good = parts.scheme in {"http", "https"} and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        good = False
    if not good or parts.username or parts.password or parts.query or parts.fragment:
        raise ConfigError(f"server.url: expected http(s)://host[:port][/path] and nothing else, got {url!r}")
    return parts


def _is_this_machine(host: str) -> bool:
    if host == "localhost":
        return True
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return False


@contextlib.contextmanager
def _cut_at(connection: http.client.HTTPConnection, deadline: float) -> Iterator[None]:
    """Break the connection at the deadline: a socket's own timeout starts anew with every byte that drips in."""

    connection.connect()
    link = connection.sock  # the connection lets go of it once the answer's head is read

    def cut() -> None:
        with contextlib.suppress(OSError):
            link.shutdown(socket.SHUT_RDWR)

    timer = threading.Timer(max(0.0, deadline - time.monotonic()), cut)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


@dataclass(frozen=True, kw_only=True, eq=False)
class RemoteStage:
    """A stage behind an OpenAI-compatible server. Safe to call from many threads."""

    config: RemoteConfig
    name: str = "large"
    notice: str = field(default=NOTICE, init=False)

    def __post_init__(self) -> None:
        self._headers  # noqa: B018 - a key that is missing is said before the first video

    @property
    def issue(self) -> str:
        """What the score is reported as."""
        return self.config.issue

    @property
    def request(self) -> ClipRequest:
        """What must be decoded of a video."""
        return ClipRequest(
            num_frames=self.config.frames,
            audio=self.config.audio,
            max_audio_seconds=self.config.audio_seconds,
            long_edge_pixels=self.config.long_edge_pixels,
        )

    @property
    def identity(self) -> str:
        """Model, server and a hash of what is asked."""
        config = self.config
        shown = (config.frames, config.long_edge_pixels, config.jpeg_quality, config.audio, config.audio_seconds)
        asked = repr((config.api, config.clause, config.question, config.yes, config.no, shown))
        return f"{config.model}@{self._host}:{hashlib.sha256(asked.encode()).hexdigest()[:8]}"

    @cached_property
    def _parts(self) -> SplitResult:
        return _checked_url(self.config.url)

    @property
    def _host(self) -> str:
        return self._parts.netloc

    @cached_property
    def _headers(self) -> dict[str, str]:
        headers = {"Content-Type": "application/json", "Accept": "application/json", "Connection": "close"}
        variable = self.config.api_key_variable
        if variable is None:
            return headers
        key = os.environ.get(variable, "")
        if not key or not key.isascii() or not key.isprintable():
            raise ConfigError(f"server.api_key_variable: expected a key in the environment's {variable}, got none")
        if self._parts.scheme != "https" and not _is_this_machine(self._parts.hostname or ""):
            raise ConfigError(f"server.url: expected https to send a key to another machine, got {self.config.url!r}")
        return headers | {"Authorization": f"Bearer {key}"}

    def __call__(self, clips: Sequence[Clip], /) -> list[Score]:
        """One score a clip, in order; the first clip that cannot be scored raises."""
        if not clips:
            return []
        with ThreadPoolExecutor(min(self.config.concurrency, len(clips)), thread_name_prefix="ask") as pool:
            return list(pool.map(self._score, clips))

    def _score(self, clip: Clip) -> Score:
        config, started = self.config, time.perf_counter()
        used: tuple[Modality, ...] = ("vision", "audio", "text") if config.audio else ("vision", "text")
        missing = tuple(name for name in clip.missing if name in used)
        if len(missing) == len(used):
            raise ScoringError(f"{clip.video_id}: expected at least one of {used}, the clip has none")
        body = self._body(clip)
        if len(body) > config.max_request_bytes:
            raise ScoringError(f"{clip.video_id}: expected at most {config.max_request_bytes} bytes, got {len(body)}")
        value = self._value(self._asked(body), clip.video_id)
        return Score(
            value=value, stage=self.name, issue=self.issue, model=self.identity, missing=missing,
            cost_seconds=time.perf_counter() - started,
        )  # fmt: skip

    def _body(self, clip: Clip) -> bytes:
        config = self.config
        asked: dict[str, Any] = {
            "model": config.model, "clause": config.clause, "question": config.question,
            "jpeg_quality": config.jpeg_quality,
        }  # fmt: skip
        if config.api == "systemone":
            return decision_body(clip, **asked)
        return chat_body(clip, **asked, audio=config.audio, top_logprobs=config.top_logprobs)

    def _value(self, answer: Any, video_id: str) -> float:
        config = self.config
        if config.api == "systemone":
            return decision_probability(answer, server=self._host)
        return yes_probability(answer, yes=config.yes, no=config.no, server=self._host, video_id=video_id)

    def _asked(self, body: bytes) -> Any:
        """The server's answer, after as many attempts as the deadline allows."""
        deadline = time.monotonic() + self.config.deadline_seconds
        for attempt in range(self.config.attempts):
            try:
                return self._once(body, deadline)
            except ServiceUnavailable as error:
                pause = random.uniform(0, self.config.first_pause_seconds * 2**attempt)  # noqa: S311 - jitter
                last = attempt + 1 == self.config.attempts or time.monotonic() + pause >= deadline
                if last:
                    raise ServiceUnavailable(f"{error} (attempt {attempt + 1} of {self.config.attempts})") from error
                time.sleep(pause)
        raise AssertionError("unreachable")

    def _once(self, body: bytes, deadline: float) -> Any:
        try:
            with contextlib.closing(self._connection(deadline)) as connection, _cut_at(connection, deadline):
                verb = "systemone" if self.config.api == "systemone" else "chat/completions"
                path = f"{self._parts.path.rstrip('/')}/{verb}"
                connection.request("POST", path, body=body, headers=self._headers)
                response = connection.getresponse()
                content = self._read(response)
                self._left(deadline)  # what was cut short reads like an end
        except (OSError, http.client.HTTPException) as error:
            found = f"{type(error).__name__}: {error}"
            raise ServiceUnavailable(f"{self._host}: expected an answer in time, got {found}") from error
        return self._judged(response, content)

    def _connection(self, deadline: float) -> http.client.HTTPConnection:
        host, port, timeout = self._parts.hostname or "", self._parts.port, self._left(deadline)
        if self._parts.scheme == "https":
            return http.client.HTTPSConnection(host, port, timeout=timeout, context=ssl.create_default_context())
        return http.client.HTTPConnection(host, port, timeout=timeout)

    def _left(self, deadline: float) -> float:
        left = deadline - time.monotonic()
        if left <= 0:
            raise ServiceUnavailable(f"{self._host}: expected an answer in {self.config.deadline_seconds} s, got none")
        return left

    def _read(self, response: http.client.HTTPResponse) -> bytes:
        content = response.read(self.config.max_answer_bytes + 1)
        if len(content) > self.config.max_answer_bytes:
            raise ServiceRefused(f"{self._host}: expected at most {self.config.max_answer_bytes} bytes, got more")
        return content

    def _judged(self, response: http.client.HTTPResponse, content: bytes) -> Any:
        said = content[:300].decode("utf-8", "replace")
        if response.status in _AGAIN:
            raise ServiceUnavailable(f"{self._host}: expected status 200, got {response.status}: {said}")
        if 300 <= response.status < 400:
            where = response.getheader("Location")
            raise ServiceRefused(f"{self._host}: expected an answer, got a redirect to {where!r}: not followed")
        if response.status != 200:
            raise ServiceRefused(f"{self._host}: expected status 200, got {response.status}: {said}")
        try:
            return json.loads(content)
        except (ValueError, RecursionError) as error:
            raise ServiceRefused(f"{self._host}: expected JSON, got {said!r}") from error
