"""Trunkline: one streaming speech encoder, many heads, and a store of vectors, for contact-centre calls."""

import os

__version__ = "0.1.0"

# Before torch or faiss load OpenMP. Threads that spin while they wait make shared cores 6 to 30 times slower; threads
# that sleep at once make small layers slower on two threads than on one. So they spin, for some microseconds.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
    os.environ.setdefault("GOMP_SPINCOUNT", "3000")
