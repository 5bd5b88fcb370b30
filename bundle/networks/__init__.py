"""The network: encoders, decoder, and TCMN, which joins them."""

from bundle.networks.tcmn import TCMN

__all__ = ["TCMN"]
