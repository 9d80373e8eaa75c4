"""What each metric is, in a sentence, and which way is better."""

import re
from typing import NamedTuple


class Meaning(NamedTuple):
    """`better` is "higher", "lower", or nothing where neither is."""

    words: str
    better: str = ""


UNKNOWN = Meaning("")
P, OF_PRIOR = "p(z) (a latent DDPM's chain)", "-prior"
METRICS = {
    "elbo": Meaning("evidence lower bound on log p(x), its mean over images", "higher"),
    "ais": Meaning("log p(x) by annealed importance sampling, a lower bound in mean", "higher"),
    "ais-bracket": Meaning(
        "gap between annealing forwards and backwards on images that the model drew: how far "
        "annealing may be off, apart from what both ways miss",
        "lower",
    ),
    "effective-samples": Meaning(
        "effective number of an image's importance samples, the median over images", "higher"
    ),
    "unreliable-share": Meaning(
        "images whose importance weights have too large a Pareto k-hat: K is too small for them",
        "lower",
    ),
    "reconstruction": Meaning(
        "E log p(x|z), z ~ q(z|x); minus mutual information and KL(q(z)||p(z)) it is the ELBO",
        "higher",
    ),
    "kl-aggregate": Meaning(
        "KL(q(z)||p(z)), q(z) the aggregate posterior of the test images, p(z) the prior; where "
        "the mutual information is at its limit, only an upper bound on that of more images",
        "lower",
    ),
    "mutual-information": Meaning(
        "between image and latent under q; with n images it cannot exceed log n"
    ),
    "energy-distance": Meaning(f"between draws of q(z) and of {P}", "lower"),
    "mmd2": Meaning(f"squared maximum mean discrepancy between q(z) and {P}", "lower"),
    "classifier-accuracy": Meaning(
        f"of a classifier that tells draws of q(z) from draws of {P}; one half where it cannot",
        "lower",
    ),
    "active-units": Meaning("latent dimensions whose posterior mean varies with the image"),
    "bpd": Meaning("bits per dimension of the integers, an upper bound", "lower"),
    "bpd-ode": Meaning(
        "bits per dimension by the probability-flow ODE, an upper bound in mean", "lower"
    ),
    "inverse-error": Meaning(
        "largest error of a pixel that is passed through the flow and back", "lower"
    ),
    "share-outside": Meaning("sampled pixels outside [0, 1], clipped before use", "lower"),
    "fid": Meaning("Fréchet distance between features of samples and of test images", "lower"),
    "fid-infinity": Meaning("FID extrapolated to infinitely many samples", "lower"),
    "fid-prior": Meaning("FID of what the VAE decodes from its own prior", "lower"),
    "fid-reconstruction": Meaning(
        "FID of decoded latents of training images: what a perfect chain would have", "lower"
    ),
    "kid": Meaning("kernel distance between features of samples and of test images", "lower"),
    "precision": Meaning("samples that lie among real images", "higher"),
    "recall": Meaning("real images that lie among samples", "higher"),
    "density": Meaning(
        "number of real images whose ball of k neighbours holds a sample, its mean over samples, "
        "over k; above that of real images it is no gain",
        "higher",
    ),
    "coverage": Meaning("real images whose neighbourhood holds a sample", "higher"),
    "confidence": Meaning("of the classifier in the class that it gives a sample, on average"),
    "class-distance": Meaning(
        "total variation between the classes of samples and of images", "lower"
    ),
    "nearest-ratio": Meaning(
        "distance of samples to the nearest training image over that of test images (of their "
        "reconstructions, where a VAE shows means): well below 1 where training images are repeated"
    ),
    "copied-share": Meaning(
        "samples nearer to a training image than 99% of test images are (of their reconstructions, "
        "where a VAE shows means): about 0.01 where none is copied",
        "lower",
    ),
    "samples-per-second": Meaning("by the clock, after a warm-up", "higher"),
}


def meaning(metric: str) -> Meaning:
    """Of IWAE-K for any K, too; and, of a latent DDPM, of the VAE's own prior."""
    if metric in METRICS:
        return METRICS[metric]
    if found := re.fullmatch(r"iwae-(\d+)", metric):
        return Meaning(
            f"lower bound on log p(x) from {found[1]} importance samples an image", "higher"
        )
    if found := re.fullmatch(r"bpd-iwae-(\d+)", metric):
        return Meaning(
            f"upper bound on bits per dimension from {found[1]} dequantizations an image", "lower"
        )
    if metric.removesuffix(OF_PRIOR) in METRICS:
        words, better = METRICS[metric.removesuffix(OF_PRIOR)]
        return Meaning(words.replace(P, "the VAE's own prior"), better)
    return UNKNOWN
