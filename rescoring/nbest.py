"""N-best lists, as `trunkline.nbest` defines them for those who write them and those who rescore them."""

from trunkline.nbest import SCHEMA, Hypothesis, NBest, parse_nbest, read_nbest, to_json, write_nbest

__all__ = ["SCHEMA", "Hypothesis", "NBest", "parse_nbest", "read_nbest", "to_json", "write_nbest"]
