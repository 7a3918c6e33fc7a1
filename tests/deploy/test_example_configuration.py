"""deploy/leukoscope.toml: every setting is in it, no other is, what it says of the defaults is true, and all of it can be loaded."""

from __future__ import annotations

import re
import tomllib
import types
import typing
from pathlib import Path

import pytest
from pydantic import BaseModel

from service.settings import Settings, SettingsError, load_settings


@pytest.fixture(scope="module")
def text(root):
    return (root / "deploy/leukoscope.toml").read_text()


@pytest.fixture(scope="module")
def opened(text):
    """The file with every `#` taken away that stands before a setting."""
    return re.sub(r"(?m)^#(?=[^ #\n])", "", text)


def load(folder, text, **variables):
    (folder / "leukoscope.toml").write_text(text)
    return load_settings({"LEUKOSCOPE_CONFIG": str(folder / "leukoscope.toml"), **variables})


def models_in(annotation):
    """The models a field's type is made of."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    if isinstance(annotation, types.GenericAlias | types.UnionType) or typing.get_args(annotation):
        return [model for part in typing.get_args(annotation) for model in models_in(part)]
    return []


def test_as_it_comes_it_changes_nothing(text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert load(tmp_path, text) == load_settings({})


def test_everything_in_it_can_be_set_and_nothing_in_it_is_unknown(opened, tmp_path):
    settings = load(tmp_path, opened)
    assert settings.model_fields_set == set(tomllib.loads(opened))
    assert settings.calling_ae[0].title == "PACS"


def test_every_setting_is_in_it(opened):
    given = tomllib.loads(opened)
    assert set(given) == set(Settings.model_fields)
    for name, field in Settings.model_fields.items():
        for model in models_in(field.annotation):
            inside = given[name] if isinstance(given[name], list) else [given[name]]
            of_model = [set(one) for one in inside if set(one) <= set(model.model_fields)]
            assert set().union(*of_model) == set(model.model_fields), f"{name}: {model.__name__}"


def test_what_it_says_of_a_default_is_the_default(opened):
    given = tomllib.loads(opened)
    for name, field in Settings.model_fields.items():
        if isinstance(field.default, str | int | float | bool | Path):
            assert given[name] == (str(field.default) if isinstance(field.default, Path) else field.default), name


def test_a_setting_that_is_unknown_is_told(opened, tmp_path):
    with pytest.raises(SettingsError, match="quiet_time is not a setting"):
        load(tmp_path, opened.replace("quiet_time_s =", "quiet_time ="))
