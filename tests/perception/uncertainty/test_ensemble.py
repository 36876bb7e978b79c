import json
import math

import pytest
import torch
from torch import nn

from perception.errors import InputError
from perception.models.erfnet import ERFNet
from perception.uncertainty.ensemble import (
    DropoutEnsemble,
    Ensemble,
    ensemble_sha256,
    load_ensemble,
    make_ensemble,
    save_ensemble,
    snapshots,
)
from perception.uncertainty.priors import started_priors


class Dropped(nn.Module):
    def __init__(self, layer):
        super().__init__()
        self.layer = layer
        self.head = nn.Conv2d(3, 2, 1)

    def encode(self, images):
        return self.layer(images)

    def forward(self, images):
        return self.head(self.encode(images))


def build(_seed):
    return ERFNet(classes=5, width=0.125)


def images(frames=2, seed=0):
    return torch.rand(frames, 3, 16, 32, generator=torch.Generator().manual_seed(seed))


def test_forward_is_the_stack_of_the_members():
    ensemble = make_ensemble(build, 3, seed=0).eval()
    found = ensemble(images())
    assert found.shape == (3, 2, 5, 16, 32)
    for index, member in enumerate(ensemble.members):
        torch.testing.assert_close(found[index], member(images()))


def test_same_seed_same_ensemble_and_the_global_generator_is_left_alone():
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    first, second, other = (make_ensemble(build, 2, seed) for seed in (1, 1, 2))
    assert torch.equal(torch.rand(1), expected)
    weights = [next(iter(ensemble.parameters())) for ensemble in (first, second, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
    assert not torch.equal(next(iter(first.members[0].parameters())), next(iter(first.members[1].parameters())))


def test_parameters_that_all_networks_start_equal_in_are_drawn_from_their_priors():
    def norm_net(_seed):
        return nn.Sequential(nn.Conv2d(3, 500, 1), nn.BatchNorm2d(500))

    ensemble = make_ensemble(norm_net, 8, seed=0)
    scales = torch.stack([member[1].weight.detach() for member in ensemble.members])
    shifts = torch.stack([member[1].bias.detach() for member in ensemble.members])
    assert scales.mean().item() == pytest.approx(1, abs=0.01)
    assert shifts.mean().item() == pytest.approx(0, abs=0.01)
    assert scales.var().item() == pytest.approx(0.01, rel=0.1)
    assert (scales.var(0) > 0).all()
    again = make_ensemble(norm_net, 8, seed=0)
    assert torch.equal(again.members[3][1].weight, ensemble.members[3][1].weight)
    single = make_ensemble(norm_net, 1, seed=0).members[0]
    assert (single[1].weight == 1).all()


def test_members_that_start_equal_are_refused():
    def constant(_seed):
        torch.manual_seed(0)
        return nn.Linear(2, 2)

    with pytest.raises(InputError, match="members 0 and 1 start from equal weights"):
        make_ensemble(constant, 2, seed=0)


def test_an_ensemble_of_nobody_is_refused():
    with pytest.raises(InputError, match="0 members"):
        Ensemble([])
    with pytest.raises(InputError, match="members = 0"):
        make_ensemble(build, 0, seed=0)


def test_embedding_is_the_average_of_the_first_members_features():
    ensemble = make_ensemble(build, 2, seed=0).eval()
    features = ensemble.members[0].encode(images())
    torch.testing.assert_close(ensemble.embed(images()), features.mean(dim=(2, 3)))
    assert ensemble.embed(images()).dtype == torch.float32


def test_a_network_without_encode_is_embedded_by_what_its_last_layer_reads():
    first, last = nn.Conv2d(3, 5, 1), nn.Conv2d(5, 2, 1)
    expected = first(images()).relu().mean(dim=(2, 3))
    torch.testing.assert_close(Ensemble([nn.Sequential(first, nn.ReLU(), last)]).embed(images()), expected)
    tokens = nn.Sequential(nn.Flatten(2), nn.Linear(images()[0, 0].numel(), 7), nn.ReLU(), nn.Linear(7, 2))
    expected = tokens[:3](images()).mean(1)  # (frame, token, channel)
    torch.testing.assert_close(Ensemble([tokens]).embed(images()), expected)
    with pytest.raises(InputError, match="ReLU has no method encode"):
        Ensemble([nn.ReLU()]).embed(images())


def test_members_that_start_from_weights_stay_close_to_them():
    known = build(0)
    start = {name: values.clone() for name, values in known.named_parameters() if name.startswith("encoder.")}
    priors = started_priors(known, start)

    def from_weights(seed):
        network = build(seed)
        network.load_state_dict(start, strict=False)
        return network

    ensemble = make_ensemble(from_weights, 4, seed=3, priors=priors)
    for name, values in start.items():
        drawn = torch.stack([member.get_parameter(name) for member in ensemble.members])
        assert float((drawn - values).abs().max()) < 6 * math.sqrt(priors[name].variance)
        assert float(drawn.std(0).min()) > 0
    fresh = [member.get_parameter("classifier.weight") for member in ensemble.members]
    assert float(torch.stack(fresh).std(0).mean()) > 0.5 * float(fresh[0].std())


def test_saved_ensemble_comes_back_with_its_identity(tmp_path):
    ensemble = make_ensemble(build, 3, seed=0).eval()
    identity = save_ensemble(ensemble, tmp_path / "ensemble", {"taxonomy": "camvid11"})
    again = load_ensemble(tmp_path / "ensemble")
    assert torch.equal(again(images()), ensemble(images()))
    assert not again.training
    assert ensemble_sha256(tmp_path / "ensemble") == identity
    assert save_ensemble(ensemble, tmp_path / "copy", {"taxonomy": "camvid11"}) == identity
    other = make_ensemble(build, 3, seed=1).eval()
    assert save_ensemble(other, tmp_path / "other", {"taxonomy": "camvid11"}) != identity


def test_missing_changed_and_strange_files_are_refused(tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        load_ensemble(tmp_path)
    save_ensemble(make_ensemble(build, 2, seed=0), tmp_path, {})
    member = tmp_path / "member_01.safetensors"
    content = member.read_bytes()
    member.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(InputError, match="member_01"):
        load_ensemble(tmp_path)
    member.unlink()
    with pytest.raises(InputError, match="does not exist though"):
        load_ensemble(tmp_path)


def test_member_of_another_ensemble_is_refused(tmp_path):
    save_ensemble(make_ensemble(build, 2, seed=0), tmp_path, {})
    (tmp_path / "member_00.safetensors").replace(tmp_path / "member_01.safetensors")
    save_ensemble(make_ensemble(build, 2, seed=1), tmp_path / "other", {})
    (tmp_path / "other" / "member_00.safetensors").replace(tmp_path / "member_00.safetensors")
    with pytest.raises(InputError, match=r"member_00\.safetensors has sha256"):
        load_ensemble(tmp_path)


@pytest.mark.parametrize("name", ["../member.safetensors", "/etc/passwd", ".."])
def test_member_names_cannot_leave_the_folder(tmp_path, name):
    record = {"model_sha256": "0", "members": [{"file": name, "sha256": "0"}]}
    (tmp_path / "ensemble.json").write_text(json.dumps(record))
    with pytest.raises(InputError, match="plain file names"):
        load_ensemble(tmp_path)


@pytest.mark.parametrize("text", ["{", "[]", '{"members": []}', '{"members": [{"file": "a"}], "model_sha256": "0"}'])
def test_damaged_ensemble_file_is_refused(tmp_path, text):
    (tmp_path / "ensemble.json").write_text(text)
    with pytest.raises(InputError, match=r"ensemble\.json"):
        load_ensemble(tmp_path)


def test_edited_identity_is_refused(tmp_path):
    save_ensemble(make_ensemble(build, 2, seed=0), tmp_path, {})
    record = json.loads((tmp_path / "ensemble.json").read_text()) | {"model_sha256": "0" * 64}
    (tmp_path / "ensemble.json").write_text(json.dumps(record))
    with pytest.raises(InputError, match="not that of its members"):
        ensemble_sha256(tmp_path)


@pytest.mark.parametrize("layer", [nn.Dropout(0.5), nn.Dropout2d(0.5)])
def test_dropout_passes_differ_and_do_not_depend_on_the_batch(layer):
    committee = DropoutEnsemble(Dropped(layer), passes=6, seed=3)
    data = torch.rand(4, 3, 8, 8)
    found = committee(data)
    assert found.shape == (6, 4, 2, 8, 8)
    assert torch.equal(found, committee(data))
    torch.testing.assert_close(committee(data[2:3])[:, 0], found[:, 2])
    assert len({row.sum().item() for row in found}) > 1
    assert not torch.equal(found, DropoutEnsemble(committee.network, passes=6, seed=4)(data))


def test_dropout_mask_keeps_its_share_and_its_scale():
    network = nn.Sequential(nn.Dropout(0.25))
    values = DropoutEnsemble(network, passes=50, seed=0)(torch.ones(1, 10, 20, 20))
    assert values.unique().tolist() == pytest.approx([0.0, 1 / 0.75])
    assert values.mean().item() == pytest.approx(1, abs=0.02)
    whole = DropoutEnsemble(nn.Sequential(nn.Dropout2d(0.5)), passes=20, seed=0)(torch.ones(1, 10, 4, 4))
    assert torch.equal(whole.amax(dim=(3, 4)), whole.amin(dim=(3, 4)))


def test_dropout_embedding_is_undisturbed():
    committee = DropoutEnsemble(Dropped(nn.Dropout(0.5)), passes=2, seed=0).eval()
    data = torch.rand(2, 3, 4, 4)
    torch.testing.assert_close(committee.embed(data), data.mean(dim=(2, 3)))


def test_network_without_dropout_is_refused():
    with pytest.raises(InputError, match="no dropout layer"):
        DropoutEnsemble(nn.Conv2d(3, 2, 1), passes=4, seed=0)
    with pytest.raises(InputError, match="passes = 0"):
        DropoutEnsemble(Dropped(nn.Dropout(0.5)), passes=0, seed=0)


def test_snapshots_are_copies_of_the_named_epochs():
    network = nn.Linear(2, 2)
    kept, after_epoch = snapshots(network, range(1, 4, 2))
    for epoch in range(5):
        with torch.no_grad():
            network.weight.fill_(float(epoch))
        after_epoch(epoch, network, None)
    assert [snapshot.weight[0, 0].item() for snapshot in kept] == [1.0, 3.0]
    assert len(Ensemble(list(kept))) == 2 and not any(snapshot.training for snapshot in kept)


def test_snapshots_of_an_ensemble_are_those_of_its_members():
    ensemble = make_ensemble(lambda _seed: nn.Linear(2, 2), 3, seed=0)
    kept, after_epoch = snapshots(ensemble, range(2))
    wanted = []
    for epoch in range(2):
        with torch.no_grad():
            for member in ensemble.members:
                member.weight.add_(1.0)
                wanted.append(member.weight.clone())
        after_epoch(epoch, ensemble, None)
    assert [torch.equal(found.weight, weight) for found, weight in zip(kept, wanted, strict=True)] == [True] * 6


def test_members_of_which_every_weight_is_known_are_drawn_around_it():
    known = build(0)
    priors = started_priors(known, known.state_dict())

    def member(_seed):
        network = build(0)
        network.load_state_dict(known.state_dict())
        return network

    first, second = (make_ensemble(member, 3, 5, priors).members for _ in range(2))
    for name, values in known.named_parameters():
        drawn = torch.stack([each.get_parameter(name).detach() for each in first])
        assert float((drawn - values.detach()).abs().max()) < 6 * math.sqrt(priors[name].variance)
        assert not torch.equal(drawn[0], drawn[1])
        assert torch.equal(drawn, torch.stack([each.get_parameter(name).detach() for each in second]))
    some = {name: prior for name, prior in priors.items() if name.startswith("encoder.")}
    with pytest.raises(InputError, match="start from equal weights"):
        make_ensemble(member, 3, 5, some)
