"""InfEdit and TurboEdit against their papers' equations written out."""

import pytest
import torch
from tests.methods.by_hand import ByHand
from tests.methods.test_rivals import GUIDANCE, SOURCE, STEPS, TARGET, TOLERANCE, gap, noise, task

from freeprompt.core import DDIM, Trajectory
from freeprompt.core.words import align
from freeprompt.errors import ConfigError
from freeprompt.methods import InfEdit, TurboEdit

CLEAN = noise(seed=3) * 0.5


def known(targets=(TARGET,), **more):
    """A real image: InfEdit and TurboEdit ask for its clean latent alone."""
    return task(*targets, trajectory=Trajectory(latents=CLEAN, prompt=SOURCE), **more)


class DDCM(ByHand):
    """Rows are [u_src, u_tgt, u_lay, c_src, c_tgt, c_lay]; a rule sees all six."""

    def edit(self, t, controlled):
        """Equations of the paper: predicted clean latents, corrected by the source's error."""
        noises = t.draw(CLEAN, STEPS)
        a = [float(self.alphas[label]) for label in reversed(self.labels)] + [float(self.alphas[0])]
        rows = [("", 0), ("", 1), ("", 2), (SOURCE, 0), (TARGET, 1), (TARGET, 2)]
        x = (a[0] ** 0.5 * CLEAN + (1 - a[0]) ** 0.5 * noises[0]).repeat(3, 1, 1, 1)
        saved = dict(self.unet.attn_processors)
        if controlled:
            self._install(saved)
        try:
            for step, label in enumerate(reversed(self.labels)):
                self.step = step
                now, later = a[self.step], a[self.step + 1]
                uncond, cond = self._network(x, label, rows).chunk(2)
                answer = uncond + self.guidance * (cond - uncond)
                source, e_s = x[:1], cond[:1]
                x0 = CLEAN + ((x - source) - (1 - now) ** 0.5 * (answer - e_s)) / now**0.5
                x0[0] = CLEAN
                last = self.step + 1 == STEPS
                z = torch.zeros_like(CLEAN) if last else noises[self.step + 1]
                x = later**0.5 * x0 + (1 - later) ** 0.5 * z
        finally:
            self.unet.set_attn_processor(dict(saved))
        return x

    def _install(self, saved):
        from tests.methods.by_hand import _Ruled

        self.unet.set_attn_processor({name: _Ruled(name, self) for name in saved})


class TestInfEdit:
    def test_without_control_by_hand(self, model):
        t = known()
        x = DDCM(model.pipe, STEPS, None, GUIDANCE).edit(t, controlled=False)
        outcome = InfEdit(control=False)(model, t)
        assert gap(outcome.targets, x[1:2]) < TOLERANCE
        assert gap(x[:1], CLEAN) < 1e-2  # the source never leaves its image

    def test_unified_control_by_hand(self, model):
        alignment = align(model.spell(SOURCE), model.spell(TARGET), "refine")

        def rule(name, cross, step, q, k, v, probs):
            if cross:
                if step < int(STEPS * 0.7):
                    probs = probs.clone()
                    common = probs[3] @ alignment.matrix
                    probs[4] = common * alignment.keep + probs[5] * (1 - alignment.keep)
                return probs, v
            order = [0, 0, 0, 3, 3, 3]
            if step < int(STEPS * 0.5):
                return probs[order], v[order]
            scale = q.shape[-1] ** -0.5
            queries, keys = [0, 2, 2, 3, 5, 5], [0, 0, 2, 3, 3, 5]
            probs = (q[queries] @ k[keys].transpose(-1, -2) * scale).softmax(-1)
            return probs, v[keys]

        t = known()
        x = DDCM(model.pipe, STEPS, rule, GUIDANCE).edit(t, controlled=True)
        outcome = InfEdit(share=0.5)(model, t)
        assert gap(outcome.targets, x[1:2]) < TOLERANCE
        free = InfEdit(control=False)(model, t)
        assert gap(outcome.targets, free.targets) > 10 * TOLERANCE

    def test_several_targets_do_not_meet(self, model):
        both = InfEdit()(model, known(targets=(TARGET, "a green bird in the park")))
        alone = InfEdit()(model, known(targets=("a green bird in the park",)))
        assert gap(both.targets[1:], alone.targets) < TOLERANCE

    def test_outside_the_words_the_source_is_kept(self, model):
        outcome = InfEdit(edit_words="cat", edit_threshold=0.99)(model, known())
        end = float(model.pipe.scheduler.alphas_cumprod[0]) ** 0.5 * CLEAN
        kept = ((outcome.targets - end).abs() < 1e-5).all(1)
        assert 0 < kept.float().mean() < 1
        mutual = InfEdit(
            edit_words="cat", edit_threshold=0.5, keep_words="blue", keep_threshold=0.99
        )(model, known())
        assert 0 < ((mutual.targets - end).abs() < 1e-5).all(1).float().mean() < 1


def known_turbo(steps=4, **more):
    return known(steps=steps, **more)


class TestTurboEdit:
    def test_labels_are_the_authors(self):
        assert DDIM(steps=4).over(0.8).timesteps == (799, 599, 399, 199)

    def test_the_correction_by_hand(self, model):
        """x^_{t-1} = x_{t-1} + mu(x^_t,c) - mu(x_t,c) + w (mu(x^_t,c^) - mu(x^_t,c))."""
        t = known_turbo()
        labels, alphas = (799, 599, 399, 199), model.pipe.scheduler.alphas_cumprod.double()
        noises = t.draw(CLEAN, 4)
        levels = [float(alphas[label]) for label in (599, 399, 199, 0)]
        path = [a**0.5 * CLEAN + (1 - a) ** 0.5 * z for a, z in zip(levels, noises, strict=True)]
        path.append(CLEAN)

        def mu(x, label, prompt):
            a = float(alphas[label])
            later = float(alphas[label - 200] if label >= 200 else alphas[0])
            e = model.pipe.unet(x, label, model.encode_text([prompt]).states).sample
            x0 = (x - (1 - a) ** 0.5 * e) / a**0.5
            beta = 1 - a / later  # the posterior mean of DDPM in its first form
            front = later**0.5 * beta / (1 - a)
            return front * x0 + (a / later) ** 0.5 * (1 - later) / (1 - a) * x

        x = path[0]
        for i, label in enumerate(labels):
            here = mu(x, label, SOURCE)
            x = (
                path[i + 1]
                + here
                - mu(path[i], label, SOURCE)
                + 1.5 * (mu(x, label, TARGET) - here)
            )
        outcome = TurboEdit(longest=1e9)(model, t)
        assert gap(outcome.targets, x) < TOLERANCE * float(x.abs().max())

    def test_the_source_prompt_leads_back(self, model):
        outcome = TurboEdit(contrast=0, longest=1e9)(model, known_turbo())
        assert gap(outcome.targets, CLEAN) < TOLERANCE

    def test_the_last_noise_is_clipped(self, model):
        free, clipped = (
            TurboEdit(contrast=0, longest=longest)(model, known_turbo()).targets
            for longest in (1e9, 0.5)
        )
        assert gap(free, clipped) > TOLERANCE

    def test_many_steps_are_refused(self):
        with pytest.raises(ConfigError, match=r"few-step.*got 50.*SDXL-Turbo"):
            TurboEdit().check_steps(50)
