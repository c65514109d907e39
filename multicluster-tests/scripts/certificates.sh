#!/bin/sh
# certificates.sh <directory> <name>=<DNS name>...: a CA (made once), and a key and a certificate of it for each name.
set -eu
cd "$1"
shift
key="-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes"
[ -e ca.crt ] || openssl req -x509 $key -keyout ca.key -out ca.crt -days 2 -subj "/CN=test CA" 2>/dev/null
for pair in "$@"; do
  name="${pair%%=*}" host="${pair#*=}"
  openssl req $key -keyout "$name.key" -out "$name.csr" -subj "/CN=$name" 2>/dev/null
  printf 'subjectAltName=DNS:%s\nbasicConstraints=CA:false\n' "$host" > "$name.ext"
  openssl x509 -req -in "$name.csr" -CA ca.crt -CAkey ca.key -CAcreateserial -days 1 -extfile "$name.ext" -out "$name.crt" 2>/dev/null
done
