"""Makes a signing key and what belongs to it: tokens.py <directory> <key id>.

Writes jwks.json (this key only), <key id>.token (valid), <key id>.expired and <key id>.foreign (another issuer).
"""

import json
import pathlib
import sys
import time

import jwt
from cryptography.hazmat.primitives.asymmetric import rsa

directory, key_id = pathlib.Path(sys.argv[1]), sys.argv[2]
key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
public = json.loads(jwt.algorithms.RSAAlgorithm.to_jwk(key.public_key()))
public |= {"kid": key_id, "alg": "RS256", "use": "sig"}


def token(name, issuer="https://issuer.example", lives=3600):
    now = int(time.time())
    claims = {"iss": issuer, "sub": "alice", "aud": ["shop"], "iat": now - 7200, "exp": now + lives}
    claims |= {"groups": ["admin", "staff"], "address": {"country": "is"}}
    (directory / f"{key_id}.{name}").write_text(jwt.encode(claims, key, "RS256", {"kid": key_id}))


token("token")
token("expired", lives=-600)
token("foreign", issuer="https://somebody.example")
fresh = directory / "jwks.new"
fresh.write_text(json.dumps({"keys": [public]}))
fresh.rename(directory / "jwks.json")
