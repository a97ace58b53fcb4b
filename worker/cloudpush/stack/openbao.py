"""OpenBao, persistent and alone: raft storage, unsealed by a key file, set up by its own configuration.

No root token exists at any time: the server runs the ``initialize`` stanzas of its configuration by itself on the
first start. What an upgrade of CloudPush may have to change later, the policies of these roles, is left to one more
role, ``setup``, that may write exactly these policies. Its secret lies beside the seal key and raft files, whose reader
has everything anyway, and not among the secrets that workers are given.
"""

from __future__ import annotations

import http.client
import json
import secrets
import shutil
from collections.abc import Mapping
from pathlib import Path
from string import Template
from typing import Any, ClassVar

import psutil

from cloudpush.errors import Code, StackError
from cloudpush.resources import resource
from cloudpush.stack import binaries
from cloudpush.stack.ports import HOST, free_ports, is_free
from cloudpush.stack.private import private_dir, write_private
from cloudpush.stack.process import Child
from cloudpush.stack.service import Service

ROLES = ("worker", "intake", "keeper", "web", "notary")
SETUP = "setup"
#: Of what the first start makes: roles, mounts, keys. A directory that was set up with less cannot be brought up to it,
#: since nobody has a root token. 1: without the role ``web`` and the key of the issuer; 2: without the role ``notary`` and
#: the keys that receipts and submission tokens are signed with.
FURNISHING = "3"
#: What the setup role may do. The longest life of its token is the time that a start takes.
SETUP_POLICY = "".join(
    f'path "sys/policies/acl/{role}" {{ capabilities = ["read", "create", "update"] }}\n' for role in ROLES
)
SETUP_POLICY += 'path "auth/token/revoke-self" { capabilities = ["update"] }\n'
HOUR = 3600


class OpenBao(Service):
    """A server in ``directory``. ``ports`` are its API and cluster port, where both are free."""

    name = "openbao"
    #: API and cluster port that everybody expects.
    PREFERRED: ClassVar[tuple[int, int]] = (8200, 8201)

    def __init__(
        self, directory: Path, log: Path, *, ports: tuple[int, int] | None = None, policies: Path | None = None
    ) -> None:
        """``ports=None`` takes any. ``policies`` is the directory of ROLE.hcl files."""
        super().__init__()
        self.directory = directory
        self.ports = ports
        self._log = log
        self._policies = policies
        self._complete = False
        self._served = False

    @property
    def url(self) -> str:
        """Where it listens; known once it was started."""
        return f"http://{HOST}:{self._settled()[0]}"

    @property
    def where(self) -> str:
        """The same."""
        return self.url if self.ports else ""

    @property
    def auth_dir(self) -> Path:
        """``{role}-role-id`` and ``{role}-secret-id`` of each role."""
        return self.directory / "auth"

    def _settled(self) -> tuple[int, int]:
        if self.ports is None:
            raise StackError(Code.STACK, f"{self.name} was not started yet.")
        return self.ports

    def launch(self) -> Child:
        """Write its configuration, and its secrets on the first start. Raises StackError."""
        self._complete = False
        whole = self.directory / "set-up"
        if whole.exists():
            self._check_furnishing(whole.read_text("ascii").strip())
        else:
            # Killed during its first start: nothing can have been sealed yet, and half a set-up never mends.
            shutil.rmtree(self.directory / "raft", ignore_errors=True)
        for path in (self.directory, self.directory / "raft", self.auth_dir, self.directory / SETUP):
            private_dir(path)
        _keep_secret(self.directory / "seal.key", secrets.token_hex(32))
        for role in (*ROLES, SETUP):
            for what in ("role-id", "secret-id"):
                _keep_secret(self._secret(role, what), secrets.token_urlsafe(32))
        self.choose_ports()
        write_private(self.directory / "server.hcl", self._configuration())
        return Child(
            [binaries.openbao(), "server", f"-config={self.directory / 'server.hcl'}", "-log-level=info"],
            self._log,
            directory=self.directory,
        )

    def _check_furnishing(self, found: str) -> None:
        """Raises StackError for a directory that another version set up in another way."""
        if found == FURNISHING:
            return
        if found.isdigit() and int(found) > int(FURNISHING):
            raise StackError(
                Code.STACK,
                f"{self.name}: {self.directory} was set up by a newer version of CloudPush: install that version again.",
            )
        raise StackError(
            Code.STACK,
            f"{self.name}: {self.directory} was set up by an older version of CloudPush; the roles and keys that came "
            "since (for connections to cloud accounts, for receipts) can only be made when a vault is set up. Move this "
            "directory away and start again: the history of pushes stays, credentials are to be added anew "
            "(`cloudpush credential list` names them; purge them first, with the older version, if they are to be destroyed).",
        )

    def probe(self) -> bool:
        """Whether it is unsealed and active; brings the policies up to date once."""
        if not self._complete and not self._listens():
            return False
        try:
            status, health = self._call("GET", "sys/health")
            if status != http.HTTPStatus.OK:
                return False
            self.version = str(health.get("version", ""))
            if not self._complete:
                self._complete = self._set_up()
        except (OSError, http.client.HTTPException):
            return False
        self._served |= self._complete
        return self._complete

    def _listens(self) -> bool:
        """Whether it is our process that has the port: nobody else is shown the setup role's secret."""
        if self.child is None:
            return False
        try:
            open_now = psutil.Process(self.child.pid).net_connections("tcp4")
        except psutil.Error:
            return False
        wanted = (HOST, self._settled()[0])
        return any(c.status == psutil.CONN_LISTEN and tuple(c.laddr) == wanted for c in open_now)

    def _set_up(self) -> bool:
        """Write the policies that differ from those installed; False while the first start is still at it."""
        status, answer = self._call(
            "POST",
            "auth/approle/login",
            {what.replace("-", "_"): self._secret(SETUP, what).read_text("ascii") for what in ("role-id", "secret-id")},
        )
        if status != http.HTTPStatus.OK:
            if (self.directory / "set-up").exists():
                raise StackError(
                    Code.STACK,
                    f"{self.name} does not know its setup role any more ({status}): restore {self.directory} as a whole.",
                )
            return False
        token = str(answer["auth"]["client_token"])
        for role, text in self._policy_texts().items():
            path = f"sys/policies/acl/{role}"
            _, present = self._call("GET", path, token=token)
            if present.get("data", {}).get("policy") != text:
                status, refused = self._call("POST", path, {"policy": text}, token=token)
                if status >= http.HTTPStatus.BAD_REQUEST:
                    raise StackError(Code.STACK, f"{self.name} refuses the policy {role}.hcl: {refused.get('errors')}")
        self._call("POST", "auth/token/revoke-self", token=token)
        write_private(self.directory / "set-up", f"{FURNISHING}\n")
        return True

    def _call(
        self, method: str, path: str, body: Mapping[str, Any] | None = None, token: str = ""
    ) -> tuple[int, dict[str, Any]]:
        """One request on loopback: no proxy, no redirect, no library that reads the environment."""
        connection = http.client.HTTPConnection(HOST, self._settled()[0], timeout=2)
        try:
            headers = {"X-Vault-Request": "true"} | ({"X-Vault-Token": token} if token else {})
            connection.request(method, f"/v1/{path}", json.dumps(body) if body is not None else None, headers)
            response = connection.getresponse()
            text = response.read()
        finally:
            connection.close()
        try:
            answer = json.loads(text) if text else {}
        except ValueError as e:
            raise http.client.HTTPException("the answer is not JSON") from e
        return response.status, answer if isinstance(answer, dict) else {}

    def choose_ports(self) -> None:
        """Settle on ports that are free now. Once it has served they stay: clients look for it where it was."""
        if self._served:
            return
        wanted = self.ports
        if wanted is not None and all(is_free(p) for p in wanted):
            return
        self.ports = (found := free_ports(2))[0], found[1]
        if wanted is not None:
            taken = [str(p) for p in wanted if not is_free(p)]
            self.remark = f"taken: port {' and '.join(taken)}; using {self.ports[0]} and {self.ports[1]} from now on"

    def _configuration(self) -> str:
        api, cluster = self._settled()
        template = Template((resource("config") / "vault" / "server.hcl.tmpl").read_text("utf-8"))
        return template.substitute(
            api=_quoted(f"http://{HOST}:{api}"),
            cluster=_quoted(f"http://{HOST}:{cluster}"),
            listen=_quoted(f"{HOST}:{api}"),
            raft=_quoted(str(self.directory / "raft")),
            seal_key=_quoted(f"file://{self.directory / 'seal.key'}"),
            roles="".join(self._role(role) for role in (*ROLES, SETUP)),
        )

    def _role(self, role: str) -> str:
        """The requests that make one AppRole, with an id and secret that OpenBao reads from our files."""
        life = (
            {"token_ttl": HOUR, "token_max_ttl": 24 * HOUR} if role != SETUP else {"token_ttl": 60, "token_max_ttl": 60}
        )
        policy = (
            [_request(f"{role}_policy", f"sys/policies/acl/{role}", {"policy": SETUP_POLICY})] if role == SETUP else []
        )
        return "".join(
            [
                *policy,
                _request(
                    role,
                    f"auth/approle/role/{role}",
                    {
                        "token_policies": [role],
                        "token_no_default_policy": True,
                        "role_id": self._from_file(role, "role-id"),
                        **life,
                    },
                ),
                _request(
                    f"{role}_secret",
                    f"auth/approle/role/{role}/custom-secret-id",
                    {"secret_id": self._from_file(role, "secret-id")},
                ),
            ]
        )

    def _from_file(self, role: str, what: str) -> dict[str, str]:
        return {"eval_source": "file", "eval_type": "string", "path": str(self._secret(role, what))}

    def _secret(self, role: str, what: str) -> Path:
        return (self.directory / SETUP if role == SETUP else self.auth_dir) / f"{role}-{what}"

    def _policy_texts(self) -> dict[str, str]:
        directory = self._policies or resource("config") / "vault" / "policies"
        try:
            return {role: (directory / f"{role}.hcl").read_text("utf-8") for role in ROLES}
        except OSError as e:
            raise StackError(Code.STACK, f"The policy {e.filename} cannot be read: install cloudpush again.") from e


def _keep_secret(path: Path, fresh: str) -> None:
    """A secret is made once and then kept."""
    if not path.exists():
        write_private(path, fresh)


def _request(name: str, path: str, data: Mapping[str, Any]) -> str:
    return f"""
  request {_quoted(name)} {{
    operation = "update"
    path      = {_quoted(path)}
    data      = {_hcl(data)}
  }}
"""


def _hcl(value: object) -> str:
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{key} = {_hcl(x)}" for key, x in value.items()) + " }"
    return json.dumps(value, ensure_ascii=False)


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
