"""The verbs as Prefect flows, for deployments and for servers that show runs."""

from collections.abc import Callable
from functools import wraps
from inspect import signature
from typing import Any

from prefect import Flow, flow
from prefect.context import FlowRunContext
from prefect.runtime import deployment
from prefect.states import Cancelled

from flows import run as whole
from flows import verbs
from flows.prefect_tracker import PrefectTracker
from flows.tracker import Tracker, tracker
from pipeline.errors import InUseError


def flow_of(verb: Callable[..., Any], folder: str) -> Flow:
    """The flow of a verb, whose runs are named after their `folder` argument."""

    @wraps(verb)
    def tracked(*arguments: Any, **options: Any) -> Any:
        given = signature(verb).bind(*arguments, **options).arguments[folder]
        token = tracker.set(PrefectTracker(given) if FlowRunContext.get() else Tracker())
        try:
            return verb(*arguments, **options)
        except InUseError as error:
            if deployment.id is None:
                raise
            return Cancelled(message=str(error))
        finally:
            tracker.reset(token)

    tracked.__module__ = __name__  # where workers find the flow
    what, _, _ = (verb.__doc__ or "").partition("\n")
    named = flow(description=what, flow_run_name=f"{{{folder}}}", persist_result=False)
    return named(tracked)


build = flow_of(verbs.build, "out")
grow = flow_of(verbs.grow, "zoo")
train = flow_of(verbs.train, "out")
evaluate = flow_of(verbs.evaluate, "run")
edit = flow_of(verbs.edit, "out")
run = flow_of(whole.run, "out")
