#!/bin/sh
# Run once by the image of PostgreSQL: the login that serves is no superuser, since row-level security would not bind one.
# CREATEROLE for the role that the pool works as, CREATEDB for weir restore --check.
set -eu
psql -v ON_ERROR_STOP=1 -U postgres -v password="$(cat /run/secrets/weir_password)" <<'SQL'
CREATE ROLE weir LOGIN PASSWORD :'password' CREATEROLE CREATEDB;
CREATE DATABASE weir OWNER weir;
SQL
