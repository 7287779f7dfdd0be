"""Behaviour half: an actor behind any server that speaks OpenAI's chat completions.

The only network client of the project. The key is read from an environment variable when a request
is made; no message, record or configuration ever holds it.
"""

from __future__ import annotations

import functools
import http.client
import json
import os
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from retro_lightning.retrospection.actor import Actor, Request, play
from retro_lightning.rollout.seeds import generator
from retro_lightning.trajectory import Task, Trajectory

_SYSTEM = (
    "You act in a text environment. Each message tells what you see, your task, what was learnt "
    "from earlier attempts, and the possible actions. Reply with one of the actions, word for "
    "word, and nothing else."
)
_TRANSIENT = (408, 409, 425, 429, 500, 502, 503, 504)
_LONGEST_WAIT = 60.0


class ServerFault(OSError):
    """A server that did not give a usable answer, in one sentence without secrets."""


@dataclass
class Ledger:
    """What a server was asked for by this process.

    Attributes:
        requests: Requests sent, those that failed included.
        failures: Requests without a usable answer.
        prompt_tokens: Tokens read, as the server counted them.
        completion_tokens: Tokens written, as the server counted them.
    """

    requests: int = 0
    failures: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def add(self, **counts: int) -> None:
        """Count; safe from any thread."""
        with self._lock:
            for name, count in counts.items():
                setattr(self, name, getattr(self, name) + count)


class ServerActor(Actor):
    """A model behind an OpenAI-compatible server: vLLM, ``transformers serve``, a hosted API.

    Every turn is one request. An answer that is none of the valid actions is asked for again; after
    ``tries`` requests without a usable answer the attempt is a fault.

    Args:
        url: Root of the API, such as ``http://127.0.0.1:8000/v1``.
        model: Name of the model, as the server knows it.
        key_variable: Environment variable that holds the API key; null = none is sent.
        concurrency: Most requests under way at the same time.
        timeout: Seconds that a request may take.
        tries: Most requests for one action.
        backoff: Seconds to wait before the second request; twice as long before each further one,
            or as long as the server says (``Retry-After``).
        max_tokens: Longest answer.
        temperature: What the server divides logits by before it samples.
        seed: Seed of the seeds that are sent along; how much follows from them is the server's.
        prompt_price: Price of a million tokens read, for accounting.
        completion_price: Price of a million tokens written, for accounting.
    """

    def __init__(
        self,
        url: str,
        model: str,
        key_variable: str | None = None,
        concurrency: int = 8,
        timeout: float = 60.0,
        tries: int = 4,
        backoff: float = 0.5,
        max_tokens: int = 32,
        temperature: float = 1.0,
        seed: int = 1,
        prompt_price: float = 0.0,
        completion_price: float = 0.0,
    ) -> None:
        parts = urllib.parse.urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"ServerActor: url {url!r} is no http address; give its API's root")
        if parts.username or parts.password or parts.query:
            raise ValueError(
                "ServerActor: the url holds a user name, password or query; secrets belong in the "
                "environment variable that key_variable names"
            )
        numbers = {"concurrency": concurrency, "timeout": timeout, "tries": tries}
        for name, value in {**numbers, "max_tokens": max_tokens}.items():
            if value <= 0:
                raise ValueError(f"ServerActor: {name} is {value}; give a number above 0")
        self.url, self.model, self.key_variable = url.rstrip("/"), model, key_variable
        self.concurrency, self.timeout, self.tries = concurrency, timeout, tries
        self.backoff, self.max_tokens, self.temperature = backoff, max_tokens, temperature
        self.seed = seed
        self.prompt_price, self.completion_price = prompt_price, completion_price

    @property
    def key(self) -> str:
        """Address, model, temperature and seed."""
        return f"{self.model} at {self.url}, temperature {self.temperature}, seed {self.seed}"

    @property
    def ledger(self) -> Ledger:
        """Requests and tokens of this process so far."""
        return _ledger(self.key)

    @property
    def cost(self) -> float:
        """What the tokens so far cost, in the currency of the prices."""
        ledger = self.ledger
        prompt = ledger.prompt_tokens * self.prompt_price
        return (prompt + ledger.completion_tokens * self.completion_price) / 1e6

    def attempt(self, requests: Sequence[Request]) -> list[Trajectory]:
        """See ``Actor``; attempts go on side by side, ``concurrency`` at a time."""
        with ThreadPoolExecutor(max_workers=self.concurrency) as pool:
            return list(pool.map(self._attempt, requests))

    def _attempt(self, request: Request) -> Trajectory:
        talk: list[dict[str, str]] = [{"role": "system", "content": _SYSTEM}]

        def choose(seen: str, valid: tuple[str, ...]) -> str:
            if not valid:
                raise ServerFault("the environment takes free text, this actor chooses actions")
            asked = prompt(seen, request.task, request.reflections, valid)
            talk.append({"role": "user", "content": asked})
            parts = (self.seed, request.task.task_id, request.number, len(talk))
            action = self._ask(talk, valid, parts)
            talk.append({"role": "assistant", "content": action})
            return action

        return play(request, f"server:{self.model}", choose)

    def _ask(
        self, talk: list[dict[str, str]], valid: tuple[str, ...], parts: tuple[str | int, ...]
    ) -> str:
        """One valid action, in as many requests as are allowed."""
        reason = ""
        for number in range(self.tries):
            seed = int(generator("server", *parts, number).integers(2**31))
            wait = self.backoff * 2**number
            try:
                answer = self._post(talk, seed)
                action = match(answer, valid)
                if action is not None:
                    return action
                reason, wait = f"it answered {answer[:60]!r}, which is none of the actions", 0.0
            except _TryAgain as error:
                reason = str(error)
                wait = wait if error.wait is None else min(error.wait, _LONGEST_WAIT)
            self.ledger.add(failures=1)
            if number + 1 < self.tries:
                time.sleep(wait)
        raise ServerFault(f"{self.url}: no usable answer in {self.tries} requests: {reason}")

    def _post(self, talk: list[dict[str, str]], seed: int) -> str:
        body = {
            "model": self.model,
            "messages": talk,
            "max_tokens": self.max_tokens,
            "temperature": self.temperature,
            "seed": seed,
        }
        headers = {"Content-Type": "application/json", **self._authorisation()}
        request = urllib.request.Request(
            f"{self.url}/chat/completions", json.dumps(body).encode(), headers
        )
        self.ledger.add(requests=1)
        try:
            with _OPENER.open(request, timeout=self.timeout) as response:
                return self._read(response.read())
        except urllib.error.HTTPError as error:
            error.close()
            if error.code not in _TRANSIENT:
                raise ServerFault(
                    f"{self.url} refuses with status {error.code}: check url, model and the key in "
                    f"{self.key_variable or 'key_variable (none is named)'}"
                ) from None
            raise _TryAgain(f"status {error.code}", _seconds(error.headers)) from None
        except TimeoutError:
            raise _TryAgain(f"no answer within {self.timeout:g} s") from None
        except http.client.IncompleteRead:
            raise _TryAgain("the connection broke in the middle of an answer") from None
        except (OSError, http.client.HTTPException) as error:
            what = getattr(error, "reason", error)
            raise _TryAgain(f"it cannot be reached ({type(what).__name__})") from None

    def _read(self, payload: bytes) -> str:
        """The text of an answer."""
        try:
            answer: Any = json.loads(payload)
            choice = answer["choices"][0]
            text = choice["message"]["content"]
        except (ValueError, LookupError, TypeError):
            raise _TryAgain("the answer is no chat completion") from None
        usage = answer.get("usage") or {}
        self.ledger.add(
            prompt_tokens=int(usage.get("prompt_tokens") or 0),
            completion_tokens=int(usage.get("completion_tokens") or 0),
        )
        if not isinstance(text, str):
            raise _TryAgain("the answer holds no text")
        return text

    def _authorisation(self) -> dict[str, str]:
        if self.key_variable is None:
            return {}
        secret = os.environ.get(self.key_variable)
        if not secret:
            raise ServerFault(
                f"the environment variable {self.key_variable} is not set: put the API key in it"
            )
        return {"Authorization": f"Bearer {secret}"}


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirection would take the key to whoever the server names."""

    def redirect_request(self, *args: Any, **kwargs: Any) -> None:
        return None


_OPENER = urllib.request.build_opener(_NoRedirect)


class _TryAgain(Exception):
    """A failure that may pass; ``wait`` is how long the server says it takes."""

    def __init__(self, reason: str, wait: float | None = None) -> None:
        super().__init__(reason)
        self.wait = wait


def prompt(observation: str, task: Task, reflections: Sequence[str], valid: Sequence[str]) -> str:
    """What the model reads before an action."""
    told = "".join(f"Reflection: {reflection}\n" for reflection in reflections)
    actions = "\n".join(f"- {action}" for action in valid)
    return f"Observation: {observation}\nTask: {task.instruction}\n{told}Actions:\n{actions}"


def match(answer: str, valid: Sequence[str]) -> str | None:
    """The valid action that an answer names: as a line of its own, or as the only one in it."""
    plain = {" ".join(action.lower().split()): action for action in valid}
    lines = [" ".join(line.lower().split()).strip("-*.\"'` ") for line in answer.splitlines()]
    for line in lines:
        if line in plain:
            return plain[line]
    text = " ".join(lines)
    found = [name for name in plain if name in text]
    longest = [name for name in found if not any(name != o and name in o for o in found)]
    return plain[longest[0]] if len(longest) == 1 else None


def _seconds(headers: Any) -> float | None:
    value = headers.get("Retry-After") if headers is not None else None
    try:
        return None if value is None else max(0.0, float(value))
    except ValueError:  # a date; our own backoff will do
        return None


@functools.cache
def _ledger(key: str) -> Ledger:
    return Ledger()
