from datetime import date

import pytest

from perception.errors import InputError
from perception.metrics.contract import Clause, Contract, Exemption

CLASSES = {"road": False, "car": True, "person": True}
MARGIN = {"share": 0.1, "least": 0.01, "most": 0.02, "origin": "a test"}


def test_the_default_names_every_light_and_weather_and_every_class_of_objects():
    named = Contract().named({}, CLASSES)
    required = [name for name, clause in named.items() if clause.required]
    assert len(required) == 1 + 5 + 5 + 2
    assert {"overall", "time_of_day=backlit", "weather=fog", "class=car"} <= set(required)
    assert not named["class=road"].required and not named["scene=freeway"].required
    assert all(each.most <= 0.05 and each.origin for each in named.values())


def test_the_first_clause_that_names_a_figure_counts():
    contract = Contract(
        clauses=(Clause(figures=("class=car",), **MARGIN | {"most": 0.01}), Clause(figures=("class=*",), **MARGIN))
    )
    named = contract.named({}, CLASSES)
    assert (named["class=car"].most, named["class=person"].most) == (0.01, 0.02)


def test_values_of_other_columns_are_those_that_frames_have():
    contract = Contract(clauses=(Clause(figures=("camera=*", "city=ulm"), **MARGIN),))
    assert list(contract.named({"camera": ("left", "right")}, CLASSES)) == ["camera=left", "camera=right", "city=ulm"]


def test_a_class_that_there_is_not_is_refused_by_name():
    contract = Contract(clauses=(Clause(figures=("class=persn",), **MARGIN),))
    with pytest.raises(InputError, match="class=persn: no such class, did you mean 'person'"):
        contract.named({}, CLASSES)
    with pytest.raises(InputError, match="least"):
        Clause(figures=("overall",), share=0.1, least=0.03, most=0.02, origin="a test")
    with pytest.raises(InputError, match="nights"):
        Exemption(figure="weather=fog", by="Ada", reason="July", first_night=date(2026, 7, 1), nights=0)
