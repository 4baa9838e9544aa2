select
    simulation_year,
    growth_rate
from {{ ref('rpt_headcount_by_year') }}
where
    simulation_year = {{ simulation_year() }}
    and hires > 0
    and abs(growth_rate - {{ var('target_growth_rate') }}) > {{ var('growth_tolerance') }}
