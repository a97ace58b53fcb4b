"""The OpenBao of Compose, as an operator sets it up: the page's commands make its files, `deploy/openbao` configures it, and the
scripts there bring a server of an older version up to this one.

Nothing of it is copied here: the commands are read from docs/operations.md, and the configuration is the one that is shipped,
with the paths and the address of its container exchanged for those of a scratch directory.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import requests

from cloudpush.cli import doctor
from cloudpush.settings import Settings
from cloudpush.stack import binaries
from cloudpush.stack.ports import free_ports

ROOT = Path(__file__).parents[2]
OWN = ROOT / "deploy" / "openbao"
POLICIES = ROOT / "config" / "vault" / "policies"
PAGE = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
ROLES = ("worker", "intake", "keeper", "web", "notary")
START_SECONDS = 60
#: What each script adds, as words in the paths of `server.hcl` and `operator.hcl`: a server of before is one without.
NOTARY = ("notary", "cloudpush-audit", "cloudpush-submission")
WEB = ("web", "cloudpush-issuer")

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="the page makes certificates with openssl")


@dataclass(frozen=True)
class Installation:
    """One machine: its secrets, its server, and a shell in the place of `docker compose run --rm vault`."""

    home: Path
    url: str

    @property
    def secrets(self) -> Path:
        return self.home / "etc"

    @property
    def settings(self) -> Settings:
        return Settings(
            vault_url=self.url, vault_auth_dir=self.secrets, vault_ca_file=self.secrets / "vault-ca.pem", web_url=""
        )

    def sh(self, script: str, *, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run ``script`` as the operator, who has logged in as the container's entry point does."""
        login = f"""bao write -field=token auth/approle/login role_id=@{self.secrets}/operator-role-id \
            secret_id=@{self.secrets}/operator-secret-id | bao login -no-print -"""
        done = subprocess.run(  # noqa: PLW1510 - `check` is ours, and says what was answered
            ["sh", "-euc", f"{login}\n{script}"],
            env=self.environment,
            cwd=self.home,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0 or not check, done.stdout + done.stderr
        return done

    @property
    def environment(self) -> dict[str, str]:
        return {
            "HOME": str(self.home),
            "PATH": f"{binaries.openbao().parent}:{os.defpath}",
            "BAO_ADDR": self.url,
            "BAO_CACERT": str(self.secrets / "vault-ca.pem"),
            "POLICIES": str(POLICIES),
            "OWN": str(OWN),
            "SECRETS_DIR": str(self.secrets),
        }

    def policies(self) -> None:
        """The service `policies`, which runs at each start."""
        self.sh(f'for role in {" ".join(ROLES)}; do bao policy write cloudpush-$role "$POLICIES/$role.hcl"; done')

    def findings(self) -> dict[str, str]:
        """What `cloudpush doctor` says about each role."""
        return {check.part: str(check.finding) for check in doctor._vault(self.settings)}


ALL_WELL = {f"vault {role}": "ok" for role in ROLES}


def make_secrets(directory: Path) -> None:
    """By the page's own commands; the certificate is for loopback as well."""
    block = PAGE.partition("### Secrets")[2].partition("```console\n")[2].partition("```")[0]
    commands = re.sub(r"(?m)^# ", "", block).replace("/etc/cloudpush", str(directory))
    commands = commands.replace("DNS:openbao", "DNS:openbao,IP:127.0.0.1")
    subprocess.run(["bash", "-euo", "pipefail", "-c", commands], check=True, capture_output=True, timeout=60)


def without(hcl: str, words: tuple[str, ...], block: str) -> str:
    """``hcl`` as an older version had it: no ``block`` whose path has one of ``words`` in it."""
    pattern = re.compile(rf"(?ms)^( *){block} [^\n]*{{\n.*?^\1}}\n")
    named = re.compile(rf"(?<![\w])(?:cloudpush-)?(?:{'|'.join(words)})(?![\w-])")

    def keep(match: re.Match[str]) -> str:
        paths = re.findall(r'path +(?:= +)?"([^"]+)"', match[0])
        return "" if named.search(paths[0]) else match[0]

    return pattern.sub(keep, hcl)


@contextmanager
def installed(home: Path, *, older_than: tuple[str, ...] = ()) -> Iterator[Installation]:
    """A running server: of this version, or of one before ``older_than`` came."""
    home.mkdir()
    make_secrets(home / "etc")
    (home / "raft").mkdir()
    api, cluster = free_ports(2)
    text, operator = ((OWN / name).read_text(encoding="utf-8") for name in ("server.hcl", "operator.hcl"))
    if older_than:
        text, operator = without(text, older_than, "request"), without(operator, older_than, "path")
    (home / "operator.hcl").write_text(operator)
    for theirs, ours in (
        ("/run/secrets", str(home / "etc")),
        ("/openbao/file", str(home / "raft")),
        ("/etc/openbao/operator.hcl", str(home / "operator.hcl")),
        ("0.0.0.0:8200", f"127.0.0.1:{api}"),
        ("https://openbao:8200", f"https://127.0.0.1:{api}"),
        ("https://openbao:8201", f"https://127.0.0.1:{cluster}"),
    ):
        assert theirs in text
        text = text.replace(theirs, ours)
    (home / "server.hcl").write_text(text)
    place = Installation(home, f"https://127.0.0.1:{api}")
    with (home / "log").open("wb") as log:
        server = subprocess.Popen(
            [binaries.openbao(), "server", f"-config={home / 'server.hcl'}"],
            env=place.environment,
            stdout=log,
            stderr=log,
        )
    try:
        _await(place, server)
        yield place
    finally:
        server.terminate()
        server.wait()


def _await(place: Installation, server: subprocess.Popen[bytes]) -> None:
    """Until the operator can log in: the end of the first set-up. Compose's `policies` is started anew until then."""
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and server.poll() is None:
        if place.sh("bao status", check=False).returncode == 0:
            return
        time.sleep(0.1)
    raise AssertionError((place.home / "log").read_text())


@pytest.fixture(scope="module")
def current(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    with installed(tmp_path_factory.mktemp("bao") / "new") as place:
        place.policies()
        yield place


def test_a_new_installation_needs_nothing_more(current: Installation) -> None:
    """With the page's files, each role logs in over TLS and may do what it must, and nothing else."""
    assert current.findings() == ALL_WELL


def test_no_secret_is_in_the_servers_log(current: Installation) -> None:
    """Its audit device writes there whatever is asked."""
    log = (current.home / "log").read_text()
    secrets = [p.read_text() for p in current.secrets.glob("*-secret-id")]

    assert '"type":"response"' in log
    assert [secret for secret in secrets if secret in log] == []


def test_the_operator_can_do_what_the_page_says(current: Installation) -> None:
    """The page's commands, as they stand there, but for the words that run them in a container."""
    current.sh("""
        bao list auth/approle/role/cloudpush-worker/secret-id
        bao write -f -field=secret_id auth/approle/role/cloudpush-worker/secret-id
        bao operator raft snapshot save snapshot
        bao operator raft snapshot restore snapshot
        bao delete cloudpush/metadata/credentials/ID
        bao write -f transit/keys/cloudpush-audit/rotate
        bao write -f transit/keys/cloudpush-submission/rotate
        bao write -f transit/keys/cloudpush-issuer/rotate
        bao write transit/keys/cloudpush-issuer/config min_decryption_version=1
        bao lease revoke -prefix auth/approle/login/
    """)


REFUSED = [
    ("GET", "cloudpush/data/credentials/ID", {}),
    ("GET", "cloudpush/data/clients/google", {}),
    ("GET", "cloudpush/data/anchors/newest", {}),
    ("DELETE", "cloudpush/metadata/anchors/newest", {}),
    ("POST", "transit/decrypt/cloudpush", {"ciphertext": "vault:v1:AAAA"}),
    ("POST", "transit/sign/cloudpush-audit", {"input": "AAAA"}),
    ("POST", "transit/keys/cloudpush-audit/config", {"min_decryption_version": 1}),
    ("POST", "transit/keys/cloudpush-audit/config", {"deletion_allowed": True}),
    ("DELETE", "transit/keys/cloudpush-audit", {}),
    ("POST", "transit/keys/cloudpush-issuer/config", {"exportable": True}),
    ("POST", "transit/keys/another", {}),
    ("POST", "sys/policies/acl/cloudpush-operator", {"policy": ""}),
    ("POST", "sys/policies/acl/another", {"policy": ""}),
    ("POST", "auth/approle/role/cloudpush-worker", {"token_policies": "cloudpush-operator"}),
    ("DELETE", "sys/mounts/transit", {}),
    ("GET", "sys/audit", {}),
    ("POST", "auth/token/create", {}),
]


def test_the_operator_can_do_nothing_else(current: Installation) -> None:
    """Open, seal, sign, make or drop a key, change its own policy or a role, or be somebody else."""
    ca = str(current.secrets / "vault-ca.pem")
    names = {
        what: (current.secrets / f"operator-{what.replace('_', '-')}").read_text() for what in ("role_id", "secret_id")
    }
    with requests.Session() as session:
        session.trust_env = False
        login = session.post(f"{current.url}/v1/auth/approle/login", json=names, verify=ca, timeout=10).json()
        session.headers["X-Vault-Token"] = login["auth"]["client_token"]

        answers = [
            session.request(method, f"{current.url}/v1/{path}", json=body or None, verify=ca, timeout=10).status_code
            for method, path, body in REFUSED
        ]

    assert answers == [403] * len(REFUSED)


@pytest.mark.parametrize(
    ("older_than", "scripts"),
    [(NOTARY, ["add-notary.sh"]), ((*WEB, *NOTARY), ["add-web.sh", "add-notary.sh"])],
    ids=["without a notary", "without pages"],
)
def test_an_older_installation_is_brought_up(tmp_path: Path, older_than: tuple[str, ...], scripts: list[str]) -> None:
    """By the scripts alone, without a root token; run twice, as whoever is unsure does, they change nothing more."""
    with installed(tmp_path / "old", older_than=older_than) as place:
        before = place.sh("bao write -f transit/keys/cloudpush-audit/rotate", check=False)
        place.sh("\n".join(f'sh "$OWN/{script}"' for script in (*scripts, *scripts)))
        left = place.sh("bao read -field=policy sys/policies/acl/cloudpush-keeper").stdout
        place.policies()
        place.sh("bao write -f transit/keys/cloudpush-audit/rotate")

        assert "permission denied" in before.stderr
        assert left.strip() == (POLICIES / "keeper.hcl").read_text().strip()
        assert place.findings() == ALL_WELL
