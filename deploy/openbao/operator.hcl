# Role `cloudpush-operator`: what running OpenBao for CloudPush takes. It unseals nothing by itself, but it may write the
# policies of the five roles and give them new secret ids, and so can give itself their rights: keep its secret id
# where only operators read.

path "sys/policies/acl/cloudpush-worker" {
  capabilities = ["create", "read", "update"]
}

path "sys/policies/acl/cloudpush-intake" {
  capabilities = ["create", "read", "update"]
}

path "sys/policies/acl/cloudpush-keeper" {
  capabilities = ["create", "read", "update"]
}

path "sys/policies/acl/cloudpush-web" {
  capabilities = ["create", "read", "update"]
}

path "sys/policies/acl/cloudpush-notary" {
  capabilities = ["create", "read", "update"]
}

# Replacing the secret ids of the roles.
path "auth/approle/role/+/secret-id" {
  capabilities = ["list", "update"]
}

path "auth/approle/role/+/custom-secret-id" {
  capabilities = ["update"]
}

path "auth/approle/role/+/secret-id-accessor/lookup" {
  capabilities = ["update"]
}

path "auth/approle/role/+/secret-id-accessor/destroy" {
  capabilities = ["update"]
}

# Ending the tokens that were given for them.
path "sys/leases/revoke-prefix/auth/approle/login" {
  capabilities = ["sudo", "update"]
}

# Backup and restore.
path "sys/storage/raft/snapshot" {
  capabilities = ["read", "update"]
}

# After a restore: what lies in Vault and is not, or no longer, in Postgres.
path "cloudpush/metadata/credentials" {
  capabilities = ["list"]
}

path "cloudpush/metadata/credentials/+" {
  capabilities = ["delete"]
}

path "cloudpush/metadata/sheets" {
  capabilities = ["list"]
}

path "cloudpush/metadata/sheets/+" {
  capabilities = ["delete"]
}

# A new version of the key that identity tokens are signed with, and the end of older ones.
path "transit/keys/cloudpush-issuer" {
  capabilities = ["read"]
}

path "transit/keys/cloudpush-issuer/rotate" {
  capabilities = ["update"]
}

path "transit/keys/cloudpush-issuer/config" {
  capabilities       = ["update"]
  allowed_parameters = {
    "min_decryption_version" = []
  }
}

# New versions of the keys that receipts, checkpoints and submission tokens are signed with. Older ones stay: what they
# signed is to be checked for as long as there is somebody to ask.
path "transit/keys/cloudpush-audit/rotate" {
  capabilities = ["update"]
}

path "transit/keys/cloudpush-submission/rotate" {
  capabilities = ["update"]
}

# Its own token.
path "auth/token/lookup-self" {
  capabilities = ["read"]
}
