"""The connection to a Kubeflow Pipelines server: where it is, who we are, and errors in words that say what to do."""

import json
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import SplitResult, urlsplit

from perception.errors import InputError, Unreachable

HOST_VARIABLE, UI_VARIABLE = "KFP_HOST", "KFP_UI"
TOKEN_VARIABLE, TOKEN_FILE_VARIABLE = "KFP_TOKEN", "KF_PIPELINES_SA_TOKEN_PATH"
NAMESPACE_VARIABLE = "KFP_NAMESPACE"
CERTIFICATES_VARIABLE = "SSL_CERT_FILE"  # of the authorities that are trusted; the store's client reads it too
TIMEOUT_SECONDS = (5.0, 60.0)  # to connect, to read
PASSING_STATUS = (429, 500, 502, 503, 504)
PAUSES_SECONDS = (1.0, 3.0, 9.0)  # between tries while the server fails
PAGE_SIZE = 100

Result = TypeVar("Result")


class Missing(InputError):
    """Report that the server has no such object."""


@dataclass(frozen=True)
class Server:
    """Hold what the operations of kfp_server_api are called through."""

    host: str
    ui: str
    namespace: str
    client: Any

    def sleep(self, seconds: float) -> None:
        """Wait before the server is asked again."""
        time.sleep(seconds)

    def ask(self, service: str, operation: str, *arguments: Any, **options: Any) -> Any:
        """Call an operation of kfp_server_api, again after a pause while the server fails.

        Only what may be done twice is asked this way; raises Unreachable and InputError.
        """
        for pause in (*PAUSES_SECONDS, None):
            try:
                return self.ask_once(service, operation, *arguments, **options)
            except Unreachable:
                if pause is None:
                    raise
                self.sleep(pause)
        raise AssertionError

    def ask_once(self, service: str, operation: str, *arguments: Any, **options: Any) -> Any:
        """Call an operation of kfp_server_api once."""
        import kfp_server_api
        from kfp_server_api.exceptions import ApiException
        from urllib3.exceptions import HTTPError

        call = getattr(getattr(kfp_server_api, service)(self.client), operation)
        try:
            answered = call(*arguments, _request_timeout=TIMEOUT_SECONDS, **options)
        except ApiException as error:
            raise _in_words(error, self.host) from None
        except AttributeError as error:  # the client stumbles over its own error for a connection that is not secure
            if not isinstance(error.__context__, ApiException):
                raise
            reason = " ".join(str(error.__context__.reason).split())
            raise InputError(
                f"{HOST_VARIABLE}={self.host}: no secure connection ({reason}); set {CERTIFICATES_VARIABLE} to the file of the "
                "authority that signed its certificate"
            ) from None
        except HTTPError as error:
            reason = type(getattr(error, "reason", None) or error).__name__
            raise Unreachable(
                f"{HOST_VARIABLE}={self.host}: cannot be reached ({reason}); check the address and that the port-forward runs"
            ) from None
        if "html" in self.client.last_response.urllib3_response.headers.get("Content-Type", ""):
            raise _no_api(self.host)  # the client would take the page for an answer without content
        return answered

    def every(self, service: str, operation: str, field: str, *arguments: Any, **options: Any) -> Iterator[Any]:
        """Yield every item of a listing, page by page."""
        token = ""
        while True:
            page = self.ask(service, operation, *arguments, page_token=token, page_size=PAGE_SIZE, **options)
            yield from getattr(page, field) or ()
            token = page.next_page_token or ""
            if not token:
                return

    @property
    def scope(self) -> dict[str, str]:
        """Return the option that says in which namespace to look; none on a server for a single user."""
        return {"namespace": self.namespace} if self.namespace else {}

    def named(self, service: str, operation: str, field: str, name: str, *arguments: Any, **options: Any) -> list[Any]:
        """Return every item of a listing that has this display name."""
        listed = self.every(service, operation, field, *arguments, filter=equals(name), **options)
        return [item for item in listed if item.display_name == name]

    def runs(self, **options: Any) -> Iterator[Any]:
        """Yield the runs, the latest first."""
        return self.every("RunServiceApi", "run_service_list_runs", "runs", sort_by="created_at desc", **options)

    def pipelines(self, name: str) -> list[Any]:
        """Return the pipelines of that name."""
        return self.named("PipelineServiceApi", "pipeline_service_list_pipelines", "pipelines", name, **self.scope)

    def run_url(self, run_id: str) -> str:
        """Return where a person looks at a run."""
        return f"{self.ui}/#/runs/details/{run_id}"


def connect(host: str = "", namespace: str = "") -> Server:
    """Return the server that `host` or KFP_HOST names, once it has answered; raises InputError with what to do."""
    import kfp_server_api

    address = (host or os.environ.get(HOST_VARIABLE, "")).rstrip("/")
    if not address:
        raise InputError(
            f"{HOST_VARIABLE} is not set; run `kubectl port-forward --namespace kubeflow service/ml-pipeline-ui 8080:80` "
            f"in another terminal and set {HOST_VARIABLE}=http://localhost:8080"
        )
    parts = urlsplit(address)
    if "@" in address:  # never shown: it is a password more often than not
        raise InputError(f"{HOST_VARIABLE} holds user information; leave it out, and set {TOKEN_VARIABLE} to a token")
    if parts.scheme not in ("http", "https") or not parts.netloc or not _has_sound_port(parts):
        raise InputError(f"{HOST_VARIABLE}={address}: must be http://HOST or https://HOST; correct it")
    configuration = kfp_server_api.Configuration(host=address)
    configuration.retries = False
    configuration.ssl_ca_cert = os.environ.get(CERTIFICATES_VARIABLE)
    if _token():
        _take_token(configuration)
        configuration.api_key_prefix["authorization"] = "Bearer"
        configuration.refresh_api_key_hook = _take_token
    client = kfp_server_api.ApiClient(configuration)
    space = namespace or os.environ.get(NAMESPACE_VARIABLE, "")
    server = Server(address, os.environ.get(UI_VARIABLE, address).rstrip("/"), space, client)
    if server.ask("HealthzServiceApi", "healthz_service_get_healthz").multi_user and not space:
        raise InputError(
            f"{HOST_VARIABLE}={address}: is for many users and asks for a namespace; set {NAMESPACE_VARIABLE} to yours"
        )
    return server


def equals(name: str) -> str:
    """Return the filter for the object of a display name."""
    predicate = {"operation": "EQUALS", "key": "display_name", "stringValue": name}
    return json.dumps({"predicates": [predicate]})


def _has_sound_port(parts: SplitResult) -> bool:
    try:
        return parts.port != 0
    except ValueError:
        return False


def _take_token(configuration: Any) -> None:
    """Have the next request bear the token as it is now: one in a file is replaced before it expires."""
    configuration.api_key["authorization"] = _token()


def _token() -> str:
    file = os.environ.get(TOKEN_FILE_VARIABLE)
    if not file:
        return os.environ.get(TOKEN_VARIABLE, "")
    try:
        return Path(file).read_text().strip()
    except OSError as error:
        raise InputError(f"{TOKEN_FILE_VARIABLE}={file}: cannot be read ({error.strerror}); correct it") from None


def _no_api(host: str) -> InputError:
    return InputError(
        f"{HOST_VARIABLE}={host}: answers with a page, as for signing in, and not as Kubeflow Pipelines' API; set {TOKEN_VARIABLE} to a "
        "valid token, or check the address"
    )


def _in_words(error: Any, host: str) -> InputError:
    """Return what an HTTP error means to a person."""
    if 300 <= error.status < 400:
        return _no_api(host)
    if error.status == 401:
        return InputError(f"{HOST_VARIABLE}={host}: does not know us (401); set {TOKEN_VARIABLE} to a valid token")
    if error.status == 403:
        return InputError(
            f"{HOST_VARIABLE}={host}: forbids it (403); ask for the role nightdrive-submitter in the namespace, or set "
            f"{NAMESPACE_VARIABLE}"
        )
    said = _said(error.body)
    if error.status in PASSING_STATUS:
        return Unreachable(
            f"{HOST_VARIABLE}={host}: the server failed ({error.status}: {said}); see its log, try again"
        )
    if error.status == 404 and not said:
        return InputError(f"{HOST_VARIABLE}={host}: has no Kubeflow Pipelines API (404); check the address")
    kind = Missing if error.status == 404 else InputError
    return kind(f"{HOST_VARIABLE}={host}: refused the request ({error.status}: {said}); correct it")


def _said(body: Any) -> str:
    text = body.decode(errors="replace") if isinstance(body, bytes) else str(body or "")
    try:
        found = json.loads(text)
        return str(found.get("error_message") or found.get("message") or found.get("error") or "")
    except (ValueError, AttributeError):
        return ""
