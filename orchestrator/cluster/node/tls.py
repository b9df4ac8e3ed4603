"""A certificate authority for one cluster, and a certificate for each of its machines."""

from __future__ import annotations

import datetime
import ipaddress

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from orchestrator.cluster.node.ray_service import LOOPBACK

CA, CA_KEY = "ca.pem", "ca.key"
NODE, NODE_KEY = "node.pem", "node.key"
BUNDLE = "bundle.pem"
"""The authorities that everybody trusts, and ours: for clients that may talk to other servers as well."""
VALID_DAYS = 825
"""The longest that common clients accept."""
SKEW = datetime.timedelta(hours=1)
"""Clocks of machines differ: a certificate is valid from a little before now."""


def new_authority(name: str) -> dict[str, str]:
    """Certificate and key of an authority, by file name."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = _subject(f"{name} (orchestrator)")
    builder = _begin(subject, subject, key).add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    return {CA: _certificate(builder.sign(key, hashes.SHA256())), CA_KEY: _key(key)}


def for_machine(authority: dict[str, str], address: str) -> dict[str, str]:
    """All files of one machine. Ray uses its certificate both as a server and as a client."""
    issuer = x509.load_pem_x509_certificate(authority[CA].encode())
    issuer_key = serialization.load_pem_private_key(authority[CA_KEY].encode(), None)
    assert isinstance(issuer_key, ec.EllipticCurvePrivateKey)
    key = ec.generate_private_key(ec.SECP256R1())
    addresses = sorted({address, LOOPBACK})
    names = [x509.IPAddress(ipaddress.ip_address(each)) for each in addresses]
    usage = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH])
    builder = _begin(_subject(address), issuer.subject, key).add_extension(usage, critical=False)
    builder = builder.add_extension(x509.SubjectAlternativeName([*names, x509.DNSName("localhost")]), critical=False)
    certificate = _certificate(builder.sign(issuer_key, hashes.SHA256()))
    return {CA: authority[CA], NODE: certificate, NODE_KEY: _key(key), BUNDLE: bundle(authority[CA])}


def _subject(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name[:64])])


def _begin(subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - SKEW)
        .not_valid_after(now + datetime.timedelta(days=VALID_DAYS))
    )


def _certificate(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(serialization.Encoding.PEM).decode()


def _key(key: ec.EllipticCurvePrivateKey) -> str:
    form, cipher = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    return key.private_bytes(serialization.Encoding.PEM, form, cipher).decode()


def bundle(authority: str) -> str:
    """Our authority beside those that everybody trusts."""
    import certifi

    return f"{certifi.contents()}\n{authority}"
