"""A small text, the model that lmplz makes of it, and texts for property tests."""

from hypothesis import strategies as st

TEXT = """\
tôi muốn khóa thẻ
tôi muốn mở thẻ
tôi muốn mở tài khoản
anh muốn khóa thẻ
tôi mất thẻ
anh chờ máy
thẻ
tôi muốn khóa thẻ tín dụng
"""

# What KenLM's `lmplz -o 3 --discount_fallback --prune 0 0 1` (kenlm 0.3.0) writes for TEXT.
LMPLZ = """\
\\data\\
ngram 1=16
ngram 2=21
ngram 3=5

\\1-grams:
-1.520587	<unk>	0
0	<s>	-0.42596874
-0.82621264	</s>	0
-1.2678616	tôi	-0.30103
-1.1091444	muốn	-0.30103
-1.2678616	khóa	-0.30103
-0.82621264	thẻ	-0.39794
-1.2678616	mở	-0.30103
-1.2678616	tài	-0.30103
-1.2678616	khoản	-0.30103
-1.2678616	anh	-0.30103
-1.2678616	mất	-0.30103
-1.2678616	chờ	-0.30103
-1.2678616	máy	-0.30103
-1.2678616	tín	-0.30103
-1.2678616	dụng	-0.30103

\\2-grams:
-0.25205824	thẻ </s>	0
-0.24063195	khoản </s>	0
-0.24063195	máy </s>	0
-0.24063195	dụng </s>	0
-0.33938295	<s> tôi	-0.6804866
-0.53926915	tôi muốn	-0.20035987
-0.53926915	anh muốn	0
-0.44331467	muốn khóa	-1.8388492
-0.9264562	<s> thẻ	0
-0.24063195	khóa thẻ	-0.12284575
-0.48864725	mở thẻ	0
-0.24063195	mất thẻ	0
-0.7129807	muốn mở	0
-0.5575451	mở tài	0
-0.27820247	tài khoản	0
-0.8379195	<s> anh	0
-0.5575451	tôi mất	0
-0.5575451	anh chờ	0
-0.27820247	chờ máy	0
-0.9151118	thẻ tín	0
-0.27820247	tín dụng	0

\\3-grams:
-0.17511526	khóa thẻ </s>
-0.069767304	<s> tôi muốn
-0.38516682	tôi muốn khóa
-0.002685777	muốn khóa thẻ
-0.5130501	tôi muốn mở

\\end\\
"""

SENTENCES = [line.split() for line in TEXT.splitlines()]

WORDS = st.sampled_from(["a", "b", "c", "đ"])
TEXTS = st.lists(st.lists(WORDS, min_size=1, max_size=5), min_size=1, max_size=12)
