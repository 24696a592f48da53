#!/usr/bin/env bash
# Install what the tests use beyond Python on Debian or Ubuntu: run as root.
# Without it the tests that need it are skipped with a reason.
set -euo pipefail
cd "$(dirname "$0")/.."
export DEBIAN_FRONTEND=noninteractive
packages=(acl ca-certificates gcc libc6-dev make git postgresql util-linux python3-samba)
# A token for the PKCS#11 provider, and what judges where the service connects to and how its unit is hardened.
packages+=(softhsm2 strace systemd)
# The directories that tests start themselves, each in a temporary folder on loopback: Active Directory and OpenLDAP.
packages+=(samba samba-ad-dc samba-ad-provision samba-dsdb-modules samba-vfs-modules winbind smbclient krb5-user slapd ldap-utils)
command -v npx >/dev/null || packages+=(nodejs npm)
apt-get update -qq
# Debian starts what it installs. While these are installed it must not: the tests need the ports, and nobody the servers.
if [[ ! -e /usr/sbin/policy-rc.d ]]; then
  printf '#!/bin/sh\nexit 101\n' > /usr/sbin/policy-rc.d
  chmod 755 /usr/sbin/policy-rc.d
  trap 'rm -f /usr/sbin/policy-rc.d' EXIT
fi
apt-get install -y -qq --no-install-recommends "${packages[@]}" >/dev/null
# The OpenID Connect provider of tests/support/oidc, as its lock file pins it.
npm ci --prefix tests/support/oidc --no-audit --no-fund --silent
