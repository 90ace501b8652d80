"""What can be known before work starts."""

from argparse import Namespace


def doctor(options: Namespace) -> int:
    """Check this installation, and the cluster at RAY_ADDRESS: a line each, with what to do where something is wrong.

    Exit code 1 where anything is.
    """
    from flows.doctor import findings

    all_well = True
    for check, is_well, text in findings(options.out):
        print(f"{check:<10} {'ok     ' if is_well else 'PROBLEM'} {text}", flush=True)
        all_well &= is_well
    return 0 if all_well else 1
