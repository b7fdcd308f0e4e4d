"""Each rival method against the same method written out by hand."""

import pytest
import torch
from tests.methods.by_hand import ByHand
from tests.reference import below_top_layers

from freeprompt.core.words import align
from freeprompt.errors import ConfigError, PromptAlignmentError
from freeprompt.inversion import DDIMInversion
from freeprompt.methods import FPE, P2P, DiffEdit, MasaCtrl, PnP, SDEdit, Task
from freeprompt.methods.masks import noise_difference

STEPS = 6
SOURCE, TARGET = "a red dog", "a blue cat"
TOLERANCE = 1e-4
GUIDANCE = 3.0


def noise(height=16, width=16, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(1, 4, height, width, generator=generator)


def task(*targets, source=SOURCE, start=None, steps=STEPS, guidance=GUIDANCE, **more):
    start = noise() if start is None else start
    return Task(
        targets=targets or (TARGET,),
        source=source,
        start=start,
        steps=steps,
        guidance=guidance,
        **more,
    )


def gap(a, b):
    return float((a - b).abs().max())


def agree(model, method, rule, source=SOURCE, target=TARGET, run=ByHand):
    """Check a method against a rule, and that the rule does something."""
    kept, made = run(model.pipe, STEPS, rule, GUIDANCE).edit(source, target, noise())
    outcome = method(model, task(target, source=source))
    assert gap(outcome.source, kept) < TOLERANCE
    assert gap(outcome.targets, made) < TOLERANCE
    plain = FPE(share=0)(model, task(target, source=source))
    assert gap(outcome.targets, plain.targets) > 10 * TOLERANCE


@pytest.mark.filterwarnings("ignore::freeprompt.errors.FreepromptWarning")
class TestMasaCtrl:
    def test_keys_and_values_by_hand(self, model):
        """From a step on, in layers 11-16, each half of the target takes its source's K and V."""
        late = tuple(f"up_blocks.{i}." for i in (2, 3))

        def rule(name, cross, step, q, k, v, probs):
            if cross or step < 1 or not name.startswith(late):
                return probs, v
            order = [0, 0, 2, 2]
            scale = q.shape[-1] ** -0.5
            return (q @ k[order].transpose(-1, -2) * scale).softmax(-1), v[order]

        agree(model, MasaCtrl(start=1), rule)

    def test_regions_by_hand(self, model):
        """Two attentions, one a region of the source, composed by the target's region."""
        late = tuple(f"up_blocks.{i}." for i in (2, 3))
        places = ("down_blocks.2", "up_blocks.1")
        threshold = 0.5

        class Regions(ByHand):
            sums = torch.zeros(2, 4, 4)
            splits = 0

            def regions(self, side):
                low, high = self.sums.amin((1, 2), True), self.sums.amax((1, 2), True)
                flat = ((self.sums - low) / (high - low))[:, None]
                large = torch.nn.functional.interpolate(flat, (side, side), mode="bilinear")
                return (large >= threshold).flatten(1)

        run = Regions(model.pipe, STEPS, None, GUIDANCE)

        def rule(name, cross, step, q, k, v, probs):
            if cross and name.startswith(places):
                run.sums = run.sums + probs[2:, :, :, 3].mean(1).view(2, 4, 4)
            if cross or step < 1 or not name.startswith(late):
                return probs, v
            source, target = run.regions(int(q.shape[2] ** 0.5))
            scores = q @ k[[0, 0, 2, 2]].transpose(-1, -2) * q.shape[-1] ** -0.5
            probs, v = scores.softmax(-1), v[[0, 0, 2, 2]]
            for row in (1, 3):
                front = scores[row].masked_fill(~source, -torch.inf).softmax(-1)
                back = scores[row].masked_fill(source, -torch.inf).softmax(-1)
                probs[row] = torch.where(target[None, :, None], front, back)
            run.splits += 1
            return probs, v

        run.rule = rule
        kept, made = run.edit(SOURCE, TARGET, noise())
        method = MasaCtrl(start=1, mask_words="dog,cat", mask_threshold=threshold)
        outcome = method(model, task())
        assert run.splits
        assert gap(outcome.source, kept) < TOLERANCE
        assert gap(outcome.targets, made) < TOLERANCE
        assert gap(outcome.targets, MasaCtrl(start=1)(model, task()).targets) > 10 * TOLERANCE
        assert torch.equal(outcome.source, MasaCtrl(start=1)(model, task()).source)


class TestPnP:
    def test_against_a_rewritten_residual_block(self, model):
        """Maps of layers 9-16 for half the steps, one residual block's feature for 80 %."""
        block = model.pipe.unet.up_blocks[1].resnets[1]
        order = [0, 2, 2, 2]  # both target rows take the conditional source's
        layers = (
            "up_blocks.1.attentions.1",
            "up_blocks.1.attentions.2",
            "up_blocks.2",
            "up_blocks.3",
        )

        def rule(name, cross, step, q, k, v, probs):
            shared = not cross and step < int(STEPS * 0.5) and name.startswith(layers)
            return (probs[order] if shared else probs), v

        class WithFeature(ByHand):
            def edit(self, *args):
                forward = block.forward

                def rewritten(x, temb, *rest, **more):
                    h = block.conv1(block.nonlinearity(block.norm1(x)))
                    h = h + block.time_emb_proj(block.nonlinearity(temb))[:, :, None, None]
                    h = block.conv2(block.dropout(block.nonlinearity(block.norm2(h))))
                    if self.step < int(STEPS * 0.8):
                        h = h[order]
                    skip = x if block.conv_shortcut is None else block.conv_shortcut(x)
                    return (skip + h) / block.output_scale_factor

                block.forward = rewritten
                try:
                    return super().edit(*args)
                finally:
                    block.forward = forward

        agree(model, PnP(), rule, run=WithFeature)


class TestP2P:
    def shared(self, model, share=0.6):
        layers = below_top_layers(model.pipe.unet)

        def rule(name, step, probs):
            if name in layers and step < int(STEPS * share):
                probs = torch.stack([probs[0], probs[1], probs[2], probs[2]])
            return probs

        return rule

    def test_replace_by_hand(self, model):
        """Equal prompts word for word: the target's cross maps are the source's."""
        shared = self.shared(model)

        def rule(name, cross, step, q, k, v, probs):
            if not cross:
                return shared(name, step, probs), v
            if step < int(STEPS * 0.4):
                probs = torch.stack([probs[0], probs[1], probs[2], probs[2]])
            return probs, v

        agree(model, P2P(mode="replace"), rule)

    def test_replace_with_a_word_in_pieces(self, model):
        """A word of four tokens takes the map of one, spread evenly."""
        source, target = "a red dog", "a red dogs"
        shared = self.shared(model)
        spelled = model.spell(target)
        start, stop = spelled.spans[2]
        assert stop - start > 1

        def rule(name, cross, step, q, k, v, probs):
            if not cross:
                return shared(name, step, probs), v
            if step < int(STEPS * 0.4):
                old, extra = probs[2], stop - start - 1
                new = probs[3].clone()
                new[..., :3] = old[..., :3]
                new[..., start:stop] = old[..., 3:4] / (stop - start)
                new[..., stop:] = old[..., 4 : 77 - extra]
                probs = torch.stack([*probs[:3], new])
            return probs, v

        agree(model, P2P(mode="replace"), rule, source, target)

    def test_refine_by_hand(self, model):
        """What both have is the source's, a new word keeps its own map."""
        source, target = "a dog in park", "a red dog in park"
        shared = self.shared(model)
        where = {0: 0, 1: 1, 3: 2, 4: 3, 5: 4} | {j: j - 1 for j in range(6, 77)}

        def rule(name, cross, step, q, k, v, probs):
            if not cross:
                return shared(name, step, probs), v
            if step < int(STEPS * 0.4):
                new = probs[3].clone()
                for j, i in where.items():
                    new[..., j] = probs[2][..., i]
                probs = torch.stack([*probs[:3], new])
            return probs, v

        agree(model, P2P(mode="refine"), rule, source, target)

    def test_reweight_and_word_windows_by_hand(self, model):
        shared = self.shared(model)

        def rule(name, cross, step, q, k, v, probs):
            if not cross:
                return shared(name, step, probs), v
            new = probs[3].clone()
            for j in range(77):
                share = {2: 0.9, 3: 0.2}.get(j, 0.4)
                if step < int(STEPS * share):
                    new[..., j] = probs[2][..., j] * (2.5 if j == 2 else 1)
            return torch.stack([*probs[:3], new]), v

        method = P2P(mode="replace", reweight="blue=2.5", windows="blue=0.9,cat=0.2")
        agree(model, method, rule)

    def test_local_blend_by_hand(self, model):
        """Outside the words' mask the target is the source, from a fifth of the steps on."""
        shared = self.shared(model)
        places = ("down_blocks.2", "up_blocks.1")

        class Blended(ByHand):
            def edit(self, *args):
                self.sums = torch.zeros(2, 4, 4)
                return super().edit(*args)

            def at_the_end(self, x):
                if self.step < int(STEPS * 0.2):
                    return x
                masks = []
                for total in self.sums:
                    pooled = torch.nn.functional.max_pool2d(total[None], 3, 1, 1)[0]
                    large = pooled.repeat_interleave(4, 0).repeat_interleave(4, 1)
                    masks.append(large / large.max() > 0.99)
                mask = masks[0] | masks[1]
                return torch.stack([x[0], torch.where(mask, x[1], x[0])])

        run = Blended(model.pipe, STEPS, None, GUIDANCE)

        def rule(name, cross, step, q, k, v, probs):
            if not cross:
                return shared(name, step, probs), v
            if step < int(STEPS * 0.4):
                probs = torch.stack([probs[0], probs[1], probs[2], probs[2]])
            if name.startswith(places):
                # dog is token 3 of the source, cat token 3 of the target
                run.sums += probs[2:, :, :, 3].mean(1).view(2, 4, 4)
            return probs, v

        run.rule = rule
        kept, made = run.edit(SOURCE, TARGET, noise())
        # a random network looks everywhere alike: only a high threshold leaves something out
        method = P2P(mode="replace", blend_words="dog,cat", blend_threshold=0.99)
        outcome = method(model, task())
        assert gap(outcome.source, kept) < TOLERANCE
        assert gap(outcome.targets, made) < TOLERANCE
        free = P2P(mode="replace")(model, task())
        assert gap(outcome.targets, free.targets) > 10 * TOLERANCE

    def test_self_only_is_fpe(self, model):
        alone = P2P(self_only=True, share=0.8)(model, task())
        assert torch.equal(alone.targets, FPE()(model, task()).targets)

    def test_unequal_prompts_are_shown_token_by_token(self, model):
        with pytest.raises(PromptAlignmentError, match=r"(?s)a\(1\) red\(2\).*refine") as error:
            P2P(mode="replace")(model, task("a very blue cat"))
        assert "3 and 4 words" in str(error.value)

    @pytest.mark.parametrize(
        ("setting", "message"),
        [
            ({"reweight": "purple=2"}, "purple"),
            ({"reweight": "blue"}, "word=number"),
            ({"reweight": "blue=nan"}, "word=number"),
            ({"blend_words": "horse,cat"}, "horse"),
            ({"blend_words": "a,b,c"}, "source word and a target word"),
            ({"windows": "cat=1.5"}, "1.5"),
        ],
    )
    def test_words_that_are_not_there(self, model, setting, message):
        with pytest.raises(ConfigError, match=message):
            P2P(**setting)(model, task())

    def test_only_the_conditional_target_row_changes(self, model):
        outcome, plain = P2P()(model, task()), FPE(share=0)(model, task())
        assert torch.equal(outcome.source, plain.source)


class TestAlignment:
    def spell(self, model, prompt):
        return model.spell(prompt)

    def test_columns_of_kept_tokens_are_one_hot(self, model):
        source, target = (
            self.spell(model, "a dog in the park"),
            self.spell(model, "a cat in the park"),
        )
        for mode in ("replace", "refine"):
            matrix = align(source, target, mode).matrix
            assert torch.equal(matrix.sum(0)[[0, 1, 3, 4, 5, 6]], torch.ones(6))
        assert align(source, target, "refine").keep[2] == 0
        assert align(source, target, "replace").keep[2] == 1

    def test_the_end_token_meets_the_end_token(self, model):
        source, target = self.spell(model, "a dog"), self.spell(model, "a very red dog in the park")
        matrix = align(source, target, "refine").matrix
        assert matrix[source.end, target.end] == 1
        assert bool((matrix.sum(0)[target.end :] == 1).all())

    def test_punctuation_is_not_part_of_a_word(self, model):
        assert self.spell(model, "a dog, a cat.").tokens_of("dog") == (2,)


def difference(model, task, clean, draws):
    return noise_difference(model, task, clean, level=0.5, draws=draws, clamp=3.0, threshold=0.5)


class TestDiffEdit:
    def test_outside_the_mask_the_source_is_kept_exactly(self, model):
        trajectory = DDIMInversion()(model, noise(seed=3), steps=STEPS)
        real = task(source="", start=trajectory.start, trajectory=trajectory)
        method = DiffEdit(draws=2)
        masks = difference(model, real, trajectory.clean, 2)
        assert 0 < masks.mean() < 1
        outcome = method(model, real)
        outside = (masks == 0).expand_as(outcome.targets)
        kept = trajectory.clean.expand_as(outcome.targets)
        assert torch.equal(outcome.targets[outside], kept[outside])
        assert gap(outcome.targets[~outside], kept[~outside]) > 1e-3

    def test_the_mask_by_hand(self, model):
        """Mean absolute difference of two predictions, cut at three means, over its maximum."""
        t = task(source=SOURCE)
        clean, total = noise(seed=3), 0.0
        alpha = float(model.pipe.scheduler.alphas_cumprod[model.schedule(STEPS).timesteps[3]])
        for drawn in t.draw(clean, 3):
            noisy = alpha**0.5 * clean + (1 - alpha) ** 0.5 * drawn
            answers = [
                model.pipe.unet(noisy, model.schedule(STEPS).timesteps[3], states).sample
                for states in (model.encode_text([p]).states for p in (SOURCE, TARGET))
            ]
            total = total + (answers[1] - answers[0]).abs().mean(1, keepdim=True) / 3
        cut = total.clamp(max=3 * float(total.mean()))
        assert torch.equal(difference(model, t, clean, 3), (cut / cut.max() > 0.5).float())

    def test_a_mask_that_is_given_takes_its_place(self, model):
        trajectory = DDIMInversion()(model, noise(seed=3), steps=STEPS)
        mask = torch.zeros(1, 1, 16, 16)
        mask[..., 4:9, 2:7] = 1
        real = task(source="", start=trajectory.start, trajectory=trajectory, mask=mask)
        before = model.sample_forwards
        outcome = DiffEdit()(model, real)
        assert model.sample_forwards - before == 2 * int(0.8 * STEPS)
        changed = (outcome.targets != trajectory.clean).any(1, keepdim=True)
        assert torch.equal(changed.float(), mask)


class TestSDEdit:
    @pytest.mark.parametrize("strength", [0.5, 1.0])
    def test_against_diffusers(self, model, pipe, strength):
        """The same noise, steps and levels as diffusers' image-to-image."""
        from diffusers import StableDiffusionImg2ImgPipeline

        trajectory = DDIMInversion()(model, noise(seed=3), steps=STEPS)
        real = task(source="", start=trajectory.start, trajectory=trajectory)
        outcome = SDEdit(strength=strength)(model, real)
        drawn = real.draw(trajectory.clean, 1)[0]
        stock = StableDiffusionImg2ImgPipeline(**pipe.components, requires_safety_checker=False)
        stock.set_progress_bar_config(disable=True)
        stock.prepare_latents = lambda image, timestep, *rest: pipe.scheduler.add_noise(
            trajectory.clean, drawn, timestep[:1]
        )
        theirs = stock(
            TARGET,
            image=torch.zeros(1, 3, 128, 128),
            strength=strength,
            num_inference_steps=STEPS,
            guidance_scale=GUIDANCE,
            output_type="latent",
        ).images
        assert gap(outcome.targets, theirs) < TOLERANCE

    def test_strength_zero_is_the_source(self, model):
        outcome = SDEdit(strength=0)(model, task())
        assert torch.equal(outcome.targets, outcome.source)
        assert not outcome.acted
