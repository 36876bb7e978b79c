from torch import nn

from perception.uncertainty.priors import Prior, parameter_priors


def test_priors_by_kind_of_layer():
    network = nn.Sequential(
        nn.Conv2d(3, 8, (3, 5)),
        nn.BatchNorm2d(8),
        nn.ConvTranspose2d(8, 4, 3),
        nn.Conv2d(4, 4, 3, groups=4),
        nn.GroupNorm(2, 4),
        nn.Linear(4, 6),
    )
    priors = parameter_priors(network)
    assert priors["0.weight"] == Prior(0.0, 2 / (8 * 15))
    assert priors["1.weight"] == priors["4.weight"] == Prior(1.0, 0.01)
    assert priors["2.weight"] == Prior(0.0, 2 / (4 * 9))
    assert priors["3.weight"] == Prior(0.0, 2 / 9)  # one output for each input
    assert priors["5.weight"] == Prior(0.0, 2 / 6)
    assert {priors[f"{layer}.bias"] for layer in range(6)} == {Prior(0.0, 0.01)}


def test_a_matrix_of_an_unknown_layer_is_linear_and_a_vector_a_bias():
    priors = parameter_priors(nn.MultiheadAttention(8, 2))
    assert priors["in_proj_weight"] == Prior(0.0, 2 / 24)
    assert priors["in_proj_bias"] == Prior(0.0, 0.01)
    assert parameter_priors(nn.PReLU())["weight"] == Prior(0.0, 0.01)
