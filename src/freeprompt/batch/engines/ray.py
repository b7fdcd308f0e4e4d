"""Edits made by a Ray cluster: Ray Data with a pool of actors, each holding the model."""

import logging
import os
import pickle
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from freeprompt.batch.jobs import Group
from freeprompt.batch.worker import Finished, Setup, Worker
from freeprompt.errors import MissingDependency, ModelError

QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_DISABLE_IMPORT_WARNING": "1",
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_TRAIN_ENABLE_V2_MIGRATION_WARNINGS": "0",
}
TASKS = 1000  # a run is cut into about so many; each is a unit that a dead actor takes with it
LARGEST = 64  # groups of a task
TRIES = 2  # further tries of a task whose actor died


@dataclass(frozen=True, kw_only=True)
class RayData:
    """A pool of actors on a Ray cluster.

    Attributes:
        actors: How many; each holds a model.
        address: Of an existing cluster; None starts one on this machine, and stops it in the end.
        gpus: GPUs of an actor; below 1 several share one. None takes 1 where there are any.
        cpus: CPU cores of an actor.
        memory: Bytes of the object store of a cluster that is started here.
    """

    actors: int = 2
    address: str | None = None
    gpus: float | None = None
    cpus: float = 1
    memory: int = 256 * 2**20
    name = "ray"

    @contextmanager
    def working(self, setup: Setup, groups: int) -> Iterator["_Hands"]:
        """Connect to the cluster, or start one."""
        ray = imported_ray()
        mine = not ray.is_initialized()
        if mine:
            self._connect(ray)
        try:
            yield _Hands(ray, self, replace(setup, threads=setup.threads or max(1, int(self.cpus))))
        finally:
            if mine:
                ray.shutdown()

    def _connect(self, ray: Any) -> None:
        options: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
        address = self.address or os.environ.get("RAY_ADDRESS")
        if address is None:
            cpus = max(self.actors * self.cpus + 1, os.cpu_count() or 1)
            options |= {
                "num_cpus": int(cpus),
                "include_dashboard": False,
                "object_store_memory": self.memory,
            }
        try:
            ray.init(address=address, **options)
        except (ConnectionError, RuntimeError, ValueError) as error:
            where = address or "this machine"
            raise ModelError(
                f"There is no way to a Ray cluster at {where} ({error}). See `ray status`, or "
                "leave --address out to start one here."
            ) from error


def imported_ray() -> Any:
    """Import ray, quiet and without telling anybody.

    Raises:
        MissingDependency: if it is not installed.
    """
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    try:
        import ray
        import ray.data

        logging.getLogger("ray.data").setLevel(logging.ERROR)  # it tells of every data set
    except ImportError as error:
        raise MissingDependency(
            'The engine ray needs Ray Data: pip install "freeprompt[ray]". The engines local, '
            "pool and shard do without."
        ) from error
    return ray


class _Hands:
    def __init__(self, ray: Any, engine: RayData, setup: Setup):
        self._ray, self._engine, self._setup = ray, engine, setup
        self._round = 0

    def finished(self, groups: Iterable[Group]) -> Iterator[Finished]:
        """Yield what comes back; the first round in tasks of several groups, later ones of one.

        A task that fails for good is dropped with its groups, which then stay unfinished: the
        runner hands them out again, now each alone, so that one that kills its actor is found.
        """
        tables = list(self._tables(groups))
        self._round += 1
        if not tables:
            return
        context = self._ray.data.DataContext.get_current()
        context.max_errored_blocks = -1
        for table in self._dataset(tables).iter_batches(
            batch_size=None, batch_format="pyarrow", prefetch_batches=0
        ):
            for cell in table.column("finished"):
                found = pickle.loads(cell.as_py())
                if isinstance(found, Exception):  # the model could not be loaded
                    raise found
                yield found

    def _tables(self, groups: Iterable[Group]) -> Iterator[Any]:
        """Put the groups into the object store, a table a task."""
        import pyarrow as pa

        texts = [group.dumps() for group in groups]
        size = 1 if self._round else max(1, min(LARGEST, len(texts) // TASKS))
        for start in range(0, len(texts), size):
            yield self._ray.put(pa.table({"group": texts[start : start + size]}))

    def _dataset(self, tables: list[Any]) -> Any:
        engine = self._engine
        gpus = engine.gpus
        if gpus is None:
            gpus = 1 if self._ray.cluster_resources().get("GPU", 0) else 0
        actors = max(1, min(engine.actors, len(tables)))
        return self._ray.data.from_arrow_refs(tables).map_batches(
            _Actor,
            fn_constructor_kwargs={"setup": self._setup},
            batch_size=1,
            batch_format="pyarrow",
            compute=self._ray.data.ActorPoolStrategy(size=actors),
            num_cpus=engine.cpus,
            num_gpus=gpus,
            max_task_retries=TRIES,
        )


class _Actor:
    """Holds a model and makes the groups that it is given."""

    def __init__(self, setup: Setup):
        try:
            self._worker: Worker | Exception = Worker(setup)
        except Exception as error:
            self._worker = error

    def __call__(self, table: Any) -> Any:
        import pyarrow as pa

        made = [self._made(text.as_py()) for text in table.column("group")]
        return pa.table({"finished": [pickle.dumps(one) for one in made]})

    def _made(self, text: str) -> Finished | Exception:
        """Return what came of a group, or why there is no model; raising would drop the group."""
        if isinstance(self._worker, Exception):
            return self._worker
        return self._worker.finished(Group.loads(text))
