"""dbt, in process and warm. The only room that imports dbt; it knows neither Redis nor Celery."""

from workers.engine import locks  # noqa: F401, I001 - before anything of dbt
from workers.engine import env_file  # noqa: F401 - before the rest of dbt
