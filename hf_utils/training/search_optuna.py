"""The trials of a search by Optuna, one after the other in this process; other processes may share the study."""

import optuna

from hf_utils.seeding import derive_seed
from hf_utils.training.search import suggest_options, write_trials
from hf_utils.training.search_trial import FINISHED, Search, run_trial


def run_trials(search: Search, num_trials: int) -> None:
    """Run trials until the study has `num_trials` that ended."""

    def objective(trial: optuna.Trial) -> float:
        # Seeded by the trial, so that neither a restart nor a second process draws the same again.
        seed = derive_seed(search.training_args.seed, "trial", trial.number) % 2**32
        trial.study.sampler = optuna.samplers.TPESampler(seed=seed, multivariate=False)
        chosen = suggest_options(trial, search.space)

        def report(scores: list[float]) -> bool:
            trial.report(scores[-1], len(scores))
            return trial.should_prune()

        outcome = run_trial({**search.common, **chosen}, search.output_dir, report)
        outcome.log(trial.number, chosen)
        if outcome.pruned_because is not None:
            trial.set_user_attr("pruned_because", outcome.pruned_because)
            raise optuna.TrialPruned(outcome.pruned_because)
        return outcome.score

    enough = optuna.study.MaxTrialsCallback(num_trials, states=FINISHED)
    search.study.optimize(objective, callbacks=[enough, lambda study, trial: write_trials(study, search.output_dir)])
