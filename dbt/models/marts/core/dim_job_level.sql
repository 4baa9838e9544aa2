with job_levels as (

    select * from {{ ref('stg_job_levels') }}

)

select
    level_id,
    level_name,
    compensation_minimum,
    compensation_midpoint,
    compensation_maximum,
    level_id = max(level_id) over () as is_top_level
from job_levels
