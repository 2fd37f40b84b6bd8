"""Bounds on the privacy of one step and of a run: the theorems, where each is used, what tests it.

`accountant` is the front door; `methods` lists every way behind it. A proof stands at the top of the
file that uses it. Below, by theorem: the function, and a test in tests/accounting. Claims of README
are in docs/claims.md.

Moments of one step, and of a run:

Theorem 4.1 (arXiv 2210.03843): the worst gradient has one coordinate
    `step_moments.log_moments`
    `test_step_moments.py::test_modelmix_is_bounded_from_above_within_the_promise`
Corollary 4.1: after truncation it has p equal ones
    `step_moments.step_shape`, `step_moments.log_moments`
    `test_renyi.py::test_integer_orders_of_independent_computation`
(S) moments over the squared shift grow with the shift
    `step_moments.check_worst_shift`
    `test_step_moments.py::test_no_way_to_spread_a_gradient_costs_more`
(M) wider mixing tells less
    `step_moments.step_shape`, `mixing_bounds.dominated`
    `test_mixing_laws.py::test_worst_shift_is_the_largest_and_wider_is_better`
(D) removing a record costs as much as adding it, or more
    `step_moments.step_log_moment`
    `test_step_moments.py::test_add_direction_is_smaller`
(F) moments are convex in the order: chords are above
    `step_moments.step_log_moment`
    `test_step_moments.py::test_orders_between_integers_lie_on_or_below_the_chord`
AM-GM: orders between 1 and 2
    `step_moments.am_gm`
    `test_step_moments.py::test_am_gm_bound_holds_for_pairs_that_are_not_worst`
From moments to epsilon and delta: Canonne, Kamath, Steinke (arXiv 2004.00010), Prop. 12
    `renyi.epsilon_at`, `renyi.log_delta_at`
    `test_renyi.py::test_conversion_rounds_up`

The privacy loss itself:

Plain steps by Fourier inversion
    `plain_fourier.LossTransform`, `plain_fourier.FourierInversion`
    `test_plain_gaussian.py::test_aliases_are_what_the_poisson_sum_says`
Plain steps in closed form
    `plain_closed_form.profile`
    `test_plain_pld.py::test_closed_form_against_fifty_digits`
PLD: losses rounded to a grid, to a chosen side
    `pld.split`, `pld.merge`, `pld.lowered`
    `test_plain_pld.py::test_each_rule_stays_on_its_side_at_every_epsilon`
The envelope: one pair that dominates a mixed step whatever the gradient
    `mixing_envelope.profile`, `mixing_envelope.envelope`
    `test_mixing_bounds.py::test_no_shift_exceeds_the_envelope`
A smaller pair, beside an auxiliary mechanism
    `mixing_tight.smaller_pairs`
    `test_mixing_bounds.py::test_no_shift_exceeds_the_smaller_pair_beside_the_auxiliary_mechanism`
Lower bounds: an attack reaches them
    `mixing_bounds.attacks`, `methods.spread_out`
    `test_lower_bounds.py::test_no_attack_exceeds_the_total_variation`

Other neighbours:

Neighbours that replace a record or differ in several: the worst pair without mixing
    `plain_steps.SeveralRecords`
    `test_neighbours.py::test_moves_in_the_plane_are_never_worse_than_the_worst_pair`
Couplings: the same with mixing
    `coupling.coupled`, `mixing_bounds.dominated`
    `test_neighbours.py::test_coupling_bounds_every_joint_law`
Groups by Renyi moments, whatever the noise
    `renyi.log_moment`
    `test_neighbours.py::test_chain_of_changes_is_above_the_moment_of_the_worst_pair`
"""
