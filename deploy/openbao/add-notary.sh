#!/bin/sh
# Once, for an OpenBao that the Compose files of an earlier version set up: the role `notary`, the keys that receipts,
# checkpoints and submission tokens are signed with, and the operator's rights over them. Such a server has no root token,
# and makes nothing after its first start. But its operator may write the policy of the role `keeper`: that role is lent the
# rights, does it, and has them taken away again.
# Repeatable. Run as operator (docs/operations.md, Upgrades):  docker compose run --rm add-notary
set -eu
policies=${POLICIES:-/policies}
own=${OWN:-/openbao-files}
secrets=${SECRETS_DIR:-/run/secrets}

trap 'bao policy write cloudpush-keeper "$policies/keeper.hcl"' EXIT
cat "$policies/keeper.hcl" "$own/add-notary.hcl" | bao policy write cloudpush-keeper -
token=$(bao write -field=token auth/approle/login \
  "role_id=@$secrets/keeper-role-id" "secret_id=@$secrets/keeper-secret-id")
(
  BAO_TOKEN=$token
  export BAO_TOKEN
  bao write -f transit/keys/cloudpush-audit type=ed25519 > /dev/null
  bao write -f transit/keys/cloudpush-submission type=ed25519 > /dev/null
  bao policy write cloudpush-notary "$policies/notary.hcl"
  bao policy write cloudpush-operator "$own/operator.hcl"
  bao write auth/approle/role/cloudpush-notary token_policies=cloudpush-notary token_no_default_policy=true \
    token_ttl=1h token_max_ttl=24h "role_id=@$secrets/notary-role-id"
  bao write -field=token auth/approle/login \
    "role_id=@$secrets/notary-role-id" "secret_id=@$secrets/notary-secret-id" > /dev/null 2>&1 ||
    bao write auth/approle/role/cloudpush-notary/custom-secret-id "secret_id=@$secrets/notary-secret-id" > /dev/null
  bao token revoke -self
)
