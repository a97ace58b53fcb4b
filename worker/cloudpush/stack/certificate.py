"""A certificate that signs itself, for a server on loopback that has to speak TLS."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from cloudpush.stack.ports import HOST
from cloudpush.stack.private import write_private

CERTIFICATE, KEY = "certificate.pem", "certificate-key.pem"
LIFE = timedelta(days=825)
#: It is made anew when less than this is left.
LEAST = timedelta(days=30)


def certificate(directory: Path, name: str) -> tuple[Path, Path]:
    """Certificate and key below ``directory``, a private one, for :data:`HOST` and localhost; made where there is none.

    The certificate is its own authority: clients that are to trust it take it as CA file.
    """
    certificate_, key = directory / CERTIFICATE, directory / KEY
    if not (key.is_file() and _lives(certificate_)):
        secret = ec.generate_private_key(ec.SECP256R1())
        write_private(key, secret.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode())
        write_private(certificate_, _signed(secret, name).public_bytes(Encoding.PEM).decode())
    return certificate_, key


def _lives(path: Path) -> bool:
    try:
        found = x509.load_pem_x509_certificate(path.read_bytes())
    except (OSError, ValueError):
        return False
    return found.not_valid_after_utc - datetime.now(UTC) > LEAST


def _signed(secret: ec.EllipticCurvePrivateKey, name: str) -> x509.Certificate:
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"CloudPush embedded {name}")])
    now = datetime.now(UTC)
    usage = x509.KeyUsage(
        digital_signature=True,
        key_cert_sign=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(secret.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + LIFE)
        .add_extension(
            x509.SubjectAlternativeName([x509.DNSName("localhost"), x509.IPAddress(ip_address(HOST))]), critical=False
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(secret.public_key()), critical=False)
        .sign(secret, SHA256())
    )
