# Role `web`: what stands nearest to browsers. It seals the tokens that a consent gave and can neither read them back nor
# overwrite a block; it reads the client secrets that a consent is finished with, and our public keys. It cannot sign.
# The names are the defaults of CLOUDPUSH_VAULT_KV_MOUNT, _TRANSIT_MOUNT, _TRANSIT_KEY and _ISSUER_KEY.

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
