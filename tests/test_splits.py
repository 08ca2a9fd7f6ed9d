"""Splits: what shares sound or a group stays together, blocks are contiguous, and no audio is on two sides."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from clips import fast_config, write_table
from hypothesis import assume, given
from hypothesis import strategies as st

from export import splits
from export.sources import Cut, Source
from pam_daemon.errors import ConfigError, TableError


def sources(groups: list[int], labels: list[int], folder: Path = Path("none")) -> list[Source]:
    cuts = [
        Cut(folder / f"{i}.wav", f"{i}.wav", (float(label),), group=str(group), columns={"site": f"s{group}"})
        for i, (group, label) in enumerate(zip(groups, labels, strict=True))
    ]
    return [Source(folder, "made here", cuts)]


def plan(found: list[Source], *overrides: str, seed: int = 1) -> splits.Plan:
    return splits.assign(found, fast_config(*(f"dataset.{override}" for override in overrides)), seed)


CLIPS = st.lists(st.tuples(st.integers(0, 30), st.integers(0, 1), st.integers(0, 40)), min_size=20, max_size=120)


@given(
    CLIPS,
    st.sampled_from(["kfold", "grouped_kfold", "blocks", "automatic"]),
    st.sampled_from([0.2, 0.34, 0.5]),
    st.integers(0, 1),
    st.integers(1, 9),
)
def test_every_clip_has_one_part_and_no_audio_is_on_two_sides(
    clips: list[tuple[int, int, int]], strategy: str, size: float, fold: int, seed: int
) -> None:
    """And groups are whole, but for the clips whose audio another group has too."""
    groups, labels, audio = (list(column) for column in zip(*clips, strict=True))
    hashes = [str(number) for number in audio]
    overrides = [f"validation_strategy={strategy}", f"validation_size={size}", f"folds=['{fold}']"]
    if strategy == "grouped_kfold":
        overrides.append("group_fold_column=site")
    try:
        made = plan(sources(groups, labels), *overrides, seed=seed)
    except ConfigError:
        assume(False)
    notes: list[str] = []
    parts = splits.settle(made, hashes, notes)
    assert set(parts) <= {"train", "select"}
    assert "select" in made.parts
    sides = {digest: {part for part, h in zip(parts, hashes, strict=True) if h == digest} for digest in hashes}
    assert all(len(side) == 1 for side in sides.values())
    elsewhere = {h for h in hashes if len({g for g, other in zip(groups, hashes, strict=True) if other == h}) > 1}
    for group in set(groups):
        own = [(p, h) for p, g, h in zip(parts, groups, hashes, strict=True) if g == group]
        assert len({part for part, digest in own if digest not in elsewhere}) <= 1
    moved = int((parts != made.parts).sum())
    assert notes == (
        [f"{moved} clips moved: the same audio, in another group, is on the other side of the split"] if moved else []
    )


@given(st.integers(20, 200), st.integers(1, 12), st.integers(0, 4))
def test_blocks_are_contiguous_and_every_fifth_validates(count: int, size: int, fold: int) -> None:
    assume(count > 5 * size)
    made = plan(
        sources(list(range(count)), [0] * count),
        "validation_strategy=blocks",
        f"block_size={size}",
        f"folds=['{fold}']",
    )
    assert made.parts.tolist() == ["select" if i // size % 5 == fold else "train" for i in range(count)]


def test_a_group_on_the_border_of_two_blocks_goes_with_its_first_clip() -> None:
    groups = [0, 1, 2, 3, 3, 3, *range(4, 18)]
    made = plan(sources(groups, [0] * 20), "validation_strategy=blocks", "block_size=4")
    assert np.flatnonzero(made.parts == "select").tolist() == [0, 1, 2, 3, 4, 5]


def test_a_group_longer_than_a_block_leaves_no_fold_empty() -> None:
    groups = [*[0] * 10, *range(1, 11)]
    for fold in range(5):
        settings = ("validation_strategy=blocks", "block_size=2", f"folds=['{fold}']")
        assert "select" in plan(sources(groups, [0] * 20), *settings).parts


def test_files_of_the_same_name_in_two_sources_are_two() -> None:
    one, other = sources(list(range(20)), [0] * 20), sources(list(range(20)), [0] * 20)
    made = plan([*one, *other], "validation_strategy=blocks", "block_size=4")
    assert np.flatnonzero(made.parts == "select").tolist() == [0, 1, 2, 3, 20, 21, 22, 23]


def test_random_folds_hold_both_labels_as_often_as_the_whole() -> None:
    labels = [int(i % 10 == 0) for i in range(500)]
    for seed in range(5):
        made = plan(sources(list(range(500)), labels), "validation_strategy=kfold", seed=seed)
        chosen = np.array(labels)[made.parts == "select"]
        assert (len(chosen), chosen.sum()) == (100, 10)


def test_equal_audio_stays_where_it_is_needed_most_when_the_user_made_the_split() -> None:
    parts = np.array(["train", "select", "report", "test", "train"], "<U8")
    made = splits.Plan(parts, np.ones(5, bool), "")
    notes: list[str] = []
    assert splits.settle(made, ["a", "a", "a", "b", "b"], notes).tolist() == [
        "left out", "left out", "report", "test", "left out",
    ]  # fmt: skip
    assert notes == ["3 clips left out: the same audio is on the other side of the split"]


def test_a_column_may_stand_in_clips_csv_and_a_folder_without_it_is_trained_on(tmp_path: Path) -> None:
    write_table(
        tmp_path / "clips.csv", [{"clip_name": f"{i}.wav", "split": p} for i, p in enumerate(splits.GIVEN_PARTS)]
    )
    found = sources([0, 1, 2], [0, 0, 0], tmp_path)
    others = sources([0, 1], [0, 0])
    made = plan([*found, *others], "validation_strategy=automatic")
    assert made.parts.tolist() == ["train", "select", "report", "train", "train"]
    assert made.description == "column split of clips.csv"
    own = [replace(cut, columns={"split": "report"}) for cut in others[0].cuts]  # or in the clips' own table
    made = plan([*found, replace(others[0], cuts=own)], "validation_strategy=column")
    assert made.parts.tolist() == ["train", "select", "report", "report", "report"]


@pytest.mark.parametrize(
    ("overrides", "kind", "message"),
    [
        (["validation_strategy=kfold", "folds=['9']"], ConfigError, r"is no fold 9; name one of 0 to 4"),
        (["validation_strategy=blocks", "block_size=100"], ConfigError, r"100 clips a block make 1 blocks for 5"),
        (["validation_strategy=grouped_kfold", "group_fold_column=site"], ConfigError, r"5 folds need as many .* 2"),
        (["validation_strategy=grouped_kfold", "group_fold_column=buoy"], TableError, r"has a column buoy; add it"),
        (["validation_strategy=column"], TableError, r"clips\.csv: is not there, .* column split; add"),
    ],
)  # fmt: skip
def test_a_split_that_cannot_be_made_is_refused(
    overrides: list[str], kind: type[Exception], message: str, tmp_path: Path
) -> None:
    with pytest.raises(kind, match=message) as caught:
        plan(sources([0, 1] * 10, [0, 1] * 10, tmp_path), *overrides)
    assert "\n" not in str(caught.value)
