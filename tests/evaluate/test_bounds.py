import pytest
import torch
from toys import images, randomised, tiny_ddpm, tiny_flow, tiny_vae

from triptych.evaluate.likelihood import ddpm_bound, flow_bounds, importance_bounds


@pytest.mark.parametrize("n", [3, 607])
def test_every_image_gets_a_value_of_its_own(n, g):
    x = images(n).float()
    flow, ddpm, vae = tiny_flow(), tiny_ddpm(), tiny_vae()
    for estimate in (
        *flow_bounds(flow, x, 2, g),
        ddpm_bound(ddpm, x, 1, g),
        *importance_bounds(vae, (x > 8).float(), 2, g)[:2],
    ):
        assert estimate.values.shape == (n,)
        assert estimate.mean == pytest.approx(estimate.values.double().mean().item())


@torch.no_grad()
def test_flow_bounds_are_the_mean_over_dequantizations_and_the_log_of_a_mean(g):
    model, x = randomised(tiny_flow(), 0.1), images(4).float()
    seen, noise = [], model.noise
    model.noise = lambda *a: seen.append(noise(*a)) or seen[-1]
    estimate, iwae = flow_bounds(model, x, 5, g)
    assert len(seen) == 5
    expected = torch.stack([model.log_weight(x, u) for u in seen]).double()
    torch.testing.assert_close(estimate.values, expected.mean(0))
    assert estimate.mc_std == pytest.approx((expected.var(0).sum() / 5).sqrt().item() / 4)
    torch.testing.assert_close(iwae.values, expected.exp().mean(0).log())
    assert (iwae.values > estimate.values).all()


@pytest.mark.parametrize("kind", ["flow", "flow-iwae", "ddpm"])
def test_monte_carlo_errors_are_those_of_repeated_estimates(kind, g):
    x = images(12).float()
    model = randomised(tiny_ddpm() if kind == "ddpm" else tiny_flow(), 0.05)
    bound = ddpm_bound if kind == "ddpm" else lambda *a: flow_bounds(*a)[kind == "flow-iwae"]
    estimates = [bound(model, x, 4, g) for _ in range(40)]
    spread = torch.tensor([e.mean for e in estimates]).std().item()
    claimed = sum(e.mc_std for e in estimates) / 40
    # Stratified times make the DDPM's true error smaller than what is claimed.
    assert claimed / spread > 0.75
    if kind != "ddpm":
        assert claimed / spread < 1.35


def test_one_draw_an_image_still_has_an_error(g):
    assert flow_bounds(tiny_flow(), images(6).float(), 1, g)[0].mc_std > 0
