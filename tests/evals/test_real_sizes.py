"""At models' real width, plans by hand send what was written down beforehand, and the automatic plan is faster."""

import pytest
from evals.real_sizes import measure, times
from evals.real_sizes.measure import MODELS, blocks_by_hand, expert_bytes, few_blocks, once_us, sent

SENDS_MORE = {"Mixtral 8×22B": 1.25}
"""It adds a token's experts in float32, and sums them over the ranks so: one of its two sums has 1.5 × the bytes."""

LESS = 0.6
"""Of the time that a block's collectives once took, where the list says what these were."""

QUICK = ["Llama 3.1 8B", "Llama 3.1 405B", "Mixtral 8×22B", "DeepSeek-V3 671B", "x-transformer 9B"]
"""Those whose automatic plan takes a second or two; `make real-sizes` finds all."""


@pytest.fixture(autouse=True)
def _exported_once(monkeypatch):
    """Both plans of a model are asked of one program."""
    export, known = measure.exported, {}

    def once(name, depths):
        key = name, repr(depths)
        if key not in known:
            known[key] = export(name, depths)
        return known[key]

    monkeypatch.setattr(measure, "exported", once)


@pytest.mark.filterwarnings("ignore:the program has no")  # A class's plan names layers that not every model has.
@pytest.mark.parametrize("name", MODELS)
def test_bytes_of_a_block_are_the_experts(name):
    if MODELS[name]["make"].startswith("torchtune."):
        pytest.importorskip("torchtune", reason="wants an older torchao; the environment of `make wild` has it")
    hand = sent(name, few_blocks(name), MODELS[name]["plan"])
    more = blocks_by_hand(name, hand)
    for key, block in more.items():
        assert block.num_bytes == pytest.approx(expert_bytes(name, key) * SENDS_MORE.get(name, 1), rel=0.01), key
    for key in MODELS[name].get("before", ()):
        assert 0 < more[key].communication_us <= LESS * once_us(name, key), key
    if name in QUICK:
        found = sent(name, few_blocks(name), "auto")
        assert found.prediction.total_us <= hand.prediction.total_us


def test_a_row_of_times_is_processor_seconds_and_what_they_are_of_the_export():
    spent = times.times("x-transformer 9B", "hand", few_blocks("x-transformer 9B"))
    assert len(spent) == 3
    assert all(seconds > 0 for seconds in spent.values())
    row = times.row("one", "hand", {"export": 4.0, "shard": 1.0, "first rank": 0.5})
    assert row == "| one | hand | 4.00 | 1.00 | 0.50 | 0.38 |"
    assert times.head().count("|") == 2 * row.count("|")
