"""Which epoch of a training is kept."""

from mri_ray.learn.best import best_epoch


def test_the_best_epoch_is_that_of_the_lowest_loss_where_auroc_is_alike_and_counts_masks():
    areas, losses = (None, 0.97, 0.996, 0.994, 0.95, 0.993), (0.7, 0.2, 0.16, 0.08, 0.05, 0.09)
    plain = [
        {"epoch": 1 + i, "validation_auroc": area, "validation_loss": loss}
        for i, (area, loss) in enumerate(zip(areas, losses, strict=True))
    ]
    assert [best_epoch(plain[:seen]) for seen in range(1, 7)] == [1, 2, 3, 4, 4, 4]
    marked = [line | {"validation_dice": 0.1 * line["epoch"]} for line in plain]
    assert best_epoch(marked) == 6
