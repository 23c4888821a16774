"""The people of the archive: everything about them that no output, log or error may repeat.

All names are invented and unlike any word that a program might print. The UIDs stand below the arc that RFC 5612
reserves for examples.
"""

import contextlib
from dataclasses import dataclass
from datetime import date, timedelta
from urllib.parse import quote

from mri_ray.archive.identity import digest

UID_ROOT = "1.3.6.1.4.1.32473.7351."
ID_STEM, ACCESSION_STEM, PRIVATE_STEM = "PATZX-", "ACCNZX-", "PRIVZX_"
INSTITUTION, ADDRESS_STEM, PHONE = "Sankt-Nimmerlein-Klinikum", "Irrlichtgasse", "07731-5550199"
PHYSICIAN, OPERATOR = "Knochenhauerin^Vogelweydt", "Zwickmeierin^Ottokarla"
STATION, SERIAL = "STATZX77", "SNZX-448-7713"
EVERYWHERE = (
    *(UID_ROOT, ID_STEM, ACCESSION_STEM, PRIVATE_STEM, INSTITUTION, ADDRESS_STEM, PHONE, STATION, SERIAL),
    *PHYSICIAN.split("^"),
    *OPERATOR.split("^"),
)

# Character set as in DICOM, name as in PatientName, the names that must not be seen, how folders spell it.
_NAMES: tuple[tuple[str | list[str], str, tuple[str, ...], str], ...] = (
    ("ISO_IR 100", "Müßigbrodtler^Änneliese", ("Müßigbrodtler", "Änneliese"), "Müßigbrodtler_Änneliese"),
    ("ISO_IR 6", "Quackenbushel^Zebediahus", ("Quackenbushel", "Zebediahus"), "Quackenbushel_Zebediahus"),
    (
        ["", "ISO 2022 IR 87"],
        "Yakushizin^Tarokazu=薬師神^太郎一=やくしじん^たろかず",
        ("Yakushizin", "Tarokazu", "薬師神", "太郎一", "やくしじん", "たろかず"),
        "薬師神 太郎一",
    ),
    ("ISO_IR 192", "Żółćkowska^Świętosława", ("Żółćkowska", "Świętosława"), "Zolckowskaja_Swietoslawna"),
    ("ISO_IR 100", "Größenwöhner^Jörg-Ühland", ("Größenwöhner", "Jörg-Ühland"), "Groessenwoehner, Joerg-Uehland"),
    ("ISO_IR 144", "Щербаковичев^Ярополкин", ("Щербаковичев", "Ярополкин"), "Schtscherbakowitschew"),
    ("ISO_IR 6", "XYLANDER-PFOTENHAUER^WUNIBALDA", ("XYLANDER", "PFOTENHAUER", "WUNIBALDA"), "xylander-pfotenhauer"),
    ("GB18030", "Ouyangxiuling^Yinglinna=欧阳琇^瑛麟", ("Ouyangxiuling", "Yinglinna", "欧阳琇", "瑛麟"), "欧阳琇瑛麟"),
    ("ISO_IR 100", "Ødegårdslien^Bjørnstjernesen", ("Ødegårdslien", "Bjørnstjernesen"), "Ødegårdslien^Bjørnstjernesen"),
    ("ISO_IR 6", "Thistlethwaitely^Peregrinna", ("Thistlethwaitely", "Peregrinna"), "PEREGRINNA THISTLETHWAITELY"),
    ("ISO_IR 192", "Nguyễnphươngly^Thịnhđứcly", ("Nguyễnphươngly", "Thịnhđứcly"), "Nguyễnphươngly"),
    ("ISO_IR 101", "Háromszékelyházy^Örzsébetke", ("Háromszékelyházy", "Örzsébetke"), "Haromszekelyhazy"),
)
_BORN = date(1911, 4, 17)
_CODECS = ("utf-8", "utf-16-le", "latin-1", "iso8859-2", "iso8859-5", "gb18030", "shift_jis", "euc_jp", "iso2022_jp")
_MIN_BYTES = 6


@dataclass(frozen=True, kw_only=True, slots=True)
class Person:
    """name, charset: as in PatientName and SpecificCharacterSet. folder: how the archive's folders spell the name."""

    number: int
    name: str
    charset: str | list[str]
    patient_id: str
    born: date
    sex: str
    folder: str
    names: tuple[str, ...]  # that may not be seen

    @property
    def address(self) -> str:
        return f"{ADDRESS_STEM} {self.number + 1}b, 99999 Schlumpfhausen"

    @property
    def comment(self) -> str:
        born = f"{self.born:%d.%m.%Y}, {self.born:%Y-%m-%d}, {self.born:%d%m%Y}, {self.born:%Y%m%d}"
        return f"{self.name} ({self.folder}), {self.patient_id}, geb. {born}, Tel. {PHONE}"

    @property
    def accession(self) -> str:
        return f"{ACCESSION_STEM}{self.number:06d}"

    @property
    def private(self) -> str:
        return f"{PRIVATE_STEM}{self.number:06d}-{self.born:%Y%m%d}"


def person(number: int) -> Person:
    """The archive's patient of a number from 0; no two share an id."""
    index = number % len(_NAMES)
    charset, name, names, folder = _NAMES[index]
    return Person(
        number=number,
        name=name,
        charset=charset,
        patient_id=f"{ID_STEM}{number:05d}",
        born=_birthday(index),
        sex="FMO"[number % 3],
        folder=folder,
        names=names,
    )


def uid(*parts: str | int) -> str:
    """A UID that follows from its parts, at most 64 characters long."""
    return f"{UID_ROOT}{int(digest('uid', *map(str, parts))[:28], 16)}"


def planted() -> tuple[str, ...]:
    """All texts that may not come out, each once."""
    texts = list(EVERYWHERE)
    for index, (_, name, names, folder) in enumerate(_NAMES):
        born = _birthday(index)
        texts += [name, folder, *names, f"{born:%Y%m%d}", f"{born:%Y-%m-%d}", f"{born:%d.%m.%Y}", f"{born:%d%m%Y}"]
    return tuple(dict.fromkeys(texts))


def encodings(text: str) -> set[bytes]:
    """The bytes a text may stand as: in the character sets used here, escaped in Python and JSON, quoted in a URL.

    Shorter ones than chance might write are left out.
    """
    forms = {quote(text).encode(), text.encode("ascii", "backslashreplace")}
    forms.add("".join(char if char.isascii() else f"\\u{ord(char):04x}" for char in text).encode())  # JSON
    for codec in _CODECS:
        with contextlib.suppress(UnicodeEncodeError):
            forms.add(text.encode(codec))
    return {form for form in forms if len(form) >= _MIN_BYTES}


def _birthday(index: int) -> date:
    return _BORN + timedelta(days=index * 1471)
