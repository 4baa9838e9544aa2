"""dbt, in process and warm. The only room that imports dbt; it knows neither Redis nor Celery."""

from workers.engine.caller import thread_locks  # noqa: F401, I001 - before anything of dbt
from workers.engine.caller import env_file  # noqa: F401 - before the rest of dbt
