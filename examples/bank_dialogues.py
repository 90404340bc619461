"""What a bank's customers and agents say: Vietnamese calls with intents, sentiments and slots.

``write_dialogue`` turns a random generator into a call: greeting, request, identification by digits
read one by one, a look-up, an answer, perhaps a complaint or a second request, thanks and goodbye.
Texts are in lower case as spoken; commas are pauses. ``{...}`` is a slot: pronoun, amount, digits.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

AGENT, CUSTOMER = "agent", "customer"
DIGITS = ("không", "một", "hai", "ba", "bốn", "năm", "sáu", "bảy", "tám", "chín")
AGENT_NAMES = ("lan", "hương", "tuấn", "minh", "thảo", "quân")

REQUESTS: dict[str, tuple[str, ...]] = {
    "balance": (
        "cho {toi} hỏi số dư tài khoản còn bao nhiêu",
        "{toi} muốn kiểm tra số dư tài khoản",
        "tài khoản của {toi} còn bao nhiêu tiền vậy em",
        "em xem giúp {toi} trong thẻ còn được bao nhiêu",
        "{toi} cần biết số dư hiện tại, tài khoản lương ấy",
        "kiểm tra hộ {toi} tài khoản đã có {amount} vào chưa",
    ),
    "card_lock": (
        "{toi} bị mất thẻ rồi, khóa thẻ giúp {toi} ngay",
        "em khóa thẻ giúp {toi} với",
        "{toi} muốn khóa thẻ tín dụng, thẻ bị kẻ gian lấy mất",
        "thẻ của {toi} rơi đâu mất, khóa lại liền cho {toi}",
        "máy rút tiền nuốt thẻ của {toi} rồi, khóa thẻ giúp",
        "nhờ em tạm khóa thẻ đuôi {digits}",
    ),
    "transfer": (
        "{toi} chuyển {amount} mà bên kia chưa nhận được",
        "{toi} muốn chuyển khoản {amount} sang ngân hàng khác",
        "{toi} chuyển nhầm tiền sang số tài khoản khác rồi",
        "hạn mức chuyển khoản một ngày là bao nhiêu em",
        "lệnh chuyển tiền sáng nay của {toi} đi chưa",
        "chuyển tiền ra nước ngoài thì làm thế nào em",
    ),
    "loan": (
        "{toi} muốn vay {amount} để mua nhà",
        "bên em cho vay tiêu dùng thế nào",
        "{toi} muốn hỏi thủ tục vay mua xe",
        "khoản vay của {toi} kỳ này phải trả bao nhiêu",
        "{toi} muốn tất toán khoản vay trước hạn",
        "vay tín chấp theo lương thì được tối đa bao nhiêu em",
    ),
    "interest": (
        "lãi suất gửi tiết kiệm {months} tháng là bao nhiêu",
        "cho {toi} hỏi lãi suất tiết kiệm hiện nay",
        "gửi {amount} thì lãi mỗi tháng được mấy đồng",
        "lãi suất bên em dạo này có tăng không",
        "{toi} muốn biết lãi suất kỳ hạn {months} tháng",
        "sổ tiết kiệm của {toi} đến hạn, lãi tính sao em",
    ),
    "phone_change": (
        "{toi} muốn đổi số điện thoại đăng ký",
        "{toi} mới thay sim, đổi số điện thoại giúp {toi}",
        "cập nhật cho {toi} số điện thoại mới",
        "số cũ {toi} bỏ rồi, giờ đăng ký số mới thì làm sao",
        "em sửa giúp {toi} số di động nhận tin nhắn",
    ),
    "app_login": (
        "{toi} quên mật khẩu ứng dụng rồi",
        "{toi} không đăng nhập được vào ứng dụng",
        "ứng dụng báo lỗi, {toi} vào không được",
        "{toi} nhập sai mật khẩu nên bị khóa ứng dụng",
        "mã xác nhận không gửi về máy của {toi}",
        "đổi điện thoại mới thì cài lại ứng dụng làm sao em",
    ),
    "fee": (
        "sao tháng này trừ của {toi} {amount} tiền phí",
        "phí thường niên của thẻ là bao nhiêu em",
        "phí tin nhắn mỗi tháng là bao nhiêu",
        "cho {toi} hỏi phí rút tiền ở máy khác ngân hàng",
        "{toi} muốn biết biểu phí chuyển tiền",
    ),
}
ANSWERS: dict[str, tuple[str, ...]] = {
    "balance": (
        "dạ, số dư khả dụng của {kh} là {amount} ạ",
        "tài khoản của {kh} hiện còn {amount} ạ",
        "dạ em kiểm tra thì trong tài khoản có {amount}",
    ),
    "card_lock": (
        "dạ em đã khóa thẻ đuôi {digits} của {kh} rồi ạ",
        "thẻ của {kh} đã được tạm khóa, {kh} ra quầy làm lại thẻ giúp em",
        "em khóa thẻ thành công, thẻ mới có sau năm ngày làm việc ạ",
    ),
    "transfer": (
        "giao dịch {amount} của {kh} đang được xử lý, trong hôm nay sẽ có ạ",
        "dạ hạn mức chuyển khoản của {kh} là {amount} một ngày",
        "em đã gửi yêu cầu tra soát lệnh chuyển tiền cho {kh}",
    ),
    "loan": (
        "dạ {kh} được vay tối đa {amount}, thời hạn {months} tháng",
        "khoản vay kỳ này {kh} cần trả {amount} ạ",
        "{kh} chuẩn bị hợp đồng lao động và sao kê lương giúp em",
    ),
    "interest": (
        "lãi suất kỳ hạn {months} tháng là {rate} phần trăm một năm ạ",
        "dạ hiện nay lãi suất cao nhất là {rate} phần trăm",
        "gửi trực tuyến thì lãi suất cộng thêm không phẩy hai phần trăm ạ",
    ),
    "phone_change": (
        "em đã cập nhật số mới có đuôi {digits} cho {kh} rồi ạ",
        "để đổi số, {kh} mang căn cước ra chi nhánh gần nhất giúp em",
        "dạ số điện thoại mới có hiệu lực sau hai mươi bốn giờ",
    ),
    "app_login": (
        "em vừa gửi mật khẩu mới qua tin nhắn cho {kh}",
        "{kh} chọn quên mật khẩu rồi làm theo hướng dẫn giúp em",
        "dạ em đã mở khóa ứng dụng, {kh} đăng nhập thử lại ạ",
    ),
    "fee": (
        "dạ phí quản lý tài khoản là {amount} một tháng ạ",
        "phí này là phí thường niên của thẻ, {amount} một năm",
        "{kh} duy trì số dư {amount} thì được miễn phí ạ",
    ),
}
ACTS: dict[tuple[str, str], tuple[str, ...]] = {
    (AGENT, "greeting"): (
        "dạ, tổng đài ngân hàng xin nghe, em tên {name}, em có thể giúp gì cho quý khách ạ",
        "xin chào quý khách, em là {name}, em hỗ trợ được gì cho mình ạ",
        "ngân hàng xin nghe ạ, em {name} rất vui được phục vụ quý khách",
    ),
    (CUSTOMER, "greeting"): ("a lô", "a lô, chào em", "chào em", "a lô, ngân hàng phải không em"),
    (AGENT, "ask_number"): (
        "{kh} cho em xin số điện thoại đăng ký ạ",
        "dạ {kh} đọc giúp em số tài khoản",
        "để xác minh, {kh} đọc cho em số đăng ký với ạ",
    ),
    (CUSTOMER, "give_number"): (
        "số của {toi} là {digits}",
        "{yes}, {digits}",
        "{digits} nhé em",
        "em ghi đi, {digits}",
    ),
    (AGENT, "confirm"): (
        "em xin đọc lại là {digits}, đúng không ạ",
        "{digits} phải không {kh}",
        "bốn số cuối là {last_four}, đúng không {kh}",
        "dạ em xác nhận, {digits} ạ",
    ),
    (CUSTOMER, "yes"): ("{yes}", "{yes} đúng rồi em", "đúng rồi", "ừ đúng", "phải rồi em"),
    (CUSTOMER, "no"): ("không phải", "không, em nghe nhầm rồi", "sai rồi em", "chưa đúng đâu em"),
    (AGENT, "hold"): (
        "{kh} chờ máy giúp em một chút ạ",
        "dạ em kiểm tra ngay, {kh} giữ máy nhé",
        "{kh} vui lòng đợi em ít phút",
    ),
    (AGENT, "offer_help"): (
        "{kh} còn cần em hỗ trợ gì thêm không ạ",
        "dạ {kh} còn thắc mắc gì nữa không ạ",
        "ngoài ra {kh} có cần gì thêm không",
    ),
    (CUSTOMER, "no_more"): (
        "thôi được rồi em",
        "không, vậy thôi em",
        "hết rồi",
        "không còn gì đâu",
    ),
    (AGENT, "sorry"): (
        "dạ em thành thật xin lỗi {kh} về sự cố này",
        "em rất xin lỗi vì đã để {kh} phải chờ lâu ạ",
        "dạ em hiểu, em sẽ báo ngay cho bộ phận kỹ thuật",
    ),
    (AGENT, "goodbye"): (
        "cảm ơn {kh} đã gọi đến ngân hàng, chúc {kh} một ngày tốt lành",
        "dạ em chào {kh} ạ",
        "em cảm ơn, chúc {kh} nhiều sức khỏe",
    ),
    (CUSTOMER, "goodbye"): ("chào em", "thôi {toi} cúp máy nhé", "tạm biệt em"),
    (AGENT, "backchannel"): ("dạ", "dạ vâng", "vâng ạ"),
    (CUSTOMER, "backchannel"): ("{yes}", "ừ", "ờ", "à"),
}
COMPLAINTS = (
    "{toi} gọi ba lần rồi mà không ai giải quyết",
    "bên em làm ăn kiểu gì vậy",
    "{toi} rất không hài lòng với dịch vụ này",
    "chờ cả tuần rồi vẫn chưa xong, quá đáng thật",
    "trừ tiền vô lý như vậy {toi} sẽ khiếu nại",
    "nhân viên chi nhánh nói chuyện khó chịu quá",
    "hệ thống cứ lỗi hoài, {toi} bực lắm rồi",
)
THANKS = {
    "neutral": ("cảm ơn em", "ừ cảm ơn em nhé", "{toi} cảm ơn"),
    "positive": (
        "em hỗ trợ nhanh quá, cảm ơn em nhiều",
        "tốt quá, {toi} rất hài lòng",
        "may quá, cảm ơn em nhiều lắm",
        "em nhiệt tình ghê, cảm ơn em",
    ),
    "negative": (
        "thôi, nói mãi cũng vậy",
        "lần sau đừng như thế nữa",
        "chán thật, {toi} đổi ngân hàng khác",
    ),
}
IRRITATION = ("trời ơi", "bực mình quá", "sao lâu thế", "khổ quá em ơi", "lại lỗi nữa rồi")
INTENTS = tuple(REQUESTS) + ("complaint", "thanks", *dict.fromkeys(intent for _, intent in ACTS))
SENTIMENTS = ("negative", "neutral", "positive")


@dataclass(frozen=True, slots=True)
class Line:
    """One turn of a call before it is spoken."""

    role: str
    intent: str
    sentiment: str
    text: str
    """With commas for the pauses."""
    slots: dict[str, str] = field(default_factory=dict)
    """What was put into the text, as figures: ``{"digits": "0099", "amount": "2500000"}``."""


@dataclass(frozen=True, slots=True)
class Customer:
    """What the wording depends on: how the customer is addressed, and the accent."""

    address: str
    accent: str


def write_dialogue(rng: np.random.Generator, customer: Customer, agent_name: str) -> list[Line]:
    """Write one call in the order of its turns (without back-channels)."""
    mood = str(rng.choice(SENTIMENTS, p=(0.35, 0.4, 0.25)))
    writer = _Writer(rng, customer, agent_name)
    topics = [
        str(topic) for topic in rng.choice(list(REQUESTS), 1 + (rng.random() < 0.35), replace=False)
    ]
    writer.act(AGENT, "greeting", "positive")
    writer.act(CUSTOMER, "greeting")
    for count, topic in enumerate(topics):
        opener = f"{_pick(rng, IRRITATION)}, " if mood == "negative" and rng.random() < 0.7 else ""
        sentiment = "negative" if opener else "neutral"
        writer.line(CUSTOMER, topic, sentiment, opener + _pick(rng, REQUESTS[topic]))
        if count == 0:
            writer.identify()
        if mood == "negative" and rng.random() < 0.8:
            writer.line(CUSTOMER, "complaint", "negative", _pick(rng, COMPLAINTS))
            writer.act(AGENT, "sorry")
        writer.act(AGENT, "hold")
        writer.line(AGENT, topic, "neutral", _pick(rng, ANSWERS[topic]))
        writer.line(CUSTOMER, "thanks", mood, _pick(rng, THANKS[mood]))
        writer.act(AGENT, "offer_help")
    writer.act(CUSTOMER, "no_more", "negative" if mood == "negative" else "neutral")
    writer.act(AGENT, "goodbye", "positive")
    writer.act(CUSTOMER, "goodbye")
    return writer.lines


def backchannel(rng: np.random.Generator, role: str, customer: Customer) -> Line:
    """Write what a listener says while the other speaks."""
    return Line(
        role,
        "backchannel",
        "neutral",
        _pick(rng, ACTS[role, "backchannel"]).format(yes=_yes(customer)),
    )


class _Writer:
    """Fills templates and collects the lines of one call."""

    def __init__(self, rng: np.random.Generator, customer: Customer, agent_name: str) -> None:
        self.rng = rng
        self.customer = customer
        self.agent_name = agent_name
        self.self_name = str(rng.choice(["tôi", customer.address]))
        self.lines: list[Line] = []

    def act(self, role: str, intent: str, sentiment: str = "neutral", digits: str = "") -> None:
        self.line(role, intent, sentiment, _pick(self.rng, ACTS[role, intent]), digits)

    def line(self, role: str, intent: str, sentiment: str, template: str, digits: str = "") -> None:
        rng = self.rng
        amount = int(rng.integers(1, 100)) * 10 ** int(rng.integers(5, 8)) // 2
        figures = {
            "digits": digits or "".join(map(str, rng.integers(0, 10, 4))),
            "amount": str(amount),
            "months": str(rng.choice([1, 3, 6, 12, 24, 36])),
            "rate": f"{rng.integers(3, 9)}.{rng.integers(1, 10)}",
        }
        figures["last_four"] = figures["digits"][-4:]
        used = {name: figure for name, figure in figures.items() if f"{{{name}}}" in template}
        thousand = "nghìn" if self.customer.accent == "north" else "ngàn"
        whole, tenth = figures["rate"].split(".")
        text = template.format(
            toi=self.self_name,
            kh=self.customer.address,
            yes=_yes(self.customer),
            name=self.agent_name,
            digits=spell_digits(figures["digits"]),
            last_four=spell_digits(figures["last_four"]),
            amount=f"{spell_number(amount, thousand)} đồng",
            months=spell_number(int(figures["months"]), thousand),
            rate=f"{DIGITS[int(whole)]} phẩy {DIGITS[int(tenth)]}",
        )
        self.lines.append(Line(role, intent, sentiment, text, used))

    def identify(self) -> None:
        """Ask for a number, read it out, repeat it; a misheard number is read out again."""
        digits = "0" + "".join(map(str, self.rng.integers(0, 10, 9)))
        self.act(AGENT, "ask_number")
        self.act(CUSTOMER, "give_number", digits=digits)
        if self.rng.random() < 0.2:
            self.act(AGENT, "confirm", digits=digits[:-1] + str((int(digits[-1]) + 1) % 10))
            self.act(CUSTOMER, "no", "negative")
            self.act(CUSTOMER, "give_number", digits=digits)
        self.act(AGENT, "confirm", digits=digits)
        self.act(CUSTOMER, "yes")


def spell_digits(digits: str) -> str:
    """Read digits one by one, pausing as in 0912 345 678: ``"012"`` -> ``"không một hai"``."""
    starts = [0, *range(3 + len(digits) % 3, len(digits), 3), len(digits)]
    groups = [digits[start:end] for start, end in zip(starts, starts[1:], strict=False)]
    return ", ".join(" ".join(DIGITS[int(digit)] for digit in group) for group in groups)


def spell_number(number: int, thousand: str = "nghìn") -> str:
    """Read a number from 1 to 999,999,999,999: ``2500000`` -> ``"hai triệu năm trăm nghìn"``."""
    words: list[str] = []
    for power, name in ((9, "tỷ"), (6, "triệu"), (3, thousand), (0, "")):
        group = number // 10**power % 1000
        if group:
            words += [*_spell_group(group, follows=bool(words)), name]
    return " ".join(words).strip()


def _spell_group(group: int, follows: bool) -> list[str]:
    hundreds, tens, ones = group // 100, group // 10 % 10, group % 10
    words = [DIGITS[hundreds], "trăm"] if hundreds or follows else []
    if tens == 0 and ones and words:
        words.append("lẻ")
    elif tens:
        words += ["mười"] if tens == 1 else [DIGITS[tens], "mươi"]
    if ones:
        special = {1: "mốt" if tens > 1 else "một", 5: "lăm" if tens else "năm"}
        words.append(special.get(ones, DIGITS[ones]))
    return words


def _yes(customer: Customer) -> str:
    return "vâng" if customer.accent == "north" else "dạ"


def _pick(rng: np.random.Generator, choices: tuple[str, ...]) -> str:
    return choices[int(rng.integers(len(choices)))]
