#!/bin/sh
# Once, for an OpenBao that the Compose files of an earlier version set up: the role `web`, the key of the issuer, and the
# operator's rights over both. Such a server has no root token, and makes nothing after its first start. But its operator
# may write the policy of the role `keeper`: that role is lent the rights, does it, and has them taken away again.
# Repeatable. Run as operator (docs/operations.md, Upgrades):  docker compose run --rm add-web
set -eu
policies=${POLICIES:-/policies}
own=${OWN:-/openbao-files}
secrets=${SECRETS_DIR:-/run/secrets}

trap 'bao policy write cloudpush-keeper "$policies/keeper.hcl"' EXIT
cat "$policies/keeper.hcl" "$own/add-web.hcl" | bao policy write cloudpush-keeper -
token=$(bao write -field=token auth/approle/login \
  "role_id=@$secrets/keeper-role-id" "secret_id=@$secrets/keeper-secret-id")
(
  BAO_TOKEN=$token
  export BAO_TOKEN
  bao write -f transit/keys/cloudpush-issuer type=rsa-2048 > /dev/null
  bao policy write cloudpush-web "$policies/web.hcl"
  bao policy write cloudpush-operator "$own/operator.hcl"
  bao write auth/approle/role/cloudpush-web token_policies=cloudpush-web token_no_default_policy=true \
    token_ttl=1h token_max_ttl=24h "role_id=@$secrets/web-role-id"
  bao write -field=token auth/approle/login \
    "role_id=@$secrets/web-role-id" "secret_id=@$secrets/web-secret-id" > /dev/null 2>&1 ||
    bao write auth/approle/role/cloudpush-web/custom-secret-id "secret_id=@$secrets/web-secret-id" > /dev/null
  bao token revoke -self
)
