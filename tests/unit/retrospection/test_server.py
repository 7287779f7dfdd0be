"""The actor behind a server, against one on loopback that misbehaves."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from retro_lightning.environments.base import make_tasks
from retro_lightning.environments.proving_ground import LockedDoor
from retro_lightning.retrospection.actor import Request
from retro_lightning.retrospection.server import ServerActor, match, prompt
from retro_lightning.trajectory import Trajectory

SECRET = "sk-do-not-tell"
TASK = make_tasks("door", LockedDoor, "train", 1)[0]


class Server(ThreadingHTTPServer):
    """Counts requests and asks ``behave`` what to do with each."""

    daemon_threads = True

    def __init__(self, behave: Callable[[Any, int, Any], None]) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.behave, self.asked, self.lock = behave, [], threading.Lock()
        self.under_way = self.most = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.server.lock:
            number = len(self.server.asked)
            self.server.asked.append((dict(self.headers), body))
            self.server.under_way += 1
            self.server.most = max(self.server.most, self.server.under_way)
        try:
            self.server.behave(self, number, body)
        except (BrokenPipeError, ConnectionResetError):
            pass
        finally:
            with self.server.lock:
                self.server.under_way -= 1

    def reply(self, status: int, payload: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(payload)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(payload)

    def say(self, text: str) -> None:
        answer = {
            "choices": [{"message": {"role": "assistant", "content": text}}],
            "usage": {"prompt_tokens": 50, "completion_tokens": 4},
        }
        self.reply(200, json.dumps(answer).encode())

    def log_message(self, *args: Any) -> None:
        """Say nothing."""


def obey(handler: Handler, body: Any) -> None:
    """Answer with the last of the listed actions."""
    handler.say(body["messages"][-1]["content"].splitlines()[-1])


@contextmanager
def serving(behave: Callable[[Any, int, Any], None]) -> Iterator[Server]:
    server = Server(behave)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()


def attempt(url: str, *reflections: str, **settings: Any) -> tuple[Trajectory, ServerActor]:
    actor = ServerActor(url, "tiny", **{"backoff": 0.0, "timeout": 5.0, "tries": 3, **settings})
    return actor.attempt([Request(LockedDoor, TASK, 7, reflections)])[0], actor


def test_an_attempt_turn_by_turn() -> None:
    with serving(lambda handler, _, body: obey(handler, body)) as server:
        made, actor = attempt(server.url, "use the opal key", prompt_price=2.0)
    assert made.fault is None
    assert made.length == 2
    assert made.steps[0].action == made.steps[0].valid_actions[-1]  # type: ignore[index]
    assert made.reflections == ("use the opal key",)
    first, second = (body for _, body in server.asked)
    assert f"Task: {TASK.instruction}\nReflection: use the opal key\nActions:\n- take" in str(
        first["messages"][-1]["content"]
    )
    # system, first turn, its answer, second turn
    assert [message["role"] for message in second["messages"]] == [
        *("system", "user", "assistant", "user"),
    ]
    assert first["seed"] != second["seed"]
    ledger = actor.ledger
    counts = (ledger.requests, ledger.failures, ledger.prompt_tokens, ledger.completion_tokens)
    assert counts == (2, 0, 100, 8)
    assert actor.cost == pytest.approx(100 * 2.0 / 1e6)


def test_noise_follows_from_task_and_number_and_not_from_what_is_told() -> None:
    with serving(lambda handler, _, body: obey(handler, body)) as server:
        attempt(server.url, "one thing")
        attempt(server.url, "another")
    seeds = [body["seed"] for _, body in server.asked]
    assert seeds[:2] == seeds[2:]


@pytest.mark.parametrize("status", [429, 503])
def test_overload_passes(status: int) -> None:
    def behave(handler: Handler, number: int, body: Any) -> None:
        if number < 2:
            handler.reply(status, b"later", Retry_After="0.01")
        else:
            obey(handler, body)

    with serving(behave) as server:
        made, actor = attempt(server.url, tries=3)
    assert made.fault is None
    assert actor.ledger.failures == 2


def test_it_waits_as_long_as_the_server_says() -> None:
    def behave(handler: Handler, number: int, body: Any) -> None:
        handler.reply(429, b"", Retry_After="0.3") if number == 0 else obey(handler, body)

    with serving(behave) as server:
        started = time.monotonic()
        made, _ = attempt(server.url)
        assert time.monotonic() - started >= 0.3
    assert made.fault is None


def half(handler: Handler) -> None:
    handler.send_response(200)
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    handler.wfile.write(b'{"choices": [{"mess')


@pytest.mark.parametrize(
    ("behave", "complaint"),
    [
        (lambda h, n, b: h.reply(500, b"oops"), "status 500"),
        (lambda h, n, b: h.reply(200, b"<html>"), "the answer is no chat completion"),
        (lambda h, n, b: h.reply(200, b"[1, 2]"), "the answer is no chat completion"),
        (lambda h, n, b: h.say("I would rather not"), "which is none of the actions"),
        (lambda h, n, b: half(h), "broke in the middle of an answer"),
        (lambda h, n, b: time.sleep(1.0), "no answer within 0.2 s"),
    ],
    ids=["fails", "html", "list", "nonsense", "half", "slow"],
)
def test_a_server_that_misbehaves_makes_one_fault_in_one_sentence(
    behave: Any, complaint: str
) -> None:
    with serving(behave) as server:
        made, actor = attempt(server.url, timeout=0.2, tries=2)
    assert made.truncation == "fault"
    assert complaint in str(made.fault)
    assert "no usable answer in 2 requests" in str(made.fault)
    assert len(str(made.fault).splitlines()) == 1
    assert actor.ledger.requests == actor.ledger.failures == 2


def test_a_server_that_is_down() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    made, _ = attempt(f"http://127.0.0.1:{port}/v1", tries=2)
    assert "it cannot be reached (ConnectionRefusedError)" in str(made.fault)


def test_a_refusal_is_not_asked_again() -> None:
    with serving(lambda h, n, b: h.reply(401, b"who are you?")) as server:
        made, actor = attempt(server.url, tries=5)
    assert "refuses with status 401: check url, model and the key" in str(made.fault)
    assert actor.ledger.requests == 1


def test_the_key_is_sent_and_never_told(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SOME_KEY", SECRET)
    with serving(lambda h, n, b: h.reply(403, b"no")) as server:
        made, actor = attempt(server.url, key_variable="SOME_KEY")
    assert server.asked[0][0]["Authorization"] == f"Bearer {SECRET}"
    told = " ".join(
        [str(made), str(vars(actor)), repr(actor.ledger), actor.key, *capfd.readouterr()]
    )
    assert SECRET not in told
    assert "SOME_KEY" in str(made.fault)
    monkeypatch.delenv("SOME_KEY")
    made, _ = attempt(server.url, key_variable="SOME_KEY")
    assert "the environment variable SOME_KEY is not set" in str(made.fault)


def test_a_redirection_does_not_take_the_key_along(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_KEY", SECRET)
    with (
        serving(lambda h, n, b: obey(h, b)) as elsewhere,
        serving(lambda h, n, b: h.reply(302, b"", Location=elsewhere.url)) as server,
    ):
        made, _ = attempt(server.url, key_variable="SOME_KEY")
    assert "refuses with status 302" in str(made.fault)
    assert elsewhere.asked == []


def test_no_more_requests_at_a_time_than_allowed_and_one_fault_harms_no_other() -> None:
    def behave(handler: Handler, number: int, body: Any) -> None:
        time.sleep(0.02)
        if "poison" in str(body["messages"]):
            handler.reply(400, b"")
        else:
            obey(handler, body)

    with serving(behave) as server:
        actor = ServerActor(server.url, "tiny", concurrency=3, backoff=0.0)
        told = [("poison",) if number == 4 else () for number in range(9)]
        made = actor.attempt(
            [Request(LockedDoor, TASK, number, each) for number, each in enumerate(told)]
        )
    assert server.most == 3
    assert [t.fault is not None for t in made] == [number == 4 for number in range(9)]
    assert [t.attempt for t in made] == list(range(9))


@pytest.mark.parametrize(
    ("answer", "action"),
    [
        ("go north", "go north"),
        ("I think:\n- Go  North.", "go north"),
        ("you should go north now", "go north"),  # "go" is part of it
        ("north or south", None),
        ("go south or go north", None),
        ("", None),
    ],
)
def test_which_action_an_answer_names(answer: str, action: str | None) -> None:
    assert match(answer, ("go", "go north", "go south")) == action


def test_prompt() -> None:
    assert prompt("a door", TASK, (), ("knock",)) == (
        f"Observation: a door\nTask: {TASK.instruction}\nActions:\n- knock"
    )


@pytest.mark.parametrize(
    ("url", "complaint"),
    [
        ("ftp://host/v1", "is no http address"),
        ("http://user:pw@host/v1", "secrets belong in the environment variable"),
        ("http://host/v1?key=1", "secrets belong in the environment variable"),
    ],
)
def test_bad_addresses(url: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        ServerActor(url, "tiny")
