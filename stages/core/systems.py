"""The published systems that apportion is to hold whole: their names, papers, and how far each one is.

Entries name the system that they are a part of (`system=("TEMPO",)`); docs/systems.md is made of both.
"""

from dataclasses import dataclass
from typing import Literal

State = Literal["whole", "in part", "toy", "not there"]
STATES: dict[State, str] = {
    "whole": "its author would recognise it, and you can run it on your model, data and judge",
    "in part": "it runs; what the paper claims besides is named in the last column",
    "toy": "it runs on problems of ours only, without what makes the system what it is",
    "not there": "nothing of it is here yet",
}


@dataclass(frozen=True)
class System:
    """One of them. paper: its arXiv number, "" where we have none. about: what it does. missing: what it lacks here."""

    name: str
    about: str
    state: State = "not there"
    paper: str = ""
    missing: str = ""


SYSTEMS: dict[str, System] = {
    system.name: system
    for system in (
        System("TEMPO", "credit from the tree that the prefixes of ordinary rollouts form", "whole", "2509.18314"),
        System("GiGPO", "credit of steps that began in the same state", "whole", "2505.10978"),
        System("ROSE", "branches where the policy is semantically undecided, credit of segments", "whole", "2601.05053"),
        System("R3L", "reflect, try again from the step that went wrong, amplify what helped", "whole", "2601.03715"),
        System(
            "BranchGRPO", "rollouts that split at fixed depths, compared depth by depth", "in part", "2509.06040",
            "three seeds beside GRPO (one is measured), and a run on a real model",
        ),
        System(
            "SLEA-RL", "a library of experience that is read turn by turn", "in part", "2603.18079",
            "observations in text of a real environment; clusters by embedding",
        ),
        System(
            "InT", "one step in the place of the first that went wrong, as a target to train on", "in part", "2601.14209",
            "its comparisons: no reference in view, and the whole reference as a target",
        ),
        System(
            "Search-R2", "a refiner cuts a rollout at its first faulty step, and the policy writes on", "in part", "2602.03647",
            "a reward for useful evidence from an external judge; training of the refiner's decisions",
        ),
        System(
            "RISE", "small errors hidden in right steps, as preference pairs", "in part", "2410.06638",
            "three seeds beside GRPO (two are measured), and a run on a real model",
        ),
        System(
            "Guide", "hints for prompts that nothing else solved, corrected by an importance ratio", "in part", "2506.13923",
            "its PPO variant, and a run on a real model",
        ),
        System(
            "ADORA", "prompts weighed by how right and wrong answers differ in length", "in part", "2602.10019",
            "three seeds beside GRPO (one is measured), and a run on a real model",
        ),
        System(
            "Knapsack RL", "rollouts go to the prompts on which they are worth most", "in part", "2509.25849",
            "three seeds beside GRPO (one is measured), and a run on a real model",
        ),
        System(
            "Graph-GRPO", "which agent of a team should read which, by credit of edges", "toy", "2603.02701",
            "an edge policy that reads the question; baselines of fixed graphs",
        ),
        System(
            "SLATE", "several candidates for each next step, judged, one continued", "toy", "2602.23440",
            "a search tool in the loop, and an external judge",
        ),
        System(
            "MAPO", "how a turn compares at its index, mixed with how its reward compares", "toy", "2603.06194",
            "dialogues with a simulated user, and a judge for each turn",
        ),
        System(
            "GroundedPRM", "tree search over steps that a tool verifies, to label a process reward model", "toy", "2510.14942",
            "an external verifier for steps, and the process reward model itself",
        ),
        System("SPAE", "credit from a step's potential"),
        System("CAPO", "a generative judge finds the wrong steps by vote"),
        System("LaRe", "a latent reward, written as code by a language model", paper="2412.11120"),
        System("UCAS", "advantages shaped by the policy's uncertainty", paper="2510.10649"),
        System("ALOE", "temporal differences over chunks of actions, off policy", paper="2602.12691"),
        System("T-REG", "token rewards from contrastive prompts, in preference training", paper="2412.02685"),
        System("MA-RLHF", "credit of macro actions, spans of tokens"),
        System("MatchTIR", "tool calls matched with those of a reference", paper="2601.10712"),
        System("CALM", "subgoals that a language model judges, as shaping", paper="2409.12798"),
        System("Survey", "the survey's taxonomy, checklist, benchmark protocol and decision tree", paper="2604.09459"),
        System("GReaTer", "gradients over the reasoning of a prompt"),
        System("PURE", "a step's credit is the least of what follows", paper="2504.15275"),
        System("TP-GRPO", "a generative judge of thoughts", paper="2507.23317"),
        System("SuRe", "summaries of what was retrieved, for each candidate answer"),
        System("AC-Flow", "a critic's warm-up and clipped advantages", paper="2510.18072"),
        System("EduAlign", "a reward of several dimensions", paper="2507.20335"),
        System("Unpacking DPO and PPO", "presets of preference learning"),
        System("PIT", "the reward gap to a reference answer"),
        System("GreaterPrompt", "one toolkit for optimising prompts", paper="2504.03975"),
        System("OPRL", "an implicit process reward that is learned online", paper="2509.19199"),
        System("Transforming rewards", "log-sigmoid rewards that can be added up"),
        System("Masked thought", "supervised training with masked reasoning tokens"),
        System("Attention rhythm", "credit by where attention looks back"),
        System("RL for ML engineering", "weights by how long an action took, partial credit", paper="2509.01684"),
        System("NSR and PSR", "learning from wrong answers alone, from right ones alone, and weighed"),
        System("MM-RLHF", "preferences scaled by the reward's margin; critique, then score"),
        System("HICRA", "credit on the tokens of strategy"),
    )
}  # fmt: skip
