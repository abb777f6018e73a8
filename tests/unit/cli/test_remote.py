"""Commands that ask a running service: a server with the routes of an app, and no app at all."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from fastapi_athomic.cli import main
from fastapi_athomic.cli.service import TOKEN, URL
from tests.unit.cli.conftest import Answer, Command
from tests.unit.web.control_shop import ID, Shop, open_shop


class Relay(BaseHTTPRequestHandler):
    """Passes requests on to an app, whose lifespan runs already, and keeps them."""

    url: str  # where it is served
    shop: Shop
    seen: list[tuple[str, str, dict[str, str], Any]]

    def _pass_on(self) -> None:
        content = self.rfile.read(int(self.headers.get("content-length", 0)))
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.seen.append((self.command, self.path, headers, json.loads(content) if content else None))
        answer = self.shop.client.request(self.command, self.path, content=content, headers=headers)
        self.send_response(answer.status_code)
        self.send_header("content-type", answer.headers["content-type"])
        self.send_header("content-length", str(len(answer.content)))
        self.end_headers()
        self.wfile.write(answer.content)

    do_GET = do_POST = _pass_on  # noqa: N815 - http.server wants these names

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass


def serving(handler: type[BaseHTTPRequestHandler]) -> tuple[ThreadingHTTPServer, str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    threading.Thread(target=partial(server.serve_forever, 0.01), daemon=True).start()
    return server, f"http://127.0.0.1:{server.server_port}"


@pytest.fixture(scope="module")
def relay() -> Iterator[type[Relay]]:
    with open_shop() as shop:
        shop.fail({"card": "4929"}, {}, {})
        Relay.shop, Relay.seen = shop, []
        server, Relay.url = serving(Relay)
        yield Relay
        server.shutdown()
        server.server_close()


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(TOKEN, "auditor")
    monkeypatch.delenv(URL, raising=False)
    monkeypatch.setenv("no_proxy", "*")


@pytest.fixture
def ask(relay: type[Relay], command: Command) -> Command:
    def ask(*arguments: str) -> Answer:
        return command("--url", f"{relay.url}/consumers", *arguments)

    return ask


# --- looking


def test_status_is_a_table(ask: Command) -> None:
    answer = ask("status")
    assert answer.status == 0
    title, row = answer.out.splitlines()
    assert title.split()[:4] == ["consumer", "state", "health", "lag"]
    assert row.split()[0] == ID
    assert ask("status", "--json").json[0]["id"] == ID


def test_status_of_one_shows_its_partitions(ask: Command) -> None:
    answer = ask("status", ID)
    assert [line.split()[:2] for line in answer.out.splitlines()[-4:]] == [["orders", str(n)] for n in range(4)]
    assert "handled at once, at most: 1\n" in answer.out
    assert re.search(r"last failure: orders\[\d\]@\d at 20.*: (Key|Value)Error: ", answer.out)
    assert ask("status", ID, "--json").json["id"] == ID


def test_health_says_how_it_is(ask: Command) -> None:
    answer = ask("health")
    assert (answer.status, answer.out.splitlines()) == (0, ["healthy", f"{ID}: healthy"])
    assert ask("health", "--json").json["status"] == "healthy"


# --- steering


def test_consumers_are_steered(ask: Command, relay: type[Relay]) -> None:
    paused = ask("pause", ID, "--reason", "it hangs", "--topic", "orders", "--partition", "1", "--seconds", "600")
    assert paused.status == 0
    assert "orders[1] is paused since" in paused.out
    assert "by auditor: it hangs" in paused.out
    assert "orders[1] is paused" in ask("status", ID).out
    assert ask("resume", ID, "--topic", "orders").out == f"{ID} is not paused\n"
    assert ask("concurrency", ID, "3", "--reason", "slow").out == f"{ID} handles 3 at once\n"
    assert ask("concurrency", ID, "default", "--reason", "slow").status == 0
    assert relay.seen[-1][3] == {"value": None, "reason": "slow"}
    assert ask("rate", ID, "5", "--burst", "9", "--reason", "slow").out == f"{ID} begins 5 messages a second at most\n"
    assert "begun per second, at most: 5.0, 0 wait for it" in ask("status", ID).out
    assert ask("rate", ID, "default", "--reason", "slow").out == f"{ID} begins what code and settings allow\n"
    opened = ask("breaker", ID, "open", "--reason", "bank")
    assert opened.out == f"{ID} begins nothing until it is closed\n"
    assert "breaker_open" in ask("status", ID).out
    assert "circuit breaker: open, by an operator" in ask("status", ID).out
    assert ask("breaker", ID, "closed", "--reason", "bank").out == f"{ID} begins messages again\n"
    assert ask("breaker", ID, "auto", "--reason", "x").out == f"{ID} begins what its circuit breaker lets through\n"
    assert ask("restart", ID, "--reason", "it hangs").out == f"{ID} was restarted\n"
    assert ask("pause", ID, "--reason", "x", "--json").json["consumer"] == ID
    assert ask("resume", ID, "--json").json["pauses"] == []


@pytest.mark.parametrize(
    ("target", "to"),
    [
        (["--offset", "1"], {"offset": 1}),
        (["--time", "2020-01-01T00:00:00Z"], {"time": "2020-01-01T00:00:00+00:00"}),
        (["--beginning"], "beginning"),
        (["--end"], "end"),
    ],
)
def test_a_seek_is_tried_first(ask: Command, relay: type[Relay], target: list[str], to: object) -> None:
    seek = ("seek", ID, "orders", "--partition", "0", *target, "--reason", "again")
    plan = ask(*seek, "--dry-run")
    assert plan.status == 0
    assert plan.out.splitlines()[0].split() == [
        *("partition", "from_offset", "to_offset", "skipped", "repeated", "exact", "done"),
    ]
    assert (relay.seen[-1][3]["to"], relay.seen[-1][3]["dry_run"]) == (to, True)
    refused = ask(*seek)
    assert (refused.status, "pass --yes" in refused.err) == (2, True)
    assert relay.seen[-1][3]["dry_run"], "nothing was done"


def test_a_seek_that_is_agreed_to_is_done(ask: Command) -> None:
    answer = ask("seek", ID, "orders", "--partition", "1", "--end", "--reason", "x", "--yes", "--json").json
    assert answer["done"]


@pytest.mark.parametrize("asked", [("seek", ID, "orders", "--reason", "x", "--time"), ("dlq", "list", ID, "--since")])
@pytest.mark.parametrize(
    ("time", "said"),
    [
        ("2020-01-01T00:00:00", "'2020-01-01T00:00:00' needs a time zone: 2020-01-01T00:00:00Z is UTC"),
        ("an hour ago", "'an hour ago' is no time: write 2026-11-28T09:00:00Z"),
    ],
)
def test_a_time_that_is_none_gets_a_sentence(
    ask: Command, capsys: pytest.CaptureFixture[str], asked: tuple[str, ...], time: str, said: str
) -> None:
    with pytest.raises(SystemExit, match="2"):
        ask(*asked, time)
    assert said in capsys.readouterr().err


def test_a_dry_run_that_finds_something_in_the_way_fails(ask: Command) -> None:
    seek = ("seek", ID, "orders", "--partition", "0", "--offset", "4711", "--reason", "x", "--dry-run")
    answer = ask(*seek)
    assert answer.status == 1
    assert "problem: orders[0] cannot go on at offset 4711" in answer.out


# --- dead letters


def test_dead_letters_are_looked_after(ask: Command, relay: type[Relay]) -> None:
    listed = ask("dlq", "list", ID, "--error-type", "builtins.KeyError")
    assert "orders.g.dlq  0/0" in listed.out
    assert "KeyError" in listed.out
    assert ask("dlq", "list", ID, "--error-type", "KeyError").out == listed.out, "as logs and status name it"
    assert ask("dlq", "list", ID, "--error-type", "Key").out == ""
    assert "1 dead letter" in listed.err
    assert ask("dlq", "list", ID, "--limit", "1", "--since", "2020-01-01T00:00:00Z").err == "1 dead letter and more\n"
    assert ask("dlq", "list", ID, "--json").json["more"] is False
    assert "4929" not in ask("dlq", "show", ID, "--partition", "0", "--offset", "0").out
    assert "4929" in ask("dlq", "show", ID, "--partition", "0", "--offset", "0", "--payload", "--json").out
    tried = ask("dlq", "redrive", ID, "--all", "--reason", "x", "--dry-run", "--error-type", "ValueError")
    assert tried.out == "2 of 2 dead letters would be sent back\n"
    assert relay.seen[-1][3]["limit"] == 1000
    assert ask("dlq", "discard", ID, "--all", "--reason", "x").status == 2, "nobody agreed"
    one = ("dlq", "discard", ID, "--partition", "0", "--offset", "1", "--reason", "x", "--yes")
    assert ask(*one).out == "1 of 1 dead letter discarded\n"
    more = ask("dlq", "discard", ID, "--all", "--limit", "1", "--reason", "x", "--yes")
    assert (more.out, more.err) == ("1 of 1 dead letter discarded\n", "there may be more: do it again for the rest\n")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["redrive", ID, "--all"], "--reason is missing"),
        (["redrive", ID, "--reason", "x"], "say which dead letters"),
        (["list", ID, "--app", "main"], "--app and --url exclude each other"),
        (
            ["show", ID, "--partition", "9", "--offset", "9"],
            "no open dead letter at this place",
        ),
    ],
)
def test_what_is_asked_for_wrongly_gets_a_sentence(ask: Command, arguments: list[str], words: str) -> None:
    answer = ask("dlq", *arguments)
    assert (answer.status, answer.out) == (1, "")
    assert words in answer.err


# --- what can go wrong


def test_problems_are_told_in_a_line(ask: Command) -> None:
    answer = ask("pause", "shop.bil:v1", "--reason", "x")
    assert answer.status == 1
    assert answer.err.startswith("error: No consumer has this id: there is no handler shop.bil:v1")
    assert "body.reason" in ask("pause", ID, "--reason", " ").err


def test_credentials_come_from_the_environment_or_a_header(
    ask: Command, relay: type[Relay], monkeypatch: pytest.MonkeyPatch
) -> None:
    ask("status")
    assert relay.seen[-1][2]["authorization"] == "Bearer auditor"
    assert ask("--header", "authorization: Bearer operator", "pause", ID, "--reason", "x").status == 0
    assert relay.seen[-1][2]["authorization"] == "Bearer operator"
    monkeypatch.delenv(TOKEN)
    assert ask("resume", ID, "--header", "Cookie: session=ann", "--header", "x-team: shop").status == 0
    assert (relay.seen[-1][2]["cookie"], relay.seen[-1][2]["x-team"]) == ("session=ann", "shop")
    refused = ask("pause", ID, "--reason", "x")
    assert refused.status == 1
    assert f"wants to know who asks, or does not allow it (401 Unauthorized): set {TOKEN}" in refused.err


def test_the_url_may_come_from_the_environment_and_stand_behind_the_command(
    relay: type[Relay], command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert command("status", "--url", f"{relay.url}/consumers/").status == 0
    missing = command("status")
    assert (missing.status, URL in missing.err) == (1, True)
    assert "or where the code is: --app" in command("dlq", "list", ID).err
    monkeypatch.setenv(URL, f"{relay.url}/consumers")
    assert command("status").status == 0
    assert command("dlq", "list", ID).status == 0


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("ftp://x", "--url must be http:// or https://"),
        ("host/consumers", "--url must be http:// or https://"),
        ("https://x/consumers?token=1", "--url must be http:// or https://"),
        ("https://ann:secret@x/consumers", "credentials do not belong in the URL"),
        (
            "http://127.0.0.1:1/consumers",
            "cannot be reached: [Errno 111] Connection refused",
        ),
    ],
)
def test_a_url_that_leads_nowhere_gets_a_sentence(url: str, words: str, command: Command) -> None:
    answer = command("--url", url, "status")
    assert (answer.status, answer.out) == (1, "")
    assert words in answer.err
    assert "secret" not in answer.err


def test_the_wrong_prefix_gets_a_sentence(relay: type[Relay], command: Command) -> None:
    wrong = command("--url", f"{relay.url}/elsewhere", "status")
    assert "has no such route (404): is that where the routes of fastapi_athomic are" in wrong.err
    page = command("--url", f"{relay.url}/docs", "pause", "x", "--reason", "x")
    assert "is control.enabled set there?" in page.err


def test_a_header_that_cannot_be_sent_is_not_shown(ask: Command) -> None:
    answer = ask("--header", "authorization: secret\n2", "status")
    assert answer.err == "error: a header has characters that cannot be sent\n"
    assert ask("--header", "secret", "status").err == "error: --header must be NAME:VALUE\n"
    assert "--cafile" in ask("--cafile", "nowhere.pem", "status").err


@pytest.mark.parametrize(
    ("status", "headers", "content", "words"),
    [
        (200, {}, b"<html>", "answers, but not as fastapi_athomic does"),
        (302, {"location": "https://login.example/"}, b"", "leads to https://login.example/: give --url that address"),
        (500, {}, b"oops", "answers 500 Internal Server Error"),
        (409, {"content-type": "application/problem+json"}, b"[]", "refuses, and does not say why"),
    ],
)
def test_other_answers_get_a_sentence(
    status: int, headers: dict[str, str], content: bytes, words: str, command: Command
) -> None:
    seen: list[str] = []

    class Other(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            seen.append(self.path)
            self.send_response(status)
            for name, value in {**headers, "content-length": str(len(content))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            pass

    server, url = serving(Other)
    answer = command("--url", url, "restart", "a/b c", "--reason", "x")
    server.shutdown()
    server.server_close()
    assert (answer.status, seen) == (1, ["/a%2Fb%20c/restart"])
    assert words in answer.err


def saying(answer: dict[str, Any]) -> type[BaseHTTPRequestHandler]:
    """A service that says this to whatever it is told to do."""
    content = json.dumps(answer).encode()

    class Group(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            self.send_response(200)
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            pass

    return Group


def test_a_seek_that_is_not_done_everywhere_fails(command: Command) -> None:
    part = {"from_offset": 3, "to_offset": 0, "skipped": 0, "repeated": 3, "exact": True}
    partitions = [{"partition": 0, "done": True, **part}, {"partition": 1, "done": False, **part}]
    plan = {"done": False, "partitions": partitions, "problems": ["t[1]: no member took it over"], "notes": []}
    server, url = serving(saying(plan))
    answer = command("--url", url, "seek", "h", "t", "--beginning", "--force", "--yes", "--reason", "x")
    server.shutdown()
    server.server_close()
    assert (answer.status, "problem: t[1]: no member took it over" in answer.out) == (1, True)


@pytest.mark.parametrize(
    ("told", "status", "lines"),
    [
        (
            [("a", "applied", None), ("b", "applied", None)],
            0,
            ["h was restarted, in 2 processes"],
        ),
        (
            [("a", "applied", None), ("b", "no_answer", "it hangs")],
            1,
            ["it is not done everywhere:", "  a: applied", "  b: no answer: it hangs", "kept"],
        ),
        (
            [("a", "applied", None), ("b", "gone", "it has ended meanwhile")],
            0,
            ["h was restarted, in 2 processes", "  b: gone: it has ended meanwhile"],
        ),
        ([], 1, ["no process that consumes it has answered", "kept"]),
    ],
)
def test_what_single_processes_have_not_done_is_listed(
    told: list[tuple[str, str, str | None]], status: int, lines: list[str], command: Command
) -> None:
    processes = [{"instance_id": name, "outcome": outcome, "detail": detail} for name, outcome, detail in told]
    server, url = serving(saying({"consumer": "h", "done": not status, "processes": processes, "note": "kept"}))
    answer = command("--url", url, "restart", "h", "--reason", "x")
    as_json = command("--url", url, "restart", "h", "--reason", "x", "--json")
    server.shutdown()
    server.server_close()
    assert (answer.status, answer.out.splitlines()) == (status, lines)
    assert (as_json.status, len(as_json.json["processes"])) == (status, len(told))


def test_who_does_not_answer_may_have_done_it(command: Command) -> None:
    waiting = threading.Event()

    class Silent(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            waiting.wait(30)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            pass

    server, url = serving(Silent)
    answer = command("--url", url, "--timeout", "0.05", "restart", "h", "--reason", "x")
    waiting.set()
    server.shutdown()
    server.server_close()
    assert "did not answer within 0.05 s: whether it was done, is not known" in answer.err


@pytest.mark.parametrize("area", ["check", "handlers", "topics"])
def test_commands_about_code_take_no_url(area: str, command: Command) -> None:
    answer = command("--url", "http://x", area, "--app", "main")
    assert answer.err == f"error: {area} looks into the code: give it --app, and no --url\n"


def test_a_reason_is_needed(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["pause", "h", "--url", "http://x"])
    assert "required: --reason" in capsys.readouterr().err
