"""The whole way of a network that ships: pruned, factorised, saved, loaded, folded, exported."""

from pathlib import Path

import numpy as np
import torch

from perception.compression.cost import count_macs, count_parameters
from perception.compression.export import export_onnx, fold_batchnorm, open_session
from perception.compression.latency_budget import parameter_costs, zero_to_cost
from perception.compression.low_rank import factorise_by_energy
from perception.models.checkpoint import load_network, save_network
from perception.models.erfnet import ERFNet
from perception.sparsity.groups import find_groups
from perception.sparsity.removal import remove_zero_channels


def test_pruned_and_factorised_network_survives_its_files(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = ERFNet(5, 0.5)
    x = torch.rand(2, 3, 32, 64)
    with torch.no_grad():
        for _ in range(5):
            network.train()(x)
    network.eval()
    dense = count_parameters(network), count_macs(network, (3, 32, 64))
    groups = find_groups(network, x)
    costs = parameter_costs(network, groups, x)
    zero_to_cost(groups, costs, 0.4 * costs.cost())
    remove_zero_channels(network, groups, minimum_channels=4)
    network = factorise_by_energy(network, 0.7).network
    assert count_parameters(network) < 0.4 * dense[0] and count_macs(network, (3, 32, 64)) < 0.6 * dense[1]
    save_network(network, tmp_path / "net.safetensors", {})
    loaded = load_network(tmp_path / "net.safetensors")
    report = export_onnx(fold_batchnorm(loaded), tmp_path / "net.onnx", 32, 64)
    with torch.no_grad():
        expected = network(x)
        assert torch.equal(loaded(x), expected)
    (given,) = open_session(report.path).run(None, {"image": x.numpy()})
    np.testing.assert_allclose(given, expected.numpy(), rtol=0, atol=1e-5 * float(expected.abs().max()))
    assert find_groups(loaded, x).neurons > 0
