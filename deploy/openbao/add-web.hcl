# What `add-web.sh` lends the role `keeper` for as long as it runs.

path "transit/keys/cloudpush-issuer" {
  capabilities = ["create", "update"]
}

path "auth/approle/role/cloudpush-web" {
  capabilities = ["create", "update"]
}

path "auth/approle/role/cloudpush-web/custom-secret-id" {
  capabilities = ["update"]
}

path "sys/policies/acl/cloudpush-web" {
  capabilities = ["create", "update"]
}

path "sys/policies/acl/cloudpush-operator" {
  capabilities = ["create", "update"]
}
