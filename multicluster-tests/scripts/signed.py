"""Makes a key of every kind and tokens that they sign: signed.py <directory>.

Writes jwks.json and <algorithm>.token for each algorithm, other-audience.token (for nobody here), confused.token (says
HS256 and is signed with the text of a public key) and unsigned.token (alg none).
"""

import base64
import hashlib
import hmac
import json
import pathlib
import sys
import time

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

directory = pathlib.Path(sys.argv[1])
rsa_key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
keys = {
    "rsa": (rsa_key, jwt.algorithms.RSAAlgorithm, ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512"]),
    "p256": (ec.generate_private_key(ec.SECP256R1()), jwt.algorithms.ECAlgorithm, ["ES256"]),
    "p384": (ec.generate_private_key(ec.SECP384R1()), jwt.algorithms.ECAlgorithm, ["ES384"]),
    "ed25519": (ed25519.Ed25519PrivateKey.generate(), jwt.algorithms.OKPAlgorithm, ["EdDSA"]),
}
now = int(time.time())
claims = {"iss": "https://issuer.example", "sub": "alice", "aud": "shop", "azp": "app", "exp": now + 3600}
claims |= {"scope": "read write", "groups": ["staff"], "tenant": "red", "address": {"country": "is"}}
public = []
for name, (key, kind, algorithms) in keys.items():
    public.append(json.loads(kind.to_jwk(key.public_key())) | {"kid": name, "use": "sig"})
    for algorithm in algorithms:
        (directory / f"{algorithm}.token").write_text(jwt.encode(claims, key, algorithm, {"kid": name}))
(directory / "jwks.json").write_text(json.dumps({"keys": public}))
for name, changed in [
    ("other-audience", {"aud": "bank"}),
    ("early", {"nbf": now + 3600}),
    ("expired", {"exp": now - 3600}),
    ("blue", {"tenant": "blue", "sub": "bob"}),
]:
    (directory / f"{name}.token").write_text(jwt.encode(claims | changed, rsa_key, "RS256", {"kid": "rsa"}))


def encoded(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def bare(algorithm):
    head = {"alg": algorithm, "typ": "JWT", "kid": "rsa"}
    return encoded(json.dumps(head).encode()) + "." + encoded(json.dumps(claims).encode())


pem = rsa_key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
confused = bare("HS256")
signature = hmac.new(pem, confused.encode(), hashlib.sha256).digest()
(directory / "confused.token").write_text(f"{confused}.{encoded(signature)}")
(directory / "unsigned.token").write_text(bare("none") + ".")
