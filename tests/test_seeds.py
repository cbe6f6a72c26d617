from medssl_monai.seeds import seed_of_epoch, seed_of_part


def test_the_seeds_of_epochs_and_parts_are_what_runs_were_made_with():
    assert [seed_of_epoch(3, epoch) for epoch in (0, 2)] == [3_000_009, 3_000_011]
    assert [seed_of_part(3, part) for part in (0, 1)] == [3, 1_000_006]


def test_no_two_runs_share_the_seed_of_an_epoch():
    seeds = [seed_of_epoch(seed, epoch) for seed in range(20) for epoch in range(1000)]
    assert len(set(seeds)) == len(seeds)
