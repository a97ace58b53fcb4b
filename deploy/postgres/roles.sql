-- Roles and database. Run once by a superuser with psql, which reads the passwords from files;
-- the image of PostgreSQL does so at its first start.
\set owner_password `cat /run/secrets/postgres-owner-password`
\set app_password `cat /run/secrets/postgres-app-password`

-- A statement that fails is not written to the log: these hold passwords.
SET log_min_error_statement = panic;

CREATE ROLE cloudpush_owner LOGIN PASSWORD :'owner_password';
CREATE ROLE cloudpush_app NOLOGIN;
CREATE ROLE cloudpush_worker LOGIN IN ROLE cloudpush_app PASSWORD :'app_password';

CREATE DATABASE cloudpush OWNER cloudpush_owner;
REVOKE ALL ON DATABASE cloudpush FROM PUBLIC;
GRANT CONNECT ON DATABASE cloudpush TO cloudpush_app;
