# OpenBao of compose.yaml: persistent, unseals itself with a key file, sets itself up on its first start; `initialize` is
# not looked at again afterwards. It has no root token. The policies of the five roles are written by the service
# `policies`, at each start, so that an upgrade can change them.

ui           = false
api_addr     = "https://openbao:8200"
cluster_addr = "https://openbao:8201"

listener "tcp" {
  address       = "0.0.0.0:8200"
  tls_cert_file = "/run/secrets/openbao-certificate.pem"
  tls_key_file  = "/run/secrets/openbao-key.pem"
}

storage "raft" {
  path    = "/openbao/file"
  node_id = "openbao"
}

seal "static" {
  current_key_id = "1"
  current_key    = "file:///run/secrets/openbao-seal-key"
}

# Who unsealed what: beside CloudPush's own record, the one that sees a stolen role at work. Secrets in it are hashed.
audit "file" "stdout" {
  options {
    file_path = "stdout"
  }
}

initialize "secrets" {
  request "transit" {
    operation = "update"
    path      = "sys/mounts/transit"
    data      = { type = "transit" }
  }
  request "key" {
    operation = "update"
    path      = "transit/keys/cloudpush"
    data      = { type = "aes256-gcm96", exportable = false, allow_plaintext_backup = false }
  }
  request "issuer_key" {
    operation = "update"
    path      = "transit/keys/cloudpush-issuer"
    data      = { type = "rsa-2048", exportable = false, allow_plaintext_backup = false }
  }
  request "audit_key" {
    operation = "update"
    path      = "transit/keys/cloudpush-audit"
    data      = { type = "ed25519", exportable = false, allow_plaintext_backup = false }
  }
  request "submission_key" {
    operation = "update"
    path      = "transit/keys/cloudpush-submission"
    data      = { type = "ed25519", exportable = false, allow_plaintext_backup = false }
  }
  request "kv" {
    operation = "update"
    path      = "sys/mounts/cloudpush"
    data      = { type = "kv", options = { version = "2" } }
  }
}

initialize "roles" {
  request "approle" {
    operation = "update"
    path      = "sys/auth/approle"
    data      = { type = "approle" }
  }
  request "operator_policy" {
    operation = "update"
    path      = "sys/policies/acl/cloudpush-operator"
    data      = { policy = { eval_source = "file", eval_type = "string", path = "/etc/openbao/operator.hcl" } }
  }
  request "worker" {
    operation = "update"
    path      = "auth/approle/role/cloudpush-worker"
    data = {
      token_policies          = ["cloudpush-worker"]
      token_no_default_policy = true
      token_ttl               = 3600
      token_max_ttl           = 86400
      role_id                 = { eval_source = "file", eval_type = "string", path = "/run/secrets/worker-role-id" }
    }
  }
  request "worker_secret" {
    operation = "update"
    path      = "auth/approle/role/cloudpush-worker/custom-secret-id"
    data      = { secret_id = { eval_source = "file", eval_type = "string", path = "/run/secrets/worker-secret-id" } }
  }
  request "intake" {
    operation = "update"
    path      = "auth/approle/role/cloudpush-intake"
    data = {
      token_policies          = ["cloudpush-intake"]
      token_no_default_policy = true
      token_ttl               = 3600
      token_max_ttl           = 86400
      role_id                 = { eval_source = "file", eval_type = "string", path = "/run/secrets/intake-role-id" }
    }
  }
  request "intake_secret" {
    operation = "update"
    path      = "auth/approle/role/cloudpush-intake/custom-secret-id"
    data      = { secret_id = { eval_source = "file", eval_type = "string", path = "/run/secrets/intake-secret-id" } }
  }
  request "keeper" {
    operation = "update"
    path      = "auth/approle/role/cloudpush-keeper"
    data = {
      token_policies          = ["cloudpush-keeper"]
      token_no_default_policy = true
      token_ttl               = 3600
      token_max_ttl           = 86400
      role_id                 = { eval_source = "file", eval_type = "string", path = "/run/secrets/keeper-role-id" }
    }
  }
  request "keeper_secret" {
    operation = "update"
    path      = "auth/approle/role/cloudpush-keeper/custom-secret-id"
    data      = { secret_id = { eval_source = "file", eval_type = "string", path = "/run/secrets/keeper-secret-id" } }
  }
  request "web" {
    operation = "update"
    path      = "auth/approle/role/cloudpush-web"
    data = {
      token_policies          = ["cloudpush-web"]
      token_no_default_policy = true
      token_ttl               = 3600
      token_max_ttl           = 86400
      role_id                 = { eval_source = "file", eval_type = "string", path = "/run/secrets/web-role-id" }
    }
  }
  request "web_secret" {
    operation = "update"
    path      = "auth/approle/role/cloudpush-web/custom-secret-id"
    data      = { secret_id = { eval_source = "file", eval_type = "string", path = "/run/secrets/web-secret-id" } }
  }
  request "notary" {
    operation = "update"
    path      = "auth/approle/role/cloudpush-notary"
    data = {
      token_policies          = ["cloudpush-notary"]
      token_no_default_policy = true
      token_ttl               = 3600
      token_max_ttl           = 86400
      role_id                 = { eval_source = "file", eval_type = "string", path = "/run/secrets/notary-role-id" }
    }
  }
  request "notary_secret" {
    operation = "update"
    path      = "auth/approle/role/cloudpush-notary/custom-secret-id"
    data      = { secret_id = { eval_source = "file", eval_type = "string", path = "/run/secrets/notary-secret-id" } }
  }
  request "operator" {
    operation = "update"
    path      = "auth/approle/role/cloudpush-operator"
    data = {
      token_policies          = ["cloudpush-operator"]
      token_no_default_policy = true
      token_ttl               = 300
      token_max_ttl           = 300
      role_id                 = { eval_source = "file", eval_type = "string", path = "/run/secrets/operator-role-id" }
    }
  }
  request "operator_secret" {
    operation = "update"
    path      = "auth/approle/role/cloudpush-operator/custom-secret-id"
    data      = { secret_id = { eval_source = "file", eval_type = "string", path = "/run/secrets/operator-secret-id" } }
  }
}
