"""A zoo of edited members is a zoo: intact, resumable, and with its provenance."""

import pytest
import torch

from pipeline.archive.edit import Editor, edit_shard, plan_edit
from pipeline.archive.summary import summarize
from pipeline.archive.verify import verify_zoo
from pipeline.archive.write import pending_shards, seal_zoo
from pipeline.archive.zoo import Zoo
from pipeline.errors import ArchiveError, InputError, WorkError
from pipeline.exchange.exporting import export_zoo
from pipeline.figures.reconstructions import draw_reconstructions
from tests.conftest import contents


def inverted(block):
    """Networks that render 1 - x for x."""
    last = [*block][-2:]
    return {name: -tensor if name in last else tensor for name, tensor in block.items()}


def halves(block):
    """Twice as many neurons that compute the same: an edit that makes networks larger."""
    (w0, b0), (w1, b1), (w2, b2) = ([*block.values()][i : i + 2] for i in (0, 2, 4))
    tensors = (
        torch.cat([w0, w0], 1),
        torch.cat([b0, b0], 1),
        torch.cat([w1, w1], 2) / 2,
        b1,
        w2,
        b2,
    )
    return dict(zip(block, tensors, strict=True))


def edit_zoo(zoo, folder, edit=inverted, sha256="a" * 64):
    plan = plan_edit(zoo, Editor(edit, sha256, "runs/x"), folder)
    for name in pending_shards(folder):
        edit_shard(plan, folder, name)
    return seal_zoo(folder)


def test_an_edited_zoo_is_sound_and_has_the_members_of_the_other_with_edited_weights(zoo, tmp_path):
    edited = edit_zoo(zoo, tmp_path / "edited")
    assert verify_zoo(edited) == []
    measured = {"psnr", "psnr_off_grid"}
    assert measured <= {*zoo.catalog.column_names}
    assert edited.catalog.column_names == [
        name for name in zoo.catalog.column_names if name not in measured
    ]
    assert edited.catalog.equals(zoo.catalog.drop_columns([*measured]))
    for name, tensor in inverted(zoo[:]).items():
        torch.testing.assert_close(edited[:][name], tensor, rtol=0, atol=0)
    assert edited.record.fingerprint != zoo.record.fingerprint
    assert edited.record.edited == zoo.record
    assert summarize(edited)["edited from"] == f"zoo {zoo.record.fingerprint}"
    assert "edited from" not in summarize(zoo)
    assert edited.record.config.zoo[0] == zoo.record.fingerprint
    assert edited.record.config.model == "a" * 64


def test_what_was_edited_is_drawn_exported_and_edited_again(zoo, tmp_path):
    once = edit_zoo(zoo, tmp_path / "once")
    twice = edit_zoo(once, tmp_path / "twice")
    assert verify_zoo(twice) == []
    torch.testing.assert_close(twice[:], zoo[:], rtol=0, atol=0)
    assert twice.record.origin == zoo.record
    assert twice.record.sources == zoo.record.sources
    assert (twice.signals().values == zoo.signals().values).all()
    draw_reconstructions(once, tmp_path / "once.svg")
    assert ">original<" in (tmp_path / "once.svg").read_text()
    assert export_zoo(once, "dwsnets", tmp_path / "exported", lambda _: None) == len(once)
    points = torch.rand(5, 2) * 2 - 1
    offset = zoo.record.decode.output_offset
    torch.testing.assert_close(
        once.module(3)(points) - offset, offset - zoo.module(3)(points), rtol=1e-5, atol=1e-6
    )


def test_networks_may_become_larger(zoo, tmp_path):
    larger = edit_zoo(zoo, tmp_path / "larger", halves)
    assert verify_zoo(larger) == []
    assert larger.record.architecture == "2-16-6-1"
    points = torch.rand(5, 2) * 2 - 1
    torch.testing.assert_close(
        larger.module(0)(points), zoo.module(0)(points), rtol=1e-4, atol=1e-5
    )


def test_an_edit_goes_on_where_it_was_killed_to_the_same_bytes(zoo, tmp_path):
    edit_zoo(zoo, tmp_path / "whole")
    plan = plan_edit(zoo, Editor(inverted, "a" * 64, "runs/x"), tmp_path / "killed")
    edit_shard(plan, tmp_path / "killed", next(iter(pending_shards(tmp_path / "killed"))))
    assert not Zoo.open(tmp_path / "killed").is_sealed
    edit_zoo(zoo, tmp_path / "killed")
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")


def test_what_cannot_be_edited_is_one_sentence(zoo, zoo_copy, tmp_path):
    edit_zoo(zoo, tmp_path / "edited")
    with pytest.raises(InputError, match=r"model: was .* choose another --out"):
        edit_zoo(zoo, tmp_path / "edited", sha256="b" * 64)

    def broken(block):
        return {name: tensor / 0 for name, tensor in block.items()}

    with pytest.raises(
        WorkError, match="must give finite weights, found NaN or infinity in layers"
    ):
        edit_zoo(zoo, tmp_path / "broken", broken)
    assert not (tmp_path / "broken").exists()
    (zoo_copy / "statistics.json").unlink()
    with pytest.raises(ArchiveError, match="is not finished"):
        edit_zoo(Zoo.open(zoo_copy), tmp_path / "partial")
