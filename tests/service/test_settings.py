"""Settings: what is read, from where, and the one line for what is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from service import sendable
from service.errors import Misconfigured
from service.rule import Rule, Span
from service.sections import Destination, Segmentation
from service.settings import Settings, SettingsError, is_loopback, load_settings


@pytest.fixture
def toml(tmp_path: Path):
    def write(text: str) -> dict[str, str]:
        (tmp_path / "leukoscope.toml").write_text(text)
        return {"LEUKOSCOPE_CONFIG": str(tmp_path / "leukoscope.toml")}

    return write


def test_defaults_are_the_documented_ones(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    settings = load_settings({})
    assert (settings.http_host, settings.http_port) == ("127.0.0.1", 8000)
    assert (settings.dicom_host, settings.dicom_port, settings.ae_title) == ("127.0.0.1", 11112, "LEUKOSCOPE")
    assert settings.database == f"sqlite:///{tmp_path}/leukoscope-data/leukoscope.sqlite"
    assert settings.broker == f"sqla+sqlite:///{tmp_path}/leukoscope-data/broker.sqlite"
    assert (settings.quiet_time_s, settings.minimum_slices, settings.lease_s, settings.sweep_s) == (30, 12, 30, 5)
    assert (settings.maximum_upload_bytes, settings.maximum_upload_files, settings.maximum_series_bytes) == (2 << 30, 5000, 512 << 20)
    assert (settings.maximum_columns, settings.maximum_rows, settings.maximum_slices) == (1024, 1024, 512)


def test_the_data_folder_stays_when_the_process_moves(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    settings = load_settings({"LEUKOSCOPE_DATA_DIR": "here"})
    monkeypatch.chdir("/")
    assert settings.data_dir == tmp_path / "here"


def test_environment_wins_over_the_file(toml) -> None:
    environ = toml('http_port = 9000\nae_title = "FROMFILE"\n')
    settings = load_settings({**environ, "LEUKOSCOPE_HTTP_PORT": "9001"})
    assert (settings.http_port, settings.ae_title) == (9001, "FROMFILE")


def test_an_empty_variable_is_no_value() -> None:
    assert load_settings({"LEUKOSCOPE_RELEASE": "", "LEUKOSCOPE_HTTP_PORT": ""}).release is None


def test_a_whole_file_is_read(toml) -> None:
    settings = load_settings(
        toml("""
        dicom_host = "0.0.0.0"
        [[destinations]]
        name = "pacs"
        ae_title = "ORTHANC"
        host = "pacs.example"
        port = 4242
        [[calling_ae]]
        title = "SCANNER"
        address = "10.0.0.0/8"
        unwanted = "refuse"
        [[admission]]
        name = "flair"
        accept = true
        modality = "MR"
        description_matches = "flair|dark.?fluid"
        inversion_time_ms = { minimum = 1500 }
        [segmentation]
        encoding = "labelmap"
        brain = true
        [rtstruct]
        holes = "xor"
        """)
    )
    assert (settings.rtstruct.holes, settings.rtstruct.lesion_rois) == ("xor", 0)
    assert settings.segmentation == Segmentation(encoding="labelmap", lesion_segments=0, brain=True)
    assert settings.destinations[0].outputs == sendable.DEFAULT == ("segmentation", "structured-report", "report.dcm", "preview.dcm")
    assert settings.calling_ae[0].unwanted == "refuse"
    assert settings.admission is not None
    assert settings.admission[0].inversion_time_ms == Span(minimum=1500)


def test_lists_may_come_as_json_in_a_variable() -> None:
    text = '[{"name": "pacs", "ae_title": "A", "host": "h", "port": 1}]'
    assert load_settings({"LEUKOSCOPE_DESTINATIONS": text}).destinations == (Destination(name="pacs", ae_title="A", host="h", port=1),)


@pytest.mark.parametrize("key", ["ADMISSION", "AUDIT", "CALLING_AE", "DESTINATIONS", "DICOM_TLS", "RETENTION", "SEGMENTATION"])
def test_a_table_or_a_list_is_json_in_a_variable(key: str) -> None:
    with pytest.raises(SettingsError, match=f"^LEUKOSCOPE_{key} is not JSON"):
        load_settings({f"LEUKOSCOPE_{key}": "[["})
    assert load_settings({"LEUKOSCOPE_RELEASE": "[["}).release == "[[", "a text is as it stands"


WEB = '{"name": "w", "url": "https://h"'
TWO = '{"name": "a", "ae_title": "A", "host": "h", "port": 1}'


@pytest.mark.parametrize(
    ("environ", "line"),
    [
        ({"LEUKOSCOPE_HTP_PORT": "1"}, "LEUKOSCOPE_HTP_PORT is not a setting (did you mean LEUKOSCOPE_HTTP_PORT?)"),
        ({"LEUKOSCOPE_HTTP_PORT": "eighty"}, "LEUKOSCOPE_HTTP_PORT: Input should be a valid integer"),
        ({"LEUKOSCOPE_HTTP_PORT": "70000"}, "LEUKOSCOPE_HTTP_PORT: Input should be less than or equal to 65535 (given: '70000')"),
        ({"LEUKOSCOPE_AE_TITLE": "SEVENTEEN LETTERS"}, "LEUKOSCOPE_AE_TITLE: String should have at most 16"),
        ({"LEUKOSCOPE_AE_TITLE": "BACK\\SLASH"}, "LEUKOSCOPE_AE_TITLE: "),
        ({"LEUKOSCOPE_LEASE_S": "nan"}, "LEUKOSCOPE_LEASE_S: "),
        ({"LEUKOSCOPE_DESTINATIONS": "pacs"}, "LEUKOSCOPE_DESTINATIONS is not JSON"),
        ({"LEUKOSCOPE_DESTINATIONS": '[{"name": "a"}]'}, "LEUKOSCOPE_DESTINATIONS.0.ae_title: Field required"),
        ({"LEUKOSCOPE_DESTINATIONS": f"[{TWO}, {TWO}]"}, "LEUKOSCOPE_DESTINATIONS: two destinations have the same name"),
        (
            {"LEUKOSCOPE_DESTINATIONS": f'[{TWO[:-1]}, "outputs": ["segmentation", "report.pdf"]}}]'},
            "LEUKOSCOPE_DESTINATIONS.0.outputs.1: Input should be 'segmentation', 'structured-report', ",
        ),
        ({"LEUKOSCOPE_DESTINATIONS": '[{"name": "w", "url": "pacs/dicom-web"}]'}, "LEUKOSCOPE_DESTINATIONS.0: url: give the root of"),
        ({"LEUKOSCOPE_DESTINATIONS": '[{"name": "w", "url": "https://u:pw@h/"}]'}, "LEUKOSCOPE_DESTINATIONS.0: url: no user or password"),
        ({"LEUKOSCOPE_DESTINATIONS": f'[{WEB}, "user": "u"}}]'}, "LEUKOSCOPE_DESTINATIONS.0: give user and"),
        ({"LEUKOSCOPE_DESTINATIONS": '[{"name": "w", "url": "https://h:abc/x"}]'}, "LEUKOSCOPE_DESTINATIONS.0: url: Invalid port: 'abc'"),
        ({"LEUKOSCOPE_SOURCES": '[{"name": "w", "url": "https://h:abc/x"}]'}, "LEUKOSCOPE_SOURCES.0: url: Invalid port: 'abc'"),
        ({"LEUKOSCOPE_SOURCES": '[{"name": "w", "url": "https://h:99999/x"}]'}, "LEUKOSCOPE_SOURCES.0: url: Port out of range"),
        ({"LEUKOSCOPE_SOURCES": '[{"name": "w", "url": "https://pacs..example/x"}]'}, "LEUKOSCOPE_SOURCES.0: url: "),
        (
            {"LEUKOSCOPE_DESTINATIONS": f'[{WEB}, "tokn_file": "t"}}]'},
            "LEUKOSCOPE_DESTINATIONS.0.tokn_file is not a",
        ),
        (
            {"LEUKOSCOPE_DESTINATIONS": f'[{WEB}, "host": "h"}}]'},
            "LEUKOSCOPE_DESTINATIONS.0: give a url, or ae_title",
        ),
        ({"LEUKOSCOPE_DICOM_HOST": "0.0.0.0"}, "dicom_host 0.0.0.0 is open to the network: list the senders under [[calling_ae]]"),
        ({"LEUKOSCOPE_HTTP_HOST": "::"}, "http_host :: is open to the network: add API tokens under [[tokens]]"),
        ({"LEUKOSCOPE_CONFIG": "/nowhere/x.toml"}, "LEUKOSCOPE_CONFIG=/nowhere/x.toml: No such file or directory"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(environ: dict[str, str], line: str) -> None:
    with pytest.raises(SettingsError) as raised:
        load_settings(environ)
    assert isinstance(raised.value, Misconfigured)
    assert "\n" not in str(raised.value)
    assert str(raised.value).startswith(line)


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("htp_port = 1", "leukoscope.toml: htp_port is not a setting (did you mean http_port?)"),
        ("[[destinations]]\nname='a'\nae_title='A'\nhost='h'\nport=1\nportt=2", "leukoscope.toml: destinations.0.portt is not a setting"),
        ("[[admission]]\nname='a'\naccept=true\ndescription_matches='('", "admission.0.description_matches: not a regular expression"),
        ("[[calling_ae]]\ntitle='A'\naddress='somewhere'", "calling_ae.0.address: "),
        ("[[tokens]]\nname='a'\nsha256='hunter2'", "tokens.0.sha256: "),
        ("http_port = ", "leukoscope.toml: "),
        ("[retention]\nkeep_days = 0", "retention.keep_days: "),
        ("[rtstruct]\nholes = 'none'", "rtstruct.holes: Input should be 'keyhole' or 'xor'"),
        ("[rtstruct]\nlesion_rois = 201", "rtstruct.lesion_rois: "),
        ("[segmentation]\nencoding = 'surface'", "segmentation.encoding: Input should be 'binary', 'labelmap' or 'fractional'"),
        ("[segmentation]\nlesion_segments = -1", "segmentation.lesion_segments: "),
        ("[retention]\nkeep_dayz = 3", "retention.keep_dayz is not a setting"),
        ("[retention]\nkeep_free_mb = 512", "give more than minimum_free_mb 512, where nothing comes in"),
    ],
)
def test_a_bad_file_is_named_with_its_key(toml, text: str, part: str) -> None:
    with pytest.raises(SettingsError) as raised:
        load_settings(toml(text))
    assert part in str(raised.value)
    assert "\n" not in str(raised.value)
    assert "hunter2" not in str(raised.value)


def test_open_doors_with_locks_are_accepted(toml) -> None:
    environ = toml(f"dicom_host='0.0.0.0'\nhttp_host='0.0.0.0'\n[[calling_ae]]\ntitle='A'\n[[tokens]]\nname='t'\nsha256='{'a' * 64}'")
    assert load_settings(environ).tokens[0].scopes == ("read", "submit")


@pytest.mark.parametrize(
    ("host", "loopback"),
    [("127.0.0.1", True), ("127.9.9.9", True), ("::1", True), ("localhost", True), ("0.0.0.0", False), ("host", False), ("", False)],
)
def test_loopback(host: str, loopback: bool) -> None:
    assert is_loopback(host) is loopback


def test_everything_is_kept_unless_a_rule_is_given(toml) -> None:
    assert not load_settings({}).retention.asks
    assert load_settings(toml("[retention]\nkeep_refused_days = 30\n")).retention.asks
    assert load_settings({"LEUKOSCOPE_RETENTION": '{"keep_days": 365}'}).retention.keep_days == 365


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="frozen"):
        load_settings({}).http_port = 1  # type: ignore[misc]


def test_a_rule_keeps_its_order_and_closed_intervals() -> None:
    settings = Settings(admission=(Rule(name="b", accept=False), Rule(name="a", accept=True)))
    assert [rule.name for rule in settings.admission or ()] == ["b", "a"]
    assert Span(minimum=1, maximum=2).holds(2)
    assert not Span(maximum=2).holds(2.1)
