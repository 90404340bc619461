"""What transcribers put in brackets: [cười], (ho), <noise>; one tag each, whatever they wrote."""

from __future__ import annotations

_WRITTEN = {
    "laugh": "cười laugh laughs laughing laughter tiếng_cười cười_lớn haha",
    "cough": "ho cough coughs tiếng_ho hắng_giọng",
    "breath": "thở breath breathing thở_dài tiếng_thở hít_thở sigh",
    "cry": "khóc cry crying tiếng_khóc",
    "noise": "ồn noise tiếng_ồn nhiễu tạp_âm tiếng_động background background_noise nền",
    "music": "nhạc music nhạc_chờ nhạc_nền tiếng_nhạc hold_music",
    "ring": "chuông ring ringing tiếng_chuông chuông_điện_thoại chuông_reo phone_ring",
    "beep": "bíp beep tiếng_bíp tút tiếng_tút tone",
    "silence": "im_lặng silence sil yên_lặng khoảng_lặng pause ngừng dừng",
    "unclear": "không_rõ nghe_không_rõ không_nghe_rõ unk unclear inaudible unintelligible ? ?? ??? không_nghe_được",
    "overlap": "chồng_tiếng nói_chen overlap overlapping crosstalk cross_talk nói_chồng",
    "foreign": "tiếng_anh tiếng_nước_ngoài foreign nước_ngoài ngoại_ngữ",
    "applause": "vỗ_tay applause",
    "speech": "nói_nền tiếng_người background_speech side_speech",
}
TAGS = tuple(f"<{name}>" for name in _WRITTEN)
"""Every tag that the normaliser writes."""

_TAG = {
    written.replace("_", " "): f"<{name}>"
    for name, forms in _WRITTEN.items()
    for written in [*forms.split(), name]
}


def tag_of(bracketed: str) -> str | None:
    """Return the tag of a bracketed annotation, brackets included, or None when it is not known."""
    inner = bracketed[1:-1].lower().replace("_", " ").replace("-", " ")
    return _TAG.get(" ".join(inner.split()))
