# Role `web`: what stands nearest to browsers and pipelines. It seals what a consent gave and what the API is handed, and can
# neither read it back nor overwrite it; it reads the client secrets that a consent is finished with, and our public keys.
# It signs submission tokens, which let their bearer do what the API would let them do, and nothing else.
# The names are the defaults of CLOUDPUSH_VAULT_KV_MOUNT, _TRANSIT_MOUNT, _TRANSIT_KEY, _ISSUER_KEY, _AUDIT_KEY, _SUBMISSION_KEY.

path "cloudpush/data/credentials/+" {
  capabilities = ["create"]
}

path "cloudpush/data/sheets/+" {
  capabilities = ["create"]
}

path "transit/datakey/plaintext/cloudpush" {
  capabilities = ["update"]
}

# The client secrets of OAuth providers.
path "cloudpush/data/clients/+" {
  capabilities = ["read"]
}

# The public half of the key that identity tokens are signed with.
path "transit/keys/cloudpush-issuer" {
  capabilities = ["read"]
}

# … and of those that receipts, checkpoints and submission tokens are signed with.
path "transit/keys/cloudpush-audit" {
  capabilities = ["read"]
}

path "transit/keys/cloudpush-submission" {
  capabilities = ["read"]
}

path "transit/sign/cloudpush-submission" {
  capabilities = ["update"]
}

# The newest checkpoint, to compare the record with.
path "cloudpush/data/anchors/+" {
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
