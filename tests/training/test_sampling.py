"""The order of the training rows, and that a resumed run restores it."""

import pytest
from accelerate.data_loader import prepare_data_loader, skip_first_batches
from torch.utils.data import DataLoader

from shine_hf.training.sampling import EpochLengthGroupedSampler

LENGTHS = [float(5 * index % 23) for index in range(23)]


def test_every_epoch_draws_each_row_once_in_a_new_order():
    orders = [list(EpochLengthGroupedSampler(8, LENGTHS, 3, lambda epoch=epoch: epoch)) for epoch in (0, 1, 1)]
    assert all(sorted(order) == list(range(23)) for order in orders)
    assert orders[0] != orders[1] == orders[2]


@pytest.mark.parametrize("process", [0, 1])
@pytest.mark.parametrize("skipped", [0, 1, 2])
def test_resumed_process_draws_the_same_rest_of_the_epoch(process, skipped):
    sampler = EpochLengthGroupedSampler(8, LENGTHS, 3, lambda: 2)
    rows = prepare_data_loader(
        DataLoader(range(23), batch_size=4, sampler=sampler),
        num_processes=2,
        process_index=process,
        put_on_device=False,
    )
    entire = [batch.tolist() for batch in rows]
    resumed = skip_first_batches(rows, skipped)
    # With several processes, the trainer's call does not reach the sampler.
    resumed.set_epoch(0)
    assert [batch.tolist() for batch in resumed] == entire[skipped:] and len(entire) == 3
