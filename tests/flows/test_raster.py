import pytest
import torch
from torch.func import jacrev
from torch.nn.functional import conv2d, relu
from toys import randomised, tiny_pixelflow

from triptych.flows.coupling import Affine
from triptych.flows.raster import RasterAutoregressive
from triptych.flows.spline import RationalQuadratic

pytestmark = pytest.mark.usefixtures("float64")


def seen(d, of, shape, window):
    """Whether the map of pixel d may depend on another one."""
    (i, j), (above, left) = divmod(d, shape[2]), divmod(of, shape[2])
    return of < d and max(abs(i - above), abs(j - left)) <= window // 2


@pytest.mark.parametrize(("shape", "window"), [((1, 4, 5), 3), ((1, 6, 5), 5), ((1, 2, 3), 9)])
@pytest.mark.parametrize("backwards", [False, True], ids=["forwards", "backwards"])
def test_a_pixel_sees_those_before_it_in_its_window_and_no_other(shape, window, backwards):
    layer = randomised(RasterAutoregressive(shape, 16, window, Affine(), backwards))
    x = torch.randn(1, *shape)
    D = x.numel()
    jacobian = jacrev(lambda x: layer.inverse(x)[0])(x).view(D, D)
    jacobian = jacobian.flip(0, 1) if backwards else jacobian
    sees = [[d == of or seen(d, of, shape, window) for of in range(D)] for d in range(D)]
    assert torch.equal(jacobian != 0, torch.tensor(sees))


def test_its_network_is_a_masked_convolution_and_an_mlp_at_each_place():
    layer, x = randomised(RasterAutoregressive((1, 5, 6), 7, 3, Affine())), torch.randn(4, 1, 5, 6)
    near, place, rest, last = layer.net.near.weight, layer.net.place, layer.net.rest, layer.net.last
    kernel = torch.zeros(7, 1, 3, 3)
    kernel[:, 0, 0] = near[:, :3]
    kernel[:, 0, 1, 0] = near[:, 3]
    hidden = relu(conv2d(x, kernel, padding=1) + place.T.view(7, 5, 6))
    for linear in (rest[1], rest[3]):
        hidden = relu(conv2d(hidden, linear.weight[..., None, None], linear.bias))
    s, t = conv2d(hidden, last.weight[..., None, None], last.bias).split(1, 1)
    s = 2 * (s / 2).tanh()
    z, log_det = layer.inverse(x)
    torch.testing.assert_close(z, (x - t) * (-s).exp())
    torch.testing.assert_close(log_det, -s.flatten(1).sum(1))


def test_it_starts_as_the_identity():
    z = torch.randn(3, 1, 4, 5)
    x, log_det = RasterAutoregressive((1, 4, 5), 8, 3, RationalQuadratic(4)).forward(z)
    torch.testing.assert_close(x, z)
    torch.testing.assert_close(log_det, torch.zeros(3))


@pytest.mark.parametrize(
    ("shape", "window", "why"),
    [((3, 4, 4), 3, "in one channel, not in 3"), ((1, 4, 4), 4, "not 4"), ((1, 4, 4), 1, "not 1")],
)
def test_what_has_no_order_or_no_centre_is_refused(shape, window, why):
    with pytest.raises(ValueError, match=why):
        RasterAutoregressive(shape, 8, window, Affine())


def test_in_a_pixel_flow_those_next_to_the_image_go_forwards_the_next_back():
    *_, third, second, first, scale, _ = tiny_pixelflow(
        autoregressive_layers=3, window=5
    ).flow.bijectors
    assert [layer.backwards for layer in (first, second, third)] == [False, True, False]
    assert first.window == 5
    assert type(scale).__name__ == "ActNorm"
