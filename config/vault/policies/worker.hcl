# Role `worker`: unseals, and signs identity tokens. It cannot seal, change, list or destroy a credential; of signed URLs
# and of tokens it seals new ones.
# The names are the defaults of CLOUDPUSH_VAULT_KV_MOUNT, _TRANSIT_MOUNT, _TRANSIT_KEY, _ISSUER_KEY, _SUBMISSION_KEY.

path "cloudpush/data/credentials/+" {
  capabilities = ["read"]
}

# Signed URLs, and the tokens that a consent gave. What a callback answers with, where a resumable upload goes on and the
# tokens that a refresh brought are sealed here as well: `create` without `update` means that it cannot overwrite a block.
path "cloudpush/data/sheets/+" {
  capabilities = ["create", "read"]
}

path "transit/datakey/plaintext/cloudpush" {
  capabilities = ["update"]
}

path "transit/decrypt/cloudpush" {
  capabilities = ["update"]
}

# The client secrets of OAuth providers, for their token and revocation endpoints.
path "cloudpush/data/clients/+" {
  capabilities = ["read"]
}

# Identity tokens are signed with a key that never leaves Vault; its public half is what `read` gives.
path "transit/sign/cloudpush-issuer" {
  capabilities = ["update"]
}

path "transit/sign/cloudpush-issuer/sha2-256" {
  capabilities = ["update"]
}

path "transit/keys/cloudpush-issuer" {
  capabilities = ["read"]
}

# Submission tokens in messages are checked with this.
path "transit/keys/cloudpush-submission" {
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
