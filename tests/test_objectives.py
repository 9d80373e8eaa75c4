import pytest
import torch
from toys import built, images, randomised, tiny_vae, training_data

from triptych.data import view
from triptych.maths import log_mean_exp
from triptych.objectives import BetaELBO, ImportanceWeighted
from triptych.train.batches import TrainingData
from triptych.train.order import TrainConfig
from triptych.train.trainer import Run, Trainer

pytestmark = pytest.mark.usefixtures("float64")


def binary(n):
    return view("threshold")(images(n), 17, None).double()


def test_beta_weighs_the_divergence_alone(g):
    x, noise = binary(5), tiny_vae().noise(5, g)
    plain = randomised(tiny_vae())
    terms = plain.terms(x, noise)
    for beta in (0.0, 0.3, 4.0):
        model = randomised(tiny_vae(objective=BetaELBO(beta)))
        model.load_state_dict(plain.state_dict())
        expected = beta * (terms["log_qz"] - terms["log_pz"]) - terms["log_px"]
        torch.testing.assert_close(model.loss(x, noise), expected)


def test_beta_of_one_is_the_elbo(g):
    model, x = randomised(tiny_vae(objective=BetaELBO())), binary(5)
    noise = model.noise(5, g)
    torch.testing.assert_close(model.loss(x, noise), -model.log_weight(x, **noise))


def test_beta_warms_up_while_training_and_is_whole_at_validation(tmp_path):
    model = tiny_vae(objective=BetaELBO(3.0, warmup=0.5))
    config = TrainConfig(epochs=10, batch_size=24)
    trainer = Trainer([model], [Run(0, tmp_path)], training_data(n=24), config)
    betas = [trainer.batch(trainer.runs[0], step)[1]["beta"].item() for step in range(11)]
    assert betas == pytest.approx([0, 0.6, 1.2, 1.8, 2.4, 3, 3, 3, 3, 3, 3])
    x, noise = binary(4), model.noise(4, torch.Generator().manual_seed(0))
    torch.testing.assert_close(
        model.loss(x, noise), model.loss(x, noise | {"beta": torch.tensor(3.0)})
    )
    assert not torch.allclose(
        model.loss(x, noise), model.loss(x, noise | {"beta": torch.tensor(0.6)})
    )


class Warmed(ImportanceWeighted):
    """An objective that has no weight but the one of the noise."""

    def at(self, progress):
        return {"heat": 2 * progress}

    def loss(self, model, x, noise):
        return noise["heat"] * super().loss(model, x, noise)


@pytest.mark.parametrize("seeds", [1, 2])
def test_validation_is_of_an_objective_as_it_is_at_the_end(seeds, tmp_path):
    models = [randomised(tiny_vae(objective=Warmed(3))) for _ in range(seeds)]
    runs = [Run(s, tmp_path) for s in range(seeds)]
    trainer = Trainer(models, runs, training_data(n=24), TrainConfig(epochs=1, batch_size=8))
    warm = trainer.validate()
    for model in models:
        model.objective = ImportanceWeighted(3)
    assert warm == pytest.approx([2 * loss for loss in trainer.validate()])


@pytest.mark.parametrize("prior", ["flow", "resampled"])
@pytest.mark.parametrize("doubly", [False, True])
@pytest.mark.parametrize("K", [1, 4])
def test_the_loss_is_the_importance_weighted_bound(K, doubly, prior, g):
    """Under a prior that is normalised by draws, with these draws."""
    model, x = randomised(tiny_vae(prior, objective=ImportanceWeighted(K, doubly))), binary(5)
    noise = model.noise(5, g)
    log_w = model.log_weight(x, noise["eps"].view(K, 5, 2), draws=noise.get("draws"))
    torch.testing.assert_close(model.loss(x, noise), -log_mean_exp(log_w))


def gradients(doubly, K, x, noise, prior="mixture", posterior="gaussian", dim=2):
    """Mean gradient of the loss: the encoder's, and everything else's."""
    torch.manual_seed(0)
    objective = ImportanceWeighted(K, doubly)
    model = randomised(tiny_vae(prior, dim, posterior=posterior, objective=objective))
    names, parameters = zip(*model.named_parameters(), strict=True)
    grads = torch.autograd.grad(model.loss(x, noise).mean(), parameters)
    phi = [g.flatten() for n, g in zip(names, grads, strict=True) if n.startswith("posterior")]
    theta = [g.flatten() for n, g in zip(names, grads, strict=True) if n[:4] in ("prio", "like")]
    return torch.cat(phi), torch.cat(theta)


def test_the_doubly_reparametrized_gradient_has_the_plain_ones_mean(g):
    K, batches = 20, []
    for _ in range(60):
        noise = tiny_vae(objective=ImportanceWeighted(K)).noise(400, g)
        x = binary(1).expand(400, -1, -1, -1)
        batches.append([gradients(doubly, K, x, noise) for doubly in (False, True)])
    plain, doubly = (torch.stack([b[i][0] for b in batches]) for i in (0, 1))
    for plainly, again in batches[:5]:
        torch.testing.assert_close(plainly[1], again[1])
    gap, spread = (plain - doubly).mean(0), (plain - doubly).std(0) / len(batches) ** 0.5
    moved = spread > 1e-12
    assert moved.sum() > 20
    assert (gap[moved] / spread[moved]).abs().max() < 4.5


@pytest.mark.parametrize(
    ("prior", "posterior"), [("gaussian", "iaf"), ("gaussian", "coupling"), ("hierarchical", "")]
)
def test_posteriors_that_read_weights_again_have_the_plain_mean_too(prior, posterior, g):
    """The density of a draw passes through a flow's or a second level's network once more: without
    gradient, or the mean would differ."""
    K, gaps = 6, []
    dim = 4 if posterior == "" else 2
    for _ in range(40):
        noise = tiny_vae(dim=dim, objective=ImportanceWeighted(K)).noise(300, g)
        x = binary(1).expand(300, -1, -1, -1)
        plain, doubly = (gradients(d, K, x, noise, prior, posterior, dim)[0] for d in (False, True))
        gaps.append(plain - doubly)
    gap = torch.stack(gaps)
    spread = gap.std(0) / len(gaps) ** 0.5
    moved = spread > 1e-12
    assert moved.sum() > 20
    assert (gap.mean(0)[moved] / spread[moved]).abs().max() < 4.5


def test_a_vamp_prior_hands_its_own_gradient_to_the_encoder(g):
    """Pseudo-inputs pass through the encoder: that path is the prior's and keeps its plain
    gradient, or the means would differ."""
    K, batches = 6, []
    for _ in range(40):
        noise = tiny_vae(objective=ImportanceWeighted(K)).noise(300, g)
        x = binary(1).expand(300, -1, -1, -1)
        batches.append([gradients(d, K, x, noise, "vamp")[0] for d in (False, True)])
    gap = torch.stack([a - b for a, b in batches])
    spread = gap.std(0) / len(batches) ** 0.5
    moved = spread > 1e-12
    assert (gap.mean(0)[moved] / spread[moved]).abs().max() < 4.5


def test_no_noise_is_left_in_the_gradient_where_the_posterior_is_exact(g):
    """log w is then constant in z, so each doubly reparametrized gradient is exactly zero."""
    model = tiny_vae(objective=ImportanceWeighted(5))
    with torch.no_grad():
        for p in (
            *model.likelihood.net[-1].parameters(),
            *model.posterior.net[-1][-1].parameters(),
        ):
            p.zero_()  # x does not depend on z, and q(z|x) is the prior
    grads = {}
    for doubly in (True, False):
        model.objective.doubly = doubly
        loss = model.loss(binary(6), model.noise(6, g)).sum()
        encoder = tuple(model.posterior.net[-1][-1].parameters())
        grads[doubly] = torch.cat([a.flatten() for a in torch.autograd.grad(loss, encoder)])
    assert grads[True].abs().max() < 1e-12
    assert grads[False].abs().max() > 1e-3


def test_an_objective_needs_a_sample():
    with pytest.raises(ValueError, match="at least 1, not 0"):
        ImportanceWeighted(0)


@pytest.mark.parametrize("name", ["vae-beta", "vae-iwae", "vae-dreg"])
def test_training_on_it_raises_it(name, tmp_path):
    torch.manual_seed(0)
    model = built(name)
    config = TrainConfig(epochs=60, batch_size=24, lr=0.02)
    data = training_data(n=24)
    data = TrainingData(data.images, data.images, data.view, data.levels)
    trainer = Trainer([model], [Run(0, tmp_path)], data, config)
    first = trainer.validate()[0]
    for _ in range(trainer.steps):
        trainer.train_step()
    assert trainer.validate()[0] < first - 1


def test_the_noise_has_what_objective_and_prior_ask_for(g):
    assert tiny_vae(objective=ImportanceWeighted(3)).noise(4, g)["eps"].shape == (3, 4, 2)
    assert set(tiny_vae("resampled").noise(4, g)) == {"eps", "draws"}
