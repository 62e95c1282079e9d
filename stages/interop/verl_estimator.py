"""An advantage estimator of verl's, named `apportion`: any credit method that goes by rewards and groups alone.

    APPORTION_METHOD=rloo python -m verl.trainer.main_ppo algorithm.adv_estimator=apportion …

verl imports this module itself: through the entry point `verl.plugins` wherever apportion is installed, or named in
VERL_USE_EXTERNAL_MODULES. Without APPORTION_METHOD in the environment, nothing is registered and nothing else imported.
Written for verl 0.9.1.
"""

import os
import shlex
import sys
from collections.abc import Callable, Mapping
from typing import Any

from ...formats.errors import DataError, UsageError
from ..assign_credit import TokenCredit
from ..core.options import parse_settings

NAME = "apportion"
METHOD, PRESET = "APPORTION_METHOD", "APPORTION_PRESET"
SETTINGS = "APPORTION_SET"  # name=value, apart by spaces
SEEN = ("reward",)  # what an estimator of verl's is given, beside the groups

Estimator = Callable[..., tuple[Any, Any]]


def estimator(method: str, *, preset: str | None = None, **options: Any) -> Estimator:
    """A function that verl's `compute_advantage` calls in the place of its own estimators.

    A rollout's reward is the sum of its token_level_rewards, a KL penalty in the reward included; its group is verl's uid.
    Rows whose reward is NaN, and rows whose mask is all false, take no part in a group's statistics and get 0.

    Args:
        method: a credit method that needs rewards and groups alone.
        preset: conventions of a library.
        options: of the method.

    Returns:
        The function; it gives the credit [B, L] as advantages and as returns.

    Raises:
        UsageError: an unknown method, preset or option; a method that needs what an estimator is not given.
    """
    credit = TokenCredit(method, preset=preset, **options)
    unseen = [path for path in credit.needs if path not in SEEN]
    if unseen:
        raise UsageError(
            f"credit method {method} needs {unseen[0]!r}, and an estimator of verl's sees rewards and groups alone; use the "
            f'trainer: with_credit(PPOTrainerSync, "{method}") of apportion.stages.interop.verl'
        )

    def apportion(token_level_rewards: Any, response_mask: Any, index: Any = None, **_: Any) -> tuple[Any, Any]:
        if index is None:
            raise DataError(f"verl gave estimator {NAME} no uid, which says what a group is")
        own = response_mask.bool()
        reward = token_level_rewards.sum(-1)
        begun, unfinished = own.cumsum(-1) > 0, own.flip(-1).cumsum(-1).flip(-1) > 0
        found = credit(
            reward=reward,
            group=index,
            token_ids=response_mask.long() * 0,  # verl keeps them to itself, and these methods do not ask
            mask=own,
            attention_mask=begun & unfinished,
            skip=reward.isnan() | ~own.any(-1),
        )
        return found, found

    return apportion


def estimator_of(environment: Mapping[str, str]) -> Estimator:
    """The estimator that the variables ask for. UsageError as `estimator`, and for settings that are not name=value."""
    settings = parse_settings(shlex.split(environment.get(SETTINGS, "")))
    return estimator(environment[METHOD], preset=environment.get(PRESET) or None, **settings)


def _register() -> None:
    from verl.trainer.ppo.core_algos import register_adv_est  # type: ignore[import-not-found]

    try:
        register_adv_est(NAME)(estimator_of(os.environ))
    except UsageError as error:
        # verl logs an Exception of a plugin where nobody looks, and trains on until it misses the estimator.
        print(f"error: {METHOD}={os.environ[METHOD]}: {error}", file=sys.stderr)
        raise SystemExit(error.exit_code) from error


if os.environ.get(METHOD):
    _register()
