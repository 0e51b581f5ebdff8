import json

import pytest

from shine_hf.negatives.llm.pricing import Budget, Price, load_prices, price_of


def test_dated_versions_have_the_price_of_their_model():
    assert price_of("gpt-4o-mini-2024-07-18") == price_of("gpt-4o-mini") != price_of("gpt-4o")
    assert price_of("gpt-3.5-turbo-0125") == price_of("gpt-3.5-turbo")


def test_unknown_models_have_no_price_until_given():
    assert price_of("llama-3-8b") is None
    assert price_of("gpt-4o-mini-extended") is None
    assert price_of("llama-3-8b", {"llama-3-8b": Price(1, 2)}).cost_usd(1_000_000, 500_000) == 2.0


def test_load_prices(tmp_path):
    path = tmp_path / "prices.json"
    path.write_text(json.dumps({"mine": [0.5, 1.5]}))
    assert load_prices(path) == {"mine": Price(0.5, 1.5)}


@pytest.mark.parametrize("text", ["[1]", "{", '{"m": 3}', '{"m": [1]}', '{"m": [1, -2]}', '{"m": [1, NaN]}'])
def test_load_prices_names_the_file(tmp_path, text):
    path = tmp_path / "prices.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"prices\.json"):
        load_prices(path)


def test_budget_counts_what_is_on_its_way():
    budget = Budget(Price(1_000_000, 0), max_cost_usd=2.5)  # a dollar per prompt token
    assert budget.admit(1.0) is None and budget.admit(1.0) is None
    assert "max_cost" in budget.admit(1.0)
    budget.refused(1.0)  # cost nothing, so there is room again
    assert budget.admit(1.0) is None
    budget.lost(1.0)
    assert budget.answered(1.0, 1, 0) == 1.0
    assert "max_cost" in budget.admit(1.0)  # the lost one may have been charged
    assert budget.spending.cost_usd == 1.0 and budget.spending.possibly_charged_usd == 1.0


def test_budget_of_requests():
    budget = Budget(None, max_requests=1)
    assert budget.admit(0.0) is None
    assert "max_requests 1" in budget.admit(0.0)


def test_budget_in_dollars_needs_a_price():
    with pytest.raises(ValueError, match=r"price of 'llama' is not known"):
        Budget(None, max_cost_usd=1.0, model="llama")
    with pytest.raises(ValueError, match="max_requests must be 0 or more"):
        Budget(None, max_requests=-1)
