"""The order of the training rows, and that a resumed run finds it again."""

import pytest
from accelerate.data_loader import prepare_data_loader, skip_first_batches
from torch.utils.data import DataLoader

from shine_hf.training.sampling import EpochLengthGroupedSampler

LENGTHS = [float(5 * index % 23) for index in range(23)]


def test_every_row_is_drawn_once_in_an_order_of_its_own_in_every_epoch():
    orders = [list(EpochLengthGroupedSampler(8, LENGTHS, 3, lambda epoch=epoch: epoch)) for epoch in (0, 1, 1)]
    assert all(sorted(order) == list(range(23)) for order in orders)
    assert orders[0] != orders[1] == orders[2]


@pytest.mark.parametrize("process", [0, 1])
@pytest.mark.parametrize("skipped", [0, 1, 2])
def test_what_is_left_of_an_epoch_is_the_same_for_a_process_that_is_resumed(process, skipped):
    sampler = EpochLengthGroupedSampler(8, LENGTHS, 3, lambda: 2)
    rows = prepare_data_loader(
        DataLoader(range(23), batch_size=4, sampler=sampler),
        num_processes=2,
        process_index=process,
        put_on_device=False,
    )
    whole = [batch.tolist() for batch in rows]
    resumed = skip_first_batches(rows, skipped)
    # What the trainer says does not reach the sampler of several processes.
    resumed.set_epoch(0)
    assert [batch.tolist() for batch in resumed] == whole[skipped:] and len(whole) == 3
