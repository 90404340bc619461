"""Trunkline: one streaming speech encoder, many heads, and a store of vectors, for contact-centre calls."""

__version__ = "0.1.0"
