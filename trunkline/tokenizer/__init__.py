"""Tokenizers: text to ids and back, exactly; the same ids of special tokens in each.

`train_tokenizer` makes one from normalised texts, `load_tokenizer` opens one, `import_vocabulary` takes the
`vocab.txt` of a ChunkFormer checkpoint.
"""

from trunkline.tokenizer.base import (
    BLANK,
    SOS_EOS,
    SPECIAL,
    TASKS,
    UNK,
    Tokenizer,
    load_tokenizer,
)
from trunkline.tokenizer.pieces import PieceTokenizer, import_vocabulary
from trunkline.tokenizer.training import KINDS, train_tokenizer

__all__ = [
    "BLANK",
    "KINDS",
    "SOS_EOS",
    "SPECIAL",
    "TASKS",
    "UNK",
    "PieceTokenizer",
    "Tokenizer",
    "import_vocabulary",
    "load_tokenizer",
    "train_tokenizer",
]
