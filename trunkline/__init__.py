"""Trunkline: one streaming speech encoder, many heads, and a store of vectors, for contact-centre calls."""

import os

__version__ = "0.1.0"

# Before torch or faiss load OpenMP: threads that spin while they wait make shared cores 6 to 30 times slower.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
