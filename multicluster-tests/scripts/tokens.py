"""Makes a signing key and what belongs to it: tokens.py <directory> <key id>.

Writes jwks.json (this key only), <key id>.token (valid), <key id>.expired, <key id>.foreign (another issuer), and
<key id>.found, of the issuer JWKS_SERVER, whose .well-known/openid-configuration it writes.
"""

import json
import pathlib
import sys
import time

import jwt
from cryptography.hazmat.primitives.asymmetric import rsa

JWKS_SERVER = "http://jwks.default.svc.cluster.local:8000"

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
token("found", issuer=JWKS_SERVER)
well_known = directory / ".well-known"
well_known.mkdir(exist_ok=True)
configuration = {"issuer": JWKS_SERVER, "jwks_uri": f"{JWKS_SERVER}/jwks.json"}
(well_known / "openid-configuration").write_text(json.dumps(configuration))
fresh = directory / "jwks.new"
fresh.write_text(json.dumps({"keys": [public]}))
fresh.rename(directory / "jwks.json")
