# Role `keeper`: destroys what is due, rotates the key and rewraps data keys. It never sees a plaintext:
# it can read sealed credentials, but has nothing to decrypt, and no data key to forge, with.
# The names are the defaults of CLOUDPUSH_VAULT_KV_MOUNT, _TRANSIT_MOUNT and _TRANSIT_KEY.

# Rewrapping reads a sealed credential and writes it back under check-and-set; it never creates one.
path "cloudpush/data/credentials/+" {
  capabilities = ["read", "update"]
}

path "cloudpush/data/sheets/+" {
  capabilities = ["read", "update"]
}

# Purging deletes the metadata with all versions and looks whether they are gone; rewrapping limits the
# versions to one, so that a data key wrapped by an old key version does not survive in the history.
path "cloudpush/metadata/credentials/+" {
  capabilities = ["read", "update", "delete"]
}

path "cloudpush/metadata/sheets/+" {
  capabilities = ["read", "update", "delete"]
}

# The client secrets of OAuth providers: it puts them there and takes them away, and cannot read one. One version only.
path "cloudpush/data/clients/+" {
  capabilities = ["create", "update"]
}

path "cloudpush/metadata/clients/+" {
  capabilities = ["create", "read", "update", "delete"]
}

path "transit/keys/cloudpush" {
  capabilities = ["read"]
}

path "transit/keys/cloudpush/rotate" {
  capabilities = ["update"]
}

# Only to retire old key versions: it cannot make the key exportable or deletable.
path "transit/keys/cloudpush/config" {
  capabilities       = ["update"]
  allowed_parameters = {
    "min_decryption_version" = []
  }
}

path "transit/rewrap/cloudpush" {
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
