"""Ways to lose the guarantee, each a small change of the trainer's own source, made while a test
runs."""

import inspect
import textwrap

import pytest
from torch import distributed

from trainer import engine, mechanism, processes, update
from trainer.gradients import per_record


def rewritten(
    monkeypatch: pytest.MonkeyPatch, function, *changes: tuple[str, str], users=()
) -> None:
    """Put a version of `function` in its place in which each (old, new) is changed; `old` must be
    there exactly once."""
    source = textwrap.dedent(inspect.getsource(function))
    for old, new in changes:
        assert source.count(old) == 1, (
            f"{function.__qualname__} no longer has {old!r} once: adapt the control"
        )
        source = source.replace(old, new)
    owner = inspect.getmodule(function)
    space = dict(vars(owner))
    exec(compile(source, f"broken {function.__qualname__}", "exec"), space)
    made, (*holders, name) = space[function.__name__], function.__qualname__.split(".")
    place = owner
    for holder in holders:
        place = getattr(place, holder)
    for user in (place, *users):
        monkeypatch.setattr(user, name, made)


def less_noise(patch):
    """Noise 10 % too small."""
    rewritten(patch, mechanism.noisy_average, ("scale = ", "scale = 0.9 * "))


def clipped_after_averaging(patch):
    """The average is clipped, not each record's gradient."""

    def clip(gradients, clip_norm, truncation, passes):
        raw = mechanism.torch.cat([one.flatten(1) for one in gradients], 1).double()
        total = raw.sum(0)
        size = total.norm() / len(raw)
        return mechanism.Clipped(total * min(1.0, clip_norm / float(size)), raw.norm(dim=1))

    patch.setattr(mechanism, "clip_truncate_sum", clip)


def not_truncated(patch):
    """Coordinates are not cut after clipping."""
    patch.setattr(mechanism, "coordinate_bound", lambda clip_norm, truncation: clip_norm)


def realised_batch(patch):
    """Sums are divided by the number of records that were drawn."""
    realised = ("draws.noise(), plan.batch_size)", "draws.noise(), max(1, len(batch)))")
    rewritten(patch, mechanism.private_step, realised, users=[engine])


def count_without_noise(patch):
    """Counts of short gradients are released as they are."""
    rewritten(patch, mechanism.next_clip_norm, ("adaptive.noise * WIDEN *", "0.0 *"))


def count_over_realised_batch(patch):
    """Counts of short gradients are divided by the number of records that were drawn."""
    realised = (
        "next_clip_norm, phase, plan.batch_size,",
        "next_clip_norm, phase, max(1, len(batch)),",
    )
    rewritten(patch, mechanism.private_step, realised, users=[engine])


def sign_of_zero(patch):
    """Coordinates are pushed apart along sign(w_prev - w_last), which is 0 where they are equal."""

    def mix(w_prev, w_last, threshold, alpha):
        gap = w_prev - w_last
        return (w_prev + w_last) / 2.0 + (alpha - 0.5) * gap.sign() * gap.abs().clamp_min(threshold)

    patch.setattr(mechanism, "mix", mix)


def layer_left_out(patch):
    """The second half of the weights is not mixed."""
    whole = mechanism.mix

    def mix(w_prev, w_last, threshold, alpha):
        made, half = whole(w_prev, w_last, threshold, alpha), len(w_prev) // 2
        return mechanism.torch.cat([made[:half], w_prev[half:]])

    patch.setattr(mechanism, "mix", mix)


def private_momentum(patch):
    """The velocity is fed with the private noisy gradient."""
    rewritten(
        patch,
        mechanism.private_step,
        ("if phase.gap == 0.0:", "if True:"),
        users=[engine],
    )
    fed = 'after["velocity"] = (centre - after["weights"].double()) / phase.learning_rate'
    rewritten(
        patch, update.Update.after, (fed, 'after["velocity"] = released.noisy + self.drift(state)')
    )


def gradient_at_the_mixed_point(patch):
    """Gradients are taken where the mixing led, which is secret."""
    rewritten(
        patch,
        mechanism.private_step,
        (
            "    # 3.",
            "    width = nextafter(phase.gap * phase.learning_rate, float('inf')) * WIDEN\n"
            "    alpha = mixing_coefficients(randomness.words('mixing', step), size, phase.mixing_law)\n"
            "    there = mix(w_prev.double(), w_last.double(), width, alpha).to(w_prev.dtype)\n"
            "    # 3.",
        ),
        ("own_sum, phase, w_prev,", "own_sum, phase, there,"),
        users=[engine],
    )


def _same_words(patch, purposes, seed):
    fresh = mechanism.Randomness.words

    def words(self, purpose, step):
        return fresh(mechanism.Randomness(seed) if purpose in purposes else self, purpose, step)

    patch.setattr(mechanism.Randomness, "words", words)


def known_seed(patch):
    """Mixing coefficients come from a seed that everybody knows."""
    from trainer.attacks import battery

    _same_words(patch, ("mixing",), battery.GUESS)


def noise_used_twice(patch):
    """A step that is redone has the same noise and mixing, and another batch."""
    _same_words(patch, ("noise", "mixing"), 99)


def noise_of_every_process(patch):
    """Every process adds noise to its share, besides that of the first."""
    more = (
        "    noise = normals(Randomness().words('noise', 1), size)\n"
        "    total += phase.noise_multiplier * phase.clip_norm * noise\n"
    )
    rewritten(patch, mechanism.own_sum, ("    return share", more + "    return share"))


def whole_batch_everywhere(patch):
    """Every process has the same coins, and takes all of the batch for its own."""
    patch.setattr(mechanism, "own", lambda batch, processes: batch >= 0)


def coins_of_every_process(patch):
    """Every process has a batch of its own (of the same size, or the sums would not fit together)."""
    shared = processes.Several.from_first

    def from_first(self, make, shape, dtype=mechanism.torch.float64):
        made = shared(self, make, shape, dtype)
        return made.roll(self.rank) if dtype is mechanism.torch.uint8 and len(shape) == 1 else made

    patch.setattr(processes.Several, "from_first", from_first)
    whole_batch_everywhere(patch)


def rounds_otherwise(patch):
    """Every process but the first rounds gradients in its own way."""
    real = per_record.Fast.__call__

    def call(self, weights, x, y):
        made, losses = real(self, weights, x, y)
        return [one * (1 + 2.0**-20 * distributed.get_rank()) for one in made], losses

    patch.setattr(per_record.Fast, "__call__", call)


OF_SEVERAL = (
    noise_of_every_process,
    whole_batch_everywhere,
    coins_of_every_process,
    rounds_otherwise,
)  # caught by test_processes.py

CONTROLS = {  # what is broken: the attack that catches it
    less_noise: "plain, 1 step",
    clipped_after_averaging: "plain, 20 steps",
    not_truncated: "gradient in one coordinate",
    realised_batch: "realised batch size",
    count_without_noise: "count of short gradients",
    count_over_realised_batch: "count divided by the realised batch",
    sign_of_zero: "first step not mixed",
    layer_left_out: "last layer not mixed",
    private_momentum: "momentum of private gradients",
    gradient_at_the_mixed_point: "gradient at the mixed point",
    known_seed: "mixing coefficients known",
    noise_used_twice: "noise of a redone step",
}
