select {{ var('simulation_year') }} as year
