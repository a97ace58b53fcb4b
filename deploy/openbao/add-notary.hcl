# What `add-notary.sh` lends the role `keeper` for as long as it runs.

path "transit/keys/cloudpush-audit" {
  capabilities = ["create", "update"]
}

path "transit/keys/cloudpush-submission" {
  capabilities = ["create", "update"]
}

path "auth/approle/role/cloudpush-notary" {
  capabilities = ["create", "update"]
}

path "auth/approle/role/cloudpush-notary/custom-secret-id" {
  capabilities = ["update"]
}

path "sys/policies/acl/cloudpush-notary" {
  capabilities = ["create", "update"]
}

path "sys/policies/acl/cloudpush-operator" {
  capabilities = ["create", "update"]
}
