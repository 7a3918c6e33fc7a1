"""Results in the repertoire of their source, for a destination that wants it: nothing is lost, and what cannot be said is seen."""

from __future__ import annotations

import hashlib
import subprocess
from io import BytesIO

import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian

from model.volume import Volume
from service.errors import Rejected
from service.headers import read_file
from service.sections import Destination, WebDestination
from tests.provider import CLASSES, Committing
from tests.sending import part10, sending, states
from tests.service.series import flair_slice
from tests.service.series import part10 as file_of
from tests.webservice import webservice
from tests.worker.encode.cases import affine, context_of, series_of, textured
from tests.worker.encode.test_seg import PLANES, SHAPE, blobs, errors_of
from tests.worker.encode.test_source import NAMES
from worker.encode import sr
from worker.repertoire import transcode

REPERTOIRES = NAMES | {
    "latin 2": ("Żółć^Łukasz", ["ISO_IR 101"]),
    "half-width": ("ﾔﾏﾀﾞ^ﾀﾛｳ=山田^太郎=やまだ^たろう", ["ISO 2022 IR 13", "ISO 2022 IR 87"]),
    "latin by escape": ("Buc^Jérôme", ["ISO 2022 IR 6", "ISO 2022 IR 100"]),
    "russian by escape": ("Luxembourg^Иван", ["", "ISO 2022 IR 144"]),
    "simplified": ("Zhang^XiaoDong=张^小东", ["", "ISO 2022 IR 58"]),
    "korean, latin begins": ("Hong^Gildong=洪^吉洞=홍^길동", ["ISO 2022 IR 100", "ISO 2022 IR 149"]),
    "plain": ("Smith^John", []),
}
# PS3.5 H.3.1, H.3.2, I.2 and K.2
STANDARD = {
    "japanese": b"Yamada^Tarou=\x1b$B;3ED\x1b(B^\x1b$BB@O:\x1b(B=\x1b$B$d$^$@\x1b(B^\x1b$B$?$m$&\x1b(B",
    "half-width": b"\xd4\xcf\xc0\xde^\xc0\xdb\xb3=\x1b$B;3ED\x1b(J^\x1b$BB@O:\x1b(J=\x1b$B$d$^$@\x1b(J^\x1b$B$?$m$&\x1b(J",
    "korean": b"Hong^Gildong=\x1b$)C\xfb\xf3^\x1b$)C\xd1\xce\xd4\xd7=\x1b$)C\xc8\xab^\x1b$)C\xb1\xe6\xb5\xbf",
    "simplified": b"Zhang^XiaoDong=\x1b$)A\xd5\xc5^\x1b$)A\xd0\xa1\xb6\xab",
}
# What a system without Unicode is told of a text of two lines: each begins with the escape of its own.
KOREAN_LINES = b"\x1b$)C\xb1\xe6\xb5\xbf\r\n\x1b$)C\xb1\xe6\xb5\xbf"


def result(name: str, **elements: object) -> bytes:
    """An object in ISO_IR 192 with the name in several places."""
    item = Dataset()
    item.TextValue, item.PersonName = f"{name.partition('=')[0]}\r\nsecond line", name
    more = {
        "StudyInstanceUID": "1.2",
        "SeriesInstanceUID": "1.3",
        "StudyDescription": "",
        "ContentSequence": Sequence([item]),
        "OtherPatientNames": [name, "Another^Name"],
    }
    return part10("2.25.1", SpecificCharacterSet="ISO_IR 192", PatientName=name, **more | elements)


@pytest.mark.parametrize("which", [which for which, (_, terms) in REPERTOIRES.items() if "ISO 2022 IR 87" not in terms])
def test_text_in_every_repertoire_comes_back_by_dcmtk(peer, tmp_path, which):
    """But Japanese, which Debian's DCMTK cannot convert."""
    name, repertoire = REPERTOIRES[which]
    encoded = transcode(BytesIO(result(name)), repertoire)
    assert read_file(BytesIO(encoded))[0].character_set == tuple(repertoire)
    (tmp_path / "in.dcm").write_bytes(encoded)
    subprocess.run(
        [peer("dcmconv"), "+U8", str(tmp_path / "in.dcm"), str(tmp_path / "out.dcm")], check=True, capture_output=True, timeout=60
    )
    back, expected = pydicom.dcmread(tmp_path / "out.dcm"), pydicom.dcmread(BytesIO(result(name)))
    for keyword in ("SOPInstanceUID", "PatientName", "OtherPatientNames", "StudyDescription"):
        assert str(back[keyword].value) == str(expected[keyword].value)
    assert back.ContentSequence[0].TextValue == expected.ContentSequence[0].TextValue
    assert back.ContentSequence[0].PersonName == expected.ContentSequence[0].PersonName


@pytest.mark.parametrize("which", STANDARD)
def test_names_with_code_extensions_are_the_bytes_of_the_standard(which):
    name, repertoire = REPERTOIRES[which]
    encoded = transcode(BytesIO(result(name)), repertoire)
    assert encoded.count(STANDARD[which]) == 3
    assert str(pydicom.dcmread(BytesIO(encoded)).PatientName).replace("\x1b$)A", "") == name


def test_a_code_extension_begins_anew_in_each_line():
    encoded = transcode(BytesIO(result("Hong", ImageComments="길동\r\n길동")), ["", "ISO 2022 IR 149"])
    assert KOREAN_LINES in encoded


@pytest.mark.parametrize("repertoire", [["ISO_IR 144"], ["", "ISO 2022 IR 87"], ["ISO_IR 100"]], ids=str)
def test_dciodvfy_finds_no_error_in_a_whole_report(peer, tmp_path, repertoire):
    name = next(name for name, terms in NAMES.values() if terms == repertoire)
    series = series_of(
        Volume(textured(SHAPE), affine(PLANES["axial"], (1, 1, 3))),
        tmp_path / "in",
        headers={"SpecificCharacterSet": repertoire, "PatientName": name},
    )
    kept = sr.encode(context_of(series, blobs(SHAPE))).data
    encoded = transcode(BytesIO(kept), repertoire)
    assert errors_of(peer("dciodvfy"), encoded, tmp_path) == []
    assert str(pydicom.dcmread(BytesIO(encoded)).PatientName) == name
    again = pydicom.dcmread(BytesIO(transcode(BytesIO(encoded), ["ISO_IR 192"])))
    assert again == pydicom.dcmread(BytesIO(kept)), "and nothing else has changed"


@pytest.mark.parametrize(
    ("name", "repertoire", "lost"),
    [
        ("Łukasz", ["ISO_IR 100"], "PatientName, PersonName"),
        ("Zoë", [], "PatientName, PersonName"),
        ("Zoë", ["", "ISO 2022 IR 87"], "PatientName, PersonName"),
        ("山田", ["ISO_IR 13"], "PatientName, PersonName"),
    ],
)
def test_what_cannot_be_said_is_named_and_never_replaced(name, repertoire, lost):
    with pytest.raises(Rejected) as refused:
        transcode(BytesIO(part10("2.25.1", SpecificCharacterSet="ISO_IR 192", PatientName=name, PersonName=name)), repertoire)
    assert str(refused.value).endswith(f"cannot hold: {lost}")
    assert name not in str(refused.value)


@pytest.mark.parametrize("repertoire", [["ISO_IR 999"], ["ISO_IR 100", "ISO 2022 IR 87"], ["GB18030", "ISO 2022 IR 87"]], ids=str)
def test_terms_that_are_none_of_the_standard_s_are_named(repertoire):
    with pytest.raises(Rejected, match="none of the standard's"):
        transcode(BytesIO(result("A")), repertoire)


def test_our_own_signs_have_a_spelling_in_plain_letters_and_keep_theirs_where_they_can():
    text = "≥ 3 mm³ – 2 × 2…"
    for repertoire, expected in (([], ">= 3 mm3 - 2 x 2..."), (["ISO_IR 192"], text)):
        assert pydicom.dcmread(BytesIO(transcode(BytesIO(result("A", ImageComments=text)), repertoire))).ImageComments == expected
    latin = pydicom.dcmread(BytesIO(transcode(BytesIO(result("A", ImageComments="3 mm³")), ["ISO_IR 100"])))
    assert latin.ImageComments == "3 mm³"


class Keeping(Committing):
    """Keeps what it is sent."""

    def __init__(self, **arguments):
        self.kept = {}
        super().__init__(**arguments)

    def _store(self, event):
        self.kept[str(event.request.AffectedSOPInstanceUID)] = event.encoded_dataset()
        return super()._store(event)


RUSSIAN, REPERTOIRE = NAMES["russian"]


def put_source(made, repertoire=REPERTOIRE):
    """Put the file of the case's first instance into the store."""
    path = made.sender._store.path_of(made.book.source_path(made.case_id))
    path.parent.mkdir(parents=True)
    path.write_bytes(file_of(flair_slice(0, series_uid="1.2.1", study_uid="1.1", SpecificCharacterSet=repertoire, PatientName=RUSSIAN)))


def node(port, **more):
    return Destination(name="pacs", ae_title="PACS", host="127.0.0.1", port=port, character_set="source", outputs=tuple(CLASSES), **more)


def assert_transcoded(encoded, kept):
    dataset = pydicom.dcmread(BytesIO(encoded))
    assert (dataset.SpecificCharacterSet, str(dataset.PatientName)) == ("ISO_IR 144", RUSSIAN)
    assert RUSSIAN.encode("iso8859_5") in encoded
    assert RUSSIAN.encode() in kept, "what is kept stays"


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
def test_a_node_is_sent_and_commits_to_the_transcoded_object(tmp_path, syntax):
    pacs = Keeping(syntaxes=(syntax,))
    text = {"SpecificCharacterSet": "ISO_IR 192", "PatientName": RUSSIAN}
    with sending(tmp_path, node(pacs.port, storage_commitment=True), **text) as made:
        put_source(made)
        made.sender.deliver(made.case_id)
        (delivery,) = made.book.deliveries(made.case_id)
        kept = made.sender._store.path_of(delivery.path).read_bytes()
        assert hashlib.sha256(kept).hexdigest() == delivery.sha256
        assert states(made.book, made.case_id) == {"segmentation": "committed"}
    pacs.server.shutdown()
    assert [uids for _, uids in pacs.asked] == [["2.25.1"]]
    assert_transcoded(pacs.kept["2.25.1"], kept)


def test_a_web_service_is_sent_the_transcoded_objects_and_a_series_too(tmp_path):
    text = {"SpecificCharacterSet": "ISO_IR 192", "PatientName": RUSSIAN}
    image = part10("2.25.77", **text)
    with webservice() as service:
        web = WebDestination(name="web", url=service.url, character_set="source", outputs=tuple(CLASSES))
        with sending(tmp_path, web, kinds=("segmentation", "rtstruct"), images=(image,), **text) as made:
            put_source(made)
            made.sender.deliver(made.case_id)
            assert set(states(made.book, made.case_id).values()) == {"sent"}
        assert set(service.got) == {"2.25.1", "2.25.11", "2.25.77"}
        for encoded in service.got.values():
            assert_transcoded(encoded, image)


@pytest.mark.parametrize(("repertoire", "state"), [(["ISO_IR 100"], "dead"), (["ISO_IR 192"], "sent")])
def test_what_the_source_cannot_say_is_given_up_in_words(tmp_path, repertoire, state):
    pacs = Keeping()
    with sending(tmp_path, node(pacs.port), SpecificCharacterSet="ISO_IR 192", PatientName=RUSSIAN) as made:
        put_source(made, repertoire)
        made.sender.deliver(made.case_id)
        (delivery,) = made.book.deliveries(made.case_id)
    pacs.server.shutdown()
    assert delivery.state.value == state
    assert delivery.last_error == ("text that ISO_IR 100 cannot hold: PatientName" if state == "dead" else None)
    assert list(pacs.kept) == ([] if state == "dead" else ["2.25.1"])
