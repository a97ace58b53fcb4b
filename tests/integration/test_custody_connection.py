"""Tokens that end, servers that are sealed, gone or not Vault at all; on a real OpenBao and on impostors."""

from __future__ import annotations

import datetime as dt
import ipaddress
import re
import socket
import ssl
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import hvac
import pytest
import requests
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

import dev_vault
from cloudpush.credentials.connection import VaultConnection, _Login
from cloudpush.credentials.kinds import parse
from cloudpush.credentials.vault import Keeper, Sealer, Vault
from cloudpush.errors import CloudPushError, Code, VaultError
from cloudpush.push.job import Secret
from cloudpush.settings import Settings

SECRET = parse("access_key", {"access_key_id": "AKCANARYID", "secret_access_key": "canary/secret"})
TTL = 3600.0


class Clock:
    """Seconds, moved by hand."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Worker:
    """The role worker with a clock of its own and one sealed credential; ``asked`` are the paths it requested."""

    def __init__(self, settings: Settings) -> None:
        self.clock = Clock()
        self.connection = VaultConnection(settings, "worker", clock=self.clock)
        self.vault = Vault(self.connection)
        self.credential_id = uuid4()
        self.asked: list[str] = []
        intake = VaultConnection(settings, "intake")
        Sealer(intake).seal(self.credential_id, "ada", SECRET)
        intake.close()
        adapter = self.connection._client.adapter
        adapter.session.hooks["response"].append(lambda answer, **_: self.asked.append(answer.request.path_url))

    @property
    def token(self) -> str:
        return str(self.connection._client.token)

    def unseal(self) -> Secret:
        return self.vault.unseal(self.credential_id, "ada", "access_key")

    def asked_about_tokens(self) -> list[str]:
        """The last words of the paths that concern the token, and forget them."""
        found = [p.rpartition("/")[2] for p in self.asked if p.startswith("/v1/auth/")]
        self.asked.clear()
        return found


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dev_vault.DevVault]:
    with dev_vault.running(tmp_path_factory.mktemp("bao") / "dev") as running:
        yield running


@pytest.fixture
def worker(server: dev_vault.DevVault) -> Iterator[Worker]:
    made = Worker(server.settings)
    yield made
    made.connection.close()


def code_of(act: Callable[[], object]) -> Code:
    with pytest.raises(CloudPushError) as caught:
        act()
    told = "".join(traceback.format_exception(caught.value))
    assert re.findall(r"canary|\bs\.[A-Za-z0-9]{20,}", told) == []
    return caught.value.code


def test_one_login_serves_many_requests(worker: Worker) -> None:
    """A token is asked for once and kept."""
    assert [worker.unseal() for _ in range(3)] == [SECRET] * 3
    assert worker.asked_about_tokens() == ["login"]


def test_token_is_renewed_at_two_thirds_of_its_life(worker: Worker) -> None:
    """Not before, then once, and the token stays the same."""
    worker.unseal()
    first, steps = worker.token, []
    for seconds in (TTL * 0.6, TTL * 0.1, TTL * 0.1, TTL * 0.6):
        worker.asked.clear()
        worker.clock.now += seconds
        worker.unseal()
        steps.append(worker.asked_about_tokens())

    assert (steps, worker.token) == ([[], ["renew-self"], [], ["renew-self"]], first)


def test_ended_token_is_replaced_by_a_login(worker: Worker) -> None:
    """A worker that slept through its token's life logs in again."""
    worker.unseal()
    worker.asked.clear()

    worker.clock.now += TTL + 1

    assert (worker.unseal(), worker.asked_about_tokens()) == (SECRET, ["login"])


def test_token_near_its_greatest_age_is_replaced(server: dev_vault.DevVault) -> None:
    """Where renewing gives ever less, a login gives a whole life."""
    server.root.auth.approle.create_or_update_approle("worker", token_policies=["worker"], token_ttl=1, token_max_ttl=2)
    try:
        worker = Worker(server.settings)
        worker.unseal()
        first = worker.token
        # The server's clock is real: this token has about 2 s in all, and ours says that it is old.
        worker.connection._login = _stretched(worker.connection, by=100.0)
        worker.clock.now += 90

        assert (worker.unseal(), worker.token == first) == (SECRET, False)
    finally:
        server.root.auth.approle.create_or_update_approle(
            "worker", token_policies=["worker"], token_ttl=int(TTL), token_max_ttl=0
        )


def _stretched(connection: VaultConnection, *, by: float) -> _Login:
    login = connection._login
    assert login is not None
    return type(login)(
        login.token, login.at, login.life * by, login.at + login.life * by * 0.6, login.at + login.life * by
    )


def test_revoked_token_is_replaced_and_the_request_repeated(server: dev_vault.DevVault, worker: Worker) -> None:
    """The caller sees nothing of it."""
    worker.unseal()
    worker.asked.clear()

    server.root.auth.token.revoke(worker.token)

    assert (worker.unseal(), worker.asked_about_tokens()) == (SECRET, ["lookup-self", "login"])


def test_revoked_token_is_replaced_once_for_all_threads(server: dev_vault.DevVault, worker: Worker) -> None:
    """Many threads that find their token dead log in once."""
    worker.unseal()
    worker.asked.clear()
    server.root.auth.token.revoke(worker.token)
    start = threading.Barrier(8)

    def unseal(_: int) -> Secret:
        start.wait()
        return worker.unseal()

    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(unseal, range(8)))

    assert (found, worker.asked_about_tokens().count("login")) == ([SECRET] * 8, 1)


def test_closed_connection_gives_its_token_back(server: dev_vault.DevVault, worker: Worker) -> None:
    """A short command leaves no token behind; the connection could be used again all the same."""
    worker.unseal()
    token = worker.token

    worker.connection.close()

    with pytest.raises(hvac.exceptions.VaultError):
        server.root.auth.token.lookup(token)
    assert worker.unseal() == SECRET


def test_replaced_secret_id_needs_no_restart(server: dev_vault.DevVault, worker: Worker) -> None:
    """The role's files are read at each login."""
    worker.unseal()
    secret_id = server.root.auth.approle.generate_secret_id("worker")["data"]["secret_id"]
    (server.settings.vault_auth_dir / "worker-secret-id").write_text(secret_id + "\n")
    server.root.auth.token.revoke(worker.token)

    assert worker.unseal() == SECRET


def test_right_that_is_missing_is_denied_without_a_new_login(server: dev_vault.DevVault) -> None:
    """A fresh token that lives and is refused is refused by policy: no storm of logins."""
    worker = Worker(server.settings)
    worker.unseal()
    worker.asked.clear()

    code = code_of(lambda: Keeper(worker.connection).purge(worker.credential_id))

    assert (code, worker.asked_about_tokens()) == (Code.VAULT_DENIED, ["lookup-self"])


def test_role_that_got_its_policy_later_is_served_without_restart(server: dev_vault.DevVault) -> None:
    """A refused token that is some minutes old is replaced, since its role may have changed."""
    server.root.auth.approle.create_or_update_approle("worker", token_policies=["nothing"], token_ttl=int(TTL))
    try:
        worker = Worker(server.settings)
        before = code_of(worker.unseal)
        server.root.auth.approle.create_or_update_approle("worker", token_policies=["worker"], token_ttl=int(TTL))
        worker.clock.now += 120

        assert (before, worker.unseal()) == (Code.VAULT_DENIED, SECRET)
    finally:
        server.root.auth.approle.create_or_update_approle("worker", token_policies=["worker"], token_ttl=int(TTL))


@pytest.mark.parametrize("content", ["wrong", "", None], ids=["wrong", "empty", "missing"])
def test_role_that_cannot_log_in_is_denied(
    server: dev_vault.DevVault, tmp_path: Path, content: str | None, worker: Worker
) -> None:
    """A wrong or missing secret id is the operator's matter, and never says that the credential is bad."""
    (tmp_path / "worker-role-id").write_text((server.settings.vault_auth_dir / "worker-role-id").read_text())
    if content is not None:
        (tmp_path / "worker-secret-id").write_text(content)
    vault = Vault(VaultConnection(server.settings.model_copy(update={"vault_auth_dir": tmp_path}), "worker"))

    with pytest.raises(VaultError, match=r"VAULT_DENIED: .*(login of the role worker|role worker cannot log in)"):
        vault.unseal(worker.credential_id, "ada", "access_key")


@pytest.mark.parametrize(
    "setting",
    [{"vault_kv_mount": "elsewhere"}, {"vault_transit_mount": "elsewhere"}, {"vault_transit_key": "another"}],
    ids=str,
)
def test_missing_mount_or_key_is_no_fault_of_the_credential(
    server: dev_vault.DevVault, worker: Worker, setting: dict[str, str]
) -> None:
    """A mount that is not there is told as denied, which is retried, not as purged or corrupt, which is final."""
    server.root.sys.create_or_update_acl_policy("all", 'path "*" { capabilities = ["read", "update"] }')
    connection = VaultConnection(server.settings.model_copy(update=setting), "worker")
    server.root.auth.approle.create_or_update_approle("worker", token_policies=["all"], token_ttl=int(TTL))
    try:
        assert code_of(lambda: Vault(connection).unseal(worker.credential_id, "ada", "access_key")) is Code.VAULT_DENIED
    finally:
        server.root.auth.approle.create_or_update_approle("worker", token_policies=["worker"], token_ttl=int(TTL))


def test_unseal_survives_a_rotation_between_its_two_requests(server: dev_vault.DevVault, worker: Worker) -> None:
    """A blob that is rewrapped, and whose old key is retired, just after it was read is read again."""
    worker.unseal()
    keeper = Keeper(VaultConnection(server.settings, "keeper"))
    meant: list[UUID] = [worker.credential_id]

    def rotate(answer: requests.Response, **_: Any) -> None:
        if meant and "/data/credentials/" in answer.request.path_url:
            version = keeper.rotate()
            keeper.rewrap(meant.pop(), "ada", "access_key", version)
            keeper.retire(version)

    worker.connection._client.adapter.session.hooks["response"].append(rotate)

    assert (worker.unseal(), meant) == (SECRET, [])


def test_no_older_wrapping_survives_a_rewrap(server: dev_vault.DevVault, worker: Worker) -> None:
    """The KV store keeps one version: what the old key wrapped is gone from its history."""
    keeper = Keeper(VaultConnection(server.settings, "keeper"))

    for _ in range(2):
        keeper.rewrap(worker.credential_id, "ada", "access_key", keeper.rotate())

    kv = server.root.secrets.kv.v2
    metadata = kv.read_secret_metadata(f"credentials/{worker.credential_id}", mount_point="cloudpush")["data"]
    assert (list(metadata["versions"]), metadata["max_versions"]) == (["3"], 1)


def test_environment_cannot_divert_requests(
    server: dev_vault.DevVault, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Proxies, CA bundles, tokens, netrc files and Vault's own variables are not read."""
    nowhere = "http://127.0.0.1:9"
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login u password p\n")
    (tmp_path / ".vault-token").write_text("wrong")
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "VAULT_ADDR"):
        monkeypatch.setenv(name, nowhere)
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "VAULT_TOKEN", "VAULT_NAMESPACE"):
        monkeypatch.setenv(name, "wrong")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("HOME", str(tmp_path))

    assert Worker(server.settings).unseal() == SECRET


def test_sealed_vault_is_retryable_under_its_own_code(tmp_path: Path) -> None:
    """A sealed server is told from one that is gone; a live token changes nothing."""
    with dev_vault.running(tmp_path / "bao") as server:
        worker = Worker(server.settings)
        worker.unseal()
        server.root.sys.seal()

        codes = [code_of(worker.unseal), code_of(VaultConnection(server.settings, "worker").check)]

    assert codes == [Code.VAULT_SEALED, Code.VAULT_SEALED]


def test_killed_vault_is_unreachable(tmp_path: Path) -> None:
    """A kept-alive connection that breaks, and one that cannot be made, mean the same."""
    with dev_vault.running(tmp_path / "bao") as server:
        worker = Worker(server.settings)
        worker.unseal()
        server.process.kill()
        server.process.wait()

        codes = [code_of(worker.unseal), code_of(worker.unseal)]
        worker.connection.close()

    assert codes == [Code.VAULT_UNREACHABLE] * 2


def test_renewal_that_fails_in_an_outage_keeps_the_token(tmp_path: Path) -> None:
    """While the token lives, an outage is an outage; afterwards the same token goes on."""
    with dev_vault.running(tmp_path / "bao") as server:
        worker = Worker(server.settings)
        worker.unseal()
        token, port = worker.token, worker.connection._client.url
        worker.clock.now += TTL * 0.7
        worker.connection._client.url = "http://127.0.0.1:9"
        code = code_of(worker.unseal)
        worker.connection._client.url = port
        worker.clock.now += 10

        assert (code, worker.unseal(), worker.token == token) == (Code.VAULT_UNREACHABLE, SECRET, True)


@contextmanager
def impostor(answer: Callable[[BaseHTTPRequestHandler], None], tls: ssl.SSLContext | None = None) -> Iterator[Settings]:
    """Something that is not a Vault in good health, and settings that lead to it."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            answer(self)

        do_POST = do_GET  # noqa: N815 - http.server calls it so

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    if tls:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        scheme = "https" if tls else "http"
        yield Settings(vault_url=f"{scheme}://127.0.0.1:{server.server_port}")
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def replying(status: int, body: str, kind: str = "application/json", **headers: str) -> Callable[[Any], None]:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        for name, value in {"Content-Type": kind, "Content-Length": str(len(body)), **headers}.items():
            handler.send_header(name, value)
        handler.end_headers()
        handler.wfile.write(body.encode())

    return answer


def logged_in(settings: Settings) -> Vault:
    """A vault that believes to have a token, so that the answer meets a request for a secret."""
    connection = VaultConnection(settings, "worker")
    auth = {"client_token": "s.canary", "lease_duration": 3600, "renewable": True}
    connection._adopt(_Login.of(auth, time.monotonic()))
    return Vault(connection)


#: Who answers, how, and what that means.
ANSWERS: dict[str, tuple[Callable[[Any], None], Code]] = {
    "sealed": (replying(503, '{"errors":["Vault is sealed"]}'), Code.VAULT_SEALED),
    "uninitialised": (replying(501, '{"errors":["not initialised"]}'), Code.VAULT_SEALED),
    "proxy": (replying(503, "<html>no backend</html>", "text/html"), Code.VAULT_UNREACHABLE),
    "standby": (replying(503, '{"errors":["no active node"]}'), Code.VAULT_UNREACHABLE),
    "defect": (replying(500, '{"errors":["internal error"]}'), Code.VAULT_UNREACHABLE),
    "gateway": (replying(502, "bad gateway", "text/plain"), Code.VAULT_UNREACHABLE),
    "rate limit": (replying(429, '{"errors":["rate limit"]}'), Code.VAULT_UNREACHABLE),
    "lagging": (replying(412, '{"errors":["required index state not present"]}'), Code.VAULT_UNREACHABLE),
    "web server": (replying(404, "not found", "text/plain"), Code.VAULT_UNREACHABLE),
    "TLS port": (
        replying(400, "Client sent an HTTP request to an HTTPS server.", "text/plain"),
        Code.VAULT_UNREACHABLE,
    ),
    "login page": (replying(200, "<html>login</html>", "text/html"), Code.VAULT_UNREACHABLE),
    "redirect": (replying(307, "", Location="http://127.0.0.1:9/v1/secret"), Code.VAULT_UNREACHABLE),
    "no mount": (replying(404, '{"errors":["no handler for route \\"x\\""]}'), Code.VAULT_DENIED),
    "absent": (replying(404, '{"errors":[]}'), Code.CREDENTIAL_PURGED),
    "deleted": (replying(404, '{"data":{"data":null,"metadata":{"deletion_time":"x"}}}'), Code.CREDENTIAL_PURGED),
}


@pytest.mark.parametrize("who", ANSWERS)
def test_answer_is_translated_by_what_it_proves(who: str) -> None:
    """Only Vault's own word that nothing is there makes a credential purged; all else is retried."""
    answer, code = ANSWERS[who]
    with impostor(answer) as settings:
        vault = logged_in(settings)

        assert code_of(lambda: vault.unseal(uuid4(), "ada", "access_key")) is code


def self_signed(directory: Path) -> tuple[Path, ssl.SSLContext]:
    """A certificate for 127.0.0.1 that no one knows, and a server's context with it."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "vault")])
    now = dt.datetime.now(dt.UTC)
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(hours=1))
        .not_valid_after(now + dt.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    certificate, private = directory / "certificate.pem", directory / "key.pem"
    certificate.write_bytes(made.public_bytes(Encoding.PEM))
    private.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate, private)
    return certificate, tls


def test_certificate_that_is_not_trusted_is_unreachable(tmp_path: Path) -> None:
    """TLS is verified against CLOUDPUSH_VAULT_CA_FILE or the system's store, never waived."""
    certificate, tls = self_signed(tmp_path)
    with impostor(replying(404, '{"errors":[]}'), tls) as settings:
        by_system = logged_in(settings)
        by_file = logged_in(settings.model_copy(update={"vault_ca_file": certificate}))
        by_nothing = logged_in(settings.model_copy(update={"vault_ca_file": tmp_path / "missing"}))

        codes = [code_of(partial(v.unseal, uuid4(), "ada", "access_key")) for v in (by_system, by_file, by_nothing)]

    assert codes == [Code.VAULT_UNREACHABLE, Code.CREDENTIAL_PURGED, Code.VAULT_UNREACHABLE]


def test_exceptions_carry_no_request_along() -> None:
    """The chained library error holds neither the request's body nor its token."""
    with socket.socket() as nobody_listens:
        nobody_listens.bind(("127.0.0.1", 0))
        vault = logged_in(Settings(vault_url=f"http://127.0.0.1:{nobody_listens.getsockname()[1]}"))
        with pytest.raises(VaultError) as caught:
            vault.unseal(uuid4(), "ada", "access_key")

    cause = caught.value.__cause__
    assert isinstance(cause, requests.ConnectionError)
    assert (cause.request, cause.response) == (None, None)
