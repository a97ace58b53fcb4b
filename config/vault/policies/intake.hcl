# Role `intake`: seals, and nothing else. `create` without `update` means that it can neither overwrite
# a credential nor read one back; a data key that it is given once, it cannot have unwrapped again.
# The names are the defaults of CLOUDPUSH_VAULT_KV_MOUNT, _TRANSIT_MOUNT and _TRANSIT_KEY.

path "cloudpush/data/credentials/+" {
  capabilities = ["create"]
}

# Signed URLs are sealed block by block.
path "cloudpush/data/sheets/+" {
  capabilities = ["create"]
}

path "transit/datakey/plaintext/cloudpush" {
  capabilities = ["update"]
}

# What an operator's `cloudpush audit verify` compares the record with: the newest checkpoint, and the public key.
path "cloudpush/data/anchors/+" {
  capabilities = ["read"]
}

path "transit/keys/cloudpush-audit" {
  capabilities = ["read"]
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
