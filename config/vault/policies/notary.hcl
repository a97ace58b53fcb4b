# Role `notary`: signs receipts and checkpoints, and remembers the newest checkpoint where whoever owns Postgres cannot reach.
# It opens, seals and destroys nothing. An anchor can be added to and read, never destroyed: it has no right to metadata.
# The names are the defaults of CLOUDPUSH_VAULT_KV_MOUNT, _TRANSIT_MOUNT and _AUDIT_KEY.

# The private half never leaves Vault.
path "transit/sign/cloudpush-audit" {
  capabilities = ["update"]
}

path "transit/keys/cloudpush-audit" {
  capabilities = ["read"]
}

path "cloudpush/data/anchors/+" {
  capabilities = ["create", "read", "update"]
}

# Its own token, so that the role does not need Vault's `default` policy.
path "auth/token/lookup-self" {
  capabilities = ["read"]
}

path "auth/token/renew-self" {
  capabilities = ["update"]
}

# So that `cloudpush doctor` can say whether the role may do what it must, and nothing more.
path "sys/capabilities-self" {
  capabilities = ["update"]
}

path "auth/token/revoke-self" {
  capabilities = ["update"]
}
