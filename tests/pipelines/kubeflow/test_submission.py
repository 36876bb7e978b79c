"""Submitting, following, scheduling, cancelling and looking first, against a server that speaks the real API's operations."""

import re
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from ipaddress import ip_address
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from perception.errors import InputError, Unreachable
from perception.versioning.repository import create_registry
from perception.versioning.trust import set_signers
from pipelines.commands.program import main
from pipelines.kubeflow import images, submit
from pipelines.kubeflow.kfp_api import connect
from pipelines.kubeflow.submit import moved_anchor
from pipelines.nightly import nightly
from pipelines.settings import load_settings
from tests.perception.versioning.signing import Keys
from tests.pipelines.kubeflow.night_runs import run_of
from tests.pipelines.kubeflow.stub_server import Stub, operations

UPLOAD = ("POST", "/apis/v2beta1/pipelines/upload_version")
CREATE_PIPELINE = ("POST", "/apis/v2beta1/pipelines")
CREATE_RUN = ("POST", "/apis/v2beta1/runs")
GET_RUN = ("GET", "/apis/v2beta1/runs/{run_id}")
LIST_PIPELINES = ("GET", "/apis/v2beta1/pipelines")
CREATE_SCHEDULE = ("POST", "/apis/v2beta1/recurringruns")
DELETE_SCHEDULE = ("DELETE", "/apis/v2beta1/recurringruns/{recurring_run_id}")
DISABLE_SCHEDULE = ("POST", "/apis/v2beta1/recurringruns/{recurring_run_id}:disable")


def test_the_client_has_the_operations_that_we_know_of() -> None:
    assert len(operations()) == 40
    assert {UPLOAD, CREATE_PIPELINE, CREATE_RUN, GET_RUN, CREATE_SCHEDULE, DELETE_SCHEDULE} <= operations()


# ---------------------------------------------------------------- versions and runs


def test_a_first_upload_creates_pipeline_and_version_and_the_same_again_changes_nothing(
    stub: Stub, package: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server = connect()
    first = submit.upload(server, package)
    assert (stub.count(*CREATE_PIPELINE), stub.count(*UPLOAD)) == (1, 1)
    assert submit.upload(server, package) == first
    assert (stub.count(*CREATE_PIPELINE), stub.count(*UPLOAD)) == (1, 1)
    said = capsys.readouterr().out
    assert "pipeline nightdrive: created" in said
    assert re.search(r"version nightdrive-[0-9a-f]{12}: uploaded", said)
    assert "is there already" in said


def test_other_content_is_a_second_version_of_the_same_pipeline(stub: Stub, package: Path, tmp_path: Path) -> None:
    server = connect()
    pipeline, version = submit.upload(server, package)
    other = tmp_path / "other.yaml"
    other.write_text(package.read_text() + "\n")
    assert submit.upload(server, other)[0] == pipeline
    assert submit.upload(server, other)[1] != version
    assert (stub.count(*CREATE_PIPELINE), stub.count(*UPLOAD)) == (1, 2)


def test_a_run_is_started_once_from_the_version(stub: Stub, package: Path) -> None:
    server = connect()
    pipeline, version = submit.upload(server, package)
    run_id = submit.start(server, pipeline, version)
    run = stub.objects["runs"][run_id]
    assert run["pipeline_version_reference"] == {"pipeline_id": pipeline, "pipeline_version_id": version}
    assert not run.get("runtime_config"), "what a night is told is compiled into its version"
    assert run["service_account"] == "nightdrive-runner"
    assert stub.objects["experiments"][run["experiment_id"]]["display_name"] == "nightdrive"
    submit.start(server, pipeline, version)
    assert len(stub.objects["experiments"]) == 1


def test_an_error_500_and_then_fine_is_no_error(stub: Stub, package: Path) -> None:
    server = connect()
    stub.failures = {LIST_PIPELINES: [500], CREATE_PIPELINE: [503], UPLOAD: [500], CREATE_RUN: [502, 500]}
    pipeline, version = submit.upload(server, package)
    submit.start(server, pipeline, version)
    assert [len(stub.objects[kind]) for kind in ("pipelines", "versions", "runs")] == [1, 1, 1]


def test_a_server_that_fails_after_it_did_what_it_was_asked_does_not_do_it_twice(stub: Stub, package: Path) -> None:
    server = connect()
    stub.fail_after_doing = True
    stub.failures = {CREATE_PIPELINE: [500], UPLOAD: [500], CREATE_RUN: [500]}
    pipeline, version = submit.upload(server, package)
    submit.start(server, pipeline, version)
    assert [len(stub.objects[kind]) for kind in ("pipelines", "versions", "runs")] == [1, 1, 1]


def test_a_server_that_keeps_failing_is_said_to_fail(stub: Stub, package: Path) -> None:
    server = connect()
    stub.failures = {LIST_PIPELINES: [500] * 10}
    with pytest.raises(Unreachable, match=r"the server failed \(500: the database is away\); see its log, try again"):
        submit.upload(server, package)


# ---------------------------------------------------------------- the connection


@pytest.mark.parametrize(
    ("host", "code", "said"),
    [
        ("", 2, "kubectl port-forward"),
        ("localhost:8080", 2, "must be http://HOST or https://HOST"),
        ("http://127.0.0.1:99999", 2, "must be http://HOST or https://HOST"),
        ("https://ada:s3cret@kfp.example", 2, "holds user information"),
        ("http://127.0.0.1:9", 1, "cannot be reached"),
        ("http://no-such-host.invalid", 1, "cannot be reached"),
    ],
)
def test_a_wrong_address_says_what_to_do(
    stub: Stub, monkeypatch: pytest.MonkeyPatch, host: str, code: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit code 2 is the caller's mistake; 1 is a server that may be there later."""
    monkeypatch.setenv("KFP_HOST", host)
    for arguments in (["pipeline-submit", "--no-preflight"], ["pipeline-status"], ["schedule"]):
        assert main(arguments) == code
        lines = capsys.readouterr().err.strip().splitlines()
        assert len(lines) == 1
        assert said in lines[0]
        assert "s3cret" not in lines[0]
    assert not stub.calls


def test_an_address_without_the_api_is_said_so(stub: Stub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KFP_HOST", stub.url + "/elsewhere")
    with pytest.raises(InputError, match="404"):
        connect()


@contextmanager
def serving(server: HTTPServer) -> Iterator[int]:
    """Serve while the block lasts; give the port."""
    thread = Thread(target=server.serve_forever, args=[0.01], daemon=True)
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture(params=[200, 302])
def sign_in(request: pytest.FixtureRequest) -> Iterator[str]:
    """A gateway that answers every call with a page to sign in, or leads to one."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(request.param)
            self.send_header("Content-Type", "text/html; charset=utf-8")
            self.send_header("Location", "/sign-in")
            self.end_headers()
            self.wfile.write(b"<html>sign in</html>")

        def log_message(self, *_: Any) -> None:
            pass

    with serving(HTTPServer(("127.0.0.1", 0), Handler)) as port:
        yield f"http://127.0.0.1:{port}"


def test_a_page_to_sign_in_is_no_answer_of_the_server(
    sign_in: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The client takes it for an answer without content: no run, no schedule, nothing for the watch to do."""
    monkeypatch.setenv("KFP_HOST", sign_in)
    for arguments in (["watch", "--once"], ["pipeline-status"], ["schedule", "--dry-run"]):
        assert main(arguments) == 2
        assert "answers with a page" in capsys.readouterr().err


def certificate(folder: Path) -> Path:
    """Write a certificate of 127.0.0.1 that nobody but itself vouches for, and its key, into one file."""
    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.now(UTC)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "kfp")])
    alternative = x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))])
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number(), now, now + timedelta(days=1))
        .add_extension(alternative, critical=False)
        .sign(key, hashes.SHA256())
    )
    form = (Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    target = folder / "certificate.pem"
    target.write_bytes(key.private_bytes(*form) + made.public_bytes(Encoding.PEM))
    return target


def test_an_authority_of_ones_own_is_named_by_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"{}")

        def log_message(self, *_: Any) -> None:
            pass

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate(tmp_path))
    server = HTTPServer(("127.0.0.1", 0), Handler)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    with serving(server) as port:
        with pytest.raises(InputError, match=r"CERTIFICATE_VERIFY_FAILED.* set SSL_CERT_FILE"):
            connect(f"https://127.0.0.1:{port}")
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "certificate.pem"))
        assert connect(f"https://127.0.0.1:{port}").host


def test_a_wrong_token_says_which_variable_to_set_and_never_shows_it(
    stub: Stub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    stub.token = "right"
    monkeypatch.setenv("KFP_TOKEN", "wrong-secret")
    with pytest.raises(InputError, match="set KFP_TOKEN to a valid token") as caught:
        connect()
    assert "wrong-secret" not in str(caught.value)
    (tmp_path / "token").write_text("right\n")
    monkeypatch.setenv("KF_PIPELINES_SA_TOKEN_PATH", str(tmp_path / "token"))
    server = connect()
    stub.token = "the next one"
    (tmp_path / "token").write_text(stub.token)
    assert list(server.runs()) == [], "a token in a file is good for an hour, a night goes on"


def test_a_server_for_many_users_that_is_given_no_namespace_names_the_variable_before_anything_is_made(
    stub: Stub, capsys: pytest.CaptureFixture[str]
) -> None:
    stub.multi_user = True
    for arguments in (["pipeline-submit", "--no-preflight", "--profile", "smoke"], ["schedule"], ["pipeline-status"]):
        assert main(arguments) == 2
        assert "set KFP_NAMESPACE to yours" in capsys.readouterr().err
    assert not any(stub.objects.values()), "a pipeline uploaded without a namespace is everybody's"


# ---------------------------------------------------------------- following, status, cancelling


def test_submit_from_end_to_end(
    stub: Stub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(images, "DIGESTS_FILE", tmp_path / "none.json")
    stub.next_states = [run_of("RUNNING", ("ingest", "RUNNING")), run_of("SUCCEEDED", ("ingest", "SUCCEEDED"))]
    assert main(["pipeline-submit", "--no-preflight", "--set", "select.budget_frames=5"]) == 0
    said = capsys.readouterr().out
    assert f"run run-1: {stub.url}/#/runs/details/run-1" in said
    assert re.search(r"  ingest +SUCCEEDED", said)


def test_submit_holds_the_night_to_the_registry_of_today(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keys = Keys(tmp_path).make()
    create_registry(tmp_path / "registry.git", str(tmp_path / "remote"))
    assert moved_anchor("smoke", [f"common.registry={tmp_path / 'registry.git'}"]) == [], (
        "an unsigned registry is not asked"
    )
    keys.sign_as(monkeypatch, "owner")
    address = set_signers(str(tmp_path / "registry.git"), keys.listed())
    later = set_signers(address, keys.listed(bob=""))
    (moved,) = moved_anchor("smoke", [f"common.registry={address}&days=9"])
    assert moved == f"common.registry={later}&days=9" != f"common.registry={address}&days=9"
    settings = [load_settings(nightly(), "smoke", [each]) for each in (f"common.registry={address}", moved)]
    assert [each["publish"]["registry"] for each in settings] == [address, f"{later}&days=9"]
    assert settings[0]["gather"]["settings_sha256"] == settings[1]["gather"]["settings_sha256"], "no news by itself"
