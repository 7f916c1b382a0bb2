"""What model types call in training, summed up: `python -m evals.zoo.gradients_card` after `run --task training`."""

from collections import Counter

from evals.zoo.results import RESULTS, latest

MOST = 200
"""Characters of a reason."""


def summary(records):
    """Counts of types and operators, every operator of backward passes that runs whole somewhere, and why; then every
    type without a joint program, and why.
    """
    rules = [record for record in records.values() if record["plan"] == "rules"]
    none = Counter(record["verdict"] for record in records.values() if not record["plan"])
    modes = Counter(record["mode"] for record in rules)
    called, lacking, uncut = (_by_types(rules, what) for what in ("called", "without_rule", "uncut"))
    covered = sum(not record["without_rule"]["backward"] for record in rules)
    calls = sum(sum(record["called"]["backward"].values()) for record in rules)
    return "\n".join(
        [
            f"{len(rules)} types give a joint program ({_counted(modes)} mode); no program: {_counted(none)}",
            f"{calls} calls of {len(called)} operators in backward passes",
            f"{covered} types with a rule for every one of them",
            *(f"no rule: {what} ({count} types)" for what, count in lacking.most_common()),
            *(f"nothing to cut: {what} ({count} types)" for what, count in uncut.most_common()),
            *sorted(
                f"{record['verdict']}: {record['type']}: {record['reason'][:MOST]}"
                for record in records.values()
                if not record["plan"]
            ),
        ]
    )


def _by_types(rules, what):
    return Counter(name for record in rules for name in record[what]["backward"])


def _counted(counts):
    return ", ".join(f"{count} {name}" for name, count in counts.most_common())


if __name__ == "__main__":
    print(summary(latest(RESULTS["training"])[0]))
