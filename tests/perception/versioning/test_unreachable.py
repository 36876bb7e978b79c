"""A registry whose server is gone may be asked again; one that is not there, or refuses, is bad input."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from components.stage import kfp_step
from components.stage.__main__ import run
from perception.errors import InputError
from perception.versioning.processes import RegistryError, git_url
from perception.versioning.registry import create_registry, fetch, publish, resolve
from tests.faults.servers import WebServer, closed_url, web_server


@pytest.fixture
def web() -> Iterator[WebServer]:
    """A web server that answers everything with one status, and counts."""
    with web_server(200) as state:
        state.url += "/data.git"
        yield state


def calls(url: str, frames: Path, out: Path) -> list[object]:
    return [
        lambda: create_registry(url, str(out / "remote")),
        lambda: resolve(url),
        lambda: resolve(url, "night-1"),
        lambda: publish(url, "night-1", frames),
        lambda: fetch(url, "current", out / "out"),
    ]


@pytest.mark.parametrize("status", [None, 500, 503, 429])
def test_a_server_that_is_gone_or_fails_may_be_asked_again(web, tools, tmp_path, status):
    url, web.status = (f"{closed_url()}/data.git" if status is None else web.url), status
    frames = tools.make_folder(tmp_path / "frames", tools.make_frames(["d0_0"]), {"a.tar": b"a"})
    for call in calls(url, frames, tmp_path):
        with pytest.raises(RegistryError, match=r"cannot be reached.*try again"):
            call()


@pytest.mark.parametrize("status", [401, 403, 404])
def test_a_registry_that_is_not_there_or_forbidden_is_bad_input(web, tools, tmp_path, status):
    web.status = status
    frames = tools.make_folder(tmp_path / "frames", tools.make_frames(["d0_0"]), {"a.tar": b"a"})
    for call in calls(web.url, frames, tmp_path):
        with pytest.raises(InputError, match="credentials") as caught:
            call()
        assert not isinstance(caught.value, RegistryError)


@pytest.mark.parametrize("user", ["t0ken@", "ada:t0ken@"])
def test_an_address_with_a_token_is_refused_before_any_program_is_given_it(web, tools, tmp_path, user, monkeypatch):
    def start(*arguments, **_options):
        raise AssertionError(f"started {arguments}, which everybody on the machine may see")

    monkeypatch.setattr("perception.versioning.processes.subprocess.run", start)
    frames = tools.make_folder(tmp_path / "frames", tools.make_frames(["d0_0"]), {"a.tar": b"a"})
    for call in calls(web.url.replace("://", f"://{user}"), frames, tmp_path):
        with pytest.raises(InputError, match="address holds user information") as caught:
            call()
        assert "t0ken" not in str(caught.value)
    assert git_url("ssh://git@host/data.git") == "ssh://git@host/data.git"


def test_a_push_that_a_rule_forbids_is_bad_input_and_one_whose_server_dies_is_not(registry, tools, tmp_path):
    frames = tools.make_folder(tmp_path / "frames", tools.make_frames(["d0_0"]), {"a.tar": b"a"})
    hook = registry / "hooks" / "pre-receive"
    for does, kind in (("echo 'protected branch' >&2; exit 1", InputError), ("kill -9 $PPID", RegistryError)):
        hook.write_text(f"#!/bin/sh\n{does}\n")
        hook.chmod(0o755)
        with pytest.raises(InputError) as caught:
            publish(registry, "night-1", frames)
        assert type(caught.value) is kind, does
    hook.unlink()
    assert publish(registry, "night-1", frames).run == "night-1"


def resolve_step(tmp_path: Path, registry: str) -> int:
    described = {name: {"artifacts": [{"name": name, "uri": str(tmp_path / name)}]} for name in ("base", "arrivals")}
    values = {
        "step": {"task": "resolve"},
        "registry": registry,
        "remote": str(tmp_path / "remote"),
        "store": str(tmp_path / "s"),
    }
    drawn = {"run": "night", "height_px": 32, "width_px": 64, "seed": 0}
    settings = kfp_step.write_settings(values | {"sources": {}, "batch_count": 1} | drawn)
    outputs = {"artifacts": described, "outputFile": str(tmp_path / "output.json")}
    given = {"inputs": {"parameterValues": {"settings": settings}}, "outputs": outputs}
    return run(["resolve", "--executor-input", json.dumps(given)])


@pytest.mark.parametrize(("status", "code", "tries"), [(503, 1, 3), (404, 2, 1)])
def test_a_step_tries_a_failing_registry_again_and_ends_at_a_missing_one(
    web, tmp_path, monkeypatch, capsys, status, code, tries
):
    monkeypatch.setenv(kfp_step.PAUSES_VARIABLE, "0.01,0.01")
    web.status = status
    assert resolve_step(tmp_path, web.url) == code
    assert web.asked == tries, "git asked more often than once a try"
    said = capsys.readouterr()
    assert "Traceback" not in said.err
    if status == 503:
        assert "cannot be reached" in said.err
