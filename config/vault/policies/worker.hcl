# Role `worker`: unseals. It cannot seal, change, list or destroy a credential; of signed URLs it seals new ones.
# The names are the defaults of CLOUDPUSH_VAULT_KV_MOUNT, _TRANSIT_MOUNT and _TRANSIT_KEY.

path "cloudpush/data/credentials/+" {
  capabilities = ["read"]
}

# Signed URLs. What a callback answers with and where a resumable upload goes on is sealed here as well: `create`
# without `update` means that it cannot overwrite a block.
path "cloudpush/data/sheets/+" {
  capabilities = ["create", "read"]
}

path "transit/datakey/plaintext/cloudpush" {
  capabilities = ["update"]
}

path "transit/decrypt/cloudpush" {
  capabilities = ["update"]
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
