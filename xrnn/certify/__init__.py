"""The laws that every cell obeys, and the certificate that they hold on this machine."""

from xrnn.certify.report import Certificate, Verdict, certify

__all__ = ["Certificate", "Verdict", "certify"]
