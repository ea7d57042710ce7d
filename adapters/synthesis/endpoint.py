"""Answers from an OpenAI-compatible endpoint: many requests at a time, asked again where that can help.

The key comes from the environment, goes into one header, and stands in no file, message or log. Redirects are not
followed: they would take it elsewhere.
"""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Generator, Sequence
from typing import Any
from urllib.parse import urlsplit

import httpx2

from ...errors import UserError
from .generator import Reply, Request, Sampling

DEFAULT_KEY = "PHIBENCH_API_KEY"
_AGAIN = {408, 409, 425, 429, 500, 502, 503, 504, 529}
_LONGEST_WAIT = 60.0  # seconds between two attempts
_GOES_ON = "the same command goes on where this stopped"


class Endpoint:
    """A server that speaks OpenAI's chat completions.

    Args:
        url: its address up to and including `/v1`.
        model: as the server calls it.
        key_name: the environment variable that holds the key; None: :data:`DEFAULT_KEY`, if it is set.
        concurrency: requests under way together.
        timeout: seconds to wait for one answer.
        attempts: how often one request is asked at most.
        pause: seconds before the second attempt; doubled before each further one.

    Raises:
        UserError: for an address or key that cannot be used.
    """

    def __init__(
        self,
        url: str,
        model: str,
        *,
        key_name: str | None = None,
        concurrency: int = 8,
        timeout: float = 300.0,
        attempts: int = 6,
        pause: float = 1.0,
    ) -> None:
        self.url = _checked(url)
        self.model = model
        self._key_name = key_name or DEFAULT_KEY
        self._key = _key(key_name)
        self._concurrency = concurrency
        self._timeout = timeout
        self._attempts = attempts
        self._pause = pause
        self._has_answered = False

    def identity(self) -> dict[str, str]:
        return {"endpoint": self.url, "model": self.model}

    def how(self) -> str:
        return "by the server"

    def ask(self, requests: Sequence[Request], sampling: Sampling) -> Generator[tuple[int, Reply]]:
        """See :class:`phibench.adapters.synthesis.generator.TextGenerator`.

        Raises:
            UserError: when the server refuses, is not there, or does not answer.
        """
        with asyncio.Runner() as runner:
            client, pending = runner.run(self._start(requests, sampling))
            try:
                while pending:
                    done: set[asyncio.Task[tuple[int, Reply]]] = set()
                    try:
                        done, pending = runner.run(_some(pending))
                    except KeyboardInterrupt:
                        done = {task for task in pending if task.done() and not task.cancelled()}
                        yield from (task.result() for task in done if task.exception() is None)
                        raise
                    yield from (task.result() for task in done if task.exception() is None)
                    for task in done:  # what was answered beside it is kept first
                        if (error := task.exception()) is not None:
                            raise error
            finally:
                runner.run(_stop(client, pending))

    async def _start(
        self, requests: Sequence[Request], sampling: Sampling
    ) -> tuple[httpx2.AsyncClient, set[asyncio.Task[tuple[int, Reply]]]]:
        headers = {"Authorization": f"Bearer {self._key}"} if self._key else {}
        client = httpx2.AsyncClient(
            headers=headers,
            timeout=httpx2.Timeout(self._timeout, connect=min(self._timeout, 30.0), pool=None),
            limits=httpx2.Limits(max_connections=self._concurrency),
            follow_redirects=False,
            trust_env=not _is_here(self.url),  # no proxy stands between this machine and itself
        )
        room = asyncio.Semaphore(self._concurrency)
        tasks = [self._answer(client, room, i, request, sampling) for i, request in enumerate(requests)]
        return client, {asyncio.create_task(task) for task in tasks}

    async def _answer(
        self, client: httpx2.AsyncClient, room: asyncio.Semaphore, position: int, request: Request, sampling: Sampling
    ) -> tuple[int, Reply]:
        async with room:
            for attempt in range(1, self._attempts + 1):
                reply, wait = await self._attempt(client, request, sampling, is_last=attempt == self._attempts)
                if reply is not None:
                    self._has_answered = True
                    return position, reply
                backed_off = self._pause * 2 ** (attempt - 1) * (1 + random.random() / 4)
                await asyncio.sleep(min(max(wait, backed_off), _LONGEST_WAIT))
        raise AssertionError("the last attempt answers or raises")

    async def _attempt(
        self, client: httpx2.AsyncClient, request: Request, sampling: Sampling, *, is_last: bool
    ) -> tuple[Reply | None, float]:
        """One attempt: a reply, or None and the seconds that the server asks to wait."""
        try:
            response = await client.post(f"{self.url}/chat/completions", json=self._body(request, sampling))
        except httpx2.ConnectError as error:
            if is_last or not self._has_answered:  # a wrong address is told at once
                raise self._fault(
                    f"nothing answers there: {error}", "is the server running, and the address right?"
                ) from None
            return None, 0.0
        except httpx2.TimeoutException:
            if is_last:
                raise self._fault(
                    f"no answer within {self._timeout:g} s, {self._attempts} times",
                    f"raise --timeout or lower --concurrency; {_GOES_ON}",
                ) from None
            return None, 0.0
        except httpx2.TransportError as error:
            if is_last:
                raise self._fault(f"the connection broke: {error or type(error).__name__}", _GOES_ON) from None
            return None, 0.0
        if response.status_code in _AGAIN and not is_last:
            return None, _asked_wait(response)
        if response.status_code != 200:
            raise self._refused(response)
        return self._read(response), 0.0

    def _body(self, request: Request, sampling: Sampling) -> dict[str, Any]:
        body: dict[str, Any] = {
            "model": self.model,
            "messages": list(request.messages),
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "max_tokens": sampling.max_new_tokens,
            "seed": request.seed,
        }
        if sampling.top_k is not None:
            body["top_k"] = sampling.top_k
        return body

    def _read(self, response: httpx2.Response) -> Reply:
        try:
            body = response.json()
            choice = body["choices"][0]
            content = choice["message"].get("content") or ""
            usage = body.get("usage") or {}
            return Reply(
                text=_storable(str(content)),
                finish=str(choice.get("finish_reason") or "unknown"),
                tokens_in=usage.get("prompt_tokens"),
                tokens_out=usage.get("completion_tokens"),
                model=_storable(str(body.get("model") or self.model)),
            )
        except (ValueError, KeyError, IndexError, TypeError, AttributeError):
            raise self._fault(
                f"this is no chat completion: {self._shown(response)}",
                "give the address of an OpenAI-compatible server, up to and including /v1",
            ) from None

    def _refused(self, response: httpx2.Response) -> UserError:
        status, said = response.status_code, self._shown(response)
        if status in (401, 403):
            have = "its key was sent" if self._key else "no key was sent"
            return self._fault(
                f"the server answers {status}, not authorised ({have}): {said}",
                f"put the server's key into the environment variable {self._key_name}",
            )
        if status == 404:
            return self._fault(
                f'the server answers 404: no such address, or no model "{self.model}": {said}',
                f"the address ends in /v1 for most servers; {self.url}/models lists its models",
            )
        if status in _AGAIN:
            what = f"the server still answers {status} after {self._attempts} attempts: {said}"
            return self._fault(what, f"wait, or lower --concurrency; {_GOES_ON}")
        if 300 <= status < 400:
            return self._fault(f"the server answers {status}: it has moved", "give its new address")
        return self._fault(
            f"the server answers {status}: {said}",
            "a setting that the server does not take (--top-k, --temperature), or more --max-new-tokens than it has",
        )

    def _shown(self, response: httpx2.Response) -> str:
        """What the server said, on one line and without the key, should it repeat that."""
        try:
            body = response.json()
            error = body.get("error", body) if isinstance(body, dict) else body
            text = str(error.get("message", error) if isinstance(error, dict) else error)
        except ValueError:
            text = response.text
        text = " ".join(_storable(text).split())
        return (text.replace(self._key, "[key]") if self._key else text)[:300] or "(it says nothing)"

    def _fault(self, what: str, fix: str) -> UserError:
        return UserError(what, where=f"--endpoint {self.url}", fix=fix)


async def _some(
    pending: set[asyncio.Task[tuple[int, Reply]]],
) -> tuple[set[asyncio.Task[tuple[int, Reply]]], set[asyncio.Task[tuple[int, Reply]]]]:
    return await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)


async def _stop(client: httpx2.AsyncClient, pending: set[asyncio.Task[tuple[int, Reply]]]) -> None:
    for task in pending:
        task.cancel()
    await asyncio.gather(*pending, return_exceptions=True)
    await client.aclose()


def _checked(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UserError("this is no web address", where=f"--endpoint {url}", fix="such as http://localhost:8000/v1")
    if parts.username or parts.password or parts.query or parts.fragment:
        raise UserError(
            "an address with a user, a password or a query would be written into the manifest",
            where="--endpoint",
            fix=f"give the plain address, and the key in the environment variable {DEFAULT_KEY}",
        )
    return url.rstrip("/")


def _key(name: str | None) -> str | None:
    key = os.environ.get(name or DEFAULT_KEY, "").strip()
    if not key:
        if name is not None:
            raise UserError("this environment variable is not set", where=f"--api-key-env {name}")
        return None
    if not (key.isascii() and key.isprintable()):
        raise UserError(
            "the key holds characters that no header may have", where=f"environment variable {name or DEFAULT_KEY}"
        )
    return key


def _is_here(url: str) -> bool:
    return urlsplit(url).hostname in ("localhost", "127.0.0.1", "::1")


def _asked_wait(response: httpx2.Response) -> float:
    try:
        return max(0.0, float(response.headers.get("retry-after", "0")))
    except ValueError:  # a date
        return 0.0


def _storable(text: str) -> str:
    """Text without lone surrogates, which JSON can spell and no file can hold."""
    return text.encode("utf-8", "replace").decode("utf-8")
