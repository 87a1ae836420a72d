"""Any config survives JSON, and is checked the same before and after."""

import dataclasses
import json
import types
import typing
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from properties import repeatable

from softprompt_jax.config import RunConfig, flatten
from softprompt_jax.config_checks import check, check_types
from softprompt_jax.errors import UserError
from softprompt_jax.pretraining.config import PretrainConfig

TEXTS = st.sampled_from(["a", "runs/é x", ""]) | st.text(max_size=6)
NUMBERS = st.integers(-1, 5) | st.integers()
FRACTIONS = st.floats(0, 1) | st.floats(allow_nan=False)


def values(hint):
    """Any value of a field's type."""
    kind, of = typing.get_origin(hint), typing.get_args(hint)
    if dataclasses.is_dataclass(hint):
        return configs(hint)
    if kind is Literal:
        return st.sampled_from(of)
    if kind in (types.UnionType, typing.Union):
        return st.one_of(*map(values, of))
    if kind is tuple and of[-1] is ...:
        return st.lists(values(of[0]), max_size=3).map(tuple)
    if kind is tuple:
        return st.tuples(*map(values, of))
    return {
        str: TEXTS,
        int: NUMBERS,
        float: FRACTIONS | NUMBERS,
        bool: st.booleans(),
        type(None): st.none(),
    }[hint]


def configs(cls):
    """The defaults but for a few fields: what one field does is not hidden by all the others."""
    hints = typing.get_type_hints(cls)
    fields = st.fixed_dictionaries(
        {}, optional={name: values(hint) for name, hint in hints.items()}
    )
    few = st.lists(st.sampled_from(sorted(hints)), max_size=4)
    return st.builds(
        lambda drawn, chosen: cls(**{name: drawn[name] for name in chosen if name in drawn}),
        fields,
        few,
    )


ANY_CONFIG = configs(RunConfig) | configs(PretrainConfig)


def verdict(config):
    try:
        check(config)
    except UserError as error:
        return str(error)
    return None


@repeatable(100)
@given(ANY_CONFIG)
def test_json_brings_every_config_back(config):
    check_types(config)
    again = type(config).from_json(config.to_json())
    assert again == config
    assert flatten(again) == flatten(config)
    # Not only equal, as 1 and 1.0 and True are, but of the same types.
    assert repr(again) == repr(config)
    assert verdict(again) == verdict(config)


@repeatable(60)
@given(ANY_CONFIG, st.data())
def test_older_json_gets_defaults_and_newer_json_is_refused(config, data):
    fields = json.loads(config.to_json())
    section = data.draw(st.sampled_from([None, "model", "train", "optimizer", "parallel"]))
    inside = fields if section is None else fields[section]
    gone = data.draw(st.sampled_from(sorted(inside)))
    del inside[gone]
    again = flatten(type(config).from_json(json.dumps(fields)))
    prefix = f"{section}.{gone}" if section else gone
    for name, value in flatten(config).items():
        if name == prefix or name.startswith(f"{prefix}."):
            default = type(config)() if section is None else getattr(config, section).__class__()
            for part in name.split(".")[section is not None :]:
                default = getattr(default, part)
            assert again[name] == default
        else:
            assert again[name] == value
    inside["of_a_later_version"] = 1
    unknown = f"unknown field {f'{section}.' if section else ''}of_a_later_version"
    with pytest.raises(UserError, match=unknown):
        type(config).from_json(json.dumps(fields))


@repeatable(60)
@given(ANY_CONFIG, st.data())
def test_values_of_another_type_are_named(config, data):
    name = data.draw(st.sampled_from(sorted(flatten(config))))
    section, _, field = name.rpartition(".")
    owner = getattr(config, section) if section else config
    other = data.draw(st.sampled_from([object(), [], {}, b"x", {1}]))
    bad = dataclasses.replace(owner, **{field: other})
    bad = dataclasses.replace(config, **{section: bad}) if section else bad
    with pytest.raises(UserError, match=f"--{name} is .*; it must be "):
        check_types(bad)
