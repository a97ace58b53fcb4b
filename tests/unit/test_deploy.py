"""What an operator installs with: deploy/ and docs/operations.md say what the product says, and give nobody more than it needs."""

from __future__ import annotations

import fnmatch
import inspect
import json
import re
import shlex
import tomllib
from collections.abc import Iterator
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

import pytest

from cloudpush.audit.tables import metadata
from cloudpush.settings import OUTSIDE, PREFIX, Settings
from documented import unknown

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
PAGE = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
DOCKERFILE = (DEPLOY / "Dockerfile").read_text(encoding="utf-8")
OURS = [p for p in sorted(DEPLOY.rglob("*")) if p.is_file() and "azurite" not in p.parts]
TEXTS = {str(p.relative_to(ROOT)): p.read_text(encoding="utf-8") for p in OURS} | {"docs/operations.md": PAGE}
MANIFESTS = sorted((DEPLOY / "kubernetes").glob("*.yaml"))
UID = 10001
Tree = dict[str, Any]


class Yaml:
    """Reads as much of YAML as our files use, and refuses the rest; lists and objects in one line must be JSON."""

    _KEY = re.compile(r"([\w./<-]+):(?: (.*))?")
    _WORD = re.compile(r"[^\s\[\]{}\"'|>@%!&*#,?`:-](?:(?!: | #).)*|/.*|\$\{.*|-\w.*")

    def __init__(self, text: str) -> None:
        self._lines = text.splitlines()
        self._at = 0
        self._anchors: dict[str, Any] = {}

    @classmethod
    def documents(cls, path: Path) -> list[Tree]:
        return [cls(part).document() for part in re.split(r"(?m)^---$", path.read_text(encoding="utf-8"))]

    def document(self) -> Any:
        value = self._block()
        assert self._here() == (-1, ""), f"left over: {self._lines[self._at]!r}"
        return value

    def _here(self) -> tuple[int, str]:
        while self._at < len(self._lines) and re.fullmatch(r"\s*(#.*)?", self._lines[self._at]):
            self._at += 1
        if self._at == len(self._lines):
            return -1, ""
        line = self._lines[self._at]
        assert "\t" not in line
        return len(line) - len(line.lstrip()), line.strip()

    def _block(self) -> Any:
        indent, line = self._here()
        return self._list(indent) if line.startswith("- ") else self._object(indent)

    def _object(self, indent: int) -> Tree:
        merged: Tree = {}
        out: Tree = {}
        while self._here()[0] == indent:
            match = self._KEY.fullmatch(self._here()[1])
            assert match, f"no key: {self._here()[1]!r}"
            assert match[1] not in out, f"twice: {match[1]!r}"
            self._at += 1
            value = self._value(match[2] or "", indent)
            (merged if match[1] == "<<" else out).update(value if match[1] == "<<" else {match[1]: value})
        return merged | out

    def _list(self, indent: int) -> list[Any]:
        out = []
        while self._here()[0] == indent:
            line = self._here()[1]
            assert line.startswith("- "), f"no item: {line!r}"
            if self._KEY.fullmatch(line[2:]):
                self._lines[self._at] = " " * (indent + 2) + line[2:]
                out.append(self._object(indent + 2))
            else:
                self._at += 1
                out.append(self._value(line[2:], indent))
        return out

    def _value(self, text: str, indent: int) -> Any:
        name, _, text = text[1:].partition(" ") if text.startswith("&") else ("", "", text)
        if text == "|":
            value: Any = self._verbatim(indent)
        elif text.startswith("*"):
            value = self._anchors[text[1:]]
        elif text:
            value = self._scalar(text)
        else:
            value = self._block() if self._here()[0] > indent else None
        if name:
            self._anchors[name] = value
        return value

    def _verbatim(self, indent: int) -> str:
        taken = []
        while self._at < len(self._lines) and re.match(rf" {{{indent + 1}}}|$", self._lines[self._at]):
            taken.append(self._lines[self._at])
            self._at += 1
        return inspect.cleandoc("\n".join(taken)) + "\n"

    def _scalar(self, text: str) -> Any:
        if text[0] in '[{"':
            return json.loads(text)
        if re.fullmatch(r"-?\d+|true|false|null", text):
            return json.loads(text)
        assert self._WORD.fullmatch(text), f"write it in quotes: {text!r}"
        return text


@pytest.fixture(scope="module")
def compose() -> Tree:
    (document,) = Yaml.documents(DEPLOY / "compose.yaml")
    return document


@pytest.fixture(scope="module")
def objects() -> dict[tuple[str, str], Tree]:
    """Of Kubernetes, by kind and name."""
    found = [d for path in MANIFESTS if path.name != "kustomization.yaml" for d in Yaml.documents(path)]
    return {(d["kind"], d["metadata"]["name"]): d for d in found}


def ours(compose: Tree) -> dict[str, Tree]:
    return {name: s for name, s in compose["services"].items() if "build" in s}


def pods(objects: dict[tuple[str, str], Tree]) -> dict[str, Tree]:
    return {name: d["spec"]["template"]["spec"] for (_, name), d in objects.items() if "template" in d.get("spec", {})}


def mounted(pod: Tree) -> set[str]:
    """Names of the files of secrets that a pod sees."""
    direct = [v["secret"] for v in pod["volumes"] if "secret" in v]
    projected = [
        s["secret"] for v in pod["volumes"] if "projected" in v for s in v["projected"]["sources"] if "secret" in s
    ]
    return {item["path"] for secret in (*direct, *projected) for item in secret["items"]}


def role_files(*roles: str) -> set[str]:
    return {f"{role}-{what}" for role in roles for what in ("role-id", "secret-id")}


# -- the words are the product's ------------------------------------------------------------------


@pytest.mark.parametrize("where", TEXTS)
def test_settings_that_are_named_exist(where: str) -> None:
    """A misspelt one would stop the process."""
    known = {PREFIX + name.upper() for name in Settings.model_fields} | OUTSIDE

    assert set(re.findall(rf"\b{PREFIX}[A-Z_]*[A-Z]", TEXTS[where])) - known == set()


def command_lines() -> Iterator[list[str]]:
    for where, text in TEXTS.items():
        written = re.findall(r"(?<!-n )(?<![\w/.=-])cloudpush ([a-z][^`\n|;&()#]*)", text)
        written += re.findall(r"docker compose run (?:-\S+ )*(?:cli|operator) ([^`\n|;&()#]+)", text)
        assert written or where not in ("docs/operations.md", "deploy/Dockerfile", "deploy/compose.yaml")
        yield from (shlex.split(words) for words in written)


def test_commands_that_are_named_exist(compose: Tree, objects: dict[tuple[str, str], Tree]) -> None:
    """With their options: on the page, in comments, and as what containers run."""
    lines = list(command_lines())
    lines += [s["command"] for s in ours(compose).values() if "command" in s]
    lines += [c["args"] for pod in pods(objects).values() for c in pod["containers"]]
    lines += [json.loads(DOCKERFILE.splitlines()[-1].removeprefix("CMD "))]

    assert (unknown(lines), len(lines) > 30) == ([], True)


def test_events_to_watch_are_logged() -> None:
    """An alert on words that nothing says never comes."""
    table = PAGE.partition("| event | level | means | do |")[2].partition("\n\n")[0]
    named = {event for line in table.splitlines()[2:] for event in re.findall(r"`([^`]+)`", line.split("|")[1])}
    source = "".join(p.read_text(encoding="utf-8") for p in (ROOT / "worker" / "cloudpush").rglob("*.py"))
    said = set(re.findall(r'(?:log\.\w+|level)\)?\(\s*"([^"]+)"', source))

    assert (named - said, len(named) > 10) == (set(), True)


def test_columns_in_queries_exist() -> None:
    """Whatever has an underscore in the page's SQL is a column, a table, an alias, a role or a function of Postgres."""
    sql = "\n".join(re.findall(r"^ *```sql\n(.*?)^ *```$", PAGE, re.MULTILINE | re.DOTALL))
    asked = re.sub(r"'[^']*'|--.*", "", sql)
    columns = {c.name for t in metadata.sorted_tables for c in t.columns}
    others = {"per_second", "pg_size_pretty", "pg_terminate_backend", "pg_stat_activity"}
    roles = {"cloudpush_owner", "cloudpush_app", "cloudpush_worker", "cloudpush_monitor"}
    tables = set(re.findall(r"FROM ([a-z_]+)", asked)) - others

    assert (
        set(re.findall(r"\b[a-z]+(?:_[a-z0-9]+)+\b", asked)) - columns - others - roles - set(metadata.tables) == set()
    )
    assert tables - set(metadata.tables) == set()


def test_the_monitor_may_read_what_it_is_asked_for() -> None:
    """Each table that the page asks as cloudpush_monitor."""
    granted = re.search(r"GRANT SELECT ON (.*) TO cloudpush_monitor", PAGE)
    part = PAGE.partition("## Monitoring")[2].partition("## Rotation")[0]
    asked = set(re.findall(r"FROM ([a-z_]+)", part))

    assert granted is not None
    assert asked - set(granted[1].split(", ")) == set()


# -- the image ------------------------------------------------------------------------------------


def test_the_image_is_built_from_what_the_wheel_needs() -> None:
    """Copied by the Dockerfile, and not kept out by its ignore file."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    wheel = project["tool"]["hatch"]["build"]["targets"]["wheel"]
    needed = {"pyproject.toml", "constraints.txt", project["project"]["readme"], *project["project"]["license-files"]}
    needed |= {*(p.partition("/")[0] for p in wheel["packages"]), *wheel["force-include"]}
    build = DOCKERFILE.partition("\nFROM python")[2].partition("\nFROM python")[0]
    copied = {word for line in re.findall(r"^COPY (.*) \S+$", build, re.MULTILINE) for word in line.split()}
    ignore = (DEPLOY / "Dockerfile.dockerignore").read_text(encoding="utf-8").splitlines()

    assert copied == needed
    assert {line[1:] for line in ignore if line.startswith("!")} == needed
    assert "*" in ignore


def test_files_that_the_wheel_needs_are_not_ignored() -> None:
    """Secrets that lie about in config/ are; what travels with the package is not."""
    ignore = (DEPLOY / "Dockerfile.dockerignore").read_text(encoding="utf-8").splitlines()
    patterns = [p for p in ignore if p != "*" and not p.startswith(("!", "#", "**"))]
    lying = [p.relative_to(ROOT).as_posix() for d in ("config", "migrations") for p in (ROOT / d).rglob("*.*")]

    assert [p for p in lying if any(fnmatch.fnmatch(p, pattern) for pattern in patterns)] == []


def test_the_same_account_everywhere(compose: Tree, objects: dict[tuple[str, str], Tree]) -> None:
    """Not root; its number says who may read the sources."""
    users = {s["user"] for s in ours(compose).values()}
    contexts = {(p["securityContext"]["runAsUser"], p["securityContext"]["runAsGroup"]) for p in pods(objects).values()}

    assert re.findall(r"^USER (.*)$", DOCKERFILE, re.MULTILINE) == [f"{UID}:{UID}"]
    assert f"--uid {UID} --gid {UID}" in DOCKERFILE
    assert (users, contexts) == ({f"{UID}:{UID}"}, {(UID, UID)})


def test_images_are_pinned_to_a_version(compose: Tree) -> None:
    """None floats over a major version."""
    (kustomization,) = Yaml.documents(DEPLOY / "kubernetes" / "kustomization.yaml")
    images = re.findall(r"^FROM (\S+)", DOCKERFILE, re.MULTILINE)
    images += [s["image"].removeprefix("${IMAGE:-").removesuffix("}") for s in compose["services"].values()]
    images += [f"{i['newName']}:{i['newTag']}" for i in kustomization["images"]]

    assert [i for i in images if not re.fullmatch(r"[a-z./-]+:\d+(\.\d+)*(-slim)?", i)] == []


def test_every_manifest_is_applied() -> None:
    """One that the kustomization forgets is never installed."""
    (kustomization,) = Yaml.documents(DEPLOY / "kubernetes" / "kustomization.yaml")

    assert {*kustomization["resources"], "kustomization.yaml"} == {p.name for p in MANIFESTS}


# -- nobody has more than it needs ----------------------------------------------------------------


def test_services_are_confined(compose: Tree) -> None:
    """Each of them, our own and the servers."""
    for name, service in compose["services"].items():
        assert service["user"] not in ("", "root", "0", "0:0"), name
        held = (service["cap_drop"], service["security_opt"], service["read_only"])
        assert held == (["ALL"], ["no-new-privileges:true"], True), name
        assert {"privileged", "cap_add", "ports", "network_mode", "pid"} & service.keys() == set(), name


def test_pods_are_confined(objects: dict[tuple[str, str], Tree]) -> None:
    """As the `restricted` standard says, and the root file system read-only besides."""
    for name, pod in pods(objects).items():
        assert pod["securityContext"]["runAsNonRoot"], name
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, name
        assert pod["automountServiceAccountToken"] is False, name
        assert "fsGroup" not in pod["securityContext"], name
        for container in pod["containers"]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }, name


def test_no_secret_is_in_an_environment(compose: Tree, objects: dict[tuple[str, str], Tree]) -> None:
    """Which other processes of the account and `inspect` show: a name of a file at most, no password in a URL."""
    given = {(n, k): str(v) for n, s in compose["services"].items() for k, v in s.get("environment", {}).items()}
    for name, pod in pods(objects).items():
        for container in pod["containers"]:
            assert all(set(source) == {"configMapRef"} for source in container.get("envFrom", [])), name
            given |= {(name, e["name"]): e["value"] for e in container.get("env", [])}
    given |= {("settings", k): v for k, v in objects["ConfigMap", "cloudpush-settings"]["data"].items()}
    secret = {
        key for key in given if re.search("PASSWORD|SECRET|TOKEN|_KEY|PASS", key[1]) and not key[1].endswith("_FILE")
    }

    assert (secret, [v for v in given.values() if "@" in v]) == (set(), [])
    assert "env_file" not in {key for s in compose["services"].values() for key in s}


def test_each_service_sees_its_own_secrets_only(compose: Tree, objects: dict[tuple[str, str], Tree]) -> None:
    """A worker cannot destroy, a sweeper cannot unseal, the pages can do neither, and the owner of the tables is the upgrade's alone."""
    common = {"cloudpush.env", "providers.toml", "vault-ca.pem"}
    seen = {name: set(s["secrets"]) for name, s in ours(compose).items()}

    assert seen == {
        "upgrade": {"owner.env"},
        "worker": common | role_files("worker"),
        "sweeper": common | role_files("intake", "keeper", "notary"),
        "web": common | role_files("web"),
        "cli": common | role_files("intake"),
        "operator": common | role_files("worker", "intake", "keeper", "web", "notary"),
    }
    assert {name: mounted(pod) for name, pod in pods(objects).items()} == {
        "cloudpush-db-upgrade": {"owner.env"},
        "cloudpush-worker": {"cloudpush.env"} | role_files("worker"),
        "cloudpush-sweeper": {"cloudpush.env"} | role_files("intake", "keeper", "notary"),
        "cloudpush-web": {"cloudpush.env"} | role_files("web"),
    }


def test_secrets_are_declared_and_the_page_makes_them(compose: Tree) -> None:
    """As files outside the checkout."""
    used = {name for s in compose["services"].values() for name in s.get("secrets", [])}
    making = PAGE.partition("### Secrets")[2].partition("### Start")[0]

    assert used == set(compose["secrets"])
    assert {s["file"] for s in compose["secrets"].values()} == {f"${{SECRETS:-/etc/cloudpush}}/{name}" for name in used}
    assert [name for name in used if not re.search(rf"(?<![\w-]){re.escape(name)}(?![\w-])", making)] == []


def test_openbao_is_given_the_files_that_it_reads(compose: Tree) -> None:
    """Its configuration names them by path."""
    read = set(re.findall(r"/run/secrets/([\w.-]+)", TEXTS["deploy/openbao/server.hcl"]))
    policies = " ".join(compose["services"]["policies"]["command"])
    roles = re.findall(r"auth/approle/role/cloudpush-(\w+)\"", TEXTS["deploy/openbao/server.hcl"])

    assert read == set(compose["services"]["openbao"]["secrets"])
    assert roles == ["worker", "intake", "keeper", "web", "notary", "operator"]
    assert "for role in worker intake keeper web notary;" in policies
    assert {p.stem for p in (ROOT / "config" / "vault" / "policies").glob("*.hcl")} == {
        "worker",
        "intake",
        "keeper",
        "web",
        "notary",
    }


def test_sources_are_mounted_read_only(compose: Tree, objects: dict[tuple[str, str], Tree]) -> None:
    """Nothing here may ever change a user's file."""
    binds = [v for s in ours(compose).values() for v in s.get("volumes", [])]
    claims = [
        v["persistentVolumeClaim"]
        for pod in pods(objects).values()
        for v in pod["volumes"]
        if "persistentVolumeClaim" in v
    ]
    mounts = [
        m
        for pod in pods(objects).values()
        for c in pod["containers"]
        for m in c["volumeMounts"]
        if m["name"] == "sources"
    ]

    assert {(v["type"], v["target"], v["read_only"]) for v in binds} == {("bind", "/data", True)}
    assert claims == [{"claimName": "cloudpush-sources", "readOnly": True}]
    assert mounts == [{"name": "sources", "mountPath": "/data", "readOnly": True}]


def test_only_workers_and_pages_reach_the_world(compose: Tree, objects: dict[tuple[str, str], Tree]) -> None:
    """Clouds and providers. Servers, sweeper and command line stay among themselves."""
    world = [
        d["spec"]["podSelector"]
        for (kind, _), d in objects.items()
        if kind == "NetworkPolicy" and "0.0.0.0/0" in str(d)
    ]

    assert compose["networks"]["inside"] == {"internal": True}
    assert [n for n, s in compose["services"].items() if "outside" in s["networks"]] == ["worker", "web"]
    assert [s["matchExpressions"][0]["values"] for s in world] == [["worker", "web"]]


@pytest.mark.parametrize(
    "address", ["169.254.169.254", "169.254.170.2", "127.0.0.1", "100.100.100.200", "fd00:ec2::254", "fe80::1"]
)
def test_no_rule_lets_metadata_services_through(objects: dict[tuple[str, str], Tree], address: str) -> None:
    """Whatever a user's URL resolves to."""
    policies = [d["spec"] for (kind, _), d in objects.items() if kind == "NetworkPolicy"]
    to = [t["ipBlock"] for p in policies for rule in p.get("egress", []) for t in rule["to"] if "ipBlock" in t]
    through = [
        block
        for block in to
        if ip_address(address) in ip_network(block["cidr"])
        and not any(ip_address(address) in ip_network(cidr) for cidr in block.get("except", []))
    ]

    assert (through, len(to) > 5) == ([], True)


def test_every_pod_is_under_a_policy_that_lets_nothing_in(objects: dict[tuple[str, str], Tree]) -> None:
    """They listen to nothing, but for the pages, which an Ingress reaches."""
    closed = objects["NetworkPolicy", "cloudpush-names"]["spec"]
    labels = [d["spec"]["template"]["metadata"]["labels"] for d in objects.values() if "template" in d.get("spec", {})]
    policies = {name: d["spec"] for (kind, name), d in objects.items() if kind == "NetworkPolicy"}
    opened = {n: s["podSelector"]["matchLabels"] for n, s in policies.items() if s.get("ingress")}

    assert (closed["policyTypes"], closed["ingress"]) == (["Ingress", "Egress"], [])
    assert all(closed["podSelector"]["matchLabels"].items() <= own.items() for own in labels)
    assert {name: own["app.kubernetes.io/component"] for name, own in opened.items()} == {"cloudpush-web": "web"}


def test_workers_are_given_time_to_finish(compose: Tree, objects: dict[tuple[str, str], Tree]) -> None:
    """Ten minutes, as the page says."""
    assert "STOPSIGNAL SIGTERM" in DOCKERFILE
    assert compose["services"]["worker"]["stop_grace_period"] == "10m"
    assert pods(objects)["cloudpush-worker"]["terminationGracePeriodSeconds"] == 600
