"""What the tests of phrases share: made-up names, how they are misheard, and lists that hold them."""

from __future__ import annotations

import random
from functools import cache

from rescoring.simulate import Recogniser, simulate
from trunkline.nbest import Hypothesis, NBest
from trunkline.syllable import parse, place_tone, split_tone, words

FAMILY = words("nguyễn trần lê phạm hoàng phan vũ đặng bùi đỗ hồ ngô dương lý đinh trịnh")
MIDDLE = words("văn thị minh thanh quốc ngọc hữu đức xuân thu kim bảo gia tuấn")
GIVEN = words(
    "an bình châu dũng giang hà hương khánh lan long mai nam nga phúc quân sơn tâm thảo trang vinh yến"
)
TALK = words(
    "tôi muốn hỏi về số dư tài khoản của mình ngày hôm qua anh chị cho biết phí chuyển tiền bao nhiêu "
    "dạ vâng xin chờ một chút em kiểm tra lại giúp thẻ này bị khóa từ tuần trước rồi cảm ơn"
)


def names(count: int, seed: int = 0) -> list[str]:
    rng = random.Random(seed)
    found: dict[str, None] = {}
    while len(found) < count:
        parts = (
            rng.choice(FAMILY),
            rng.choice(MIDDLE),
            rng.choice(MIDDLE + GIVEN),
            rng.choice(GIVEN),
        )
        found[" ".join(parts[: rng.choice([3, 4])]).title()] = None
    return list(found)


def misheard(word: str, rng: random.Random) -> str:
    """The word with another tone and, where that gives a syllable, another onset of another VnSoundex class."""
    letters, _ = split_tone(word) or (word, "")
    onset, other = rng.choice(
        [("m", "n"), ("h", "kh"), ("t", "th"), ("đ", "t"), ("b", "m"), ("l", "r")]
    )
    changed = other + letters[len(onset) :] if letters.startswith(onset) else letters
    changed = place_tone(changed, rng.choice(["", "f", "s", "r", "x", "j"]))
    return changed if parse(changed) else word


def one(text: str, *others: str, **fields) -> NBest:
    hyps = tuple(Hypothesis(x, -10.0 - i) for i, x in enumerate((text, *others)))
    return NBest("u1", hyps, **fields)


@cache
def simulated(count: int) -> tuple[list[NBest], tuple[str, ...]]:
    """500 utterances of a simulated recogniser; half of them hold a name of the list, which it can write."""
    listed, rng = names(count, seed=3), random.Random(4)
    texts = []
    for _ in range(500):
        said = rng.choices(TALK, k=rng.randint(5, 10))
        if rng.random() < 0.5:
            place = rng.randrange(len(said) + 1)
            said[place:place] = words(rng.choice(listed))
        texts.append(" ".join(said))
    known = sorted({*TALK, *FAMILY, *MIDDLE, *GIVEN})
    confusable = words(
        "sân xân nam nang lang bính bìn dũn nguyển ngiễn trằn vân phát phúp hòa hoang xơn tân tăm"
    )
    lists = simulate(
        texts, Recogniser(size=20, noise=2.0), vocabulary=[*known, *confusable], seed=5
    )
    return list(lists), tuple(listed)
