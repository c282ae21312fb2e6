"""Payouts computed again in another language, with its big integers, from the text of the documents alone.

    recompute.py DIRECTORY

For every NAME.inputs.json and NAME.policy.json in it, NAME.manifest.json must say what they come to. A case without a
manifest must be a conflict: a tariff that owes more than the pool has. Every document must be the text that Python
writes for its content. Prints how many payouts agree; the first that does not ends it with exit code 1. Hashes are not
computed: the standard library has no BLAKE3.
"""

import json
import pathlib
import sys


def settle(inputs, policy):
    """Pool, payouts, and the counts of those capped and below the minimum; None if the pool does not suffice."""
    pool = int(inputs["pool"])
    if policy["epoch_cap"] is not None:
        pool = min(pool, int(policy["epoch_cap"]))
    tariff = policy["mode"] == "tariff"
    prices = policy["rates"] if tariff else policy["weights_ppm"]
    prices = {kind: int(price) for kind, price in prices.items()}
    worth = {
        work["actor"]: sum(int(event["qty"]) * prices[event["kind"]] for event in work["events"])
        for work in inputs["work"]
    }
    total = sum(worth.values())
    payouts, capped, below = {}, 0, 0
    for actor, value in worth.items():
        amount = value if tariff else value * pool // total if total else 0
        if policy["actor_cap"] is not None and amount > int(policy["actor_cap"]):
            amount = int(policy["actor_cap"])
            capped += 1
        if amount >= max(1, int(policy["min_payout"])):
            payouts[actor] = amount
        elif value:
            below += 1
    if sum(payouts.values()) > pool:
        return None
    return pool, payouts, capped, below


def expected(inputs, policy):
    settled = settle(inputs, policy)
    if settled is None:
        return None
    pool, payouts, capped, below = settled
    paid = sum(payouts.values())
    return {
        "tenant": inputs["tenant"],
        "epoch_id": inputs["epoch_id"],
        "funding_account": policy["funding_account"],
        "policy": {"id": policy["id"], "version": policy["version"]},
        "totals": {
            "offered": inputs["pool"],
            "pool": str(pool),
            "payout": str(paid),
            "residual": str(pool - paid),
        },
        "counts": {
            "actors": len(inputs["work"]),
            "events": sum(len(work["events"]) for work in inputs["work"]),
            "paid": len(payouts),
            "capped": capped,
            "below_min": below,
        },
        "payouts": [[actor, str(payouts[actor])] for actor in sorted(payouts)],
    }


def load(path):
    raw = path.read_bytes()
    content = json.loads(raw)
    if json.dumps(content, sort_keys=True, separators=(",", ":")).encode() != raw:
        sys.exit(f"{path.name}: not canonical")
    return content


def main(directory):
    cases = conflicts = count = 0
    for path in sorted(pathlib.Path(directory).glob("*.inputs.json")):
        name = path.name.removesuffix(".inputs.json")
        inputs = load(path)
        policy = load(path.with_name(name + ".policy.json"))
        policy = policy.get("policy", policy)
        ours = expected(inputs, policy)
        stated = path.with_name(name + ".manifest.json")
        stated = load(stated) if stated.exists() else None
        cases += 1
        if ours is None or stated is None:
            if ours is not None or stated is not None:
                sys.exit(f"{name}: a conflict for one of the two only")
            conflicts += 1
            continue
        del stated["policy"]["hash"]
        for field, value in ours.items():
            if stated[field] != value:
                sys.exit(f"{name}: {field} is {stated[field]}, and {value} when computed again"[:2000])
        count += len(ours["payouts"])
    print(f"{cases} cases, {count} payouts, {conflicts} conflicts")


if __name__ == "__main__":
    main(sys.argv[1])
