#!/bin/sh
# revoke.sh <directory> <name>: revokes a certificate that certificates.sh made there; ca.crl lists it and those before.
set -eu
cd "$1"
touch index.txt
[ -e crlnumber ] || echo 01 > crlnumber
cat > ca.cnf <<CONF
[ca]
default_ca = test
[test]
database = index.txt
crlnumber = crlnumber
default_md = sha256
default_crl_days = 1
certificate = ca.crt
private_key = ca.key
CONF
openssl ca -config ca.cnf -revoke "$2.crt" 2>/dev/null
openssl ca -config ca.cnf -gencrl -out ca.crl 2>/dev/null
