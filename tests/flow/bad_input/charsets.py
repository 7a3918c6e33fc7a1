"""A name in every repertoire of PS3.3 C.12.1.1.2 that holds one."""

from __future__ import annotations

NAMES = {
    "ISO_IR 100": "Ærøskøbing^Zoë",
    "ISO_IR 101": "Wałęsa^Świętosława",
    "ISO_IR 109": "Ĝirafo^Ĉefa",
    "ISO_IR 110": "Šķirotava^Āris",
    "ISO_IR 144": "Люкceмбypг^Иван",
    "ISO_IR 127": "قباني^لنزار",
    "ISO_IR 126": "Διονυσιος^Σοφια",
    "ISO_IR 138": "שרון^דבורה",
    "ISO_IR 148": "Çağlar^Işıl",
    "ISO_IR 13": "ﾔﾏﾀﾞ^ﾀﾛｳ",
    "ISO_IR 166": "นามสกุล^ชื่อ",
    "ISO_IR 192": "Ångström^Ñandú≥",
    "GB18030": "王^小东",
    "\\ISO 2022 IR 87": "Yamada^Tarou=山田^太郎=やまだ^たろう",
    "\\ISO 2022 IR 159": "Yamada^Tarou=丂丄^丅",
    "\\ISO 2022 IR 149": "Hong^Gildong=洪^吉洞=홍^길동",
    "\\ISO 2022 IR 58": "Zhang^XiaoDong=张^小东",
}

# What pydicom does not write as PS3.5 6.1.2.5 has it: GB 2312 without its escape sequence.
ENCODED = {
    "\\ISO 2022 IR 58": b"Zhang^XiaoDong=\x1b$)A\xd5\xc5^\x1b$)A\xd0\xa1\xb6\xab",
}
# ... and half-width katakana anywhere but in a name
PLAIN_DESCRIPTION = frozenset({"ISO_IR 13"})
