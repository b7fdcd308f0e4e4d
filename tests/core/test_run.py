"""The books of a run: what is live, what fired, and silence as an error."""

from dataclasses import replace

import pytest
from tests.core.handmade import CONV, CROSS, LOW, SITES, TOP, pass_through

from freeprompt.core import PAIR, Control, MapStore, Run, Share, ShareFeature, Sites, Window
from freeprompt.errors import BadSiteExpression, ControlNeverFired, UnsupportedModel


def running(*controls, known=SITES):
    return Run(controls, PAIR, known, "toy")


def share(sites="self:all", start=0, stop=10):
    return Share(sites=Sites(sites), window=Window(start, stop))


class LatentsOnly(Control):
    """Acts at the end of a step and nowhere in the network."""

    def latents(self, step, rows, state):
        return state


def test_controls_are_live_at_their_sites_in_their_window():
    early, late = share("self:1", 0, 2), share("self:all", 1, 3)
    run = running(early, late)
    assert run.live == {TOP: (), LOW: ()} and run.sites == {TOP, LOW}
    seen = []
    for step in range(4):
        with run.at(step, (8, 9)):
            seen.append((run.live[TOP], run.live[LOW]))
            assert (run.step, run.latent_size) == (step, (8, 9))
            run.hits.extend([TOP, LOW])
    assert seen == [((early,), ()), ((early, late), (late,)), ((late,), (late,)), ((), ())]
    run.finish()


def test_controls_act_in_the_order_they_were_given():
    first, second = share(), MapStore(sites=Sites("self:all"))
    with (run := running(first, second)).at(0, (8, 8)):
        assert run.live[TOP] == (first, second)
        run.hits.extend([TOP, LOW])
    with (run := running(second, first)).at(0, (8, 8)):
        assert run.live[TOP] == (second, first)
        run.hits.extend([TOP, LOW])


def test_fired_counts_step_and_site():
    run = running(share(stop=2))
    for step in range(3):
        pass_through(run, step, TOP, LOW)
    assert dict(run.fired) == {(s, site): 1 for s in range(2) for site in (TOP, LOW)}
    pass_through(run, 0, TOP, LOW)  # a second evaluation of the same step, as in a refinement
    assert run.fired[(0, TOP)] == 2 and len(run.fired) == 4


def test_fired_lists_the_sites_in_the_order_they_were_passed():
    """An order that hangs on string hashes would differ from one process to the next."""
    many = [replace(TOP, block=f"up.{i}", index=i) for i in range(1, 12)]
    run = running(share(), known=many)
    pass_through(run, 0, *many)
    assert [site.index for _, site in run.fired] == [*range(1, 12)]


def test_what_is_only_looked_at_is_not_edited():
    run = running(MapStore(sites=Sites("self:all")), share("self:1"))
    pass_through(run, 0, TOP, LOW)
    assert set(run.fired) == {(0, TOP)}
    run.finish()


def test_an_empty_selection_is_refused_at_once():
    with pytest.raises(ControlNeverFired, match=r"'joint:all'.*'toy'"):
        running(share("joint:all"))
    with pytest.raises(BadSiteExpression, match="'toy'"):
        running(share("self:paper"))


def test_a_site_that_the_network_does_not_pass_is_an_error():
    run = running(share())
    with pytest.raises(UnsupportedModel) as error:
        pass_through(run, 3, TOP)
    message = str(error.value)
    assert "'toy'" in message and "mid.0.self" in message and "step 3" in message
    assert "down.0.self" not in message


def test_a_control_that_never_fires_is_an_error():
    """Also if whoever runs the loop has swallowed the error of the step."""
    run = running(share("self:2"))
    with pytest.raises(UnsupportedModel):
        pass_through(run, 0)
    with pytest.raises(ControlNeverFired) as error:
        run.finish()
    message = str(error.value)
    assert "Share on 'self:2' never fired in 'toy'" in message and "self:1-2" in message


@pytest.mark.parametrize("window", [Window(0, 0), Window(5, 9)])
def test_a_window_that_is_never_reached_is_no_error(window):
    run = running(Share(sites=Sites("self:all"), window=window))
    for step in range(3):
        pass_through(run, step)
    run.finish()
    assert not run.fired


def test_a_deliberately_empty_selection_is_no_error():
    run = running(share("none"))
    pass_through(run, 0)
    run.finish()
    assert not run.fired and run.sites == frozenset()


def test_a_control_of_latents_only_needs_no_sites():
    run = running(LatentsOnly())
    pass_through(run, 0)
    run.finish()


def test_a_control_of_latents_only_cannot_have_sites():
    control = LatentsOnly()
    control.sites = Sites("self:1")
    with pytest.raises(ControlNeverFired, match="LatentsOnly does nothing at self sites"):
        running(control)


def test_attention_controls_do_nothing_at_features_and_the_other_way_round():
    with pytest.raises(ControlNeverFired, match=r"Share does nothing at feature.*up\.0\.feature"):
        running(share("feature:all"))
    with pytest.raises(ControlNeverFired, match=r"'self:1\+feature:all'.*up\.0\.feature"):
        running(share("self:1+feature:all"))
    feature = ShareFeature(sites=Sites("cross:all"), window=Window(0, 1))
    with pytest.raises(
        ControlNeverFired, match=r"ShareFeature does nothing at cross.*mid\.0\.cross"
    ):
        running(feature)
    fine = running(ShareFeature(sites=Sites("feature:all"), window=Window(0, 1)), share("cross:1"))
    assert fine.sites == {CONV, CROSS}


def test_a_control_whose_map_nobody_asks_for_is_refused():
    """`probs` is overridden but neither flag is set, so it would never be called."""

    class Forgot(Control):
        sites = Sites("self:all")

        def probs(self, call, probs):
            return probs * 0

    with pytest.raises(ControlNeverFired, match="needs_probs"):
        running(Forgot())


def test_a_step_that_raises_is_not_booked():
    run = running(share())
    with pytest.raises(KeyboardInterrupt), run.at(0, (8, 8)):
        run.hits.extend([TOP, LOW])
        raise KeyboardInterrupt
    assert not run.fired
    run.finish()


def test_hits_are_a_fresh_list_each_step():
    """Compiled code guards on its length; one that grew would be compiled again at every step."""
    run = running(share())
    with run.at(0, (8, 8)):
        run.hits.extend([TOP, LOW])
        first = run.hits
    with run.at(1, (8, 8)):
        assert run.hits == [] and run.hits is not first
        run.hits.extend([TOP, LOW])
