"""The network: encoders, decoder, ``TCMN``, which combines them, prompts as maps, and weights."""

from bundle.networks.definition import make_network
from bundle.networks.tcmn import TCMN
from bundle.networks.weights import load_weights

__all__ = ["TCMN", "load_weights", "make_network"]
